//! The life of a mount: options, checks, the FUSE session's threads, read-ahead, unmounting.
//!
//! Threads of a mount: fuser's loops, fuser's thread that waits for them, and a watcher. The watcher waits
//! for fuser's thread and then stores the data that is left in memory. So every way to unmount (this program,
//! `umount`, `fusermount3 -u`) ends alike.
//!
//! Invariants:
//! 1. [`mount`] returns only when the mount has answered. When it fails, nothing stays mounted.
//! 2. When the session ends, for any reason, its mount is gone from the tree of mounts. (A killed process
//!    cannot take its mount away: it leaves a dead mount, and [`check_mountpoint`] says how to take that
//!    away. That no program hangs on it for ever is up to a second process, [`guard`].)

mod attach;
mod check;
mod error;
mod guard;
mod options;
mod table;

pub use self::check::check_mountpoint;
pub use self::error::MountError;
pub use self::guard::{DaemonEnd, guard};
pub use self::options::MountOptions;

use self::attach::Detached;
use crate::coherence::Lifetimes;
use crate::fs::{Callbacks, RainFs};
use fuser::{Config, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rain_client::Volume;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long a mount may take to answer, or to store its data, beyond the client's own deadline. It covers
/// what the client's deadline does not: the threads' start and the kernel.
const ANSWER_EXTRA: Duration = Duration::from_secs(5);

/// How long an unmount waits for programs that still use the mount after it was taken out of the tree. Short,
/// as a person or a shutdown waits for it.
const USERS_WAIT_MAX: Duration = Duration::from_secs(3);

/// How a session ended: None if all data is stored, else why some could not be stored.
type End = Option<String>;

#[derive(Debug)]
struct State {
    volume: Arc<Volume>,
    runtime: Handle,
    path: PathBuf,
    source: String,
    /// The device number (major, minor) of the mounted filesystem; known after its first answer.
    device: Mutex<Option<(u32, u32)>>,
    ended: Mutex<Option<End>>,
    end: Condvar,
}

/// A mounted volume. Dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    unmounter: Unmounter,
    /// Whether dropping it unmounts.
    armed: bool,
}

/// Unmounts a mount from another thread than the one in [`Mounted::wait`], such as a signal's handler.
#[derive(Debug, Clone)]
pub struct Unmounter {
    state: Arc<State>,
}

/// Mounts a volume. Returns when the kernel has mounted it and it answers. Fails, with nothing mounted, when
/// the mount point or this user does not allow it, or when the mount does not answer in time.
///
/// It blocks, and needs the runtime to go on meanwhile. So it must be called from a thread that is not the
/// runtime's only one (`spawn_blocking`, or a thread outside of a multi-threaded runtime).
pub fn mount(
    volume: Arc<Volume>,
    mountpoint: &Path,
    options: MountOptions,
    runtime: Handle,
) -> Result<Mounted, MountError> {
    check_mountpoint(mountpoint)?;
    check::check_allow_other(&options)?;
    let path = table::canonical(mountpoint)
        .map_err(|why| MountError::Unusable { path: mountpoint.to_owned(), why })?;
    let connection = attach::attach(&path, &options)?;
    let patience = patience(&volume);
    let state = Arc::new(State {
        volume,
        runtime,
        path: path.clone(),
        source: options.source.clone(),
        device: Mutex::new(None),
        ended: Mutex::new(None),
        end: Condvar::new(),
    });
    // From here on dropping `mounted` takes the mount away.
    let mut mounted = Mounted { unmounter: Unmounter { state: state.clone() }, armed: true };
    if let Err(why) = start(connection, &options, state.clone()) {
        mounted.armed = false;
        detach_quietly(&path);
        return Err(MountError::Session { path, why });
    }
    match first_answer(&path, patience) {
        Ok(device) => {
            *state.device.lock() = Some(device);
            set_read_ahead(device, options.read_ahead_kb);
            tracing::info!(path = %path.display(), source = options.source, "mounted");
            Ok(mounted)
        }
        Err(why) => {
            drop(mounted);
            Err(MountError::NoAnswer { path, why })
        }
    }
}

/// Starts fuser's loops and the watcher.
fn start(connection: OwnedFd, options: &MountOptions, state: Arc<State>) -> io::Result<()> {
    let lifetimes = Lifetimes { attr: options.attr_ttl, entry: options.entry_ttl };
    let fs = RainFs::new(state.volume.clone(), state.runtime.clone(), lifetimes, options.sync);
    let acl = if options.lets_others_in(check::is_root()) { SessionACL::All } else { SessionACL::Owner };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(options.threads);
    // A descriptor of its own for each loop, where this user can open the device.
    config.clone_fd = true;
    let device = connection.try_clone()?;
    let session = Session::from_fd(Callbacks::new(fs.clone()), connection, acl, config)?;
    fs.connect(session.notifier(), device, state.path.clone());
    drop(fs);
    let session = session.spawn()?;
    thread::Builder::new().name("rain-watch".into()).spawn(move || {
        match session.join() {
            Ok(()) => state.take_away_if_dead(),
            Err(error) => {
                tracing::error!(%error, "the FUSE session failed");
                state.take_away();
            }
        }
        state.finish(state.store_rest());
    })?;
    Ok(())
}

/// How long to wait for an operation that has a deadline in the client.
fn patience(volume: &Volume) -> Duration {
    volume.session().options().slow_after + ANSWER_EXTRA
}

/// Waits for the root's attributes. Returns the filesystem's device number, or why there was no answer. It
/// asks in a thread of its own, as the question might never be answered.
fn first_answer(path: &Path, patience: Duration) -> Result<(u32, u32), String> {
    let (done, result) = sync_channel(1);
    let asked = path.to_owned();
    thread::Builder::new()
        .name("rain-first".into())
        .spawn(move || {
            let _ = done.send(fs::metadata(asked));
        })
        .map_err(|error| error.to_string())?;
    match result.recv_timeout(patience) {
        Ok(Ok(found)) => Ok((rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()))),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}

/// Sets how far the kernel reads ahead, best effort: only root can, and a mount without it is only slower.
fn set_read_ahead((major, minor): (u32, u32), kib: u32) {
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let set = OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut file| io::Write::write_all(&mut file, kib.to_string().as_bytes()));
    if let Err(error) = set {
        tracing::debug!(%error, file, "the kernel's read-ahead cannot be set; it stays as it is");
    }
}

fn detach_quietly(path: &Path) {
    if let Err(error) = attach::detach(path) {
        tracing::warn!(%error, "unmounting failed");
    }
}

impl State {
    /// Whether the mount at the path is this one; true if the table of mounts cannot be read. The device
    /// number alone does not say: the next mount gets the number that the last one gave back.
    fn is_mounted(&self) -> bool {
        let device = *self.device.lock();
        match table::mounted_at(&self.path) {
            Ok(Some(entry)) => {
                device.is_none_or(|device| device == entry.device)
                    && entry.kind == attach::KIND
                    && entry.source == self.source
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Takes the mount out of the tree, if it is there: its session has ended.
    fn take_away(&self) {
        if self.is_mounted() {
            detach_quietly(&self.path);
        }
    }

    /// Takes the mount away if it is dead, after the kernel has ended the connection. Usually the kernel does
    /// so because the mount is gone, and another mount at the path is not ours to touch. But after an abort
    /// (umount -f, the `abort` file of fusectl) a dead mount is left.
    fn take_away_if_dead(&self) {
        // The flag asks the filesystem, not the kernel's cache. A dead mount refuses at once.
        let asked = rustix::fs::statx(CWD, &self.path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
        if matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)) {
            self.take_away();
        }
    }

    /// Stores written data that was never flushed: pages of mappings, files of killed programs.
    fn store_rest(&self) -> End {
        let (done, result) = sync_channel(1);
        let (volume, patience) = (self.volume.clone(), patience(&self.volume));
        self.runtime.spawn(async move {
            let _ = done.send(volume.flush_all().await);
        });
        match result.recv_timeout(patience) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(RecvTimeoutError::Timeout) => Some(format!("it was not stored within {patience:?}")),
            // The program is ending.
            Err(RecvTimeoutError::Disconnected) => Some("the runtime has ended".into()),
        }
    }

    /// Records how the session ended, and wakes the waiters. Only the first end counts.
    fn finish(&self, left: End) {
        self.ended.lock().get_or_insert(left);
        self.end.notify_all();
    }

    /// Waits for the end of the session, at most for `longest`. Returns None if it has not come.
    fn wait(&self, longest: Option<Duration>) -> Option<End> {
        let until = longest.map(|longest| Instant::now() + longest);
        let mut ended = self.ended.lock();
        while ended.is_none() {
            match until {
                None => self.end.wait(&mut ended),
                Some(until) => {
                    if self.end.wait_until(&mut ended, until).timed_out() {
                        break;
                    }
                }
            }
        }
        ended.clone()
    }

    fn result(&self, end: End) -> Result<(), MountError> {
        match end {
            None => Ok(()),
            Some(why) => Err(MountError::Unstored { path: self.path.clone(), why }),
        }
    }
}

impl Unmounter {
    /// Unmounts, and waits until all written data is stored. A mount that is in use is taken out of the tree
    /// at once and ends when its users are done. They are waited for 3 s; then the mount counts as ended and
    /// [`Mounted::wait`] returns. To unmount an unmounted mount is no error. Fails when the system refuses to
    /// unmount, or when written data could not be stored.
    pub fn unmount(&self) -> Result<(), MountError> {
        let state = &self.state;
        let ended = state.wait(Some(Duration::ZERO));
        if ended.is_none() && state.is_mounted() {
            match attach::detach(&state.path) {
                Ok(Detached::Whole) => {}
                Ok(Detached::Lazily) => {
                    tracing::warn!(path = %state.path.display(), "the mount is in use: it ends when its users are done");
                }
                // Another process has unmounted it meanwhile.
                Err(_) if !state.is_mounted() => {}
                Err(error) => return Err(error),
            }
        }
        match state.wait(Some(USERS_WAIT_MAX)) {
            Some(end) => state.result(end),
            None => {
                tracing::warn!(path = %state.path.display(), "unmounted, but programs still have files open there");
                let left = state.store_rest();
                state.finish(left.clone());
                state.result(left)
            }
        }
    }
}

impl Mounted {
    /// The mount point, absolute and without symlinks.
    pub fn path(&self) -> &Path {
        &self.unmounter.state.path
    }

    /// The file by which a second process can end the kernel's connection, for [`guard`]. Fails where a user without
    /// privilege has no fusectl (`/sys/fs/fuse/connections`).
    pub fn abort_file(&self) -> io::Result<fs::File> {
        let device = *self.unmounter.state.device.lock();
        let (_, minor) = device.ok_or_else(|| io::Error::other("the mount has not answered yet"))?;
        guard::abort_file(minor)
    }

    /// A handle by which another thread can unmount.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Blocks until the volume is unmounted, by this program or another, and all written data is stored.
    /// After [`Unmounter::unmount`] it waits no longer for users of the mount than that does. A failure to
    /// store data is logged.
    pub fn wait(mut self) {
        self.armed = false;
        if let Some(end) = self.unmounter.state.wait(None)
            && let Err(error) = self.unmounter.state.result(end)
        {
            tracing::error!(%error, "storing written data after unmounting failed");
        }
    }

    /// Unmounts and waits until all written data is stored; see [`Unmounter::unmount`].
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.armed = false;
        self.unmounter.unmount()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.unmounter.unmount()
        {
            tracing::error!(%error, "unmounting failed");
        }
    }
}
