#!/bin/bash
# 33-mmap-shared
# Source : trapexit/mergerfs#976, rclone/rclone#3381, libfuse/libfuse#503
# Symptom: MAP_SHARED fails or is not coherent with read/write; data stored through a mapping is lost
# Right  : mapping, read() and other processes agree at once; data is on M2 after msync and after munmap
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
p=D+'/m'; n=300000; put(p,bytes(n)); fd=os.open(p,os.O_RDWR); m=mmap.mmap(fd,n)
m[5000:5003]=b'abc'
if os.pread(fd,3,5000)!=b'abc' or get(p)[5000:5003]!=b'abc': bad('store through the mapping not seen by read()')
os.pwrite(fd,b'WXYZ',100000)
if m[100000:100004]!=b'WXYZ': bad('write() not seen through the mapping')
pid=os.fork()
if pid==0:
    f=os.open(p,os.O_RDWR); k=mmap.mmap(f,n)
    if k[5000:5003]!=b'abc': bad('other process does not see the store')
    k[200000]=7; os._exit(0)
reap(pid,'other process')
if m[200000]!=7 or os.pread(fd,1,200000)!=b'\7': bad('store of another process not seen')
m.flush(); soon(lambda: get(D2+'/m')[5000:5003]==b'abc' and get(D2+'/m')[200000]==7,'M2 does not see the data after msync')
m[n-1]=9; os.close(fd); m[0]=8; m.close(); soon(lambda: (lambda b: b[0]==8 and b[-1]==9 and len(b)==n)(get(D2+'/m')),'M2 does not see stores made before munmap')
q=D+'/k'; f=open(q,'wb+'); f.truncate(12); os.fdatasync(f.fileno()); m=mmap.mmap(f.fileno(),12); m.write(b'0123456789'); m.close(); f.seek(10); f.write(b'AB'); f.close(); same(q,b'0123456789AB','mapping then write on the same fd'); same(D2+'/k',b'0123456789AB','the same on M2')
t0=os.stat(p).st_mtime_ns; time.sleep(.05); fd=os.open(p,os.O_RDWR); m=mmap.mmap(fd,n); m[1]=1; m.flush(); 
if os.stat(p).st_mtime_ns<=t0: bad('store through a mapping + msync did not move mtime')
m.close(); os.ftruncate(fd,4100); os.ftruncate(fd,8192); m=mmap.mmap(fd,8192)
if m[4100:8192].strip(b'\0'): bad('mapped bytes past a truncation are not zero')
m.close(); os.close(fd); fd=os.open(p,os.O_RDONLY); m=mmap.mmap(fd,0,mmap.MAP_PRIVATE,mmap.PROT_READ|mmap.PROT_WRITE); m[0:1]=b'P'; m.close(); os.close(fd)
if get(p)[0]!=8: bad('MAP_PRIVATE store reached the file')
PYEND
