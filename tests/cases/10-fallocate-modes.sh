#!/bin/bash
# 10-fallocate-modes
# Source : gluster/glusterfs#219, #3546
# Symptom: fallocate on an erasure-coded volume: unsupported modes fail oddly, punch/zero damages neighbours
# Right  : each mode either does exactly what ext4 does or fails cleanly with the file untouched; posix_fallocate always works
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
libc=ctypes.CDLL(None,use_errno=True)
def fa(fd,m,o,l):
    r=libc.fallocate(fd,m,ctypes.c_int64(o),ctypes.c_int64(l)); return 0 if r==0 else ctypes.get_errno()
p=D+'/f'; n=700001; b=bytearray(random.Random(1).randbytes(n)); put(p,b); fd=os.open(p,os.O_RDWR)
def chk(w):
    if os.fstat(fd).st_size!=len(b): bad('%s: size %d instead of %d'%(w,os.fstat(fd).st_size,len(b)))
    g=os.pread(fd,len(b)+9,0)
    if g!=b: bad('%s: %s'%(w,diff(g,bytes(b))))
    if get(p)!=b: bad(w+': second read differs')
ok=(errno.EOPNOTSUPP,errno.EINVAL,errno.ENOSYS); un=[]
for o,l in ((1,1),(100,5000),(65530,13),(131072,65536),(300001,200003),(690000,50000)):
    e=fa(fd,3,o,l)                                    # PUNCH|KEEP
    if e==0: z=min(o+l,len(b)); b[o:z]=bytes(z-o)
    elif e not in ok: bad('punch: '+E.get(e,str(e)))
    else: un.append('punch')
    chk('punch %d+%d'%(o,l))
for o,l in ((10,777),(200000,70000),(len(b)-10,500)):
    e=fa(fd,0x10,o,l)                                 # ZERO_RANGE (may grow)
    if e==0:
        if o+l>len(b): b.extend(bytes(o+l-len(b)))
        b[o:o+l]=bytes(l)
    elif e not in ok: bad('zero range: '+E.get(e,str(e)))
    else: un.append('zero')
    chk('zero %d+%d'%(o,l))
e=fa(fd,1,len(b)-100,100000)                          # KEEP_SIZE allocation past the end
if e and e not in ok: bad('keep-size: '+E.get(e,str(e)))
chk('keep-size')
e=fa(fd,0,len(b)-100,100000)
if e==0: b.extend(bytes(99900))
elif e not in ok: bad('mode 0: '+E.get(e,str(e)))
chk('mode 0')
e=fa(fd,8,65536,131072)                               # COLLAPSE
if e==0: del b[65536:65536+131072]
elif e not in ok: bad('collapse: '+E.get(e,str(e)))
chk('collapse')
e=fa(fd,0x20,65536,65536)                             # INSERT
if e==0: b[65536:65536]=bytes(65536)
elif e not in ok: bad('insert: '+E.get(e,str(e)))
chk('insert')
os.posix_fallocate(fd,0,len(b)+50000); b.extend(bytes(50000)); chk('posix_fallocate'); os.close(fd)
soon(lambda: get(D2+'/f')==bytes(b),'M2 shows other content')
PYEND
