#!/bin/bash
# 19-readdir-while-deleting
# Source : juicedata/juicefs#7223, gluster/glusterfs#710, seaweedfs/seaweedfs#1514
# Symptom: deleting entries while listing skips some (cursor entry deleted), then rmdir says not empty
# Right  : one pass deletes all; rmdir works; also rm -rf through M2
LIMIT=120
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
N=1500; os.mkdir(D+'/a')
for i in range(N): put(D+'/a/%05d-'%i+'n'*180,b'')
k=0
with os.scandir(D+'/a') as it:
    for e in it: os.unlink(e.path); k+=1
left=os.listdir(D+'/a')
if k!=N or left: bad('listing while deleting gave %d of %d names, %d left'%(k,N,len(left)))
os.rmdir(D+'/a'); os.mkdir(D+'/b')
for i in range(300): os.mkdir(D+'/b/%03d'%i); put(D+'/b/%03d/f'%i,b'')
x=subprocess.run(['rm','-rf',D2+'/b'],capture_output=True,text=True)
if x.returncode or x.stderr or os.path.exists(D2+'/b'): bad('rm -rf: '+(x.stderr or 'folder still there'))
soon(lambda: not os.path.exists(D+'/b'),'folder removed on M2 still seen on M')
PYEND
