//! Notifications: the way to have the kernel drop what it caches.

use super::names::GivenName;
use crate::numbers::Numbers;
use bytes::Bytes;
use fuser::{INodeNo, Notifier};
use rain_types::Ino;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use tokio::runtime::Handle;

/// The code of the notification about a name, with a flag that fuser 0.18 lacks (FUSE 7.38, Linux 6.2). An older
/// kernel drops the name.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// The length of a notification without a body, bytes.
const HEADER_BYTES: usize = 16;

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
        self.drop_range(ino, 0, 0)
    }

    /// As [`Notifications::drop_pages`], for the pages of a range of bytes; length 0: to the end.
    pub(super) fn drop_range(&self, ino: Ino, from: u64, len: u64) -> impl Future<Output = ()> + use<> {
        let (connection, number) = (self.connection.get().cloned(), self.numbers.kernel(ino));
        let dropping = self.runtime.spawn_blocking(move || {
            if let Some(connection) = connection {
                let _ = connection.notifier.inval_inode(number, from as i64, len as i64);
            }
        });
        async {
            let _ = dropping.await;
        }
    }

    /// Has the kernel take bytes of a file into a page, and with them a length of the file that is no lower than their
    /// end. It has done so when the future ends; a dropped future does not stop it.
    pub(super) fn store(&self, ino: Ino, offset: u64, data: Bytes) -> impl Future<Output = ()> + use<> {
        let (connection, number) = (self.connection.get().cloned(), self.numbers.kernel(ino));
        let storing = self.runtime.spawn_blocking(move || {
            if let Some(connection) = connection {
                let _ = connection.notifier.store(number, offset, &data);
            }
        });
        async {
            let _ = storing.await;
        }
    }

    /// Has the kernel end the lifetime of names. It has done so when the future ends; a dropped future does not
    /// stop it.
    ///
    /// The names only expire: the kernel looks each up again before its next use. If it dropped them, it would
    /// detach what is mounted on them, and overlayfs above would answer ESTALE.
    ///
    /// The kernel waits for operations on the parents that are under way.
    pub(super) fn expire_names(&self, names: Vec<GivenName>) -> impl Future<Output = ()> + use<> {
        let connection = self.connection.get().cloned();
        let numbers = self.numbers;
        let dropping = self.runtime.spawn_blocking(move || {
            let Some(connection) = connection else { return };
            for GivenName { parent, name } in names {
                // A name that the kernel dropped meanwhile is as good (ENOENT).
                let _ = (&connection.device).write_all(&expire_entry(numbers.kernel(parent), &name));
            }
        });
        async {
            let _ = dropping.await;
        }
    }
}

/// A notification: its length, its code, zero, and its body.
fn notification(code: i32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(body);
    message
}

/// The notification that a name is to be looked up again: the parent, the name's length, a flag, and the name
/// with a zero byte.
fn expire_entry(parent: INodeNo, name: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEADER_BYTES + name.len() + 1);
    body.extend(parent.0.to_ne_bytes());
    body.extend((name.len() as u32).to_ne_bytes());
    body.extend(EXPIRE_ONLY.to_ne_bytes());
    body.extend(name);
    body.push(0);
    notification(NOTIFY_INVAL_ENTRY, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_have_the_layout_of_the_kernels_header_file() {
        let one = expire_entry(INodeNo(7), b"ab");
        assert_eq!(one.len(), 16 + 16 + 3);
        assert_eq!(one[..8], [35u32.to_ne_bytes(), 3u32.to_ne_bytes()].concat());
        assert_eq!(one[16..24], 7u64.to_ne_bytes());
        assert_eq!(one[24..32], [2u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
        assert_eq!(&one[32..], b"ab\0");
    }
}
