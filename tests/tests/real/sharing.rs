//! Several mounts of one volume: locks across all of them, reads under a lock, and files that others replace
//! or remove.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("a_counter_under_a_lock_of_any_kind_loses_no_increment_over_two_mounts", &[Need::Mount], counters),
    ("a_lock_of_any_kind_is_gone_when_its_file_is_closed", &[Need::Mount], closed),
    ("locks_keep_their_ranges_kinds_and_owners_over_mounts", &[Need::Mount], ranges),
    ("who_waits_for_a_lock_can_be_interrupted_and_killed", &[Need::Mount], interrupted),
    ("a_waiter_gets_its_lock_though_the_leader_dies", &[Need::Mount], leader_dies),
    ("locks_of_a_killed_program_go_at_once_and_of_a_killed_mount_with_its_lease", &[Need::Mount], killed),
    ("a_mount_that_lost_its_locks_writes_nothing_over_the_next_holders_data", &[Need::Mount], paused),
    ("a_reader_of_a_file_that_another_mount_replaces_sees_the_old_or_the_new", &[Need::Mount], replaced),
    ("a_file_open_on_one_mount_lives_though_another_removes_it", &[Need::Mount], removed),
];

/// A Python program that takes locks, because locks of fcntl(2) belong to a process. It reports on its
/// standard output.
const PROGRAM: &str = r#"
import fcntl, os, signal, struct, sys
# Whoever starts the tests in the background of a shell has made it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def lock(fd, kind, how, first=0, length=0):
    if kind == "flock":
        fcntl.flock(fd, how)
    elif kind == "ofd":
        types = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
        command = 37 if how & fcntl.LOCK_NB else 38
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", types[how & ~fcntl.LOCK_NB], 0, first, length, 0))
    else:
        fcntl.lockf(fd, how, length, first)
verb, path, kind = sys.argv[1:4]
if verb == "count":
    for at in range(int(sys.argv[4])):
        fd = os.open(path, os.O_RDWR)
        lock(fd, kind, fcntl.LOCK_EX)
        count = int(os.read(fd, 64).strip(b"\0") or b"0")
        os.pwrite(fd, b"%d" % (count + 1), 0)
        if at % 2:
            lock(fd, kind, fcntl.LOCK_UN)
        os.close(fd)
elif verb == "close":
    # Closes a file with a lock, and asks at once for the lock that the close has released, by another open file.
    other = os.open(path, os.O_RDWR)
    for at in range(int(sys.argv[4])):
        fd = os.open(path, os.O_RDWR)
        lock(fd, kind, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if at % 3 == 0:
            os.pwrite(fd, b"%d" % at, 0)
        os.close(fd)
        lock(other, kind, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock(other, kind, fcntl.LOCK_UN)
elif verb == "serve":
    fds = {}
    for line in sys.stdin:
        what, *words = line.split()
        try:
            if what == "open":
                fds[words[0]] = os.open(path, os.O_RDWR)
            elif what == "dup":
                fds[words[1]] = os.dup(fds[words[0]])
            elif what == "close":
                os.close(fds.pop(words[0]))
            elif what == "write":
                os.pwrite(fds[words[0]], words[1].encode(), 0)
                os.fsync(fds[words[0]])
            elif what == "read":
                print(os.pread(fds[words[0]], 64, 0).decode() or "-", flush=True)
                continue
            else:
                how = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}[what.removeprefix("try-")]
                if what.startswith("try-"):
                    how |= fcntl.LOCK_NB
                lock(fds[words[0]], words[1], how, *map(int, words[2:]))
            print("ok", flush=True)
        except OSError as error:
            print("E%d" % error.errno, flush=True)
"#;

fn program(verb: &str, path: &Path, kind: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, verb]).arg(path).arg(kind);
    command
}

/// A running lock program; it obeys commands on its standard input.
struct Program {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(path: &Path) -> anyhow::Result<Program> {
        let mut command = program("serve", path, "-");
        // The program may be interrupted; python then prints a long message.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("python3")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        let mut program = Program { child, answers };
        program.expect("open a", "ok")?;
        Ok(program)
    }

    fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("its input")?, "{what}")?;
        Ok(())
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, what: &str) -> anyhow::Result<String> {
        self.tell(what)?;
        self.answer()
    }

    fn expect(&mut self, what: &str, answer: &str) -> anyhow::Result<()> {
        let said = self.ask(what)?;
        ensure!(said == answer, "{what:?} was answered {said:?}, not {answer:?}");
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

const AGAIN: &str = "E11";

pub(crate) fn small() -> ClusterOptions {
    let mut options = ClusterOptions::new(RAIN);
    (options.nodes, options.code) = (3, "2+1");
    options
}

pub(crate) fn two_mounts(cluster: &TestCluster) -> anyhow::Result<[TestMount; 2]> {
    Ok([TestMount::new(cluster, "one")?, TestMount::new(cluster, "two")?])
}

fn counters() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    // Two programs on each mount.
    const TIMES: u64 = 40;
    for kind in ["flock", "fcntl", "ofd"] {
        let path = |mount: usize| mounts[mount].path().join(kind);
        // Long enough for blocks, so that a read needs more than the namespace's record.
        let mut file = File::create(path(0))?;
        file.write_all(b"0")?;
        file.set_len(20_000)?;
        file.write_at(&[b' '; 19_000], 1000)?;
        drop(file);
        let programs: Vec<Child> = [0, 1, 0, 1]
            .map(|mount| program("count", &path(mount), kind).arg(TIMES.to_string()).spawn())
            .into_iter()
            .collect::<Result<_, _>>()?;
        for mut program in programs {
            ensure!(program.wait()?.success(), "a program failed with {kind}");
        }
        for mount in 0..2 {
            let mut head = [0; 16];
            File::open(path(mount))?.read_exact(&mut head)?;
            let count = String::from_utf8_lossy(&head).trim_end_matches('\0').to_owned();
            ensure!(count == (4 * TIMES).to_string(), "{kind}: {count:?} seen by mount {mount}");
        }
    }
    Ok(())
}

fn closed() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mount = TestMount::new(&cluster, "one")?;
    let path = mount.path().join("f");
    fs::write(&path, b"x")?;
    for kind in ["flock", "fcntl", "ofd"] {
        let done = program("close", &path, kind).arg("300").output().context("python3")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{kind}: {}", said.lines().last().unwrap_or_default());
    }
    // A copy of the descriptor that is closed releases nothing.
    let (mut holder, mut other) = (Program::start(&path)?, Program::start(&path)?);
    holder.expect("try-ex a flock", "ok")?;
    holder.expect("dup a b", "ok")?;
    holder.expect("close b", "ok")?;
    other.expect("try-ex a flock", AGAIN)?;
    holder.expect("close a", "ok")?;
    other.expect("try-ex a flock", "ok")
}

fn ranges() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let paths = [mounts[0].path().join("f"), mounts[1].path().join("f")];
    fs::write(&paths[0], b"x")?;
    let mut here = Program::start(&paths[0])?;
    let mut there = Program::start(&paths[1])?;
    here.expect("try-ex a fcntl 0 10", "ok")?;
    there.expect("try-ex a fcntl 10 10", "ok")?;
    there.expect("try-ex a fcntl 9 1", AGAIN)?;
    there.expect("try-sh a fcntl 0 1", AGAIN)?;
    here.expect("sh a fcntl 0 5", "ok")?;
    there.expect("try-sh a fcntl 0 5", "ok")?;
    there.expect("try-sh a fcntl 4 2", AGAIN)?;
    // flock and fcntl locks do not conflict, between processes and within one.
    there.expect("try-ex a flock", "ok")?;
    here.expect("try-sh a flock", AGAIN)?;
    there.expect("un a flock", "ok")?;
    here.expect("try-ex a flock", "ok")?;
    // Two opens by one program are two owners for flock and one for fcntl. Closing one of them ends all its
    // fcntl locks.
    here.expect("open b", "ok")?;
    here.expect("try-ex b flock", AGAIN)?;
    here.expect("un b flock", "ok")?;
    here.expect("close b", "ok")?;
    there.expect("try-ex a flock", AGAIN)?;
    there.expect("try-ex a fcntl 5 5", "ok")?;
    here.expect("close a", "ok")?;
    here.expect("open a", "ok")?;
    // The release on close may still be in progress.
    there.expect("ex a flock", "ok")?;
    there.expect("un a flock", "ok")?;
    there.expect("un a fcntl 0 0", "ok")?;
    // OFD locks belong to the open file, and end with it.
    here.expect("open c", "ok")?;
    here.expect("try-ex c ofd 0 5", "ok")?;
    here.expect("open d", "ok")?;
    here.expect("try-ex d ofd 0 5", AGAIN)?;
    here.expect("close c", "ok")?;
    here.expect("ex d ofd 0 5", "ok")?;
    // A deadlock is refused with EDEADLK.
    here.expect("ex a fcntl 100 1", "ok")?;
    there.expect("ex a fcntl 200 1", "ok")?;
    there.tell("ex a fcntl 100 1")?;
    let begun = Instant::now();
    loop {
        // The other may not have begun to wait; then this one gets nothing yet either, and must not wait for
        // it.
        let said = here.ask("try-ex a fcntl 200 1")?;
        ensure!(said == AGAIN, "{said}");
        if begun.elapsed() > Duration::from_millis(700) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    here.expect("ex a fcntl 200 1", "E35")?;
    here.expect("un a fcntl 100 1", "ok")?;
    ensure!(there.answer()? == "ok");
    Ok(())
}

fn interrupted() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let paths = [mounts[0].path().join("f"), mounts[1].path().join("f")];
    fs::write(&paths[0], b"x")?;
    let mut holder = Program::start(&paths[0])?;
    for kind in ["flock", "fcntl"] {
        holder.expect(&format!("ex a {kind}"), "ok")?;
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
            let mut waiter = Program::start(&paths[1])?;
            waiter.tell(&format!("ex a {kind}"))?;
            std::thread::sleep(Duration::from_millis(500));
            ensure!(waiter.child.try_wait()?.is_none(), "it does not wait");
            rustix::process::kill_process(rustix::process::Pid::from_child(&waiter.child), signal)?;
            let begun = Instant::now();
            while waiter.child.try_wait()?.is_none() {
                ensure!(
                    begun.elapsed() < Duration::from_secs(3),
                    "{signal:?} does not end the waiting program"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        holder.expect(&format!("un a {kind}"), "ok")?;
        // No client that has left holds or blocks the lock.
        let mut next = Program::start(&paths[1])?;
        next.expect(&format!("try-ex a {kind}"), "ok")?;
    }
    Ok(())
}

fn leader_dies() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(small())?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mounts = two_mounts(&cluster)?;
    let paths = [mounts[0].path().join("f"), mounts[1].path().join("f")];
    fs::write(&paths[0], b"x")?;
    let mut holder = Program::start(&paths[0])?;
    let mut waiter = Program::start(&paths[1])?;
    holder.expect("ex a flock", "ok")?;
    waiter.tell("ex a flock")?;
    std::thread::sleep(Duration::from_millis(300));
    let leader = cluster.leader()?;
    cluster.kill(leader)?;
    holder.expect("write a new", "ok")?;
    holder.expect("un a flock", "ok")?;
    let begun = Instant::now();
    ensure!(waiter.answer()? == "ok");
    ensure!(begun.elapsed() < Duration::from_secs(2), "it got the lock after {:?}", begun.elapsed());
    waiter.expect("read a", "new")?;
    holder.expect("try-sh a flock", AGAIN)
}

fn killed() -> anyhow::Result<()> {
    let mut options = small();
    options.args = vec!["--session-ttl".into(), "5".into()];
    let cluster = TestCluster::start(options)?;
    let [one, two] = two_mounts(&cluster)?;
    let paths = [one.path().join("f"), two.path().join("f")];
    fs::write(&paths[0], b"x")?;
    let mut next = Program::start(&paths[1])?;
    for kind in ["flock", "fcntl", "ofd"] {
        let mut holder = Program::start(&paths[0])?;
        holder.expect(&format!("ex a {kind}"), "ok")?;
        next.tell(&format!("ex a {kind}"))?;
        holder.kill()?;
        let begun = Instant::now();
        ensure!(next.answer()? == "ok");
        ensure!(
            begun.elapsed() < Duration::from_secs(1),
            "{kind} went {:?} after its program",
            begun.elapsed()
        );
        next.expect(&format!("un a {kind}"), "ok")?;
    }
    let mut holder = Program::start(&paths[0])?;
    holder.expect("ex a flock", "ok")?;
    holder.expect("write a last", "ok")?;
    one.kill()?;
    next.expect("try-ex a flock", AGAIN)?;
    let begun = Instant::now();
    next.expect("ex a flock", "ok")?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "the lock went {:?} after its mount", begun.elapsed());
    next.expect("read a", "last")
}

/// A paused mount. Dropping it resumes the mount; otherwise no program could close a file there.
struct Pause(rustix::process::Pid);

impl Pause {
    fn of(mount: &TestMount) -> anyhow::Result<Pause> {
        let pid = mount.pid().context("it runs")?;
        let pid = rustix::process::Pid::from_raw(pid as i32).context("a number")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        Ok(Pause(pid))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

fn paused() -> anyhow::Result<()> {
    let mut options = small();
    options.args = vec!["--session-ttl".into(), "5".into()];
    let cluster = TestCluster::start(options)?;
    let [one, two] = two_mounts(&cluster)?;
    let paths = [one.path().join("f"), two.path().join("f")];
    fs::write(&paths[0], b"old")?;
    let locked = File::options().read(true).write(true).open(&paths[0])?;
    locked.lock()?;
    // The data is in the mount's memory and is not stored.
    locked.write_at(b"mine", 0)?;
    // This comes before the pause: a new process closes inherited files, and would wait for the paused mount.
    let mut next = Program::start(&paths[1])?;
    let pause = Pause::of(&one)?;
    let begun = Instant::now();
    next.expect("ex a flock", "ok")?;
    ensure!(begun.elapsed() > Duration::from_secs(2), "the lock was taken from a live mount");
    next.expect("write a theirs", "ok")?;
    drop(pause);
    // Data that the resumed mount had not stored is lost, and the program gets an error.
    let flushed = locked.sync_all();
    ensure!(
        flushed.is_err_and(|error| error.raw_os_error() == Some(5)),
        "a flush without the lock succeeded"
    );
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        ensure!(locked.write_at(b"more", 0).is_err(), "a write without the lock was taken");
        std::thread::sleep(Duration::from_millis(200));
    }
    next.expect("read a", "theirs")?;
    drop(locked);
    next.expect("un a flock", "ok")?;
    // A new open works.
    let again = File::options().read(true).write(true).open(&paths[0])?;
    again.lock()?;
    let mut held = [0; 6];
    again.read_exact_at(&mut held, 0)?;
    ensure!(&held == b"theirs", "{held:?}");
    again.write_at(b"after.", 0)?;
    again.unlock()?;
    next.expect("sh a flock", "ok")?;
    next.expect("read a", "after.")
}

fn replaced() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let [one, two] = two_mounts(&cluster)?;
    // Version v of the file consists of one byte value and has a length of its own, so torn and mixed
    // versions are seen.
    let contents = |version: u64| vec![b'a' + (version % 26) as u8; 40_000 + version as usize];
    fs::write(one.path().join("f"), contents(0))?;
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = [&one, &two, &two]
            .into_iter()
            .map(|mount| {
                let (stop, reads) = (&stop, &reads);
                scope.spawn(move || {
                    let mut newest = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let held = fs::read(mount.path().join("f")).context("reading")?;
                        let version = (held.len() as u64).checked_sub(40_000).context("a short file")?;
                        ensure!(held == contents(version), "not one version: {} bytes", held.len());
                        ensure!(version >= newest, "version {version} after {newest}");
                        newest = version;
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let begun = Instant::now();
        let mut version = 0;
        let written = loop {
            version += 1;
            let temporary = one.path().join("f.new");
            let done = fs::write(&temporary, contents(version))
                .and_then(|()| fs::rename(&temporary, one.path().join("f")));
            if done.is_err() || begun.elapsed() > Duration::from_secs(15) {
                break done;
            }
        };
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        written.context("replacing")?;
        let reads = reads.load(Ordering::Relaxed);
        ensure!(version > 50 && reads > 100, "only {version} versions and {reads} reads");
        Ok(())
    })
}

fn shares(cluster: &TestCluster) -> anyhow::Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&cluster.rain(&["status", "--json"])?)?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    Ok(nodes.iter().filter_map(|node| node["shares"].as_u64()).sum())
}

fn removed() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(small())?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let [one, two] = two_mounts(&cluster)?;
    let whole = data::bytes(5, 0, 3_000_000);
    for name in ["unlinked", "replaced"] {
        fs::write(one.path().join(name), &whole)?;
    }
    let before = shares(&cluster)?;
    let open: Vec<File> = ["unlinked", "replaced"]
        .map(|name| File::options().read(true).write(true).open(two.path().join(name)))
        .into_iter()
        .collect::<Result<_, _>>()?;
    fs::remove_file(one.path().join("unlinked"))?;
    fs::write(one.path().join("new"), b"new")?;
    fs::rename(one.path().join("new"), one.path().join("replaced"))?;
    // The pause is longer than any delay. After it another node leads, and must know the open files.
    std::thread::sleep(Duration::from_secs(7));
    let leader = cluster.leader()?;
    cluster.kill(leader)?;
    std::thread::sleep(Duration::from_secs(8));
    for (at, file) in open.iter().enumerate() {
        let mut held = vec![0; whole.len()];
        file.read_exact_at(&mut held, 0).with_context(|| format!("reading removed file {at}"))?;
        ensure!(held == whole, "other bytes");
        file.write_at(b"still", 10).context("writing a removed file")?;
        file.sync_all().context("storing a removed file")?;
        ensure!(file.metadata()?.nlink() == 0);
    }
    cluster.restart_all()?;
    drop(open);
    // When it is closed everywhere, its data is freed.
    let begun = Instant::now();
    loop {
        let left = shares(&cluster)?;
        if left == 0 {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{left} of {before} shares are left");
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
