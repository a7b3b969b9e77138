#!/bin/bash
# 41-reader-sees-no-holes
# Source : juicedata/juicefs#5038, #3774
# Symptom: a reader that follows an append-only log on another mount gets zero bytes that later turn into data
# Right  : each read is a prefix of what was written; never zeros, never shorter than before; complete after close
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
exp=bytes(random.Random(6).randrange(1,256) for _ in range(250000)); p=D+'/log'; put(p,b''); pid=os.fork()
if pid==0:
    f=os.open(p,os.O_WRONLY|os.O_APPEND); o=0; r=random.Random(7)
    while o<len(exp):
        n=r.randrange(1,2500); os.write(f,exp[o:o+n]); o+=n
        if r.random()<.1: os.fsync(f)
        time.sleep(.015)
    os.close(f); os._exit(0)
q=D2+'/log'; f=os.open(q,os.O_RDONLY); got=b''; last=0; t=time.time()
while True:
    end=os.waitpid(pid,os.WNOHANG)[0]
    g=get(q)
    if g!=exp[:len(g)]: bad('read %d bytes, %s'%(len(g),'zero bytes at %d'%g.find(0) if 0 in g else 'wrong data'))
    if len(g)<last: bad('file got shorter for the reader: %d after %d'%(len(g),last))
    last=len(g)
    while True:
        c=os.read(f,65536)
        if not c: break
        if 0 in c: bad('tail -f style reader got zero bytes at offset %d'%(len(got)+c.find(0)))
        got+=c
    if got!=exp[:len(got)]: bad('tail -f style reader got wrong data')
    if end: break
    if time.time()-t>45: os.kill(pid,9); bad('writer too slow')
    time.sleep(.02)
soon(lambda: get(q)==exp,'after close M2 has %d of %d bytes'%(len(get(q)),len(exp)))
PYEND
