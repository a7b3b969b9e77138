#!/usr/bin/env python3
"""sqlite_writers.py JOURNAL SECONDS DATABASE...: writes to one database by each of these paths at once, in this journal mode.

Each transaction that was acknowledged must be there at the end, and the database must be sound. Exit 1 otherwise."""
import os, sqlite3, sys, time

journal, seconds, paths = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
WRITERS = 2
base = sqlite3.connect(paths[0])
if base.execute(f"pragma journal_mode={journal}").fetchone()[0] != journal:
    sys.exit(f"the journal mode {journal} is refused")
base.execute("create table t(writer integer, n integer, b blob, primary key(writer, n))")
base.execute("create index i on t(b)")
base.commit()
base.close()


def write(writer, path, told):
    c = sqlite3.connect(path, timeout=60, isolation_level=None)
    c.execute("pragma synchronous=full")
    n, longest, begun = 0, 0, time.time()
    while time.time() - begun < seconds:
        at = time.time()
        c.execute("begin immediate")
        c.execute("insert into t values(?, ?, ?)", (writer, n, os.urandom(300)))
        if n % 10 == 9:
            c.execute("update t set b = ? where writer = ? and n = ?", (os.urandom(2000), writer, n - 5))
        c.execute("commit")
        n, longest = n + 1, max(longest, time.time() - at)
    os.write(told, f"{writer} {n} {longest:.2f}\n".encode())


r, told = os.pipe()
pids = []
for writer in range(WRITERS * len(paths) if journal == "wal" else len(paths)):
    pid = os.fork()
    if pid == 0:
        try:
            write(writer, paths[writer % len(paths)], told)
            os._exit(0)
        except BaseException as e:
            print(f"writer {writer}: {type(e).__name__}: {e}", flush=True)
            os._exit(1)
    pids.append(pid)
os.close(told)
failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
lines = [line.split() for line in os.fdopen(r).read().splitlines()]
for path in paths:
    c = sqlite3.connect(path, timeout=60)
    sound = c.execute("pragma integrity_check").fetchone()[0]
    if sound != "ok":
        sys.exit(f"integrity_check of {path}: {sound}")
    for writer, n, _ in lines:
        rows = c.execute("select count(*), max(n) from t where writer = ?", (writer,)).fetchone()
        if rows != (int(n), int(n) - 1 if int(n) else None):
            sys.exit(f"{path}: writer {writer} has {rows[0]} rows, and {n} were acknowledged")
    c.close()
if failed:
    sys.exit(1)
print(f"{sum(int(n) for _, n, _ in lines)} transactions, the longest {max(float(l) for _, _, l in lines)} s")
