#!/bin/bash
# 26-default-acl
# Source : trapexit/mergerfs#357, Alluxio/alluxio#13123
# Symptom: umask applied although the folder has a default ACL; mask of new files wrong; ACLs not enforced
# Right  : inheritance and enforcement as acl(5); chmod moves the mask; cp -a / getfacl show the same on M2
. "$(dirname "$0")/common.sh"
command -v setfacl >/dev/null && command -v getfacl >/dev/null || skip "no setfacl/getfacl"
[ "$(id -u)" = 0 ] || skip "needs root"
mkdir "$D/p"; e=$(setfacl -m u:65534:rwx "$D/p" 2>&1) || { case $e in *"not supported"*) skip "file system has no POSIX ACLs";; *) bad "setfacl: $e";; esac; }
setfacl -d -m u:65534:rwx,g:4321:rx,o::- "$D/p" || bad "setfacl -d"
(umask 077; echo hi >"$D/p/f"; mkdir "$D/p/d"; echo x >"$D/p/d/g")
for w in "$D" "$D2"; do
  a=$(getfacl -cn "$w/p/f" 2>/dev/null | sed 's/[[:space:]]*#.*//' | sort | tr '\n' ' ')
  for t in user:65534:rwx group:4321:r-x mask::rw- other::--- user::rw-; do case " $a" in *" $t "*) ;; *) bad "new file under umask 077: no $t in: $a";; esac; done
  getfacl -cn "$w/p/d" 2>/dev/null | grep -q '^default:user:65534:rwx' || bad "subfolder did not inherit the default ACL"
done
[ "$(stat -c %a "$D/p/f")" = 660 ] || bad "mode of the new file is $(stat -c %a "$D/p/f"), expected 660"
if setpriv --reuid 65534 --regid 65534 --clear-groups stat "$D" >/dev/null 2>&1; then
  setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "echo more >>'$D/p/f'" 2>/dev/null || bad "user with an rw ACL entry cannot write"
  setfacl -m u:65534:0 "$D/p/f"; lag
  setpriv --reuid 65534 --regid 65534 --clear-groups cat "$D2/p/f" >/dev/null 2>&1 && bad "user with an empty ACL entry can read (on M2)"
  setfacl -m u:65534:rw "$D/p/f"; chmod g-w "$D/p/f"
  setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "echo no >>'$D/p/f'" 2>/dev/null && bad "chmod g-w did not move the mask"
fi
cp -a "$D/p/f" "$D/c" || bad "cp -a"; lag; [ "$(getfacl -cn "$D/c" 2>/dev/null)" = "$(getfacl -cn "$D2/p/f" 2>/dev/null)" ] || bad "cp -a lost the ACL"
setfacl -b "$D/c"; getfacl -cn "$D/c" 2>/dev/null | grep -q 65534 && bad "setfacl -b left entries"; exit 0
