#!/bin/bash
# 11-seek-hole-data
# Source : juicedata/juicefs#2637; class of openzfs/zfs#15526
# Symptom: SEEK_DATA/SEEK_HOLE missing, or reporting just-written data as a hole so cp/tar copy zeros
# Right  : every written byte lies in a data range, also before fsync; ENXIO past the last data; sparse copies are identical
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
p=D+'/f'; n=64<<20; isl=[(0,10),(4097,5000),(1<<20,1),((7<<20)+123,200000),(n-1,1)]
fd=os.open(p,os.O_RDWR|os.O_CREAT); os.ftruncate(fd,n); r=random.Random(3)
for o,l in isl: os.pwrite(fd,bytes(r.randrange(1,256) for _ in range(l)),o)
def ranges(fd):
    out=[]; o=0
    while o<n:
        try: s=os.lseek(fd,o,os.SEEK_DATA)
        except OSError as e:
            if e.errno==errno.ENXIO: break
            raise
        h=os.lseek(fd,s,os.SEEK_HOLE)
        if not o<=s<h<=n: bad('SEEK_DATA(%d)=%d SEEK_HOLE=%d size %d'%(o,s,h,n))
        out.append((s,h)); o=h
    return out
def covered(fd,w):
    rs=ranges(fd)
    for o,l in isl:
        if not any(s<=o and o+l<=h for s,h in rs): bad('%s: data at %d+%d is reported as a hole'%(w,o,l))
covered(fd,'dirty'); os.fsync(fd); covered(fd,'after fsync')
want([errno.ENXIO],'SEEK_DATA at the end',os.lseek,fd,n,os.SEEK_DATA); want([errno.ENXIO],'SEEK_HOLE past the end',os.lseek,fd,n+5,os.SEEK_HOLE)
os.pwrite(fd,b'Z'*3,20<<20); isl.append((20<<20,3)); covered(fd,'new dirty island'); os.close(fd)
fd=os.open(D2+'/f',os.O_RDONLY); covered(fd,'M2'); os.close(fd)
def run(c):
    x=subprocess.run(c,shell=True,capture_output=True,text=True)
    if x.returncode or x.stderr: bad('%s: rc %d %s'%(c.split()[0],x.returncode,x.stderr))
run("cp --sparse=auto '%s/f' '%s/c1' && cmp '%s/f' '%s/c1'"%(D,D,D2,D))
run("mkdir '%s/x' && tar -C '%s' -Scf - f | tar -C '%s/x' -Sxf - && cmp '%s/f' '%s/x/f'"%(D,D,D,D,D2))
PYEND
