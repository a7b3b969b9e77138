//! The budget of written bytes that are not stored yet, over all files of a volume.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// Longest wait for room. A writer then looks itself whether it can store something.
const WAIT: Duration = Duration::from_millis(20);

/// The budget. Several writers that find room at once may exceed it by one write each.
#[derive(Debug)]
pub(super) struct DirtyBudget {
    bytes: AtomicU64,
    bytes_max: u64,
    freed: Notify,
}

impl DirtyBudget {
    pub(super) fn new(bytes_max: u64) -> DirtyBudget {
        DirtyBudget { bytes: AtomicU64::new(0), bytes_max, freed: Notify::new() }
    }

    /// Whether the budget has room for this many bytes more.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.load(Relaxed) + bytes <= self.bytes_max
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.freed.notify_waiters();
    }

    /// Waits until bytes were freed, at most a moment.
    pub(super) async fn freed(&self) {
        let _ = tokio::time::timeout(WAIT, self.freed.notified()).await;
    }
}
