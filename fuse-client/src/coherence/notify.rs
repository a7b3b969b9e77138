//! Notifications: the way to have the kernel drop what it caches of an inode.

use crate::numbers::Numbers;
use fuser::Notifier;
use rain_types::Ino;
use std::future::Future;
use std::sync::OnceLock;
use tokio::runtime::Handle;

/// Sends invalidations to the kernel. Before [`Notifications::connect`] there is no kernel and nothing is
/// sent.
#[derive(Debug)]
pub(super) struct Notifications {
    notifier: OnceLock<Notifier>,
    numbers: Numbers,
    runtime: Handle,
}

impl Notifications {
    pub(super) fn new(numbers: Numbers, runtime: Handle) -> Notifications {
        Notifications { notifier: OnceLock::new(), numbers, runtime }
    }

    /// Sets the connection to the kernel. Only the first call counts.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Has the kernel drop its attributes of an inode. The kernel has dropped them when this returns.
    ///
    /// The kernel takes no lock for it that an open or a read holds, so it may be sent while one is being
    /// answered.
    pub(super) fn drop_attributes(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get() {
            // An inode that the kernel dropped meanwhile is as good (ENOENT).
            let _ = notifier.inval_inode(self.numbers.kernel(ino), -1, 0);
        }
    }

    /// Has the kernel drop its pages and attributes of a file. The kernel has dropped them when the future
    /// ends; a dropped future does not stop it.
    ///
    /// The kernel waits for pages that a request under way has locked. So the task that answers such a
    /// request must not await this before it has answered.
    pub(super) fn drop_pages(&self, ino: Ino) -> impl Future<Output = ()> + use<> {
        let (notifier, number) = (self.notifier.get().cloned(), self.numbers.kernel(ino));
        let dropping = self.runtime.spawn_blocking(move || {
            if let Some(notifier) = notifier {
                let _ = notifier.inval_inode(number, 0, 0);
            }
        });
        async {
            let _ = dropping.await;
        }
    }
}
