"""What the cases in Python share: D and D2, the case's folder on M and on M2; the ends bad() and skip(); checks.

Importing it waits until D2 shows the folder, for at most LAG seconds."""
import os,sys,time,errno,stat,signal,subprocess,fcntl,random,hashlib,mmap,ctypes,shutil
D=os.environ['CASE_D']; D2=os.environ['CASE_D2']; LAG=float(os.environ.get('LAG','0')); TWO=D!=D2
def bad(m): print('WRONG: '+str(m).replace('\n',' ')[:400],flush=True); os._exit(1)
def skip(m): print('SKIP: '+str(m),flush=True); os._exit(77)
def hook(t,v,tb):                        # uncaught error: one line with the failing call
    import traceback
    F=[f for f in traceback.extract_tb(tb) if f.filename=='<stdin>']; w=''
    try:
        L=open(os.environ['CASE_SCRIPT']).read().split('\n'); o=[i for i,l in enumerate(L) if l.startswith('exec python3')][0]
        f=F[-1]; l=L[o+f.lineno].encode(); c=getattr(f,'colno',None)
        w=(l[c:f.end_colno] if c is not None and f.end_lineno==f.lineno else l).decode(errors='replace').strip()[:110]
    except Exception: w='python line %d'%(F[-1].lineno if F else 0)
    n=E.get(v.errno,v.errno) if isinstance(v,OSError) and v.errno else '%s: %s'%(t.__name__,v)
    bad('%s at: %s'%(n,w))
E=errno.errorcode
sys.excepthook=hook
def want(codes,what,fn,*a,**k):          # the call must fail with one of these errors
    try: fn(*a,**k)
    except OSError as e:
        if e.errno in codes: return e.errno
        bad('%s: got %s, expected %s'%(what,E.get(e.errno,e.errno),'/'.join(E[c] for c in codes)))
    bad('%s succeeded, expected %s'%(what,'/'.join(E[c] for c in codes)))
def soon(fn,what):                       # true at once (or within LAG s); otherwise say for how long it was wrong
    t=time.time()
    while True:
        if fn(): return
        if time.time()-t>=LAG: break
        time.sleep(.05)
    while time.time()-t<LAG+8:
        time.sleep(.1)
        if fn(): bad('%s (stale for %.1f s)'%(what,time.time()-t))
    bad('%s (still so after 8 s)'%what)
def put(p,b,mode='wb'):
    with open(p,mode) as f: f.write(b)
def get(p):
    with open(p,'rb') as f: return f.read()
def diff(a,b):
    if len(a)!=len(b): return 'size %d instead of %d'%(len(a),len(b))
    for i in range(len(a)):
        if a[i]!=b[i]: return 'first wrong byte at %d: %#x instead of %#x'%(i,a[i],b[i])
def lag(): time.sleep(LAG)
def same(p,b,what):
    t=time.time()
    while True:
        try: g=get(p); e=None
        except FileNotFoundError as x: g=None; e='not found'
        if g==b: return
        if time.time()-t>=LAG: bad('%s: %s'%(what,e or diff(g,b)))
        time.sleep(.05)
def reap(pid,what):
    st=os.waitpid(pid,0)[1]
    if os.WIFEXITED(st) and os.WEXITSTATUS(st)==0: return
    if os.WIFEXITED(st) and os.WEXITSTATUS(st)==1: os._exit(1)
    bad('%s: child status %#x'%(what,st))
def as_user(uid,gid,groups,fn):          # run fn in a child as this user; returns '' or the error text
    r,w=os.pipe(); pid=os.fork()
    if pid==0:
        try:
            os.setgroups(groups); os.setresgid(gid,gid,gid); os.setresuid(uid,uid,uid); fn(); os._exit(0)
        except BaseException as e: os.write(w,('%s: %s'%(type(e).__name__,e)).encode()); os._exit(2)
    os.close(w); m=os.read(r,4000).decode(); os.close(r); st=os.waitpid(pid,0)[1]
    if os.WIFEXITED(st) and os.WEXITSTATUS(st)==1: os._exit(1)
    return m if st else ''
def need_user():
    if os.geteuid()!=0: skip('needs root')
    if as_user(65534,65534,[],lambda: os.stat(D)): skip('other users cannot reach the mount (allow_other / path modes)')
soon(lambda: os.path.isdir(D2),'a new folder on M is not visible on M2')
