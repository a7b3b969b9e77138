#!/bin/bash
# 03-removed-dir-fd
# Source : seaweedfs/seaweedfs#11065, hanwen/go-fuse#55 (xfstests generic/035)
# Symptom: fstat/fchmod on a removed (or rename-replaced) open folder gives ENOENT
# Right  : fstat works with st_nlink 0, fchmod works, creating inside gives ENOENT
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
def check(fd,how):
    s=os.fstat(fd)
    if s.st_nlink!=0: bad('%s: st_nlink is %d, not 0'%(how,s.st_nlink))
    os.fchmod(fd,0o711); os.utime(fd,ns=(10**18,10**18))
    if os.fstat(fd).st_mode&0o777!=0o711: bad(how+': fchmod had no effect')
    want([errno.ENOENT],how+': creating a file inside',os.open,'x',os.O_CREAT|os.O_WRONLY,0o644,dir_fd=fd)
a=D+'/a'; os.mkdir(a); fd=os.open(a,os.O_RDONLY|os.O_DIRECTORY); os.rmdir(a); check(fd,'rmdir'); os.close(fd)
os.mkdir(D+'/b'); os.mkdir(D+'/c'); put(D+'/c/k',b'k'); fd=os.open(D+'/b',os.O_RDONLY|os.O_DIRECTORY)
os.rename(D+'/c',D+'/b'); check(fd,'rename over'); same(D+'/b/k',b'k','moved folder'); os.close(fd)
PYEND
