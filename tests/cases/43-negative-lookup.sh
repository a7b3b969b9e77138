#!/bin/bash
# 43-negative-lookup
# Source : juicedata/juicefs PR #6302, gluster/glusterfs#4092, #906, #1261; seaweedfs/seaweedfs#9078
# Symptom: a name looked up before it existed stays ENOENT on that mount; mkdir -p then fails with File exists
# Right  : new names are found at once, mkdir -p works, removed names are gone, O_EXCL follows the truth
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
for i in range(10):
    a,b=(D,D2) if i%2==0 else (D2,D)
    n='/x%d'%i
    for k in range(6):
        if os.path.exists(b+n) or os.path.exists(b+n+'d'): bad('exists before creation')
    put(a+n,b'1'); soon(lambda: os.path.exists(b+n),'file made on the other mount is still ENOENT'); same(b+n,b'1','new file')
    os.mkdir(a+n+'d'); x=subprocess.run(['mkdir','-p',b+n+'d'],capture_output=True,text=True)
    if x.returncode: bad('mkdir -p of a folder made on the other mount: '+x.stderr)
    os.makedirs(b+n+'d',exist_ok=True); put(a+n+'d/deep',b'2'); soon(lambda: os.path.exists(b+n+'d/deep'),'file in the new folder is ENOENT')
    os.stat(b+n); os.unlink(a+n); soon(lambda: not os.path.exists(b+n),'removed file is still there on the other mount')
    os.close(os.open(b+n,os.O_CREAT|os.O_EXCL|os.O_WRONLY)); want([errno.EEXIST],'O_EXCL create of a name the other mount has made',os.open,a+n,os.O_CREAT|os.O_EXCL|os.O_WRONLY)
    os.stat(b+n+'d'); os.rename(a+n+'d',a+n+'e'); soon(lambda: not os.path.exists(b+n+'d') and os.path.exists(b+n+'e/deep'),'renamed folder: old name stays or new one missing')
PYEND
