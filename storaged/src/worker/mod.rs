//! The work that goes on behind the services, on the node that keeps the namespace. Each worker is a loop with
//! a pause, a bound on what it does at a time, and counters that anybody can look at; what to do is planned by
//! pure functions elsewhere.

pub(crate) mod leases;
pub(crate) mod reclaim;
pub(crate) mod repair;
pub(crate) mod sweep;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What a worker has done since the start.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    /// Pieces of work done.
    pub(crate) done: AtomicU64,
    /// Pieces of work that failed; they are tried again.
    pub(crate) failed: AtomicU64,
    /// Pieces of work waiting, as last seen.
    pub(crate) waiting: AtomicU64,
    /// Bytes written or freed.
    pub(crate) bytes: AtomicU64,
    /// Whether it is at work now.
    pub(crate) running: AtomicBool,
    last_error: Mutex<String>,
}

impl WorkerCounters {
    pub(crate) fn last_error(&self) -> String {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
    }
}
