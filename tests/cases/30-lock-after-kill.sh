#!/bin/bash
# 30-lock-after-kill
# Source : moosefs/moosefs#103, #305; juicedata/juicefs#4081, #1587
# Symptom: locks of a killed or finished process stay (sqlite "database is locked", qemu "Failed to get write lock", InnoDB error 11)
# Right  : gone when the holder dies or closes; conflicts seen across mounts meanwhile; OFD locks live with the open file
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
import struct
OFD_SETLK=37; OFD_GETLK=36
def setlk(fd,how,t):
    if how=='flock': fcntl.flock(fd,(fcntl.LOCK_EX if t=='w' else fcntl.LOCK_SH)|fcntl.LOCK_NB)
    else: fcntl.fcntl(fd,OFD_SETLK if how=='ofd' else fcntl.F_SETLK,struct.pack('hhqqi',fcntl.F_WRLCK if t=='w' else fcntl.F_RDLCK,0,100,1,0))
def tryit(p,how,t='w'):
    fd=os.open(p,os.O_RDWR)
    try: setlk(fd,how,t); return True
    except OSError as e:
        if e.errno in (errno.EAGAIN,errno.EACCES): return False
        raise
    finally: os.close(fd)
f=D+'/db'; g=D2+'/db'; put(f,b'x'*200)
for how in ('posix','ofd','flock'):
    for end in ('kill','exit','close'):
        r,w=os.pipe(); q,s=os.pipe(); pid=os.fork()
        if pid==0:
            fd=os.open(f,os.O_RDWR); setlk(fd,how,'w'); os.write(w,b'k')
            os.read(q,1)
            if end=='close': os.close(fd); os.write(w,b'c'); time.sleep(30)
            os._exit(0)
        if os.read(r,1)!=b'k': bad('%s: cannot lock'%how)
        for x in (f,g):
            if tryit(x,how): bad('%s lock held by another process was granted again on %s'%(how,'M2' if x==g and TWO else 'M'))
        t=time.time()
        if end=='kill': os.kill(pid,9); os.waitpid(pid,0)
        else:
            os.write(s,b'x')
            if end=='close': os.read(r,1)
            else: os.waitpid(pid,0)
        while not (tryit(g,how) and tryit(f,how)):
            if time.time()-t>6: bad('%s lock still held 6 s after the holder did %s'%(how,end))
            time.sleep(.1)
        if time.time()-t>2: bad('%s lock came free only %.1f s after %s'%(how,time.time()-t,end))
        if end=='close': os.kill(pid,9); os.waitpid(pid,0)
        for z in (r,w,q,s): os.close(z)
a=os.open(f,os.O_RDWR); b=os.open(f,os.O_RDWR); setlk(a,'ofd','r'); setlk(b,'ofd','r'); os.close(b)   # what qemu does
if tryit(g,'ofd'): bad('OFD read lock vanished when another fd of the file was closed')
os.close(a); t=time.time()
while not tryit(g,'ofd'):                # a FUSE kernel tells the mount of the last close after close(2) has returned
    if time.time()-t>2: bad('OFD read lock stays after its file was closed')
    time.sleep(.02)
PYEND
