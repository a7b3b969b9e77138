//! The filesystem: answers to the kernel's requests, by the operations of `rain-client`.
//!
//! [`Callbacks`] takes each request apart (`callbacks`, `tasks`), [`RainFs`] does what it asks, and `replies`
//! puts the answer together. The operations are by subject: `names`, `attrs`, `xattrs`, `data`, `dirs`, `locks`. What the kernel may
//! cache of an answer is decided by [`crate::coherence`].

mod attrs;
mod callbacks;
mod calls;
mod data;
mod dirs;
mod handshake;
mod locks;
mod names;
mod replies;
mod tasks;
mod trouble;
mod xattrs;

pub(crate) use self::tasks::Callbacks;

use self::trouble::TroubleLog;
use crate::coherence::{Coherence, Lifetimes};
use crate::errno;
use crate::handles::{Handles, Opened, OpenedDirectory};
use crate::lockers::Lockers;
use crate::numbers::Numbers;
use crate::ttl::TtlValue;
use fuser::{Errno, Notifier, Request};
use futures::future::BoxFuture;
use rain_client::{Dropped, Error, KernelCache, NewInode, Space, Volume};
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_namespace::record::FileKind;
use rain_types::Ino;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// How long an answer about free space is used again. A second is what a person who repeats `df` does not
/// notice, and it bounds the questions to the nodes of a program that asks before every write.
const SPACE_TTL: Duration = Duration::from_secs(1);

/// The user on whose behalf a request is made. The kernel checks permissions.
#[derive(Debug, Clone, Copy)]
struct Caller {
    uid: u32,
    gid: u32,
    /// Thread, as the PID namespace of this process numbers it; 0: it is in none of these.
    thread: u32,
}

impl Caller {
    fn is_privileged(self) -> bool {
        self.uid == 0
    }

    /// A new inode with a mode, from which a umask is to be taken.
    fn new_inode(self, kind: FileKind, (mode, umask): (u32, u32)) -> NewInode {
        let new = NewInode::new(kind, (mode & 0o7777) as u16, self.uid, self.gid);
        NewInode { umask: (umask & 0o777) as u16, ..new }
    }
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid(), thread: request.pid() }
    }
}

/// A mounted volume as the kernel sees it: the state that callbacks and tasks share.
#[derive(Debug)]
pub(crate) struct RainFs {
    volume: Arc<Volume>,
    runtime: Handle,
    numbers: Numbers,
    coherence: Coherence,
    files: Handles<Opened>,
    directories: Handles<OpenedDirectory>,
    lockers: Lockers,
    space: TtlValue<Space>,
    trouble: TroubleLog,
    /// Every write is durable when it is answered.
    sync: bool,
}

impl RainFs {
    pub(crate) fn new(volume: Arc<Volume>, runtime: Handle, lifetimes: Lifetimes, sync: bool) -> Arc<RainFs> {
        Arc::new(RainFs {
            numbers: Numbers::new(volume.root()),
            coherence: Coherence::new(volume.root(), lifetimes, runtime.clone()),
            volume,
            runtime,
            files: Handles::new(),
            directories: Handles::new(),
            lockers: Lockers::default(),
            space: TtlValue::new(SPACE_TTL),
            trouble: TroubleLog::new(),
            sync,
        })
    }

    /// Sets the connection by which the kernel can be notified, and where the mount is.
    pub(crate) fn connect(self: &Arc<Self>, notifier: Notifier, device: OwnedFd, mountpoint: PathBuf) {
        self.coherence.connect(notifier, device, mountpoint);
        let kernel: Weak<RainFs> = Arc::downgrade(self);
        self.volume.set_kernel_cache(kernel);
    }

    /// Whether what was told last of a name or an inode may still be used: there is a lease on it, or none is needed.
    fn may_be_used(&self, subject: &Subject) -> bool {
        self.volume.read_for(subject).is_none_or(|left| !left.is_zero())
    }

    /// The errno of a failure. The log gets the text of a failure of the cluster, which no errno can say.
    fn errno(&self, doing: &'static str, error: &Error) -> Errno {
        let errno = errno::of(error);
        if errno::is_trouble(error) {
            self.trouble.log(doing, error, errno.code());
        }
        errno
    }

    /// As [`RainFs::errno`], for an operation on an inode and not on a name: an inode that is gone is ESTALE,
    /// on which the kernel looks the name up again.
    fn inode_errno(&self, doing: &'static str, error: &Error) -> Errno {
        match error {
            Error::Refused(NsError::NotFound) => Errno::ESTALE,
            error => self.errno(doing, error),
        }
    }
}

impl KernelCache for RainFs {
    fn drop_cached<'a>(&'a self, dropped: &'a [Dropped]) -> BoxFuture<'a, ()> {
        Box::pin(self.coherence.drop_cached(dropped))
    }

    fn drop_all<'a>(&'a self, files: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(self.coherence.drop_all(files, |_| false))
    }

    fn drop_unleased<'a>(&'a self, files: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(self.coherence.drop_all(files, |subject| self.may_be_used(subject)))
    }
}
