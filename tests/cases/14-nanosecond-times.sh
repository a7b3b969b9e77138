#!/bin/bash
# 14-nanosecond-times
# Source : juicedata/juicefs#3122, hanwen/go-fuse#58, CurvineIO/curvine PR #1487
# Symptom: mtime cut to micro/milliseconds (backups re-read all); dates before 1970 or after 2038/2106 wrong
# Right  : utimensat values come back exactly, also on M2 (range as ext4: 1902..2446)
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
V=[0,1,999999999,10**9,1234567890123456789,-1,-10**9,-1500000001,-315619200*10**9+7,(2**31-1)*10**9+999999999,2**31*10**9+1,(2**32+9)*10**9+5,9999999999*10**9+123456789]
for i,v in enumerate(V):
    p=D+'/t%d'%i; put(p,b'x'); os.utime(p,ns=(v,v+0))
    for w,q in (('M',p),('M2',D2+'/t%d'%i)):
        s=os.stat(q)
        if s.st_mtime_ns!=v or s.st_atime_ns!=v: bad('%s: set %d ns, got mtime %d atime %d'%(w,v,s.st_mtime_ns,s.st_atime_ns))
os.symlink('nowhere',D+'/l'); os.utime(D+'/l',ns=(77,88),follow_symlinks=False)
if os.lstat(D+'/l').st_mtime_ns!=88: bad('lutimes on a symlink had no effect')
a=D+'/a'; put(a,b'1'); time.sleep(.02); b=D+'/b'; put(b,b'2')
if not os.stat(b).st_mtime_ns>os.stat(a).st_mtime_ns: bad('file written 20 ms later has no later mtime (make would miss it)')
m0=os.stat(a).st_mtime_ns; time.sleep(.02); put(a,b'3','ab')
if os.stat(a).st_mtime_ns<=m0: bad('append did not move mtime')
d0=os.stat(D).st_mtime_ns; time.sleep(.02); put(D+'/new',b''); 
if os.stat(D).st_mtime_ns<=d0: bad('creating a file did not move the folder mtime')
PYEND
