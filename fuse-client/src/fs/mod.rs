//! What callbacks and tasks share, and how answers become replies.

mod attrs;
mod callbacks;
mod data;
mod dirs;
mod locks;
mod names;

pub(crate) use self::callbacks::RainFs;

use self::attrs::to_kernel;
use crate::coherence::inodes::{Inodes, Numbers};
use crate::errno;
use crate::handles::{Handles, Opened, OpenedDirectory};
use crate::ttl::Aged;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, Notifier, ReplyAttr, ReplyCreate, ReplyEntry, Request,
};
use rain_client::{Error, NewInode, Space, Volume};
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, FileKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long free space is believed.
const SPACE_AGE_MAX: Duration = Duration::from_secs(1);

/// Log lines about trouble with the cluster: one in so long; a dead cluster fails thousands of requests.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How long the kernel may believe what it was told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) attr: Duration,
    pub(crate) entry: Duration,
}

impl Times {
    /// Where fuser takes only one.
    pub(super) fn both(self) -> Duration {
        self.attr.min(self.entry)
    }
}

/// Who asks. The umask is applied by the kernel, and it checks permissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
}

impl Caller {
    pub(super) fn is_privileged(self) -> bool {
        self.uid == 0
    }

    pub(super) fn new_inode(self, kind: FileKind, mode: u32) -> NewInode {
        NewInode::new(kind, (mode & 0o7777) as u16, self.uid, self.gid)
    }
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid() }
    }
}

/// What callbacks and tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) volume: Arc<Volume>,
    pub(super) runtime: Handle,
    pub(super) numbers: Numbers,
    pub(super) times: Times,
    pub(super) inodes: Inodes,
    pub(super) files: Handles<Opened>,
    pub(super) directories: Handles<OpenedDirectory>,
    pub(super) space: Aged<Space>,
    /// There once the kernel is connected.
    pub(super) notifier: OnceLock<Notifier>,
    started: Instant,
    /// When trouble was last logged, in milliseconds since the start plus one, and how often it was not.
    logged: AtomicU64,
    unlogged: AtomicU64,
}

impl Shared {
    pub(crate) fn new(volume: Arc<Volume>, runtime: Handle, times: Times) -> Arc<Shared> {
        Arc::new(Shared {
            numbers: Numbers::new(volume.root()),
            inodes: Inodes::new(volume.root(), times.attr),
            volume,
            runtime,
            times,
            files: Handles::new(),
            directories: Handles::new(),
            space: Aged::new(SPACE_AGE_MAX),
            notifier: OnceLock::new(),
            started: Instant::now(),
            logged: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        })
    }

    /// The way to tell the kernel something unasked.
    pub(crate) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// The errno of a failure; what no errno can say goes to the log.
    pub(super) fn errno(&self, doing: &'static str, error: &Error) -> Errno {
        let errno = errno::of(error);
        if errno::is_trouble(error) {
            let now = self.started.elapsed().as_millis() as u64 + 1;
            let last = self.logged.load(Ordering::Relaxed);
            let due = last == 0 || now >= last + LOG_EVERY.as_millis() as u64;
            if due && self.logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let more = self.unlogged.swap(0, Ordering::Relaxed);
                tracing::warn!(doing, %error, errno = errno.code(), not_logged_before = more, "a request failed");
            } else {
                self.unlogged.fetch_add(1, Ordering::Relaxed);
            }
        }
        errno
    }

    /// As [`Shared::errno`], for what was asked of an inode and not of a name: that it is gone is ESTALE, on which the
    /// kernel looks the name up again.
    pub(super) fn inode_errno(&self, doing: &'static str, error: &Error) -> Errno {
        match error {
            Error::Refused(NsError::NotFound) => Errno::ESTALE,
            error => self.errno(doing, error),
        }
    }

    pub(super) fn reply_attr(&self, reply: ReplyAttr, result: Result<Attr, Errno>) {
        match result {
            Ok(attr) => {
                self.inodes.told(&attr);
                reply.attr(&self.times.attr, &to_kernel(&attr, self.numbers));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// The answer to a lookup by a thread, which will be the one to open what it has found.
    pub(super) fn reply_found(&self, reply: ReplyEntry, found: Result<Attr, Errno>, thread: u32) {
        if let Ok(attr) = &found {
            self.inodes.looked_up(attr);
            self.inodes.named(attr.ino, thread);
        }
        self.reply_counted(reply, found);
    }

    pub(super) fn reply_entry(&self, reply: ReplyEntry, result: Result<Attr, Errno>) {
        if let Ok(attr) = &result {
            self.inodes.looked_up(attr);
        }
        self.reply_counted(reply, result);
    }

    /// A name's meaning, which counts as looked up already.
    fn reply_counted(&self, reply: ReplyEntry, result: Result<Attr, Errno>) {
        match result {
            Ok(attr) => {
                let kernel = to_kernel(&attr, self.numbers);
                // Inode numbers are never used again, so one generation is enough.
                reply.entry_with_ttls(&self.times.attr, &self.times.entry, &kernel, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn reply_created(
        &self,
        reply: ReplyCreate,
        result: Result<(Attr, FileHandle, FopenFlags), Errno>,
    ) {
        match result {
            Ok((attr, handle, flags)) => {
                let then = self.inodes.now();
                self.inodes.looked_up(&attr);
                self.inodes.learn_no_capability(attr.ino, then);
                let kernel = to_kernel(&attr, self.numbers);
                reply.created(&self.times.both(), &kernel, Generation(0), handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }
}
