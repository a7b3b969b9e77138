#!/bin/bash
# 17-hardlinks
# Source : seaweedfs/seaweedfs#3386, Barre/ZeroFS PR #278, phdeniel/nfs-ganesha#4, gluster/glusterfs#1084
# Symptom: wrong link counts; rename of one hard link onto another drops a name; link right after cp fails
# Right  : st_nlink exact on both mounts; rename between two links of one inode does nothing; data shared
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
put(D+'/a',b'data'); os.mkdir(D+'/s'); subprocess.run(['cp',D+'/a',D+'/b'],check=True); os.link(D+'/b',D+'/c')
def nl(n,name='a'):
    for w,d in (('M',D),('M2',D2)):
        soon(lambda: os.stat(d+'/'+name).st_nlink==n,'%s: st_nlink of %s is %d, expected %d'%(w,name,os.stat(d+'/'+name).st_nlink,n))
nl(2,'c')
for i in range(100): os.link(D+'/a',D+'/s/l%d'%i)
nl(101); nl(101,'s/l99'); put(D+'/s/l5',b'more','ab'); same(D+'/a',b'datamore','through another link'); same(D2+'/s/l77',b'datamore','through another link on M2')
os.chmod(D+'/s/l6',0o640)
if os.stat(D+'/a').st_mode&0o777!=0o640: bad('chmod through one link not seen through another')
os.rename(D+'/s/l1',D+'/s/l2')
if not os.path.exists(D+'/s/l1') or not os.path.exists(D+'/s/l2'): bad('rename between two links of one inode removed a name')
nl(101); os.unlink(D+'/a'); nl(100,'s/l0'); os.rename(D+'/s/l0',D+'/c'); nl(100,'c'); nl(1,'b')
put(D+'/n',b'n'); os.rename(D+'/n',D+'/s/l3'); nl(99,'c'); nl(1,'s/l3')
for i in range(1,100):
    if i!=3: os.unlink(D+'/s/l%d'%i)
nl(1,'c'); same(D2+'/c',b'datamore','last link'); want([errno.EPERM],'link of a folder',os.link,D+'/s',D+'/x')
os.unlink(D+'/s/l3'); os.rmdir(D+'/s')
if os.stat(D).st_nlink not in (1,2): bad('st_nlink of a folder without subfolders: %d'%os.stat(D).st_nlink)
PYEND
