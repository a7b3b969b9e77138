#!/bin/bash
# 49-overlay-upper
# Source : juicedata/juicefs#1989, #2365; rfjakob/gocryptfs#641; trapexit/mergerfs#680
# Symptom: overlayfs with its upper folder on the mount does not mount (no xattr, d_type, RENAME_WHITEOUT, tmpfile)
# Right  : mounts, copy-up, whiteout and folder rename work (kernel >= 5.7)
. "$(dirname "$0")/common.sh"
[ "$(id -u)" = 0 ] || skip "needs root"; command -v unshare >/dev/null || skip "no unshare"
T=$(mktemp -d) || skip "no mktemp"; unshare -m sh -c "mount -t tmpfs t $T && mkdir $T/l $T/u $T/w $T/m && mount -t overlay o -o lowerdir=$T/l,upperdir=$T/u,workdir=$T/w $T/m" 2>/dev/null; r=$?; rmdir "$T"; [ $r = 0 ] || skip "no overlayfs here"
mkdir "$D/l" "$D/u" "$D/w" "$D/m" "$D/l/dir"; echo low >"$D/l/f"; echo del >"$D/l/x"; echo in >"$D/l/dir/k"
export D; unshare -m bash -c '
 bad(){ echo "WRONG: $*"; exit 1; }
 e=$(mount -t overlay o -o "lowerdir=$D/l,upperdir=$D/u,workdir=$D/w" "$D/m" 2>&1) || bad "overlay does not mount: $(echo $e | tail -c 160) $(dmesg 2>/dev/null | grep -i overlay | tail -1 | tail -c 120)"
 cd "$D/m"; echo more >>f || bad "copy-up"; rm x || bad "rm of a lower file"; mkdir n; echo q >n/q; mv n n2 || bad "mv of a new folder"; rm -rf dir && mkdir dir || bad "replace a lower folder"
 mv dir dir2 2>/dev/null; [ "$(cat f)" = "$(printf "low\nmore")" ] || bad "content after copy-up"; [ -e x ] && bad "deleted file is back"; ls dir2 2>/dev/null | grep -q k && bad "opaque folder shows lower files"; : >t; ln t t2; setfattr -n user.a -v 1 t 2>/dev/null; cd /; exit 0' || exit 1
[ -c "$D/u/x" ] && [ "$(stat -c %t:%T "$D/u/x")" = 0:0 ] || bad "no whiteout device in the upper folder: $(stat -c '%F %t:%T' "$D/u/x" 2>&1)"
[ "$(cat "$D2/u/f" | tail -1)" = more ] || bad "M2 does not see the copy-up"; exit 0
