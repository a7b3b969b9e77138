//! Counters of the workers, for `rain status` and the metrics.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The counters of all workers that have some.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) repair: Arc<WorkerCounters>,
    pub(crate) rebalance: Arc<WorkerCounters>,
    pub(crate) gc: Arc<WorkerCounters>,
}

/// The work of one worker since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    /// Pieces of work done.
    pub(crate) done: AtomicU64,
    /// Pieces of work that failed; the worker tries them again.
    pub(crate) failed: AtomicU64,
    /// Pieces of work waiting, as last seen.
    pub(crate) waiting: AtomicU64,
    /// Bytes written or freed.
    pub(crate) bytes: AtomicU64,
    /// Bytes read from other nodes.
    pub(crate) read: AtomicU64,
    /// True while the worker has something to do.
    pub(crate) running: AtomicBool,
    last_error: Mutex<String>,
}

impl WorkerCounters {
    /// Returns the text of the last failure; empty: none.
    pub(crate) fn last_error(&self) -> String {
        self.last_error.lock().clone()
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Relaxed);
        *self.last_error.lock() = error.to_string();
    }
}
