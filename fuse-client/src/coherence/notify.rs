//! Notifications: the way to have the kernel drop what it caches.

use super::names::GivenName;
use crate::numbers::Numbers;
use fuser::{INodeNo, Notifier};
use rain_types::Ino;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;

/// The code of the notification about a name, with a flag that fuser 0.18 lacks (FUSE 7.38, Linux 6.2). An older
/// kernel drops the name.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// The code of the notification that brings bytes.
const NOTIFY_STORE: i32 = 4;

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
    connection: OnceLock<Arc<Connection>>,
    numbers: Numbers,
    runtime: Handle,
}

impl Notifications {
    pub(super) fn new(numbers: Numbers, runtime: Handle) -> Notifications {
        Notifications { connection: OnceLock::new(), numbers, runtime }
    }

    /// Sets the connection to the kernel. Only the first call counts.
    pub(super) fn connect(&self, notifier: Notifier, device: OwnedFd) {
        let _ = self.connection.set(Arc::new(Connection { notifier, device: device.into() }));
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

    /// Raises the kernel's length of a file to `length`, if it is lower. The kernel has it when the future ends, and
    /// shortly after `begun` is set; a dropped future does not stop it. `held` is dropped at the end.
    ///
    /// The kernel has no notification for a length alone, but takes the length from one that brings bytes
    /// (FUSE_NOTIFY_STORE) before it copies them. The byte here cannot be read: the copy fails with EFAULT, and no page
    /// changes. A byte that could be read might replace a newer one that a program of this mount is writing.
    pub(super) fn raise_length<T: Send + 'static>(
        &self,
        ino: Ino,
        length: u64,
        begun: Arc<AtomicBool>,
        held: T,
    ) -> impl Future<Output = ()> + use<T> {
        let (connection, number) = (self.connection.get().cloned(), self.numbers.kernel(ino));
        let raising = self.runtime.spawn_blocking(move || {
            let _held = held;
            if let (Some(connection), Some(at)) = (connection, length.checked_sub(1)) {
                begun.store(true, Ordering::Release);
                let said = send_without_last_byte(&connection.device, &store_byte(number, at));
                if said.raw_os_error() != Some(libc::EFAULT) {
                    // ENOENT: the kernel has forgotten the inode.
                    tracing::debug!(%ino, length, error = %said, "the kernel was not told a length");
                }
            }
        });
        async {
            let _ = raising.await;
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
            for GivenName { parent, name, .. } in names {
                // A name that the kernel dropped meanwhile is as good (ENOENT).
                let _ = (&connection.device).write_all(&expire_entry(numbers.kernel(parent), &name));
            }
        });
        async {
            let _ = dropping.await;
        }
    }
}

/// Sends a notification that is one byte longer than `message`; the byte is in memory that cannot be read. Returns the
/// kernel's error: EFAULT once it has come to the byte.
#[allow(unsafe_code)]
fn send_without_last_byte(device: &File, message: &[u8]) -> io::Error {
    let part = |base: *const u8, len: usize| libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len };
    // Nothing is mapped so low (vm.mmap_min_addr).
    let unreadable = std::ptr::without_provenance::<u8>(4096);
    let parts = [part(message.as_ptr(), message.len()), part(unreadable, 1)];
    // SAFETY: the kernel reads the parts and writes to none. The first is a slice that lives on; an address that cannot
    // be read makes the call fail, which is its purpose.
    let sent = unsafe { libc::writev(device.as_raw_fd(), parts.as_ptr(), parts.len() as libc::c_int) };
    if sent < 0 { io::Error::last_os_error() } else { io::ErrorKind::Other.into() }
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

/// The notification that brings a byte of a file, without the byte: the inode, the offset, the length 1, zero.
fn store_byte(number: INodeNo, at: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEADER_BYTES + 8);
    body.extend(number.0.to_ne_bytes());
    body.extend(at.to_ne_bytes());
    body.extend(1u32.to_ne_bytes());
    body.extend(0u32.to_ne_bytes());
    let mut message = notification(NOTIFY_STORE, &body);
    let with_byte = (message.len() + 1) as u32;
    message[..4].copy_from_slice(&with_byte.to_ne_bytes());
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
        let byte = store_byte(INodeNo(7), 99);
        assert_eq!(byte.len(), 16 + 24);
        assert_eq!(byte[..8], [41u32.to_ne_bytes(), 4u32.to_ne_bytes()].concat());
        assert_eq!(byte[16..32], [7u64.to_ne_bytes(), 99u64.to_ne_bytes()].concat());
        assert_eq!(byte[32..], [1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
        let one = expire_entry(INodeNo(7), b"ab");
        assert_eq!(one.len(), 16 + 16 + 3);
        assert_eq!(one[..8], [35u32.to_ne_bytes(), 3u32.to_ne_bytes()].concat());
        assert_eq!(one[16..24], 7u64.to_ne_bytes());
        assert_eq!(one[24..32], [2u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
        assert_eq!(&one[32..], b"ab\0");
    }
}
