//! The gate in front of a node's shares: a switch for all requests, and the number of requests under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The gate. Open at the start.
#[derive(Debug)]
pub(crate) struct ShareGate {
    is_open: AtomicBool,
    under_way: AtomicU64,
}

impl Default for ShareGate {
    fn default() -> ShareGate {
        ShareGate { is_open: AtomicBool::new(true), under_way: AtomicU64::new(0) }
    }
}

/// A request under way, counted until the guard is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<ShareGate>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

impl ShareGate {
    /// Counts a request. `None`: the shares are switched off.
    pub(crate) fn enter(self: &Arc<ShareGate>) -> Option<UnderWay> {
        if !self.is_open() {
            return None;
        }
        self.under_way.fetch_add(1, Relaxed);
        Some(UnderWay(self.clone()))
    }

    /// Returns true while requests are let in.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Switches the shares on or off and returns what they were before.
    pub(crate) fn switch(&self, on: bool) -> bool {
        self.is_open.swap(on, Relaxed)
    }

    /// Returns the number of requests under way: the queue of the node's load index.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Relaxed)
    }
}
