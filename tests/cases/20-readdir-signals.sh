#!/bin/bash
# 20-readdir-signals
# Source : libfuse/libfuse#214, hanwen/go-fuse#191
# Symptom: a signal during readdir makes one entry vanish from the listing
# Right  : every listing is complete under a 2 kHz timer signal
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
names={'entry-%04d-'%i+'n'*150 for i in range(300)}
for n in names: put(D+'/'+n,b'')
c=[0]
def h(*a): c[0]+=1
signal.signal(signal.SIGALRM,h); signal.setitimer(signal.ITIMER_REAL,.0005,.0005)
t=time.time(); k=0; err=None
while time.time()-t<4 and k<400 and not err:
    l=os.listdir(D); k+=1
    if set(l)!=names or len(l)!=len(names): err='listing %d: %d names, missing %r, double %d'%(k,len(l),[n[:10] for n in sorted(names-set(l))[:3]],len(l)-len(set(l)))
signal.setitimer(signal.ITIMER_REAL,0)
if err: bad(err)
if c[0]<20: skip('too few signals')
PYEND
