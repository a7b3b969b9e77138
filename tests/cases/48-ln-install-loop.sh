#!/bin/bash
# 48-ln-install-loop
# Source : cubefs/cubefs#1578, seaweedfs/seaweedfs#1242
# Symptom: make install: "ln: failed to create symbolic link: File exists"; name not found right after mv
# Right  : ln -sf, install, mv -f, cp -f in a tight loop never fail and are seen at once on both mounts
. "$(dirname "$0")/common.sh"
cd "$D"; mkdir lib bin
for i in $(seq 40); do
  echo "v$i" >lib.so.$i
  e=$(install -m 755 lib.so.$i lib/lib.so.$i 2>&1 && ln -sf lib.so.$i lib/lib.so 2>&1 && ln -sfn lib lnk 2>&1 && cp -f lib.so.$i bin/prog 2>&1 && mv -f lib.so.$i bin/cur 2>&1 && ln -f bin/cur bin/hard 2>&1) || bad "round $i: $e"
  [ "$(readlink lib/lib.so)" = lib.so.$i ] || bad "round $i: symlink points to $(readlink lib/lib.so)"
  [ "$(cat lnk/lib.so)" = v$i ] && [ "$(cat bin/cur)" = v$i ] && [ "$(cat bin/hard)" = v$i ] || bad "round $i: old content"
  [ $((i%10)) = 0 ] && lag || [ "${LAG:-0}" = 0 ] || continue
  [ "$(readlink "$D2/lib/lib.so")" = lib.so.$i ] && [ "$(cat "$D2/lib/lib.so")" = v$i ] || bad "round $i: M2 follows an old symlink: $(readlink "$D2/lib/lib.so")"
  [ "$(cat "$D2/bin/hard")" = v$i ] && [ "$(cat "$D2/bin/prog")" = v$i ] || bad "round $i: M2 shows an old file"
  [ -e lib.so.$i ] && bad "round $i: source of mv still there"; [ "$(stat -c %a lib/lib.so.$i)" = 755 ] || bad "install mode"
done
n=$(ls lib | wc -l); [ "$n" = 41 ] || bad "lib has $n names, expected 41: leftovers $(ls lib | grep -v '^lib' | head -2)"; [ "$(ls -A bin | wc -l)" = 3 ] || bad "leftovers in bin: $(ls -A bin)"; cd /; exit 0
