# The frame of a case, sourced by each: checks M and M2, makes a folder for the case, runs the case once more in it
# within a limit of time, ends what it leaves running, and removes the folder.
#
# A case may set LIMIT (seconds, 60 unless it does) before it sources this file; CASE_LIMIT overrides it.
if [ -z "$CASE_D" ]; then
  [ -n "$M" ] && [ -d "$M" ] || { echo "SKIP: set M to a directory on the mount"; exit 77; }
  M=${M%/}; M2=${M2:-$M}; M2=${M2%/}; limit=${CASE_LIMIT:-${LIMIT:-60}}
  CASE_SCRIPT=$(readlink -f "$0"); name=${CASE_SCRIPT##*/}
  export CASE_SCRIPT CASE_D="$M/case${name%%-*}.$$" CASE_D2="$M2/case${name%%-*}.$$"
  export PYTHONPATH=${CASE_SCRIPT%/*} PYTHONDONTWRITEBYTECODE=1
  timeout 20 mkdir "$CASE_D" || { echo "WRONG: cannot make a folder in M"; exit 1; }
  timeout -k 10 "$limit" bash "$CASE_SCRIPT" & p=$!; trap 'kill -9 -- -$p 2>/dev/null' INT TERM
  wait $p; r=$?; kill -9 -- -$p 2>/dev/null      # timeout made its own process group: end what is left of it
  case $r in 0|1|77) ;; 124|137) echo "WRONG: not done after $limit s (hang?)"; r=1;; *) echo "WRONG: ended with rc $r"; r=1;; esac
  timeout 30 rm -rf -- "$CASE_D" 2>/dev/null || { [ $r = 0 ] && { echo "WRONG: rm -rf of the own test folder failed"; r=1; }; }
  exit $r
fi
bad(){ echo "WRONG: $*"; exit 1; }
skip(){ echo "SKIP: $*"; exit 77; }
lag(){ [ "${LAG:-0}" = 0 ] || sleep "$LAG"; }      # only if the filesystem lets M2 lag
D=$CASE_D D2=$CASE_D2; cd / || exit 1
[ -d "$D2" ] || { for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1; [ -d "$D2" ] && bad "a new folder was not visible on M2 for $i s"; done; bad "a new folder on M never shows on M2"; }
