#!/bin/bash
# 55-disk-full
# Source : gluster/glusterfs#2021, moosefs/moosefs#69, s3fs-fuse/s3fs-fuse#2108, lizardfs/lizardfs#542
# Symptom: filling the volume: EIO or hang instead of ENOSPC, files unreadable and unhealable, no delete possible
# Right  : ENOSPC; all acknowledged data stays readable; delete works and gives the space back
# Needs  : a volume with less than FULL_MAX_MB (400) MiB free
LIMIT=300
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
v=os.statvfs(D); av=v.f_bavail*v.f_frsize
if av>int(os.environ.get('FULL_MAX_MB','400'))<<20: skip('volume has %d MiB free; use a volume with under 400 MiB (or set FULL_MAX_MB)'%(av>>20))
small=os.urandom(100000); put(D+'/small',small); put(D+'/victim',os.urandom(3<<20)); blk=os.urandom(1<<20); S=(errno.ENOSPC,errno.EDQUOT); ack=[]; full=False
for i in range(2000):
    p=D+'/fill%d'%i
    try:
        f=os.open(p,os.O_WRONLY|os.O_CREAT,0o644); ok=0
        try:
            for k in range(8): os.write(f,blk)
            os.fsync(f); ok=8
        finally: os.close(f)
        ack.append(p)
    except OSError as e:
        if e.errno not in S: bad('full volume gives %s, expected ENOSPC'%E.get(e.errno))
        full=True; break
if not full: bad('never got ENOSPC after %d MiB'%(8*i))
for p in ack:
    if get(p)!=blk*8: bad('an acknowledged file is wrong on the full volume')
same(D2+'/small',small,'old file on the full volume'); os.listdir(D); os.chmod(D+'/small',0o600)
with open(D+'/small','r+b') as f: f.write(b'over')              # overwriting in place should not need new space, but ENOSPC is allowed
v=os.statvfs(D)
if v.f_bavail*v.f_frsize>80<<20: bad('ENOSPC although df says %d MiB free'%(v.f_bavail*v.f_frsize>>20))
os.unlink(D+'/fill%d'%i) if os.path.exists(D+'/fill%d'%i) else None
os.unlink(D+'/victim')
for p in ack: os.unlink(p)
t=time.time()
while True:
    v=os.statvfs(D)
    if v.f_bavail*v.f_frsize>av*.7: break
    if time.time()-t>60: bad('only %d of %d MiB free 60 s after deleting all'%(v.f_bavail*v.f_frsize>>20,av>>20))
    time.sleep(.5)
put(D+'/after',blk*4); same(D2+'/after',blk*4,'write after the space came back')
PYEND
