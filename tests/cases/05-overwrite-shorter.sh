#!/bin/bash
# 05-overwrite-shorter
# Source : seaweedfs/seaweedfs#847 (and #728)
# Symptom: after >> a later > keeps old bytes; or >> acts like >
# Right  : exactly what a shell on ext4 gives, on both mounts
. "$(dirname "$0")/common.sh"
f=$D/t; ck(){ [ "$(cat "$1")" = "$2" ] || bad "$3: $(head -c 60 "$1" | tr '\n' '|')"; }
echo 1 >>"$f"; ck "$f" 1 "first >>"; echo 2 >>"$f"; ck "$f" $'1\n2' "second >>"
echo 3 >"$f"; ck "$f" 3 "> after >>"; echo 4 >>"$f"; ck "$f" $'3\n4' ">> after >"
head -c 300000 /dev/zero | tr '\0' x >"$f"; echo short >"$f"; ck "$f" short "> over 300 kB"
[ "$(stat -c %s "$f")" = 6 ] || bad "size $(stat -c %s "$f") after > of 6 bytes over 300 kB"
echo more >>"$f"; ck "$f" $'short\nmore' ">> after shrink"; lag; ck "$D2/t" $'short\nmore' "seen on M2"
: >"$f"; lag; [ ! -s "$f" ] && [ ! -s "$D2/t" ] || bad "file not empty after :>"
