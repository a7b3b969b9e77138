#!/bin/bash
# 22-exact-names
# Source : macos-fuse-t/fuse-t#114, containers/fuse-overlayfs#351, tursodatabase/agentfs PR #283
# Symptom: NFC/NFD names merged, non-UTF-8 names vanish, 255-byte names refused
# Right  : names are byte strings: all distinct, listed back bytewise, up to 255 bytes; 256 gives ENAMETOOLONG
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
B=os.fsencode(D); B2=os.fsencode(D2)
N=[b'caf\xc3\xa9',b'cafe\xcc\x81',b'caf\xe9',b'\xff\xfe',b'a\nb',b'a\tb\rc',b' lead',b'trail ',b'dot.',b'-rf',b'--',b'*',b'?[x]',b'back\\slash',b'"q\'',b'$(x)',b'%s%n',b'...',b'.hidden',b'CASE',b'case',b'con',b'a:b',b'\x01\x7f',b'\xf0\x9f\x98\x80',b'x'*255,b'\xc3\xa9'*127+b'y',b'\xff'*255,b'.fuse_hidden0001',b'.nfs0001',b'lost+found',b'.trash',b'.glusterfs']
for i,n in enumerate(N): put(B+b'/'+n,b'%d'%i)
for w,b in (('M',B),('M2',B2)):
    l=sorted(os.listdir(b))
    if l!=sorted(N): bad('%s: listing differs: missing %r extra %r'%(w,[x[:20] for x in N if x not in l],[x[:20] for x in l if x not in N]))
    for i,n in enumerate(N):
        if get(b+b'/'+n)!=b'%d'%i: bad('%s: %r opens another file'%(w,n[:30]))
for c,f in (('create',lambda p: put(p,b'')),('mkdir',os.mkdir),('lookup',os.stat),('symlink',lambda p: os.symlink('x',p)),('rename',lambda p: os.rename(B+b'/CASE',p))): want([errno.ENAMETOOLONG],c+' of a 256-byte name',f,B+b'/'+b'x'*256)
os.mkdir(B+b'/'+b'd'*255); put(B+b'/'+b'd'*255+b'/'+b'f'*255,b'deep'); os.rename(B+b'/'+b'x'*255,B+b'/'+b'z'*255)
p=B+b'/deep'; os.mkdir(p); os.chdir(p)
for i in range(30): os.mkdir(b'L'*200); os.chdir(b'L'*200)     # path of 6000 bytes, only reachable step by step
put(b'end',b'e'); os.chdir('/'); x=subprocess.run([b'rm',b'-rf',p],capture_output=True)
if x.returncode: bad('rm -rf of a 6000-byte deep path: %r'%x.stderr[:150])
for n in N:
    if n!=b'x'*255: os.unlink(B2+b'/'+n)
PYEND
