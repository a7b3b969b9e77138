//! Notifications: the way to have the kernel drop what it caches.

use crate::numbers::Numbers;
use fuser::Notifier;
use rain_types::Ino;
use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use tokio::runtime::Handle;

/// The code of the notification that makes all names of a connection be looked up again (FUSE 7.44, Linux
/// 6.16). fuser 0.18 lacks it.
const NOTIFY_INC_EPOCH: i32 = 8;

/// The length of a notification without a body: length, code and a zero.
const HEADER_BYTES: u32 = 16;

#[derive(Debug)]
struct Connection {
    notifier: Notifier,
    device: File,
}

/// Sends invalidations to the kernel. Before [`Notifications::connect`] there is no kernel and nothing is
/// sent.
#[derive(Debug)]
pub(super) struct Notifications {
    connection: OnceLock<std::sync::Arc<Connection>>,
    numbers: Numbers,
    runtime: Handle,
}

impl Notifications {
    pub(super) fn new(numbers: Numbers, runtime: Handle) -> Notifications {
        Notifications { connection: OnceLock::new(), numbers, runtime }
    }

    /// Sets the connection to the kernel. Only the first call counts.
    pub(super) fn connect(&self, notifier: Notifier, device: OwnedFd) {
        let _ = self.connection.set(std::sync::Arc::new(Connection { notifier, device: device.into() }));
    }

    /// Has the kernel drop its attributes of an inode. The kernel has dropped them when this returns. A reply to
    /// a question that was asked before does not bring them back.
    ///
    /// The kernel takes no lock for it that an open or a read holds, so it may be sent while one is being
    /// answered.
    pub(super) fn drop_attributes(&self, ino: Ino) {
        if let Some(connection) = self.connection.get() {
            // An inode that the kernel dropped meanwhile is as good (ENOENT).
            let _ = connection.notifier.inval_inode(self.numbers.kernel(ino), -1, 0);
        }
    }

    /// Has the kernel drop its pages and attributes of a file. The kernel has dropped them when the future
    /// ends; a dropped future does not stop it.
    ///
    /// The kernel waits for pages that a request under way has locked. So the task that answers such a
    /// request must not await this before it has answered.
    pub(super) fn drop_pages(&self, ino: Ino) -> impl Future<Output = ()> + use<> {
        let (connection, number) = (self.connection.get().cloned(), self.numbers.kernel(ino));
        let dropping = self.runtime.spawn_blocking(move || {
            if let Some(connection) = connection {
                let _ = connection.notifier.inval_inode(number, 0, 0);
            }
        });
        async {
            let _ = dropping.await;
        }
    }

    /// Has the kernel drop names. It has dropped them when the future ends; a dropped future does not stop it.
    ///
    /// The kernel waits for operations on the directories that are under way.
    pub(super) fn drop_names(&self, names: Vec<(Ino, Box<[u8]>)>) -> impl Future<Output = ()> + use<> {
        let connection = self.connection.get().cloned();
        let names: Vec<_> =
            names.into_iter().map(|(parent, name)| (self.numbers.kernel(parent), name)).collect();
        let dropping = self.runtime.spawn_blocking(move || {
            let Some(connection) = connection else { return };
            for (parent, name) in names {
                let _ = connection.notifier.inval_entry(parent, OsStr::from_bytes(&name));
            }
        });
        async {
            let _ = dropping.await;
        }
    }

    /// Has the kernel look all names up again before it uses them. Waits for nothing. Returns false where the
    /// kernel cannot: before Linux 6.16.
    ///
    /// What another filesystem has mounted on a directory below is detached when the directory is looked up
    /// again, so this is the last resort.
    pub(super) fn doubt_all_names(&self) -> bool {
        let Some(connection) = self.connection.get() else { return true };
        let mut message = Vec::with_capacity(HEADER_BYTES as usize);
        message.extend(HEADER_BYTES.to_ne_bytes());
        message.extend(NOTIFY_INC_EPOCH.to_ne_bytes());
        message.extend(0u64.to_ne_bytes());
        (&connection.device).write_all(&message).is_ok()
    }
}
