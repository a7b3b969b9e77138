#!/usr/bin/env python3
"""file_turns.py DIR1 DIR2 SEED CALLS: one file, changed and read by turns through two folders that show the same files.

Each call is on one of the folders, at random: writes, appends, reads, maps, O_DIRECT, truncations, holes, copies. After each
call the size, and at each read the bytes, must be what a plain array has. Exit 1 at the first difference, with the last calls."""
import collections, ctypes, errno, mmap, os, random, sys

dirs, seed, calls = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
MOST, PAGE = 1 << 20, 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
r = random.Random(seed)
paths = [f"{d}/turns-{seed}" for d in dirs]
model = bytearray()
done = collections.deque(maxlen=40)
direct = True


def wrong(what):
    print(f"seed {seed}, call {n}: {what}", *done, sep="\n  ")
    sys.exit(1)


def compare(at, got, how):
    want = bytes(model[at:at + len(got)])
    if got != want:
        i = next(i for i in range(len(got)) if i >= len(want) or got[i] != want[i])
        wrong(f"{how} on mount {m}: byte {at + i} is {got[i]:#x}, not {want[i] if i < len(want) else 'beyond the end'}")


def fill(at, data):
    if len(model) < at + len(data):
        model.extend(bytes(at + len(data) - len(model)))
    model[at:at + len(data)] = data


def data(most):
    return bytes([r.randrange(1, 256)]) * r.randrange(1, most)


def position():
    """Anywhere, with the end of the file and the ends of pages more often."""
    return r.choice((r.randrange(MOST), len(model), max(0, len(model) - r.randrange(PAGE)), r.randrange(MOST // PAGE) * PAGE))


def fallocate(fd, mode, at, length):
    if libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def opened(m):
    global direct
    flags = [os.O_RDWR, os.O_RDWR | os.O_APPEND]
    fds = [os.open(paths[m], f | os.O_CREAT, 0o644) for f in flags]
    try:
        fds.append(os.open(paths[m], os.O_RDWR | os.O_DIRECT))
    except OSError:
        direct = False
        fds.append(os.dup(fds[0]))
    return fds


def all_written(fd, at, buffer):
    if os.pwrite(fd, buffer, at) != len(buffer):
        wrong("a short write")


n = m = 0
handles = [opened(0), opened(1)]
aligned = mmap.mmap(-1, 64 * PAGE)
for n in range(1, calls + 1):
    m = r.randrange(2)
    plain, append, straight = handles[m]
    call = r.choices(("write", "append", "read", "mapread", "mapwrite", "directread", "directwrite", "truncate", "pathtruncate",
                      "extend", "punch", "zero", "copy", "fsync", "reopen"),
                     (8, 4, 8, 6, 6, 5, 5, 3, 1, 2, 2, 1, 3, 2, 2))[0]
    at, size = position() % MOST, len(model)
    done.append(f"{n}: {call} on mount {m}, position {at}, size {size}")
    if call == "write":
        new = data(r.choice((100, 5000, 200000)))[:MOST - at]
        all_written(plain, at, new)
        fill(at, new)
    elif call == "append" and size < MOST:
        new = data(3000)
        if os.write(append, new) != len(new):
            wrong("a short append")
        fill(size, new)
    elif call == "read":
        length = r.choice((10, 5000, 300000, MOST))
        got = os.pread(plain, length, at)
        compare(at, got, "read")
        if len(got) != max(0, min(length, size - at)):
            wrong(f"read on mount {m}: {len(got)} bytes of {length} at {at}, and the size is {size}")
    elif call in ("mapread", "mapwrite") and size:
        start = min(at, size - 1) // PAGE * PAGE
        length = min(size - start, r.choice((1, PAGE, 100000)))
        with mmap.mmap(plain, length, offset=start) as mapped:
            compare(start, bytes(mapped), "map")
            if call == "mapwrite":
                new = data(length + 1)
                mapped[:len(new)] = new
                mapped.flush()
                fill(start, new)
    elif call == "directread":
        start = at // PAGE * PAGE
        pages = r.randrange(1, 65)
        view = memoryview(aligned)[:pages * PAGE]
        got = os.preadv(straight, [view], start)
        compare(start, bytes(view[:got]), "O_DIRECT read")
        if got != max(0, min(len(view), size - start)):
            wrong(f"O_DIRECT read on mount {m}: {got} bytes at {start}")
    elif call == "directwrite":
        start = at // PAGE * PAGE
        view = memoryview(aligned)[:min(r.randrange(1, 33) * PAGE, MOST - start)]
        view[:] = bytes([r.randrange(1, 256)]) * len(view)
        if os.pwritev(straight, [view], start) != len(view):
            wrong("a short O_DIRECT write")
        fill(start, bytes(view))
    elif call in ("truncate", "pathtruncate"):
        os.ftruncate(plain, at) if call == "truncate" else os.truncate(paths[m], at)
        del model[at:]
        model.extend(bytes(at - len(model)))
    elif call == "extend":
        length = r.randrange(1, 100000)
        if at + length <= MOST:
            os.posix_fallocate(plain, at, length)
            model.extend(bytes(max(0, at + length - len(model))))
    elif call in ("punch", "zero"):
        length = r.randrange(1, 100000)
        try:
            fallocate(plain, KEEP_SIZE | (PUNCH_HOLE if call == "punch" else ZERO_RANGE), at, length)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
            continue
        end = min(at + length, size)
        if at < end:
            model[at:end] = bytes(end - at)
    elif call == "copy" and size > 1:
        length = r.randrange(1, min(size // 2, 100000) + 1)
        source = r.randrange(size // 2 - length + 1)
        target = size // 2 + r.randrange(size // 2)
        got = os.copy_file_range(plain, plain, min(length, MOST - target), source, target)
        fill(target, bytes(model[source:source + got]))
    elif call == "fsync":
        os.fsync(plain)
    elif call == "reopen":
        for fd in handles[m]:
            os.close(fd)
        handles[m] = opened(m)
    for m in (0, 1):
        for how, got in (("fstat", os.fstat(handles[m][0]).st_size), ("stat", os.stat(paths[m]).st_size)):
            if got != len(model):
                wrong(f"{how} on mount {m}: the size is {got}, not {len(model)}")
for m in (0, 1):
    with open(paths[m], "rb") as f:
        compare(0, f.read(), "the last read")
os.unlink(paths[0])
print(f"{calls} calls" + ("" if direct else ", without O_DIRECT"))
