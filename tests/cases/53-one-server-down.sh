#!/bin/bash
# 53-one-server-down
# Source : gluster/glusterfs#455, #1500, #4330; moosefs/moosefs#322
# Symptom: with one of the servers dead, ls and reads block for 42 s or for ever; clients do not recover after it is back
# Right  : every call ends within OP_MAX (15 s) and is right; all is right after the server is back, without remount
# Needs  : KILL_CMD and REVIVE_CMD, commands that stop one server and start it again; OP_MAX, seconds a call may take (15)
LIMIT=300
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
K,Rv=os.environ.get('KILL_CMD'),os.environ.get('REVIVE_CMD'); MAX=float(os.environ.get('OP_MAX','15'))
if not K or not Rv: skip('set KILL_CMD and REVIVE_CMD (shell commands that stop one server and start it again)')
def timed(w,fn):
    t=time.time()
    try: x=fn()
    except OSError as e: bad('%s with a server down: %s'%(w,E.get(e.errno)))
    if time.time()-t>MAX: bad('%s took %.0f s with a server down'%(w,time.time()-t))
    return x
F={}; r=random.Random(2)
for i in range(16): F['f%d'%i]=r.randbytes(r.choice((1,1000,70000,1<<20,2500001))); put(D+'/f%d'%i,F['f%d'%i])
fd=os.open(D+'/open',os.O_RDWR|os.O_CREAT); os.write(fd,b'before'); os.fsync(fd)
if subprocess.run(K,shell=True).returncode: skip('KILL_CMD failed')
try:
    timed('ls',lambda: os.listdir(D2)); timed('write on an open fd + fsync',lambda: (os.write(fd,b' during'),os.fsync(fd)))
    for n,b in F.items():
        if timed('read of '+n,lambda: get(D2+'/'+n))!=b: bad('%s reads wrong with a server down'%n)
    N={}
    def new():
        for i in range(6): N['n%d'%i]=r.randbytes(300001); put(D+'/n%d'%i,N['n%d'%i])
    timed('6 new files',new); timed('mkdir',lambda: os.mkdir(D+'/dd')); timed('rename',lambda: os.rename(D+'/n0',D+'/dd/n0')); timed('unlink',lambda: os.unlink(D+'/f0')); timed('overwrite',lambda: put(D+'/f1',b'new')); timed('truncate',lambda: os.truncate(D+'/f2',500 if len(F['f2'])>500 else 0)); timed('df',lambda: os.statvfs(D))
finally: rc=subprocess.run(Rv,shell=True).returncode
if rc: bad('REVIVE_CMD failed')
F.pop('f0'); F['f1']=b'new'; F['f2']=F['f2'][:500] if len(F['f2'])>500 else b''
os.write(fd,b' after'); os.fsync(fd); os.close(fd); F['open']=b'before during after'; N['dd/n0']=N.pop('n0'); F.update(N); time.sleep(2)
for rnd in range(3):
    for d in (D,D2):
        for n,b in F.items():
            if timed('read after revival',lambda: get(d+'/'+n))!=b: bad('%s wrong after the server came back (%s)'%(n,diff(get(d+'/'+n),b)))
        if os.path.exists(d+'/f0'): bad('deleted file came back with the server')
    time.sleep(2)
PYEND
