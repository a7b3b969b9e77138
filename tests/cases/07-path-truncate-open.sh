#!/bin/bash
# 07-path-truncate-open
# Source : CurvineIO/curvine PR #962
# Symptom: truncate(path) while the file is open: reads on the open fd give EIO or old data
# Right  : reads past the new end give EOF; growing again gives zeros
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
p=D+'/f'; fd=os.open(p,os.O_RDWR|os.O_CREAT); os.pwrite(fd,b'\x11'*2048,0); os.pwrite(fd,b'\x22'*2048,8192)
os.truncate(p,4096)
if os.fstat(fd).st_size!=4096: bad('fstat size %d after truncate(path,4096)'%os.fstat(fd).st_size)
if os.pread(fd,2048,8192)!=b'': bad('read past the new end gives data')
if os.pread(fd,9999,0)!=b'\x11'*2048+bytes(2048): bad('content after path truncate is wrong')
os.truncate(p,12000)
if os.pread(fd,20000,0)!=b'\x11'*2048+bytes(9952): bad('old bytes come back after growing again')
os.pwrite(fd,b'\x33',11999); os.truncate(p,100); os.pwrite(fd,b'\x44',300); os.close(fd)
exp=b'\x11'*100+bytes(200)+b'\x44'; same(p,exp,'final on M'); soon(lambda: get(D2+'/f')==exp,'final content differs on M2')
PYEND
