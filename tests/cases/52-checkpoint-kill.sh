#!/bin/bash
# 52-checkpoint-kill
# Source : llnl/scr#174, #133; ECP-VeloC/VELOC#26, #29; saforem2/ezpz PR #196 (torch DCP .complete marker)
# Symptom: job killed while saving: restart loads a torn checkpoint, or none, or from the beginning
# Right  : with write-fsync-rename-fsync(dir), "latest" read on M2 always names a complete, verifying step; steps never go back
LIMIT=90
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
def work(d,start):
    s=start
    while True:
        s+=1; r=random.Random(s); t=d+'/step-%d.tmp'%s; os.mkdir(t); man=''
        for k in range(3):
            b=r.randbytes(r.randrange(20000,120000))
            with open(t+'/rank%d'%k,'wb') as f: f.write(b); f.flush(); os.fsync(f.fileno())
            man+='rank%d %s\n'%(k,hashlib.sha256(b).hexdigest())
        with open(t+'/manifest','w') as f: f.write(man); f.flush(); os.fsync(f.fileno())
        os.rename(t,d+'/step-%d'%s); x=os.open(d,os.O_RDONLY); os.fsync(x); os.close(x)
        with open(d+'/latest.tmp','w') as f: f.write(str(s)); f.flush(); os.fsync(f.fileno())
        os.rename(d+'/latest.tmp',d+'/latest')
def whole(p):
    for l in open(p+'/manifest'):
        n,h=l.split()
        if hashlib.sha256(get(p+'/'+n)).hexdigest()!=h: bad('%s/%s is torn'%(os.path.basename(p),n))
last=0; r=random.Random(8)
for rnd in range(10):
    a,b=(D,D2) if rnd%2==0 else (D2,D)
    pid=os.fork()
    if pid==0: work(a,last)
    time.sleep(r.uniform(.15,.9)); os.kill(pid,9); st=os.waitpid(pid,0)[1]
    if not os.WIFSIGNALED(st): os._exit(1)
    if not os.path.exists(b+'/latest'):
        if last: bad('latest vanished')
        if os.path.exists(a+'/latest'): bad('latest not visible on the other mount')
        for n in os.listdir(a): shutil.rmtree(a+'/'+n) if os.path.isdir(a+'/'+n) else os.unlink(a+'/'+n)
        continue
    v=int(get(b+'/latest'))
    if v<last: bad('latest went back from %d to %d'%(last,v))
    if not os.path.isdir(b+'/step-%d'%v): bad('latest names step %d but it is not there'%v)
    for n in sorted(os.listdir(b)):
        if n.startswith('step-') and not n.endswith('.tmp'): whole(b+'/'+n)
    for n in os.listdir(b):
        p=b+'/'+n
        if n.endswith('.tmp'): shutil.rmtree(p) if os.path.isdir(p) else os.unlink(p)
        elif n.startswith('step-') and int(n[5:])>v: shutil.rmtree(p)
        elif n.startswith('step-') and int(n[5:])<v-1: shutil.rmtree(p)
    last=v
if last==0: bad('not a single checkpoint was completed')
PYEND
