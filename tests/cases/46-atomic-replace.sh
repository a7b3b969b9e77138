#!/bin/bash
# 46-atomic-replace
# Source : gluster/glusterfs#2529, #1411; openzfs/zfs#6197; moosefs/moosefs#89
# Symptom: readers of a file that is saved by write-tmp + rename get ENOENT, ESTALE, mixed or short content
# Right  : each open+read gives one whole version; versions never go back; name never missing
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
def ver(i): r=random.Random(i); b=r.randbytes(r.randrange(1,120000)); return b'%08d'%i+hashlib.sha256(b).hexdigest().encode()+b
put(D+'/cur',ver(0)); soon(lambda: os.path.exists(D2+'/cur'),'file not visible on M2'); pid=os.fork()
if pid==0:
    for i in range(1,161):
        f=os.open(D+'/cur.tmp',os.O_WRONLY|os.O_CREAT|os.O_TRUNC); os.write(f,ver(i))
        if i%4==0: os.fsync(f)
        os.close(f); os.rename(D+'/cur.tmp',D+'/cur'); time.sleep(.02)
    os._exit(0)
last={D:0,D2:0}; n=0; t=time.time()
while True:
    done=os.waitpid(pid,os.WNOHANG)[0]
    for d in {D,D2}:
        try:
            f=os.open(d+'/cur',os.O_RDONLY); a=os.fstat(f); 
            if n%3==0: time.sleep(.05)                       # the file is replaced while we hold it open
            g=b''
            while True:
                c=os.read(f,16384)
                if not c: break
                g+=c
            os.close(f)
        except OSError as e: bad('reader on %s: %s'%('M2' if d==D2 and TWO else 'M',E.get(e.errno)))
        if hashlib.sha256(g[72:]).hexdigest().encode()!=g[8:72]: bad('reader on %s got a broken version (%d bytes, head %r)'%('M2' if d==D2 and TWO else 'M',len(g),g[:8]))
        v=int(g[:8])
        if v<last[d]: bad('version went back from %d to %d'%(last[d],v))
        last[d]=v; n+=1
    if done: break
    if time.time()-t>50: os.kill(pid,9); bad('writer too slow')
    time.sleep(.005)
soon(lambda: get(D2+'/cur')==ver(160),'M2 does not show the last version'); 
if sorted(os.listdir(D))!=['cur']: bad('names left: %r'%os.listdir(D))
PYEND
