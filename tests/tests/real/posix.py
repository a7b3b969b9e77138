"""Calls of POSIX on a tree, told one by one, so that two filesystems can be compared.

compare SEED DIR OTHER   random calls by several users; OTHER is the same tree, of another mount
handle PATH              prints the file handle of a file, in hexadecimal
open MOUNT HANDLE        opens a file by its handle, and prints what is in it
"""
import ctypes, errno, os, random, stat, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
ACLS = ["system.posix_acl_access", "system.posix_acl_default"]
NAMES = ["a", "b", "c", "s", "s/a", "s/b"]
USERS = [(1000, 100), (1001, 100), (1002, 200)]


def failed():
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def told(call):
    try:
        value = call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return value.hex() if isinstance(value, bytes) else value


def as_user(user, groups, folder, call):
    """What a call of another user returns. The folder is entered before, so it needs no way to it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.setgroups(groups)
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])
        os.write(theirs, str(told(call)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def acl(dice):
    bits = lambda: dice.randrange(8)
    entries = [[1, bits(), -1]]
    entries += [[2, bits(), dice.choice([1000, 1001, 1002])] for _ in range(dice.randrange(3))]
    entries += [[4, bits(), -1]]
    entries += [[8, bits(), dice.choice([100, 200])] for _ in range(dice.randrange(2))]
    if len(entries) > 2 or dice.random() < 0.3:
        entries += [[16, bits(), -1]]
    entries += [[32, bits(), -1]]
    wrong = dice.random()
    if wrong < 0.06:
        entries.pop(dice.randrange(len(entries)))
    elif wrong < 0.10:
        dice.shuffle(entries)
    elif wrong < 0.13:
        dice.choice(entries)[0] = dice.choice([3, 64])
    elif wrong < 0.15:
        entries = []
    packed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    return struct.pack("<I", 3 if wrong > 0.98 else 2) + packed[: None if wrong < 0.96 else -3]


def rename(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        failed()


def create(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def unnamed(folder, path, mode):
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, mode)
    try:
        os.write(file, b"unnamed")
        os.link("/proc/self/fd/%d" % file, path, follow_symlinks=True)
    finally:
        os.close(file)


def write(path, data, flags):
    file = os.open(path, os.O_WRONLY | flags)
    try:
        return os.write(file, data) if data else 0
    finally:
        os.close(file)


def read(path):
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def state(path):
    def look():
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        # The count of a delegated directory may be late on another mount.
        links = 0 if kind == stat.S_IFDIR else found.st_nlink
        size = found.st_size if kind == stat.S_IFREG else 0
        return "%o %d:%d %d links %d bytes %x" % (
            found.st_mode, found.st_uid, found.st_gid, links, size, found.st_rdev)
    names = ACLS + ["security.capability"]
    values = [told(lambda: os.getxattr(path, name, follow_symlinks=False)) for name in names]
    listed = told(lambda: sorted(name for name in os.listxattr(path, follow_symlinks=False) if name in names))
    return "%s acls %s listed %s" % (told(look), values, listed)


def is_special(path):
    """A pipe, which waits for its other end; and set-group-id without execution by the group, which the kernel
    does not clear for a FUSE filesystem when others write."""
    mode = os.stat(path).st_mode
    return stat.S_ISFIFO(mode) or mode & 0o2010 == 0o2000 and not stat.S_ISDIR(mode)


def step(dice, folder):
    """Makes one call. Every call takes the same dice, whatever comes of it."""
    what, name, other = dice.randrange(22), dice.choice(NAMES), dice.choice(NAMES)
    mode, mask, user = dice.randrange(0o10000), dice.choice([0, 0o22, 0o77, 0o27]), dice.choice(USERS)
    groups, owner, group = [dice.choice([100, 200])], dice.choice([0, 1000, 1001]), dice.choice([0, 100, 200])
    value, which, flags = acl(dice), dice.choice(ACLS), dice.choice([0, 1, 2, 4, 5, 6])
    path, new = "%s/%s" % (folder, name), "%s/%s" % (folder, other)
    os.umask(mask)
    user_does = lambda call: as_user(user, groups, folder, call)
    calls = [
        ("create", lambda: create(path, mode & 0o777)),
        ("create", lambda: create(path, mode)),
        ("mkdir", lambda: os.mkdir(path, mode)),
        ("mkdir s", lambda: os.mkdir(folder + "/s", 0o777)),
        ("mkfifo", lambda: os.mkfifo(path, mode & 0o777)),
        ("unnamed", lambda: unnamed(folder, path, mode & 0o777)),
        ("symlink", lambda: os.symlink("a", path)),
        ("set " + which, lambda: os.setxattr(path, which, value, follow_symlinks=False)),
        ("set default of the top", lambda: os.setxattr(folder, ACLS[1], value)),
        ("set " + ACLS[0], lambda: os.setxattr(path, ACLS[0], value, follow_symlinks=False)),
        ("remove " + which, lambda: os.removexattr(path, which, follow_symlinks=False)),
        ("chmod", lambda: os.chmod(path, mode) if not os.path.islink(path) else None),
        ("chown", lambda: os.lchown(path, owner, group)),
        ("remove", lambda: os.rmdir(path) if os.path.isdir(path) else os.unlink(path)),
        ("rename %d to %s" % (flags, other), lambda: rename(path, new, flags)),
        ("capability", lambda: os.setxattr(
            path, "security.capability", struct.pack("<5I", 0x2000000, 1, 0, 0, 0), follow_symlinks=False)),
        ("user %s reads" % (user,), lambda: user_does(lambda: read(name))),
        ("user %s writes" % (user,), lambda: user_does(lambda: write(name, b"x", os.O_APPEND | os.O_NONBLOCK))),
        ("user %s empties" % (user,), lambda: user_does(lambda: write(name, b"", os.O_TRUNC | os.O_NONBLOCK))),
        ("user %s cuts" % (user,), lambda: user_does(lambda: os.truncate(name, mode % 10))),
        ("user %s creates" % (user,), lambda: user_does(lambda: create(name, mode))),
        ("user %s changes" % (user,), lambda: user_does(
            lambda: os.setxattr(name, ACLS[0], value) if mask else os.chown(name, -1, user[1]))),
    ]
    label, call = calls[what]
    result = "passed over" if label.startswith("user") and told(lambda: is_special(path)) is True else told(call)
    return "%s %s: %s" % (label, name, result)


def write_to_programs(folder, other):
    """What another user's write leaves of a program's privileges, by each way in which a file is written."""
    path = folder + "/program"
    for flags in [0, os.O_APPEND, os.O_DIRECT]:
        create(path, 0o600)
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x2000000, 1, 0, 0, 0))
        os.chmod(path, 0o6777)
        written = as_user(USERS[0], [100], other, lambda: write("program", b"x", flags))
        print("a user writes to a program with flags %d: %s" % (flags, written))
        print("   " + state(path))
        os.unlink(path)


def compare(seed, *folders):
    dice = random.Random(int(seed))
    os.chmod(folders[0], 0o777)
    write_to_programs(*folders)
    for at in range(250):
        print("%d %s" % (at, step(dice, dice.choice(folders))))
        folder = dice.choice(folders)
        for name in [""] + NAMES:
            print("   %s %s" % (name, state("%s/%s" % (folder, name))))


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]


def handle(path):
    found, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(found), ctypes.byref(mount), 0):
        failed()
    return bytes(found)[: 8 + found.bytes].hex()


def open_handle(mount, text):
    wanted = Handle.from_buffer_copy(bytes.fromhex(text).ljust(ctypes.sizeof(Handle), b"\0"))
    top = os.open(mount, os.O_RDONLY)
    file = libc.open_by_handle_at(top, ctypes.byref(wanted), os.O_RDONLY)
    if file < 0:
        failed()
    if stat.S_ISDIR(os.fstat(file).st_mode):
        return " ".join(sorted(os.listdir(file)))
    return os.read(file, 100).decode()


verb, *words = sys.argv[1:]
if verb == "compare":
    compare(*words)
else:
    print(told(lambda: {"handle": handle, "open": open_handle}[verb](*words)))
