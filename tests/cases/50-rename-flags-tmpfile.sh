#!/bin/bash
# 50-rename-flags-tmpfile
# Source : rfjakob/gocryptfs#641, NixOS/nix#14831, kopia/kopia PR #2402
# Symptom: RENAME_NOREPLACE/EXCHANGE/WHITEOUT and O_TMPFILE unsupported or done wrongly
# Right  : work as ext4, or fail with EINVAL / EOPNOTSUPP and change nothing; never act like a plain rename
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
libc=ctypes.CDLL(None,use_errno=True)
if not hasattr(libc,'renameat2'): skip('no renameat2 in libc')
def r2(a,b,f): return 0 if libc.renameat2(-100,os.fsencode(a),-100,os.fsencode(b),f)==0 else ctypes.get_errno()
a,b=D+'/a',D+'/b'; put(a,b'A'); put(b,b'B'); notes=[]
e=r2(a,b,1)
if e==0 or not os.path.exists(a) or get(a)!=b'A' or get(b)!=b'B': bad('RENAME_NOREPLACE onto an existing file: rc %s, files %r %r'%(E.get(e,e),os.path.exists(a) and get(a),get(b)))
if e not in (errno.EEXIST,errno.EINVAL): bad('RENAME_NOREPLACE: '+E.get(e,str(e)))
e=r2(a,D+'/n',1)
if e==0:
    if os.path.exists(a) or get(D+'/n')!=b'A': bad('RENAME_NOREPLACE to a new name went wrong')
    os.rename(D+'/n',a)
elif e!=errno.EINVAL: bad('RENAME_NOREPLACE to a new name: '+E.get(e,str(e)))
else: notes.append('NOREPLACE')
os.mkdir(D+'/d'); put(D+'/d/k',b'k')
for x,y in ((a,b),(a,D+'/d')):
    ix,iy=os.stat(x).st_ino,os.stat(y).st_ino; e=r2(x,y,2)
    if e==0:
        if not (os.path.exists(x) and os.path.exists(y)) or (os.stat(x).st_ino,os.stat(y).st_ino)!=(iy,ix): bad('RENAME_EXCHANGE returned 0 but did not swap')
        soon(lambda: os.path.isdir(D2+'/'+os.path.basename(x))==os.path.isdir(x),'M2 does not see the swap'); r2(x,y,2)
    elif e!=errno.EINVAL: bad('RENAME_EXCHANGE: '+E.get(e,str(e)))
    else: notes.append('EXCHANGE')
    if get(a)!=b'A' or get(b)!=b'B' or get(D+'/d/k')!=b'k': bad('content wrong after RENAME_EXCHANGE')
e=r2(a,D+'/zz',2)
if e not in (errno.ENOENT,errno.EINVAL) or not os.path.exists(a): bad('RENAME_EXCHANGE with a missing name: '+E.get(e,str(e)))
if r2(a,b,3)!=errno.EINVAL: bad('NOREPLACE|EXCHANGE is accepted')
try: fd=os.open(D,os.O_TMPFILE|os.O_RDWR,0o644)
except OSError as e:
    if e.errno!=errno.EOPNOTSUPP: bad('O_TMPFILE: %s, expected success or EOPNOTSUPP'%E.get(e.errno))
    fd=-1; notes.append('O_TMPFILE')
if fd>=0:
    os.write(fd,b'tmp'*1000)
    if os.fstat(fd).st_nlink!=0: bad('O_TMPFILE has link count %d'%os.fstat(fd).st_nlink)
    k=libc.linkat(-100,b'/proc/self/fd/%d'%fd,-100,os.fsencode(D+'/linked'),0x400)
    if k: bad('linkat of an O_TMPFILE fd: '+E.get(ctypes.get_errno(),'?'))
    os.close(fd); same(D2+'/linked',b'tmp'*1000,'linked O_TMPFILE'); os.unlink(D+'/linked')
import tempfile
with tempfile.TemporaryFile(dir=D) as t:
    t.write(b'q'*5000); t.seek(0)
    if t.read()!=b'q'*5000: bad('TemporaryFile content')
if sorted(os.listdir(D))!=['a','b','d']: bad('names left over: %r'%os.listdir(D))
if notes: print('note: not supported: '+', '.join(notes))
PYEND
