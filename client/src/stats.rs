//! Counters of one client, for people and tests.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the client was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClientStats {
    /// Blocks stored.
    pub blocks_stored: u64,
    /// Blocks stored with at least one share missing.
    pub blocks_stored_missing: u64,
    /// Shares read.
    pub shares_read: u64,
    /// Shares asked for because another share was late.
    pub shares_hedged: u64,
    /// Reads that had to decode.
    pub reads_decoded: u64,
    /// Damaged shares found.
    pub shares_damaged: u64,
    /// Shares that were not on their node.
    pub shares_absent: u64,
    /// Commands sent to the namespace.
    pub commands: u64,
    /// Queries sent to the namespace.
    pub queries: u64,
    /// Queries answered from what is kept under leases.
    pub answered_from_kept: u64,
    /// Changes acknowledged before the namespace had applied them.
    pub acknowledged_early: u64,
    /// Directories delegated to this client.
    pub delegations_taken: u64,
    /// Directories returned, because another client recalled them or nothing was done in them.
    pub delegations_returned: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64),* }
        impl Counters {
            pub(crate) fn snapshot(&self) -> ClientStats {
                ClientStats { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters!(
    blocks_stored,
    blocks_stored_missing,
    shares_read,
    shares_hedged,
    reads_decoded,
    shares_damaged,
    shares_absent,
    commands,
    queries,
    answered_from_kept,
    acknowledged_early,
    delegations_taken,
    delegations_returned,
);

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
