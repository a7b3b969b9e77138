#!/bin/bash
# 32-git
# Source : seaweedfs/seaweedfs#3351, #4973, #5412, #1182; s3fs-fuse/s3fs-fuse#1152
# Symptom: git commit/clone on the mount: "index file corrupt", "inflate: data stream error", packs broken
# Right  : init, commit, clone, gc, checkout, fsck all clean; status clean from M2
LIMIT=120
. "$(dirname "$0")/common.sh"
command -v git >/dev/null || skip "no git"
export HOME=$D GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@x GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@x
git config --global safe.directory '*'; git config --global gc.auto 0; git config --global init.defaultBranch main
g(){ o=$(git "$@" 2>&1) || bad "git $1 $2 $3: $(echo "$o" | tail -2 | tr '\n' ' ')"; }
cd "$D"; g init -q r; cd r
for i in $(seq 80); do mkdir -p d$((i%7)); head -c $((i*400)) /dev/urandom | od -An -tx1 >d$((i%7))/f$i; done
g add -A; g commit -qm one; for i in 3 9 27; do echo more >>d$((i%7))/f$i; done; g commit -qam two
g fsck --full; g gc -q; g fsck --full; [ -z "$(git status --porcelain)" ] || bad "status not clean after commit"
cd "$D"; g clone -q "file://$D/r" c; cd c; g fsck --full; g checkout -q -b br HEAD~1; g checkout -q main; g branch -m br br2
[ "$(git rev-parse HEAD)" = "$(git -C "$D/r" rev-parse HEAD)" ] || bad "clone has another HEAD"
diff -r --exclude=.git "$D/r" "$D/c" >/dev/null || bad "work trees differ"
lag; [ -z "$(git -C "$D2/c" status --porcelain)" ] || bad "status not clean seen from M2"; git -C "$D2/r" fsck --full >/dev/null 2>&1 || bad "fsck from M2 fails"
[ -e .git/index.lock ] && bad "index.lock left behind"; echo x >z; g add z; g stash -q; g stash pop -q; cd "$D"; exit 0
