#!/bin/bash
# 29-fcntl-contention
# Source : juicedata/juicefs#6770, #4890; moosefs/moosefs#380
# Symptom: F_SETLKW gives EDEADLK without a deadlock; counter file under a lock loses updates
# Right  : 8 processes on both mounts, all lock calls succeed, the counter ends at the exact total
LIMIT=90
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
F_OFD_SETLKW=38
def lk(fd,how,typ):
    if how=='flock': fcntl.flock(fd,fcntl.LOCK_EX if typ else fcntl.LOCK_UN)
    elif how=='posix': fcntl.lockf(fd,fcntl.LOCK_EX if typ else fcntl.LOCK_UN)
    else: import struct; fcntl.fcntl(fd,F_OFD_SETLKW,struct.pack('hhqqi',fcntl.F_WRLCK if typ else fcntl.F_UNLCK,0,0,0,0))
for how in ('posix','ofd','flock'):
    put(D+'/c',b'0'); ps=[]
    for i in range(8):
        pid=os.fork()
        if pid==0:
            p=(D,D2)[i%2]+'/c'
            for k in range(12):
                fd=os.open(p,os.O_RDWR)
                try: lk(fd,how,1)
                except OSError as e: bad('%s lock: %s'%(how,E.get(e.errno,e.errno)))
                v=int(os.pread(fd,20,0) or b'0'); time.sleep(.0005); os.pwrite(fd,b'%d'%(v+1),0); lk(fd,how,0); os.close(fd)
            os._exit(0)
        ps.append(pid)
    for p in ps: reap(p,how)
    soon(lambda: get(D+'/c')==b'96','%s: counter is %r, expected 96'%(how,get(D+'/c')))
PYEND
