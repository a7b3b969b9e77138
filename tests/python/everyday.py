"""Checks everyday file calls in a folder against POSIX. Usage: everyday.py FOLDER"""
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import sys
import time

root = os.path.join(sys.argv[1], "everyday")
os.mkdir(root)
os.chdir(root)
libc = ctypes.CDLL(None, use_errno=True)


def fails(number, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except OSError as error:
        assert error.errno == number, (errno.errorcode[error.errno], errno.errorcode[number], call, args)
        return
    raise AssertionError(f"{call}{args} did not fail")


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# Create, read, overwrite, append, truncate.
write("a", b"first")
assert read("a") == b"first"
with open("a", "r+b") as file:
    file.seek(2)
    file.write(b"XX")
assert read("a") == b"fiXXt"
with open("a", "ab") as file:
    file.write(b"-end")
assert read("a") == b"fiXXt-end"
os.truncate("a", 3)
assert read("a") == b"fiX"
os.truncate("a", 10_000)
assert read("a") == b"fiX" + bytes(9_997)
fd = os.open("a", os.O_WRONLY | os.O_TRUNC)
os.close(fd)
assert os.stat("a").st_size == 0
fails(errno.EEXIST, os.open, "a", os.O_CREAT | os.O_EXCL)
fails(errno.ENOENT, open, "nothing")

# Lengths around the inline limit and across blocks; overwrites in the middle and at the end.
for size in (0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 3_333_333):
    data = bytearray(os.urandom(size))
    write("b", data)
    assert read("b") == data, size
    for at, piece in ((0, b"zz"), (size // 2, b"middle"), (size, b"after")):
        with open("b", "r+b") as file:
            file.seek(at)
            file.write(piece)
        data[at : at + len(piece)] = piece
        assert read("b") == data, (size, at)
    os.posix_fadvise(os.open("b", os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
    assert read("b") == data

# Directories.
os.makedirs("d/e/f")
fails(errno.ENOTEMPTY, os.rmdir, "d")
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.ENOTDIR, os.mkdir, "a/b")
assert os.stat("d").st_nlink == 3
names = [f"name{i:04}" for i in range(1500)]
for name in names:
    write(f"d/{name}", b"")
assert sorted(os.listdir("d")) == ["e"] + names
seen = set()
with os.scandir("d") as entries:
    for entry in entries:  # a deletion during the listing skips no entry
        seen.add(entry.name)
        if entry.name != "e":
            os.unlink(f"d/{entry.name}")
assert seen == set(["e"] + names), len(seen)
assert os.listdir("d") == ["e"]

# Rename, with its flags.
write("r1", b"1")
write("r2", b"2")
os.rename("r1", "r2")
assert read("r2") == b"1"
write("r1", b"3")
fails(errno.EEXIST, renameat2, "r1", "r2", 1)
renameat2("r1", "r2", 2)
assert (read("r1"), read("r2")) == (b"1", b"3")
fails(errno.EINVAL, os.rename, "d", "d/e/x")
fails(errno.EISDIR, os.rename, "r1", "d")
fails(errno.ENOTDIR, os.rename, "d", "r1")
os.rename("d/e", "e")
assert os.stat("d").st_nlink == 2 and os.path.isdir("e/f")

# Links.
os.link("r1", "hard")
assert os.stat("r1").st_nlink == 2 and os.stat("hard").st_ino == os.stat("r1").st_ino
with open("hard", "ab") as file:
    file.write(b"more")
assert read("r1") == b"1more"
os.unlink("r1")
assert os.stat("hard").st_nlink == 1
os.symlink("hard", "soft")
assert os.readlink("soft") == "hard" and read("soft") == b"1more"
fails(errno.EPERM, os.link, "d", "dirlink")

# A removed file exists as long as it is open.
fd = os.open("gone", os.O_CREAT | os.O_RDWR)
os.write(fd, b"x" * 100_000)
os.unlink("gone")
assert not os.path.exists("gone")
os.lseek(fd, 0, 0)
assert os.read(fd, 200_000) == b"x" * 100_000
os.write(fd, b"more")
assert os.fstat(fd).st_size == 100_004 and os.fstat(fd).st_nlink == 0
os.fsync(fd)
os.close(fd)

# Attributes.
os.chmod("hard", 0o640)
assert stat.S_IMODE(os.stat("hard").st_mode) == 0o640
os.utime("hard", ns=(1_000_000_001, 2_000_000_002))
assert (os.stat("hard").st_atime_ns, os.stat("hard").st_mtime_ns) == (1_000_000_001, 2_000_000_002)
with open("times", "wb") as file:
    file.write(b"data")
    file.flush()
    os.utime("times", ns=(5, 6))
assert os.stat("times").st_mtime_ns == 6, os.stat("times").st_mtime_ns
before = os.stat("d").st_mtime_ns
time.sleep(0.02)
write("d/new", b"")
assert os.stat("d").st_mtime_ns > before
if os.geteuid() == 0:
    os.chown("hard", 12, 34)
    assert (os.stat("hard").st_uid, os.stat("hard").st_gid) == (12, 34)
    os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert os.stat("device").st_rdev == os.makedev(1, 3)
os.mkfifo("pipe")
assert stat.S_ISFIFO(os.stat("pipe").st_mode)
os.umask(0o027)
write("masked", b"")
assert stat.S_IMODE(os.stat("masked").st_mode) == 0o640

# Extended attributes.
os.setxattr("hard", "user.colour", b"red")
assert os.getxattr("hard", "user.colour") == b"red" and os.listxattr("hard") == ["user.colour"]
fails(errno.EEXIST, os.setxattr, "hard", "user.colour", b"x", os.XATTR_CREATE)
fails(errno.ENODATA, os.setxattr, "hard", "user.size", b"x", os.XATTR_REPLACE)
os.removexattr("hard", "user.colour")
fails(errno.ENODATA, os.getxattr, "hard", "user.colour")

# Memory maps, shared and private.
with open("map", "w+b") as file:
    file.truncate(300_000)
    with mmap.mmap(file.fileno(), 300_000) as mapped:
        mapped[100_000:100_005] = b"hello"
        mapped.flush()
    with mmap.mmap(file.fileno(), 300_000, mmap.MAP_PRIVATE) as mapped:
        assert mapped[100_000:100_005] == b"hello"
        mapped[0:1] = b"p"
assert read("map")[100_000:100_005] == b"hello" and read("map")[0:1] == b"\0"

# Holes.
fd = os.open("holes", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"x" * 10_000, 5 << 20)
os.fsync(fd)
assert os.lseek(fd, 0, os.SEEK_DATA) == 5 << 20
assert os.lseek(fd, 5 << 20, os.SEEK_HOLE) == (5 << 20) + 10_000
fails(errno.ENXIO, os.lseek, fd, 1 << 40, os.SEEK_DATA)
assert libc.fallocate(fd, 3, ctypes.c_long(5 << 20), ctypes.c_long(4096)) == 0
assert os.pread(fd, 5000, 5 << 20) == bytes(4096) + b"x" * 904
os.posix_fallocate(fd, 0, 6 << 20)
assert os.fstat(fd).st_size == 6 << 20
os.close(fd)

# Locks within a mount.
one, two = os.open("lock", os.O_CREAT | os.O_RDWR), os.open("lock", os.O_RDWR)
fcntl.flock(one, fcntl.LOCK_EX)
fails(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.flock(one, fcntl.LOCK_UN)
fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

# O_DIRECT, O_APPEND from two handles, statvfs.
fd = os.open("direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 8192)
page.write(b"d" * 8192)
assert os.write(fd, page) == 8192
os.close(fd)
assert read("direct") == b"d" * 8192
one, two = (os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(2))
for _ in range(50):
    os.write(one, b"one\n")
    os.write(two, b"two\n")
assert read("log") == b"one\ntwo\n" * 50
space = os.statvfs(".")
assert space.f_blocks > space.f_bavail > 0 and space.f_namemax == 255, space
print("all right")
