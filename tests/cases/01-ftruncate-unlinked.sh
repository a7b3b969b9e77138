#!/bin/bash
# 01-ftruncate-unlinked
# Source : seaweedfs/seaweedfs#10982 (open-unlink also gluster/glusterfs#4734)
# Symptom: ftruncate() on an open file fails with ENOENT once the name is unlinked
# Right  : every fd call keeps working on an unlinked open file; no hidden name stays behind; its folder can be removed
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
d=D+'/sub'; os.mkdir(d); p=d+'/f'
fd=os.open(p,os.O_RDWR|os.O_CREAT,0o644); os.write(fd,b'A'*10000); os.unlink(p)
os.ftruncate(fd,100); os.ftruncate(fd,5000); os.fchmod(fd,0o600); os.utime(fd,ns=(10**18,10**18)); os.fsync(fd)
s=os.fstat(fd)
if s.st_nlink!=0: bad('st_nlink of the unlinked file is %d'%s.st_nlink)
if s.st_size!=5000 or s.st_mode&0o777!=0o600 or s.st_mtime_ns!=10**18: bad('fstat after the changes: size %d mode %o mtime %d'%(s.st_size,s.st_mode,s.st_mtime_ns))
if os.pread(fd,9000,0)!=b'A'*100+bytes(4900): bad('content after shrink and grow is wrong')
os.pwrite(fd,b'z',70000)
if os.fstat(fd).st_size!=70001 or os.pread(fd,10,69999)!=b'\0z': bad('write past the end of the unlinked file lost')
if os.listdir(d): bad('a name stays in the folder: %r'%os.listdir(d))
os.rmdir(d)
if os.pread(fd,3,0)!=b'AAA': bad('content gone after the folder went')
os.close(fd)
PYEND
