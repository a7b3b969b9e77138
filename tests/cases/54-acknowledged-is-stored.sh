#!/bin/bash
# 54-acknowledged-is-stored
# Source : seaweedfs/seaweedfs#4485, #1763; s3fs-fuse/s3fs-fuse#2108; moosefs/moosefs#322
# Symptom: with all servers down, echo > file returns success and the data is lost; mount unusable afterwards
# Right  : write+fsync+close either fails, waits, or is truly stored; after the servers are back all goes on without remount
# Needs  : KILL_ALL_CMD and REVIVE_ALL_CMD, commands that stop all servers and start them again
LIMIT=300
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
K,Rv=os.environ.get('KILL_ALL_CMD'),os.environ.get('REVIVE_ALL_CMD')
if not K or not Rv: skip('set KILL_ALL_CMD and REVIVE_ALL_CMD')
put(D+'/old',b'o'*200000); r,w=os.pipe()
if subprocess.run(K,shell=True).returncode: skip('KILL_ALL_CMD failed')
pid=os.fork()
if pid==0:
    try:
        f=os.open(D+'/dead',os.O_WRONLY|os.O_CREAT,0o644); os.write(f,b'd'*150000); os.fsync(f); os.close(f); os.write(w,b'<1ok>')
    except OSError as e: os.write(w,b'<1 '+E.get(e.errno,'?').encode()+b'>')
    os._exit(0)
p2=os.fork()
if p2==0:
    x=subprocess.run("echo dead2 >'%s/dead2'"%D,shell=True,stderr=subprocess.DEVNULL).returncode; os.write(w,b'<2ok>' if x==0 else b'<2 failed>'); os._exit(0)
time.sleep(12); rc=subprocess.run(Rv,shell=True).returncode
if rc: bad('REVIVE_ALL_CMD failed')
t=time.time(); left={pid,p2}
while left:
    for p in list(left):
        if os.waitpid(p,os.WNOHANG)[0]: left.discard(p)
    if time.time()-t>90: bad('a write still hangs 90 s after all servers are back')
    time.sleep(.2)
os.close(w); res=os.read(r,1000).decode(); t=time.time()
while True:
    try: same(D2+'/old',b'o'*200000,'old file after the outage'); put(D+'/again',b'a'*1000); break
    except OSError as e:
        if time.time()-t>60: bad('mount not usable 60 s after the outage: '+E.get(e.errno,'?'))
        time.sleep(1)
if '<1ok>' in res: same(D2+'/dead',b'd'*150000,'write+fsync was acknowledged during the outage but')
if '<2ok>' in res:
    for d in (D,D2):
        if not os.path.exists(d+'/dead2') or get(d+'/dead2')!=b'dead2\n': bad('echo > file returned 0 during the outage, but the data is not there')
same(D2+'/again',b'a'*1000,'new file after the outage')
PYEND
