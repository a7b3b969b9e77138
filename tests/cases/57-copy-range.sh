#!/bin/bash
# 57-copy-range
# Source : juicedata/juicefs PR #4713, #4130, #5567; CurvineIO/curvine#808 (LTP sendfile03, splice02, copy_file_range03)
# Symptom: copy_file_range/sendfile/splice give wrong length or data, or odd errors
# Right  : same bytes and size as a plain copy; 0 at end of source; EINVAL for overlap; works for cp, python shutil
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
r=random.Random(12); a=bytearray(r.randbytes(3000007)); put(D+'/a',a); b=bytearray(r.randbytes(100000)); put(D+'/b',b)
fa=os.open(D+'/a',os.O_RDWR); fb=os.open(D+'/b',os.O_RDWR)
def cfr(s,d,n,so,do):
    t=0
    while t<n:
        try: k=os.copy_file_range(s,d,n-t,so+t,do+t)
        except OSError as e:
            if e.errno in (errno.EOPNOTSUPP,errno.ENOSYS,errno.EXDEV) and t==0: return None
            bad('copy_file_range: '+E.get(e.errno))
        if k==0: break
        t+=k
    return t
for so,do,n in ((0,0,10),(5,70001,4097),(65536,131072,65536),(1,200001,1000003),(2999000,50,5000),(3000007,0,10),(4000000,0,10),(0,1500000,1)):
    k=cfr(fa,fb,n,so,do); w=max(0,min(n,len(a)-so))
    if k is None: k=0; 
    else:
        if k!=w: bad('copy_file_range(%d at %d) copied %d, expected %d'%(n,so,k,w))
        if w:
            if len(b)<do+w: b.extend(bytes(do+w-len(b)))
            b[do:do+w]=a[so:so+w]
    if os.fstat(fb).st_size!=len(b): bad('size after copy_file_range %d is %d, expected %d'%(n,os.fstat(fb).st_size,len(b)))
    g=os.pread(fb,len(b)+10,0)
    if g!=b: bad('copy_file_range(%d,%d,%d): %s'%(so,do,n,diff(g,bytes(b))))
e=None
try: os.copy_file_range(fa,fa,1000,0,500)
except OSError as x: e=x.errno
if e not in (errno.EINVAL,errno.EOPNOTSUPP,errno.ENOSYS): bad('overlapping copy_file_range: %s, expected EINVAL'%E.get(e,e))
if cfr(fa,fa,1000,0,2000000) is not None: a[2000000:2001000]=a[0:1000]
if get(D+'/a')!=a: bad('copy inside one file is wrong')
c=os.open(D+'/c',os.O_RDWR|os.O_CREAT); t=0
while t<len(a):
    k=os.sendfile(c,fa,t,len(a)-t)
    if not k: break
    t+=k
os.close(c); same(D+'/c',bytes(a),'sendfile copy'); same(D2+'/c',bytes(a),'sendfile copy on M2')
p,q=os.pipe(); c=os.open(D+'/s',os.O_RDWR|os.O_CREAT); o=0
if hasattr(os,'splice'):
    while o<200000:
        k=os.splice(fa,q,min(50000,200000-o),offset_src=o)
        m=0
        while m<k: m+=os.splice(p,c,k-m,offset_dst=o+m)
        o+=k
else: os.pwrite(c,bytes(a[:200000]),0)
os.close(c); same(D+'/s',bytes(a[:200000]),'splice copy')
c=os.open(D+'/v',os.O_RDWR|os.O_CREAT)
if os.pwritev(c,[b'a'*10,b'b'*70000,b'',b'c'],3)!=70011: bad('pwritev short')
bs=[bytearray(5),bytearray(70020)]
if os.preadv(c,bs,0)!=70014 or bs[0]!=b'\0\0\0aa' or bs[1][:70009]!=b'a'*8+b'b'*70000+b'c': bad('preadv/pwritev data wrong')
os.close(c); os.close(fa); os.close(fb); shutil.copyfile(D+'/a',D+'/sc'); same(D2+'/sc',bytes(a),'shutil.copyfile on M2')
x=subprocess.run(['cp','--reflink=auto',D+'/a',D+'/r'],capture_output=True,text=True)
if x.returncode: bad('cp --reflink=auto: '+x.stderr)
same(D2+'/r',bytes(a),'cp --reflink=auto on M2')
PYEND
