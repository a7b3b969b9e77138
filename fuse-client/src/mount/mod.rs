//! Mounting a volume and living with the mount: options, checks, the session's threads, read-ahead, unmounting.
//!
//! Threads of a mount: fuser's loops, fuser's thread that waits for them, and a watcher that waits for that and
//! then stores what is left, so that whoever unmounts (this program, `umount`, `fusermount3 -u`) finds the
//! same end.
//!
//! Invariants:
//! 1. [`mount`] returns only when the mount has answered; when it fails, nothing stays mounted.
//! 2. When the session ends, for whatever reason, its mount is gone from the tree. (A killed process cannot see
//!    to that: it leaves a dead mount, which [`check_mountpoint`] tells how to take away.)

mod attach;
mod check;
mod error;
mod options;
mod table;

pub use self::check::check_mountpoint;
pub use self::error::MountError;
pub use self::options::MountOptions;

use self::attach::Detached;
use crate::fs::{RainFs, Shared, Times};
use fuser::{Config, Session, SessionACL};
use rain_client::Volume;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long the first answer may take beyond the client's own deadline.
const ANSWER_EXTRA: Duration = Duration::from_secs(5);

/// How long to wait for programs that still use a mount after it was taken out of the tree.
const LEFT_OVER_MAX: Duration = Duration::from_secs(3);

/// How a session ended: with what could not be stored, if anything.
type End = Option<String>;

#[derive(Debug)]
struct State {
    volume: Arc<Volume>,
    runtime: Handle,
    path: PathBuf,
    source: String,
    /// Major and minor number of the mounted filesystem, known after its first answer.
    device: Mutex<Option<(u32, u32)>>,
    ended: Mutex<Option<End>>,
    end: Condvar,
}

/// A mounted volume. Dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    unmounter: Unmounter,
    /// Whether dropping it is to unmount.
    armed: bool,
}

/// Unmounts from elsewhere: a signal's handler, while another thread is in [`Mounted::wait`].
#[derive(Debug, Clone)]
pub struct Unmounter {
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mounts a volume. Returns when the kernel has it mounted and it answers.
///
/// It blocks, and needs the runtime to go on meanwhile: call it from a thread that is not the runtime's only one
/// (`spawn_blocking`, or a thread outside of a multi-threaded runtime).
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
    // From here on dropping it takes the mount away.
    let mut mounted = Mounted { unmounter: Unmounter { state: state.clone() }, armed: true };
    if let Err(why) = start(connection, &options, state.clone()) {
        mounted.armed = false;
        detach_quietly(&path);
        return Err(MountError::Session { path, why });
    }
    match first_answer(&path, patience) {
        Ok(device) => {
            *lock(&state.device) = Some(device);
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

/// Starts the loops and the watcher.
fn start(connection: OwnedFd, options: &MountOptions, state: Arc<State>) -> io::Result<()> {
    let times = Times { attr: options.attr_ttl, entry: options.entry_ttl };
    let shared = Shared::new(state.volume.clone(), state.runtime.clone(), times);
    let acl = if options.lets_others_in(check::is_root()) { SessionACL::All } else { SessionACL::Owner };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(options.threads);
    // A descriptor of its own for each loop, where this user can open the device.
    config.clone_fd = true;
    let session = Session::from_fd(RainFs::new(shared.clone()), connection, acl, config)?;
    shared.connect(session.notifier());
    drop(shared);
    let session = session.spawn()?;
    thread::Builder::new().name("rain-watch".into()).spawn(move || {
        match session.join() {
            Ok(()) => state.take_away_if_dead(),
            Err(error) => {
                tracing::error!(%error, "the FUSE session broke");
                state.take_away();
            }
        }
        state.finish(state.store_what_is_left());
    })?;
    Ok(())
}

/// How long something that the client bounds is waited for.
fn patience(volume: &Volume) -> Duration {
    volume.session().options().slow_after + ANSWER_EXTRA
}

/// Waits until the root's attributes come, in a thread of its own, as the wait might never end. Gives the
/// filesystem's device number.
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

/// Best effort: only root can, and a mount without it is only slower.
fn set_read_ahead((major, minor): (u32, u32), kib: u32) {
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let set = OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut file| io::Write::write_all(&mut file, kib.to_string().as_bytes()));
    if let Err(error) = set {
        tracing::debug!(%error, file, "the kernel's read-ahead stays as it is");
    }
}

fn detach_quietly(path: &Path) {
    if let Err(error) = attach::detach(path) {
        tracing::warn!(%error, "unmounting");
    }
}

impl State {
    /// Whether the mount at the path is this one. Device numbers alone do not tell: the next mount gets the
    /// number that the last one gave back.
    fn is_mounted(&self) -> bool {
        let device = *lock(&self.device);
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

    /// Takes the mount out of the tree, if it is there: nobody serves it any more.
    fn take_away(&self) {
        if self.is_mounted() {
            detach_quietly(&self.path);
        }
    }

    /// The kernel has ended the connection. Usually because the mount is gone, and whatever is at the path now is
    /// somebody else's; but where the connection was aborted (umount -f, the `abort` file of fusectl), a dead
    /// mount is left.
    fn take_away_if_dead(&self) {
        // Asking the filesystem, not the kernel's cache. A dead one refuses at once.
        let asked = rustix::fs::statx(CWD, &self.path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
        if matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)) {
            self.take_away();
        }
    }

    /// Stores what programs wrote and nobody flushed: pages of mappings, files of killed programs.
    fn store_what_is_left(&self) -> End {
        let (done, result) = sync_channel(1);
        let (volume, patience) = (self.volume.clone(), patience(&self.volume));
        self.runtime.spawn(async move {
            let _ = done.send(volume.flush_all().await);
        });
        match result.recv_timeout(patience) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(RecvTimeoutError::Timeout) => Some(format!("it was not done within {patience:?}")),
            // Its program is ending.
            Err(RecvTimeoutError::Disconnected) => Some("the runtime has ended".into()),
        }
    }

    fn finish(&self, left: End) {
        lock(&self.ended).get_or_insert(left);
        self.end.notify_all();
    }

    /// Waits for the end, or so long. None: it has not come.
    fn wait(&self, longest: Option<Duration>) -> Option<End> {
        let until = longest.map(|longest| Instant::now() + longest);
        let mut ended = lock(&self.ended);
        while ended.is_none() {
            ended = match until {
                None => self.end.wait(ended).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.end.wait_timeout(ended, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
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
    /// Unmounts, and waits until everything written is stored. A mount that is in use is taken out of the tree
    /// at once and ends when its users are done; they are waited for a few seconds only, then it counts as ended
    /// and [`Mounted::wait`] returns. Unmounting what is unmounted is fine.
    pub fn unmount(&self) -> Result<(), MountError> {
        let state = &self.state;
        let ended = state.wait(Some(Duration::ZERO));
        if ended.is_none() && state.is_mounted() {
            match attach::detach(&state.path) {
                Ok(Detached::Whole) => {}
                Ok(Detached::Lazily) => {
                    tracing::warn!(path = %state.path.display(), "in use: it ends when its users are done");
                }
                // Somebody else was faster.
                Err(_) if !state.is_mounted() => {}
                Err(error) => return Err(error),
            }
        }
        match state.wait(Some(LEFT_OVER_MAX)) {
            Some(end) => state.result(end),
            None => {
                tracing::warn!(path = %state.path.display(), "unmounted, but programs still have files open there");
                let left = state.store_what_is_left();
                state.finish(left.clone());
                state.result(left)
            }
        }
    }
}

impl Mounted {
    /// Where it is mounted, absolute and without symlinks.
    pub fn path(&self) -> &Path {
        &self.unmounter.state.path
    }

    /// A handle by which to unmount from elsewhere.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Blocks until the volume is unmounted, by whomever, and everything written is stored; after
    /// [`Unmounter::unmount`] no longer than that waits for programs that will not let go. What could not be stored
    /// is logged.
    pub fn wait(mut self) {
        self.armed = false;
        if let Some(end) = self.unmounter.state.wait(None)
            && let Err(error) = self.unmounter.state.result(end)
        {
            tracing::error!(%error, "after unmounting");
        }
    }

    /// Unmounts and waits until everything written is stored; see [`Unmounter::unmount`].
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
            tracing::error!(%error, "unmounting");
        }
    }
}
