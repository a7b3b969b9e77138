#!/usr/bin/env python3
"""maildir.py SECONDS FOLDER1 FOLDER2: mail is delivered through two folders that show the same files, and taken through both.

No message may be lost, and none may be taken twice. Exit 1 otherwise."""
import mailbox, os, sys, time

seconds, folders = float(sys.argv[1]), sys.argv[2:]
boxes = [f"{folder}/box" for folder in folders]
mailbox.Maildir(boxes[0], create=True)
begun = time.time()


def deliver(me, box, told):
    box, n = mailbox.Maildir(box, create=False), 0
    while time.time() - begun < seconds:
        box.add(f"Subject: {me}-{n}\n\n{me}-{n} {'x' * (n % 9000)}\n".encode())
        n += 1
    os.write(told, f"sent {me} {n}\n".encode())


def take(me, box, told):
    quiet = 0
    # Until the deliveries are over, and then until nothing has come for a second.
    while time.time() - begun < seconds + 1 or quiet < 10:
        names = os.listdir(f"{box}/new")
        quiet = 0 if names else quiet + 1
        for name in names:
            try:
                os.rename(f"{box}/new/{name}", f"{box}/cur/{name}:2,S{me}")
            except FileNotFoundError:
                continue
            with open(f"{box}/cur/{name}:2,S{me}") as f:
                subject, text = f.read().split("\n\n")
            what = subject.removeprefix("Subject: ")
            if text != f"{what} {'x' * (int(what.split('-')[1]) % 9000)}\n":
                raise ValueError(f"{name} has other contents than were delivered: {subject!r}, {len(text)} bytes")
            os.write(told, f"took {what}\n".encode())
        if not names:
            time.sleep(0.1)


r, told = os.pipe()
pids = []
for run in (deliver, take):
    for me, box in enumerate(boxes):
        pid = os.fork()
        if pid == 0:
            os.close(r)
            try:
                run(me, box, told)
                os._exit(0)
            except BaseException as e:
                print(f"{run.__name__} {me}: {type(e).__name__}: {e}", flush=True)
                os._exit(1)
        pids.append(pid)
os.close(told)
lines = os.fdopen(r).read().splitlines()
failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
sent = [f"{line.split()[1]}-{n}" for line in lines if line.startswith("sent") for n in range(int(line.split()[2]))]
took = [line.split()[1] for line in lines if line.startswith("took")]
left = [sorted(os.listdir(f"{box}/{part}")) for box in boxes for part in ("new", "tmp")]
if failed:
    sys.exit(1)
if sorted(sent) != sorted(took):
    twice = {what for what in took if took.count(what) > 1}
    sys.exit(f"lost: {sorted(set(sent) - set(took))[:5]}, twice: {sorted(twice)[:5]}, left: {left}")
if any(left):
    sys.exit(f"left in new and tmp: {left}")
print(f"{len(sent)} messages")
