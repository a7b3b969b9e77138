#!/bin/bash
# 27-xattr-rules
# Source : CurvineIO/curvine#1113, juicedata/juicefs PR #770
# Symptom: XATTR_CREATE/REPLACE flags ignored; listed names that cannot be read; removal silently ignored
# Right  : EEXIST/ENODATA/ERANGE as ext4; list = what get can read; values binary safe; kept by rename, gone with unlink
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
f=D+'/f'; put(f,b'x')
try: os.setxattr(f,'user.a',b'1')
except OSError as e:
    if e.errno in (errno.EOPNOTSUPP,errno.ENOSYS): bad('user.* xattrs are not supported (cp -a, tar --xattrs, overlay need them)')
    raise
want([errno.EEXIST],'XATTR_CREATE on an existing name',os.setxattr,f,'user.a',b'2',os.XATTR_CREATE); want([errno.ENODATA],'XATTR_REPLACE on a missing name',os.setxattr,f,'user.b',b'2',os.XATTR_REPLACE)
if os.getxattr(f,'user.a')!=b'1': bad('failed XATTR_CREATE changed the value')
os.setxattr(f,'user.a',b'3',os.XATTR_REPLACE); os.setxattr(f,'user.b',b'',os.XATTR_CREATE); os.setxattr(f,'user.bin',bytes(range(256))*4); os.setxattr(f,'user.\u00e9 x',b'u')
def ls(p): return sorted(n for n in os.listxattr(p) if n.startswith('user.'))
for w,p in (('M',f),('M2',D2+'/f')):
    if ls(p)!=sorted(['user.a','user.b','user.bin','user.\u00e9 x']): bad('%s: list is %r'%(w,ls(p)))
    for n in os.listxattr(p):
        try: os.getxattr(p,n)
        except OSError as e: bad('%s: listed name %s cannot be read: %s'%(w,n,E.get(e.errno)))
    if os.getxattr(p,'user.b')!=b'' or os.getxattr(p,'user.bin')!=bytes(range(256))*4: bad(w+': wrong value')
libc=ctypes.CDLL(None,use_errno=True); buf=ctypes.create_string_buffer(10)
if libc.getxattr(os.fsencode(f),b'user.bin',buf,10)!=-1 or ctypes.get_errno()!=errno.ERANGE: bad('getxattr with a small buffer does not give ERANGE')
if libc.getxattr(os.fsencode(f),b'user.bin',None,0)!=1024: bad('getxattr size query wrong')
os.removexattr(f,'user.a'); want([errno.ENODATA],'get after remove',os.getxattr,f,'user.a'); want([errno.ENODATA],'remove twice',os.removexattr,f,'user.a')
soon(lambda: 'user.a' not in os.listxattr(D2+'/f'),'removed xattr still listed on M2')
c0=os.stat(f).st_ctime_ns; time.sleep(.02); os.setxattr(f,'user.c',b'c')
if os.stat(f).st_ctime_ns<=c0: bad('setxattr did not move ctime')
os.rename(f,D+'/g')
if os.getxattr(D+'/g','user.c')!=b'c': bad('xattr lost by rename')
put(f,b'new')
if ls(f): bad('a new file at the old name has xattrs %r'%ls(f))
os.mkdir(D+'/d'); os.setxattr(D+'/d','user.dir',b'1'); os.symlink('f',D+'/l')
want([errno.EPERM,errno.EOPNOTSUPP],'user xattr on a symlink',os.setxattr,D+'/l','user.x',b'1',0,follow_symlinks=False)
if os.geteuid()==0:
    os.setxattr(f,'trusted.t',b'1')
    if os.getxattr(f,'trusted.t')!=b'1': bad('trusted.* value lost')
want([errno.EOPNOTSUPP],'unknown namespace',os.setxattr,f,'nonsense.x',b'1'); want([errno.ENODATA],'missing name',os.getxattr,f,'user.none')
PYEND
