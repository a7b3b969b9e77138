//! A program on a mount: does random operations by system calls, and records their history.
//!
//! All calls go through descriptors of directories: while a dead mount is replaced, its path leads to the folder
//! below.

use super::report::HistoryOptions;
use super::sheets::{self, Sheets};
use super::work::{FILE_MODE, NAMES, PAUSE, RECORD, is_turn, name, record, records};
use anyhow::Context;
use fastrand::Rng;
use rain_sim::history::Event;
use rain_sim::model::{ClientState, Files, Name, Op, Reply};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Most bytes of a log that are read: more than any history appends.
const LOG_MAX: usize = 1 << 20;

/// Bytes of a page: the kernel reads files by pages.
const PAGE: usize = 4096;

/// The error for a call that was not made. No call of a program here gives it.
const NOT_MADE: Errno = Errno::BADF;

/// The files of a history on one mount, open.
struct Place {
    /// The directory of the names.
    names: OwnedFd,
    /// The directory of the other files.
    files: OwnedFd,
    /// For appending.
    log: OwnedFd,
    /// The log for reading, through the kernel's cache.
    reader: OwnedFd,
    sheets: Sheets,
}

/// Makes the directories and files of a history.
pub(super) fn prepare(mount: &Path, folder: &str) -> anyhow::Result<()> {
    let files = mount.join(format!("{folder}-files"));
    std::fs::create_dir(mount.join(folder))?;
    std::fs::create_dir(&files)?;
    std::fs::write(files.join("value"), 0u64.to_le_bytes())?;
    for name in ["lock", "log"] {
        std::fs::write(files.join(name), b"")?;
    }
    sheets::prepare(&files)?;
    rustix::fs::chmod(files.join("value"), Mode::from(u32::from(FILE_MODE)))?;
    Ok(())
}

impl Place {
    fn open(mount: &Path, folder: &str, maps: bool) -> Result<Place, Errno> {
        let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let names = rustix::fs::open(mount.join(folder), directory, Mode::empty())?;
        let files = rustix::fs::open(mount.join(format!("{folder}-files")), directory, Mode::empty())?;
        let open = |name: &str, flags| {
            rustix::fs::openat(&files, name, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty())
        };
        let log = open("log", OFlags::APPEND)?;
        let reader = rustix::fs::openat(&files, "log", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let sheets = Sheets::open(&files, maps)?;
        Ok(Place { names, files, log, reader, sheets })
    }
}

/// One program at work.
pub(super) struct Program {
    pub(super) number: u32,
    /// The number of programs that work at the same time.
    pub(super) of: u32,
    pub(super) mount: PathBuf,
    pub(super) folder: String,
    pub(super) options: HistoryOptions,
    /// The files that the program has.
    pub(super) has: Files,
    /// Whether the program maps a file. On a dead mount a map still shows what it showed.
    pub(super) maps: bool,
    pub(super) start: Instant,
}

/// A program with what it has learned.
struct Running {
    place: Place,
    options: HistoryOptions,
    has: Files,
    rng: Rng,
    /// Files that the program has seen, by their names at that time.
    known: BTreeMap<Name, u64>,
    /// The open file by which the program has the lock.
    lock: Option<OwnedFd>,
    /// Since when the program releases the lock by closing the file, if it is not certain that this is done.
    closed: Option<u64>,
}

/// The reply that an error stands for. Any other error leaves the outcome unknown.
fn refused(error: Errno) -> Result<Reply, Errno> {
    match error {
        Errno::NOENT | Errno::STALE => Ok(Reply::NotFound),
        Errno::EXIST => Ok(Reply::Exists),
        error => Err(error),
    }
}

impl Program {
    /// Works until it is told to stop. Where its mount has died, it waits for the next one at the same place. Fails
    /// when it cannot open its files at the start.
    pub(super) fn work(&self, stop: &AtomicBool) -> anyhow::Result<Vec<Event<Op, Reply>>> {
        let mut running = Running {
            place: self.place(stop).context("a program could not open its files")?,
            rng: Rng::with_seed(self.options.seed.wrapping_mul(1000) + u64::from(self.number)),
            options: self.options,
            has: self.has,
            known: BTreeMap::new(),
            lock: None,
            closed: None,
        };
        let mut history = Vec::new();
        // What holds a lock is a mount's session. The next mount has another.
        let mut client = self.number;
        while !stop.load(Ordering::Relaxed) {
            if !is_turn(self.start, self.number, self.of) {
                std::thread::sleep(PAUSE);
                continue;
            }
            let Some(op) = running.choose() else { break };
            let begun = self.now();
            let reply = running.perform(&op);
            let ended = self.now();
            let is_dead = matches!(reply, Err(Errno::NOTCONN | Errno::CONNABORTED));
            if reply == Err(NOT_MADE) {
                continue;
            }
            if let (Err(error), false) = (&reply, is_dead) {
                let took_ms = (ended - begun) / 1_000_000;
                eprintln!("client {client}: {op:?} failed after {took_ms} ms: {error}");
            }
            let reply = reply.ok();
            if op == Op::Unlock && running.closed.is_some() {
                running.closed = Some(begun);
                continue;
            }
            if op == Op::TryLock && reply == Some(Reply::Done) {
                // So the lock that was released by a close before is free.
                let unlock = |begun| Event { client, op: Op::Unlock, reply: Some(Reply::Done), begun, ended };
                history.extend(running.closed.take().map(unlock));
            }
            if op == Op::TryLock && reply.is_none() {
                // If it has taken the lock, the close of the file releases it.
                running.closed.get_or_insert(ended);
            }
            if reply.is_some() || !op.only_looks() {
                history.push(Event { client, op, reply, begun, ended });
            }
            if is_dead {
                // The leader releases the lock of a dead mount, some time.
                let begun = running.closed.unwrap_or(begun);
                history.push(Event { client, op: Op::Unlock, reply: None, begun, ended });
                (running.lock, running.closed) = (None, None);
                client += self.of;
                match self.place(stop) {
                    Some(place) => running.place = place,
                    None => break,
                }
            }
            std::thread::sleep(PAUSE);
        }
        let unlock = |begun| Event { client, op: Op::Unlock, reply: None, begun, ended: self.now() };
        history.extend(running.closed.map(unlock));
        Ok(history)
    }

    /// Opens the files, and waits for the next mount where this one is dead. None: it is time to stop.
    fn place(&self, stop: &AtomicBool) -> Option<Place> {
        while !stop.load(Ordering::Relaxed) {
            if let Ok(place) = Place::open(&self.mount, &self.folder, self.maps) {
                return Some(place);
            }
            std::thread::sleep(PAUSE * 5);
        }
        None
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

impl Running {
    fn choose(&mut self) -> Option<Op> {
        let known =
            ClientState { names: NAMES, files: &self.known, holds: self.lock.is_some(), has: self.has };
        self.options.choose(known, |below| self.rng.u64(..below))
    }

    /// The number of the file under a name.
    fn look_up(&mut self, at: Name) -> Result<u64, Errno> {
        let file = rustix::fs::statat(&self.place.names, &name(at)[..], AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        self.known.insert(at, file);
        Ok(file)
    }

    /// A descriptor of a file that the program has seen.
    fn handle(&self, file: u64) -> Result<OwnedFd, Errno> {
        let at = self.known.iter().find(|(_, known)| **known == file).map(|(at, _)| *at).ok_or(NOT_MADE)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.place.names, &name(at)[..], flags, Mode::empty());
        // The name is gone, or means another file: this call cannot be made.
        let handle = handle.map_err(|_| NOT_MADE)?;
        if rustix::fs::fstat(&handle).map_err(|_| NOT_MADE)?.st_ino == file {
            Ok(handle)
        } else {
            Err(NOT_MADE)
        }
    }

    fn perform(&mut self, op: &Op) -> Result<Reply, Errno> {
        let flags = OFlags::CLOEXEC;
        match op {
            Op::Create(at) => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                let mode = Mode::from(u32::from(FILE_MODE));
                match rustix::fs::openat(&self.place.names, &name(*at)[..], flags, mode) {
                    Ok(made) => {
                        let file = rustix::fs::fstat(&made)?.st_ino;
                        self.known.insert(*at, file);
                        Ok(Reply::File(file))
                    }
                    Err(error) => refused(error),
                }
            }
            Op::Unlink(at) => {
                let removed = rustix::fs::unlinkat(&self.place.names, &name(*at)[..], AtFlags::empty());
                removed.map(|()| Reply::Done).or_else(refused)
            }
            Op::Rename(from, to) => {
                let names = self.place.names.as_fd();
                let renamed = rustix::fs::renameat(names, &name(*from)[..], names, &name(*to)[..]);
                renamed.map(|()| Reply::Done).or_else(refused)
            }
            Op::Link(file, at) => {
                let handle = self.handle(*file)?;
                let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
                let linked = rustix::fs::linkat(
                    rustix::fs::CWD,
                    path,
                    &self.place.names,
                    &name(*at)[..],
                    AtFlags::SYMLINK_FOLLOW,
                );
                linked.map(|()| Reply::File(*file)).or_else(refused)
            }
            Op::Lookup(at) => self.look_up(*at).map(Reply::File).or_else(refused),
            Op::List => {
                let mut seen = BTreeMap::new();
                for entry in Dir::read_from(&self.place.names)? {
                    let entry = entry?;
                    if let [letter @ b'a'..=b'z'] = entry.file_name().to_bytes() {
                        seen.insert(letter - b'a', entry.ino());
                    }
                }
                Ok(Reply::Names(seen))
            }
            Op::Put(number) => {
                let file = rustix::fs::openat(
                    &self.place.files,
                    "value",
                    flags | OFlags::WRONLY | OFlags::DIRECT,
                    Mode::empty(),
                )?;
                // Past the kernel's pages: in these the other programs of the mount see a value that is still
                // being written, while programs elsewhere do not (docs/consistency.md).
                let written = rustix::io::pwrite(&file, &number.to_le_bytes(), 0)?;
                if written == 8 { Ok(Reply::Done) } else { Err(Errno::IO) }
            }
            Op::Get => {
                let file =
                    rustix::fs::openat(&self.place.files, "value", flags | OFlags::RDONLY, Mode::empty())?;
                let mut bytes = [0; 8];
                rustix::io::pread(&file, &mut bytes, 0)?;
                Ok(Reply::Value(u64::from_le_bytes(bytes)))
            }
            Op::Append(number) => {
                let written = rustix::io::write(&self.place.log, &record(*number))?;
                // The kernel does not say where the record is; who reads the log sees it.
                if written == RECORD { Ok(Reply::Done) } else { Err(Errno::IO) }
            }
            Op::ReadLog => {
                let mut bytes = vec![0; LOG_MAX];
                let mut read = rustix::io::pread(&self.place.reader, &mut bytes, 0)?;
                // Where a later page cannot be read, the call returns what is before it, and the next one the error.
                while read > 0 && read % PAGE == 0 {
                    match rustix::io::pread(&self.place.reader, &mut bytes[read..], read as u64)? {
                        0 => break,
                        more => read += more,
                    }
                }
                Ok(Reply::Records(records(&bytes[..read])))
            }
            Op::LogLength => {
                let stat = rustix::fs::statat(&self.place.files, "log", AtFlags::empty())?;
                Ok(Reply::Value(stat.st_size as u64 / RECORD as u64))
            }
            Op::SetMode(mode) => {
                let mode = Mode::from(*mode as u32);
                rustix::fs::chmodat(&self.place.files, "value", mode, AtFlags::empty())?;
                Ok(Reply::Done)
            }
            Op::Mode => {
                let stat = rustix::fs::statat(&self.place.files, "value", AtFlags::empty())?;
                Ok(Reply::Value(u64::from(stat.st_mode & 0o777)))
            }
            Op::TryLock => {
                // A file of its own each time: its close releases the lock, too.
                let flags = flags | OFlags::RDWR;
                let lock = rustix::fs::openat(&self.place.files, "lock", flags, Mode::empty())?;
                match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => {
                        self.lock = Some(lock);
                        Ok(Reply::Done)
                    }
                    Err(Errno::WOULDBLOCK) => Ok(Reply::Held),
                    Err(error) => Err(error),
                }
            }
            Op::Unlock => {
                let lock = self.lock.as_ref().ok_or(NOT_MADE)?;
                if self.rng.bool() {
                    rustix::fs::flock(lock, FlockOperation::Unlock)?;
                } else {
                    // The mount releases the lock after the close has returned.
                    self.closed = Some(0);
                }
                self.lock = None;
                Ok(Reply::Done)
            }
            op => self.place.sheets.perform(op),
        }
    }
}
