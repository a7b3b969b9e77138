//! Several mounts of one volume are one filesystem: what a call on one of them has done, the next call on any
//! of them sees.

use crate::Promise;
use crate::sharing::{small, two_mounts};
use anyhow::{Context, bail, ensure};
use rain_tests::needs::Need;
use rain_tests::real::{TestCluster, TestMount};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("calls_on_two_mounts_in_turns_do_what_they_do_on_one_disk", &[Need::Mount], turns),
    ("mounts_that_append_to_one_file_lose_no_record_though_the_leader_dies", &[Need::Mount], appends),
    ("of_two_mounts_that_rename_one_name_at_once_one_is_told_so", &[Need::Mount], renames),
    ("a_rename_moves_the_file_that_another_mount_has_just_put_there", &[Need::Mount], replaced),
    ("a_reader_that_follows_a_file_on_another_mount_gets_every_line_at_once", &[Need::Mount], followed),
    ("a_stopped_or_killed_mount_delays_the_others_by_seconds_only", &[Need::Mount], dead_mounts),
];

/// How long the turns of one seed go on.
const TURNS_FOR: Duration = Duration::from_secs(4);

/// Seeds of one run; the variable `RAIN_TEST_SEEDS` asks for more.
const SEEDS: u64 = 3;

/// Lengths around those at which a file's data is stored in another way.
const LENGTHS: [usize; 5] = [1, 100, 3000, 4097, 20_000];

/// A file as it must be.
#[derive(Debug, Default, Clone)]
struct Expected {
    data: Vec<u8>,
    mode: u32,
}

struct Handle {
    file: File,
    number: u64,
    append: bool,
}

/// Two mounts, and what their one filesystem must be like.
struct Turns<'a> {
    dirs: [PathBuf; 2],
    random: fastrand::Rng,
    names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Expected>,
    handles: Vec<Handle>,
    next: u64,
    mounts: &'a [TestMount; 2],
    /// The last calls that changed something.
    done: VecDeque<String>,
}

/// Calls that are told when something is wrong.
const DONE_MAX: usize = 60;

impl Turns<'_> {
    fn note(&mut self, number: u64, what: String) {
        self.done.push_back(format!("file {number}: {what}"));
        if self.done.len() > DONE_MAX {
            self.done.pop_front();
        }
    }

    fn path(&mut self, name: &str) -> PathBuf {
        let mount = self.random.usize(..2);
        self.dirs[mount].join(name)
    }

    fn name(&mut self) -> String {
        let (dir, name) = (self.random.u32(..2), self.random.u32(..6));
        format!("d{dir}/f{name}")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = LENGTHS[self.random.usize(..LENGTHS.len())];
        let byte = self.random.u8(1..);
        vec![byte; length]
    }

    /// A name, whether there is such a file or not, and the file.
    fn any(&mut self) -> (String, Option<u64>) {
        let name = self.name();
        let number = self.names.get(&name).copied();
        (name, number)
    }

    fn take_turn(&mut self) -> anyhow::Result<()> {
        match self.random.u32(..100) {
            0..12 => self.create(),
            12..22 => self.write_by_name(),
            22..34 => self.write_by_handle(),
            34..38 => self.cut(),
            38..44 => self.rename(),
            44..49 => self.remove(),
            49..53 => self.link(),
            53..57 => self.chmod(),
            57..70 => self.read(),
            70..82 => self.stat(),
            82..90 => self.read_by_handle(),
            _ => self.list(),
        }
    }

    fn create(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let (path, append) = (self.path(&name), self.random.bool());
        let made = OpenOptions::new().read(true).append(append).write(true).create_new(true).open(&path);
        match (made, number) {
            (Ok(file), None) => {
                self.next += 1;
                let number = self.next;
                file.set_permissions(Permissions::from_mode(0o644))?;
                self.names.insert(name, number);
                self.files.insert(number, Expected { data: Vec::new(), mode: 0o644 });
                self.note(number, format!("made as {}, append {append}", path.display()));
                if self.handles.len() > 8 {
                    let at = self.random.usize(..self.handles.len());
                    self.handles.swap_remove(at);
                }
                self.handles.push(Handle { file, number, append });
                Ok(())
            }
            (Err(error), Some(_)) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            (made, number) => bail!("creating {}: {made:?}, expected {number:?}", path.display()),
        }
    }

    fn write_by_name(&mut self) -> anyhow::Result<()> {
        let ((name, number), bytes) = (self.any(), self.bytes());
        let path = self.path(&name);
        let append = self.random.bool();
        let opened = OpenOptions::new().append(append).write(true).open(&path);
        let Some(number) = number else { return absent(opened, &path) };
        let mut file = opened.with_context(|| format!("opening {}", path.display()))?;
        let data = &mut self.files.get_mut(&number).context("a file")?.data;
        let at = if append { data.len() } else { self.random.usize(..=data.len()) };
        if append {
            file.write_all(&bytes)?;
        } else {
            file.write_all_at(&bytes, at as u64)?;
        }
        put(data, at, &bytes);
        self.note(number, format!("{} bytes at {at} as {}, append {append}", bytes.len(), path.display()));
        Ok(())
    }

    fn write_by_handle(&mut self) -> anyhow::Result<()> {
        let bytes = self.bytes();
        let Some(handle) = pick(&mut self.random, &mut self.handles) else { return Ok(()) };
        let data = &mut self.files.get_mut(&handle.number).context("a file")?.data;
        let at = if handle.append { data.len() } else { self.random.usize(..=data.len() + 100) };
        if handle.append {
            handle.file.write_all(&bytes)?;
        } else {
            handle.file.write_all_at(&bytes, at as u64)?;
        }
        put(data, at, &bytes);
        let synced = at % 10 == 0;
        if synced {
            handle.file.sync_all()?;
        }
        let (number, append, on) = (handle.number, handle.append, handle.file.metadata()?.dev());
        self.note(
            number,
            format!(
                "{} bytes at {at} by a handle of device {on}, append {append}, synced {synced}",
                bytes.len()
            ),
        );
        Ok(())
    }

    fn cut(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let path = self.path(&name);
        let length = self.random.u64(..30_000);
        let opened = OpenOptions::new().write(true).open(&path);
        let Some(number) = number else { return absent(opened, &path) };
        opened?.set_len(length)?;
        self.files.get_mut(&number).context("a file")?.data.resize(length as usize, 0);
        self.note(number, format!("cut to {length} as {}", path.display()));
        Ok(())
    }

    fn rename(&mut self) -> anyhow::Result<()> {
        let ((from, number), to) = (self.any(), self.name());
        // Both paths have to be on one mount.
        let mount = self.random.usize(..2);
        let (old, new) = (self.dirs[mount].join(&from), self.dirs[mount].join(&to));
        let renamed = fs::rename(&old, &new);
        let Some(number) = number else { return absent(renamed, &old) };
        renamed.with_context(|| format!("renaming {} to {}", old.display(), new.display()))?;
        self.note(number, format!("renamed from {} to {}", old.display(), new.display()));
        // Two names of one file both stay.
        if self.names.get(&to) != Some(&number) {
            self.names.remove(&from);
            self.names.insert(to, number);
        }
        Ok(())
    }

    fn remove(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let path = self.path(&name);
        let removed = fs::remove_file(&path);
        if number.is_none() {
            return absent(removed, &path);
        }
        removed.with_context(|| format!("removing {}", path.display()))?;
        self.note(number.unwrap_or(0), format!("removed as {}", path.display()));
        self.names.remove(&name);
        Ok(())
    }

    fn link(&mut self) -> anyhow::Result<()> {
        let ((from, number), (to, there)) = (self.any(), self.any());
        let mount = self.random.usize(..2);
        let (old, new) = (self.dirs[mount].join(&from), self.dirs[mount].join(&to));
        match (fs::hard_link(&old, &new), number, there) {
            (Ok(()), Some(number), None) => {
                self.note(number, format!("linked as {}", new.display()));
                self.names.insert(to, number);
                Ok(())
            }
            (Err(error), Some(_), Some(_)) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            (Err(error), None, _) if error.kind() == ErrorKind::NotFound => Ok(()),
            (linked, number, there) => {
                bail!(
                    "linking {} to {}: {linked:?}, expected {number:?} {there:?}",
                    old.display(),
                    new.display()
                )
            }
        }
    }

    fn chmod(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let (path, mode) = (self.path(&name), 0o600 | self.random.u32(..0o100));
        let changed = fs::set_permissions(&path, Permissions::from_mode(mode));
        let Some(number) = number else { return absent(changed, &path) };
        changed?;
        self.files.get_mut(&number).context("a file")?.mode = mode;
        self.note(number, format!("mode {mode:o} as {}", path.display()));
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let path = self.path(&name);
        let read = fs::read(&path);
        let Some(number) = number else { return absent(read.map(|data| data.len()), &path) };
        same(&read.with_context(|| format!("reading {}", path.display()))?, &self.files[&number].data, &path)
    }

    fn stat(&mut self) -> anyhow::Result<()> {
        let (name, number) = self.any();
        let path = self.path(&name);
        let found = fs::metadata(&path);
        let Some(number) = number else { return absent(found.map(|found| found.len()), &path) };
        let found = found.with_context(|| format!("stat of {}", path.display()))?;
        let expected = &self.files[&number];
        let names = self.names.values().filter(|of| **of == number).count();
        let (is, must) = (
            (found.len(), found.mode() & 0o7777, found.nlink()),
            (expected.data.len() as u64, expected.mode, names as u64),
        );
        ensure!(
            is == must,
            "file {number}, {}: length, mode, links are {is:?}, must be {must:?}",
            path.display()
        );
        Ok(())
    }

    fn read_by_handle(&mut self) -> anyhow::Result<()> {
        let Some(handle) = pick(&mut self.random, &mut self.handles) else { return Ok(()) };
        let expected = &self.files[&handle.number];
        let length = handle.file.metadata()?.len();
        ensure!(length == expected.data.len() as u64, "fstat: {length}, must be {}", expected.data.len());
        let mut data = Vec::new();
        handle.file.seek(SeekFrom::Start(0))?;
        handle.file.read_to_end(&mut data)?;
        same(&data, &expected.data, Path::new("an open file"))
    }

    fn list(&mut self) -> anyhow::Result<()> {
        let dir = format!("d{}", self.random.u32(..2));
        let path = self.path(&dir);
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(&path)? {
            listed.insert(format!("{dir}/{}", entry?.file_name().to_string_lossy()));
        }
        let prefix = format!("{dir}/");
        let expected: BTreeSet<String> =
            self.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        ensure!(listed == expected, "{} has {listed:?}, must have {expected:?}", path.display());
        Ok(())
    }
}

fn pick<'a>(random: &mut fastrand::Rng, handles: &'a mut [Handle]) -> Option<&'a mut Handle> {
    if handles.is_empty() {
        return None;
    }
    let at = random.usize(..handles.len());
    handles.get_mut(at)
}

fn put(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if data.len() < at + bytes.len() {
        data.resize(at + bytes.len(), 0);
    }
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn absent<T: std::fmt::Debug>(result: std::io::Result<T>, path: &Path) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => bail!("{} is not there, but: {result:?}", path.display()),
    }
}

fn same(is: &[u8], must: &[u8], path: &Path) -> anyhow::Result<()> {
    if is == must {
        return Ok(());
    }
    let at = is.iter().zip(must).position(|(is, must)| is != must).unwrap_or(is.len().min(must.len()));
    bail!("{}: {} bytes, must be {}; the first difference is at {at}", path.display(), is.len(), must.len())
}

fn turns() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let seeds = std::env::var("RAIN_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let dir = format!("seed-{seed}");
        let dirs = [mounts[0].path().join(&dir), mounts[1].path().join(&dir)];
        for sub in ["d0", "d1"] {
            fs::create_dir_all(dirs[0].join(sub))?;
        }
        let (names, files, handles) = Default::default();
        let random = fastrand::Rng::with_seed(seed);
        let mut turns =
            Turns { dirs, random, names, files, handles, next: 0, mounts: &mounts, done: VecDeque::new() };
        let (begun, mut taken) = (Instant::now(), 0u64);
        while begun.elapsed() < TURNS_FOR {
            let turn = turns.take_turn();
            turn.with_context(|| {
                let logs = turns.mounts.each_ref().map(TestMount::log);
                let done = Vec::from_iter(turns.done.iter().cloned()).join("\n");
                format!(
                    "turn {taken} of seed {seed}; after\n{done}\nlogs of the mounts: {}",
                    logs.join("\n---\n")
                )
            })?;
            taken += 1;
        }
        eprintln!("seed {seed}: {taken} turns");
        ensure!(taken > 100, "only {taken} turns");
    }
    Ok(())
}

const RECORDS: usize = 400;

/// Bytes of a record, with its end of line.
const RECORD: usize = 16;

/// Reads the log again and again. Each time it must have what it had before, all records that had been acknowledged
/// when the read began, and nothing but records. Returns the number of reads.
fn read_while_appended(path: &Path, acknowledged: &AtomicUsize) -> anyhow::Result<usize> {
    let mut log = File::open(path)?;
    let (mut before, mut reads) = (Vec::new(), 0);
    while before.len() < 4 * RECORDS * RECORD {
        let least = acknowledged.load(Ordering::SeqCst) * RECORD;
        let mut now = Vec::new();
        log.rewind()?;
        log.read_to_end(&mut now)?;
        ensure!(
            now.len() >= least,
            "read {reads}: {} bytes, and {least} were acknowledged before",
            now.len()
        );
        ensure!(now.starts_with(&before), "read {reads} has not what the read before had");
        let is_record =
            |record: &[u8]| record.len() == RECORD && record[RECORD - 1] == b'\n' && record[0] == b' ';
        let wrong = now.chunks(RECORD).position(|record| !is_record(record));
        ensure!(wrong.is_none(), "read {reads}, {} bytes: record {wrong:?} is none", now.len());
        (before, reads) = (now, reads + 1);
    }
    Ok(reads)
}

fn appends() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    File::create(mounts[0].path().join("log"))?;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let readers = mounts.each_ref().map(|mount| {
        let (path, acknowledged) = (mount.path().join("log"), acknowledged.clone());
        std::thread::spawn(move || read_while_appended(&path, &acknowledged))
    });
    let writers: Vec<_> = (0..4)
        .map(|writer: usize| {
            let (path, acknowledged) = (mounts[writer % 2].path().join("log"), acknowledged.clone());
            std::thread::spawn(move || -> anyhow::Result<()> {
                let mut file = OpenOptions::new().append(true).open(path)?;
                for number in 0..RECORDS {
                    file.write_all(format!("{writer:7} {number:7}\n").as_bytes())?;
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    if number % 50 == writer {
                        file.sync_data()?;
                    }
                }
                Ok(())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    let leader = cluster.leader()?;
    cluster.kill(leader)?;
    for writer in writers {
        writer.join().expect("a writer did not panic")?;
    }
    for reader in readers {
        let reads = reader.join().expect("a reader did not panic")?;
        ensure!(reads > 20, "only {reads} reads");
    }
    for mount in &mounts {
        let log = fs::read_to_string(mount.path().join("log"))?;
        ensure!(log.len() == 4 * RECORDS * RECORD, "{} bytes", log.len());
        for writer in 0..4 {
            let head = format!("{writer:7} ");
            let of = log.lines().filter_map(|line| line.strip_prefix(&head)?.trim().parse::<usize>().ok());
            ensure!(of.eq(0..RECORDS), "the records of writer {writer} are not each there once, in order");
        }
    }
    Ok(())
}

/// Two programs claim a file by the same rename, again and again. Exactly one of them may be told that it did it.
fn renames() -> anyhow::Result<()> {
    const ROUNDS: usize = 200;
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let barrier = Arc::new(Barrier::new(3));
    let claims = mounts.each_ref().map(|mount| {
        let (from, to) = (mount.path().join("free"), mount.path().join("claimed"));
        let barrier = barrier.clone();
        std::thread::spawn(move || -> Vec<std::io::Result<()>> {
            let round = |_| {
                barrier.wait();
                let claimed = fs::rename(&from, &to);
                barrier.wait();
                claimed
            };
            (0..ROUNDS).map(round).collect()
        })
    });
    let mut made = Ok(());
    for _ in 0..ROUNDS {
        let [here, there] = mounts.each_ref().map(TestMount::path);
        let _ = fs::remove_file(here.join("claimed"));
        // Both mounts have the name cached.
        made = made.and(fs::write(here.join("free"), b"")).and(fs::metadata(there.join("free")).map(|_| ()));
        barrier.wait();
        barrier.wait();
    }
    made?;
    let [one, other] = claims.map(|claim| claim.join().expect("a program did not panic"));
    for (round, pair) in one.iter().zip(&other).enumerate() {
        let is_right = |lost: &std::io::Result<()>| {
            lost.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        let claimed = match pair {
            (Ok(()), lost) | (lost, Ok(())) => is_right(lost),
            _ => false,
        };
        ensure!(claimed, "round {round}: {pair:?}");
    }
    Ok(())
}

/// One program puts a new file under a name, as another, on another mount, moves that name away. Whichever file was
/// moved: both mounts find the same.
fn replaced() -> anyhow::Result<()> {
    const ROUNDS: usize = 200;
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let [here, there] = mounts.each_ref().map(|mount| mount.path().to_owned());
    let barrier = Arc::new(Barrier::new(2));
    let moving = {
        let barrier = barrier.clone();
        std::thread::spawn(move || -> Vec<std::io::Result<(u64, u64)>> {
            let round = |_| {
                barrier.wait();
                let moved = fs::rename(there.join("log"), there.join("log.old"));
                let found = moved.and_then(|()| fs::metadata(there.join("log.old")));
                barrier.wait();
                found.map(|found| (found.ino(), found.len()))
            };
            (0..ROUNDS).map(round).collect()
        })
    };
    let mut expected = Vec::new();
    for _ in 0..ROUNDS {
        let made = fs::write(here.join("log"), b"old").and_then(|()| fs::write(here.join("new"), b"newer"));
        // The other mount has the name cached.
        let cached = fs::metadata(mounts[1].path().join("log"));
        barrier.wait();
        let put = fs::rename(here.join("new"), here.join("log"));
        barrier.wait();
        let found = fs::metadata(here.join("log.old")).map(|found| (found.ino(), found.len()));
        expected.push(made.and(cached).and(put).and(found));
    }
    let moved = moving.join().expect("a program did not panic");
    for (round, (expected, moved)) in expected.into_iter().zip(moved).enumerate() {
        let (expected, moved) = (
            expected.with_context(|| format!("round {round}: the other"))?,
            moved.with_context(|| format!("round {round}: moving"))?,
        );
        ensure!(
            expected == moved,
            "round {round}: {moved:?} where the name was moved, {expected:?} elsewhere"
        );
    }
    Ok(())
}

fn followed() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = two_mounts(&cluster)?;
    let (path, other) = (mounts[0].path().join("log"), mounts[1].path().join("log"));
    let mut log = OpenOptions::new().append(true).create(true).open(&path)?;
    let mut follower = File::open(&other)?;
    for number in 0..300 {
        let line = format!("line {number}\n");
        log.write_all(line.as_bytes())?;
        let mut read = String::new();
        follower.read_to_string(&mut read)?;
        ensure!(read == line, "{read:?} instead of {line:?}");
        if number % 40 == 0 {
            // Written to the disks in between, as a program that idles.
            log.sync_all()?;
        }
    }
    Ok(())
}

/// The longest that a mount which is gone may delay the others: the silence after which its leases and its
/// delegations end, and some time for a busy machine.
const DELAY_MAX: Duration = Duration::from_secs(8);

fn dead_mounts() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    for killed in [false, true] {
        let [mount, other] = two_mounts(&cluster)?;
        let (dir, there) = (mount.path().join("d"), other.path().join("d"));
        fs::create_dir_all(&dir)?;
        for at in 0..20 {
            fs::write(dir.join(format!("f{at}")), b"old")?;
        }
        // The other mount has names, attributes and pages cached, and data that it has not stored.
        let mut open = Vec::new();
        for at in 0..20 {
            open.push(File::open(there.join(format!("f{at}")))?);
            fs::read(there.join(format!("f{at}")))?;
        }
        let mut writer = OpenOptions::new().append(true).open(there.join("f0"))?;
        writer.write_all(b"new")?;
        let pid = i32::try_from(other.pid().context("a running mount")?)?;
        let pid = Pid::from_raw(pid).context("a process ID")?;
        kill_process(pid, if killed { Signal::KILL } else { Signal::STOP })?;
        let begun = Instant::now();
        fs::rename(dir.join("f1"), dir.join("f2"))?;
        let renamed = begun.elapsed();
        let length = fs::metadata(dir.join("f0"))?.len();
        let asked = begun.elapsed();
        fs::write(dir.join("f3"), b"newer")?;
        let all = begun.elapsed();
        eprintln!("renamed after {renamed:?}, asked after {asked:?}, all after {all:?}");
        ensure!(all < DELAY_MAX, "the others were delayed by {all:?}");
        ensure!(length == 3, "a length of {length}: the data of the other mount is out of reach");
        if killed {
            drop((open, writer));
            other.kill()?;
        } else {
            // It comes back, and sees what it has missed.
            kill_process(pid, Signal::CONT)?;
            ensure!(fs::read(there.join("f3"))? == b"newer", "old data after the pause");
            ensure!(fs::metadata(there.join("f1")).is_err(), "a name that is gone");
            drop((open, writer));
            ensure!(fs::read(dir.join("f0"))? == b"oldnew", "data that was written before the pause");
            other.unmount()?;
        }
        fs::remove_dir_all(&dir)?;
        mount.unmount()?;
    }
    Ok(())
}
