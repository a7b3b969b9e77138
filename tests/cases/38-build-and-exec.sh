#!/bin/bash
# 38-build-and-exec
# Source : libfuse/libfuse#503 (gcc on FUSE), macfuse/macfuse#1181, cubefs/cubefs#1578
# Symptom: compile + run on the mount: linker fails (mmap), fresh binary not executable, stale binary run after rebuild
# Right  : each rebuild runs the new program, also from M2; make sees that nothing is to do; running program survives replacement
LIMIT=90
. "$(dirname "$0")/common.sh"
command -v gcc >/dev/null && command -v make >/dev/null || skip "no gcc/make"
findmnt -no OPTIONS -T "$D" 2>/dev/null | grep -qw noexec && skip "mounted noexec"
cd "$D"; printf 'prog: a.o b.o\n\tgcc -o prog a.o b.o\n%%.o: %%.c h.h\n\tgcc -c -o $@ $<\ninstall: prog\n\tinstall -m 755 prog bin/prog\n\tln -sf prog bin/lnk\n' >Makefile
mkdir bin; echo 'int b(void){return 0;}' >b.c
for i in 1 2 3 4; do
  echo "#define V $i" >h.h; printf '#include <stdio.h>\n#include "h.h"\nint b(void);int main(){printf("%%d\\n",V+b());return 0;}\n' >a.c
  o=$(make -s install 2>&1) || bad "make, round $i: $(echo "$o" | tail -1)"; case $o in *skew*|*future*) bad "make: $o";; esac
  [ "$(./prog)" = $i ] || bad "round $i runs an old or broken program: $(./prog 2>&1)"
  lag; [ "$("$D2/bin/lnk" 2>&1)" = $i ] || bad "round $i: M2 runs an old or broken program: $("$D2/bin/lnk" 2>&1)"
  make -q prog || bad "make wants to rebuild at once (times out of order)"; sleep .05
done
printf '#!/bin/sh\necho script\n' >s; chmod +x s; [ "$(./s)" = script ] || bad "script does not run"
cp "$(command -v sleep)" slp; ./slp 3 & p=$!; cp ./prog new; mv -f new slp; wait $p || bad "a running program died when its file was replaced"
[ "$(./slp)" = 4 ] || bad "replaced program runs the old one"; ar rc lib.a a.o b.o && ranlib lib.a || bad "ar fails"
gcc -shared -fPIC -o l.so b.c && python3 -c "import ctypes;ctypes.CDLL('$D/l.so').b()" || bad "cannot load a shared library"; chmod 644 prog; ./prog 2>/dev/null && bad "runs without x bit"; cd /; exit 0
