#!/bin/bash
# 56-tar-roundtrip
# Source : leil-io/leilfs#547, #700 (tar x fails, "Skipping zero-size write operation"); juicedata/juicefs#3419
# Symptom: unpacking a tar (or rsync) fails or leaves short files; modes, times, hard links differ
# Right  : tar -d finds no difference from either mount; unpacking over existing files works; rsync finds nothing to do
LIMIT=120
. "$(dirname "$0")/common.sh"
cd "$D" && mkdir src && cd src || bad "mkdir"
k=0; for z in 0 1 511 512 4095 65535 65536 65537 131072 300001 1048576 1048577; do mkdir -p d$((k%3)); head -c $z /dev/urandom >d$((k%3))/s$z; chmod $((400+k*11%300)) d$((k%3))/s$z 2>/dev/null || chmod 640 d$((k%3))/s$z; touch -d "2001-02-03 04:05:0$((k%10)).123456789" d$((k%3))/s$z; k=$((k+1)); done
ln d0/s0 hard0; ln d1/s65537 hard1 2>/dev/null || ln d0/s65537 hard1 2>/dev/null || ln d2/s65537 hard1; ln -s d0/s0 sym; ln -s /nonexistent dang; mkfifo ff; mkdir -m 2755 sg; mkdir -m 500 ro; truncate -s 3000000 sp; printf tail >>sp
cd "$D"; tar --format=posix -cSf a.tar -C src . || bad "tar c"; lag
[ "$(tar -tf "$D2/a.tar" | wc -l)" = "$(cd src; find . | wc -l)" ] || bad "archive read from M2 has other names"
for i in 1 2 3; do
  mkdir -p dst; e=$(tar -xpf a.tar -C dst 2>&1) || bad "tar x, round $i: $(echo "$e" | head -1)"; [ -z "$e" ] || bad "tar x, round $i: $(echo "$e" | head -1)"
  lag; for w in "$D" "$D2"; do e=$(tar -df "$w/a.tar" -C "$w/dst" 2>&1) || bad "tar -d, round $i: $(echo "$e" | head -1)"; done
done
[ "$(stat -c %h "$D2/dst/hard1")" = 2 ] || bad "hard link lost: nlink $(stat -c %h "$D2/dst/hard1")"
gzip -c a.tar | dd bs=10k 2>/dev/null >a.tgz && gzip -t a.tgz && gzip -dc "$D2/a.tgz" | cmp - a.tar || bad "gzip round trip"
if command -v rsync >/dev/null; then
  rsync -aHS src/ rs/ || bad "rsync"; for z in d0/s0 hard1; do echo x >>src/$z; done; rsync -aH --inplace src/ rs/ || bad "rsync --inplace"
  o=$(rsync -aHnic src/ "$D2/rs/"); [ -z "$o" ] || bad "rsync still sees a difference: $(echo "$o" | head -1)"
fi
cp -a src cpa && diff -r --no-dereference --exclude=ff src cpa >/dev/null || bad "cp -a differs"; exit 0
