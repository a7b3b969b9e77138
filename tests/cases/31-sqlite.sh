#!/bin/bash
# 31-sqlite
# Source : seaweedfs/seaweedfs#2609, #1308; moosefs/moosefs#103
# Symptom: sqlite: "database disk image is malformed" after VACUUM or reopen; WAL or locking errors
# Right  : integrity_check ok and exact row counts in rollback mode (also from two mounts) and in WAL mode
LIMIT=120
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
try: import sqlite3
except ImportError: skip('no sqlite3 module')
def ok(p,n,w):
    c=sqlite3.connect(p,timeout=20); r=c.execute('pragma integrity_check').fetchone()[0]
    if r!='ok': bad('%s: integrity_check: %s'%(w,r))
    k=c.execute('select count(*) from t').fetchone()[0]
    if k!=n: bad('%s: %d rows, expected %d'%(w,k,n))
    c.close()
p=D+'/v.db'; c=sqlite3.connect(p); c.execute('create table t(i integer primary key,b blob)'); c.execute('create index x on t(b)')
for i in range(1500): c.execute('insert into t values(?,?)',(i,random.Random(i).randbytes(i%700)))
c.commit(); c.execute('delete from t where i%2'); c.commit(); c.execute('vacuum'); c.close(); ok(p,750,'after vacuum'); ok(D2+'/v.db',750,'after vacuum on M2')
def worker(path,n,mode):
    c=sqlite3.connect(path,timeout=30,isolation_level=None)
    if mode: c.execute('pragma journal_mode='+mode)
    for i in range(n): c.execute('begin immediate'); c.execute('insert into t(b) values(?)',(b'w'*100,)); c.execute('commit')
    c.close(); os._exit(0)
ps=[]
for i in range(2):
    pid=os.fork()
    if pid==0: worker((D,D2)[i]+'/v.db',15,None)
    ps.append(pid)
for q in ps: reap(q,'rollback writers on M and M2')
ok(p,780,'two writers')
w=D+'/w.db'; c=sqlite3.connect(w); m=c.execute('pragma journal_mode=wal').fetchone()[0]
if m!='wal': bad('WAL mode refused: '+m)
c.execute('create table t(i integer primary key,b blob)'); c.commit(); ps=[]
for i in range(3):
    pid=os.fork()
    if pid==0: worker(w,20,None)
    ps.append(pid)
for q in ps: reap(q,'WAL writers')
k=c.execute('select count(*) from t').fetchone()[0]
if k!=60: bad('WAL reader sees %d rows of 60'%k)
pid=os.fork()
if pid==0:
    c=sqlite3.connect(w,timeout=30,isolation_level=None); c.execute('pragma synchronous=full')
    i=0
    while True: c.execute('insert into t(b) values(?)',(b'k'*3000,)); i+=1
time.sleep(.5); os.kill(pid,9); os.waitpid(pid,0); c.close()
c=sqlite3.connect(w); n=c.execute('select count(*) from t').fetchone()[0]; r=c.execute('pragma integrity_check').fetchone()[0]; c.close()
if r!='ok' or n<60: bad('after kill -9 of a WAL writer: %s, %d rows'%(r,n))
PYEND
