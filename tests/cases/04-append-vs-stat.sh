#!/bin/bash
# 04-append-vs-stat
# Source : seaweedfs/seaweedfs#4648
# Symptom: open-append-close in a loop loses lines while another process does ls
# Right  : all lines are there, on both mounts
. "$(dirname "$0")/common.sh"
exec python3 - <<'PYEND'
from common import *
p=D+'/a.txt'; pid=os.fork()
if pid==0:
    while True:
        try:
            for n in os.listdir(D): os.stat(D+'/'+n)
            if TWO: os.stat(D2+'/a.txt')
        except FileNotFoundError: pass
        time.sleep(.002)
exp=b''
for i in range(400):
    l=b'line %d\n'%i; exp+=l
    with open(p,'ab') as f: f.write(l)
os.kill(pid,9); os.waitpid(pid,0)
same(p,exp,'after 400 appends'); soon(lambda: get(D2+'/a.txt')==exp,'M2 shows other content after 400 appends')
PYEND
