//! Handles: the numbers by which the kernel names open files and directories.
//!
//! A number is never used twice in a mount, so a late request for a closed handle finds nothing
//! (`a_closed_handle_is_gone_and_its_number_does_not_come_back`). Handles are counted references: a request
//! under way keeps its file open past the kernel's RELEASE.

use crate::listing::Listing;
use fuser::FileHandle;
use parking_lot::{Mutex, MutexGuard};
use rain_client::OpenFile;
use rain_types::Ino;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Parts of the table, each with a lock of its own, so that requests for different handles rarely meet.
const SHARDS: u64 = 16;

/// A file opened by a program.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: Arc<OpenFile>,
    /// Opened for writing: its close returns an error if the data could not be stored.
    pub(crate) writable: bool,
    /// Opened past the kernel's pages (O_DIRECT, O_APPEND).
    pub(crate) past_pages: bool,
    /// Where the kernel believed the end to be at an append that failed just now.
    pub(crate) failed_append: Mutex<Option<(u64, Instant)>>,
}

/// How long after a failed append the kernel may undo it.
const UNDONE_WITHIN: Duration = Duration::from_secs(1);

impl Opened {
    /// An append failed.
    pub(crate) fn append_failed(&self, end: u64) {
        *self.failed_append.lock() = Some((end, Instant::now()));
    }

    /// Whether a truncation to `size` only undoes an append that failed. The kernel truncates after a failed append
    /// of AIO or io_uring, to the end that it believes in, behind which other mounts may have appended.
    pub(crate) fn undoes_append(&self, size: u64) -> bool {
        let failed = self.failed_append.lock().take();
        failed.is_some_and(|(end, at)| end == size && at.elapsed() < UNDONE_WITHIN)
    }
}

/// A directory opened by a program.
#[derive(Debug)]
pub(crate) struct OpenedDirectory {
    pub(crate) ino: Ino,
    /// Locked while a reply is put together. No request waits for it: the kernel reads a handle one request
    /// at a time.
    pub(crate) listing: tokio::sync::Mutex<Listing>,
}

/// The open files, or the open directories, by number.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    shards: [Mutex<HashMap<u64, Arc<T>>>; SHARDS as usize],
    next: AtomicU64,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Handles<T> {
        Handles { shards: std::array::from_fn(|_| Mutex::default()), next: AtomicU64::new(1) }
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.shards[(number % SHARDS) as usize].lock()
    }

    pub(crate) fn insert(&self, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).insert(number, Arc::new(value));
        FileHandle(number)
    }

    pub(crate) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.shard(handle.0).get(&handle.0).cloned()
    }

    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.shard(handle.0).remove(&handle.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_is_gone_and_its_number_does_not_come_back() {
        let handles = Handles::new();
        let numbers: Vec<FileHandle> = (0..100).map(|value| handles.insert(value)).collect();
        for (value, handle) in numbers.iter().enumerate() {
            assert_eq!(handles.get(*handle).as_deref(), Some(&value));
        }
        let closed = handles.remove(numbers[3]);
        assert_eq!(closed.as_deref(), Some(&3));
        assert!(handles.get(numbers[3]).is_none());
        assert!(handles.remove(numbers[3]).is_none());
        assert!(!numbers.contains(&handles.insert(0)));
    }
}
