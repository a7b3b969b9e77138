#!/bin/bash
# 25-setgid-inherit
# Source : CurvineIO/curvine PR #1159, xtreemfs/xtreemfs#385
# Symptom: new folders in a g+s folder get neither its group nor the g+s bit
# Right  : files and folders take the group, folders also g+s, on both mounts
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
need_user(); os.mkdir(D+'/p'); os.chown(D+'/p',65534,4321); os.chmod(D+'/p',0o2775)
def f():
    os.umask(0o22); os.chdir(D+'/p'); os.mkdir('d'); put('f',b''); os.mkfifo('ff'); os.symlink('x','l'); os.makedirs('d/e/f'); put('d/e/f/g',b'')
m=as_user(65534,65534,[],f)
if m: bad(m)
for w,d in (('M',D),('M2',D2)):
    for n in ('d','f','ff','l','d/e','d/e/f','d/e/f/g'):
        s=os.lstat(d+'/p/'+n)
        if s.st_gid!=4321 or s.st_uid!=65534: bad('%s: %s has owner %d:%d, expected 65534:4321'%(w,n,s.st_uid,s.st_gid))
        if stat.S_ISDIR(s.st_mode)!=bool(s.st_mode&0o2000) and not stat.S_ISLNK(s.st_mode): bad('%s: mode of %s is %o'%(w,n,s.st_mode&0o7777))
PYEND
