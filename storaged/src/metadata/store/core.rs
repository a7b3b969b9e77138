//! The state that the store's facade and its flusher share.

use super::base::{Base, BaseContents, BaseTable};
use super::base_file::BaseHealth;
use super::memtable::Memtable;
use super::{AppliedPosition, StoreError, StoreOptions};
use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The flusher tries for this time to swap memtables between readers, before it makes readers queue behind
/// it.
const POLITE_SWAP: Duration = Duration::from_millis(50);

/// The state that readers see.
pub(super) struct VisibleState {
    /// Takes the writes.
    pub(super) memtable: Memtable,
    /// On its way into the base.
    pub(super) immutable: Option<Arc<Memtable>>,
    pub(super) base: BaseTable,
    pub(super) applied: AppliedPosition,
    pub(super) membership: Arc<[u8]>,
}

impl VisibleState {
    /// The state of a base without newer writes.
    pub(super) fn new(contents: BaseContents) -> VisibleState {
        VisibleState {
            memtable: Memtable::default(),
            immutable: None,
            base: contents.table,
            applied: contents.applied,
            membership: contents.membership.into(),
        }
    }
}

/// The messages between the flusher and the threads that wait for it.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Since when the memtable has writes.
    pub(super) dirty_since: Option<Instant>,
    /// True while the memtable is full.
    pub(super) full: bool,
    /// True when a thread asks for a flush.
    pub(super) flush: bool,
    pub(super) closing: bool,
    /// Position of the last entry in the durable base.
    pub(super) durable: u64,
    pub(super) commits: u64,
    pub(super) failed: Option<StoreError>,
}

/// The shared state. Locks are taken in the order base, state, control.
pub(super) struct StoreCore {
    /// Locked by a commit, and by the replacement of the base.
    pub(super) base: Mutex<Base>,
    pub(super) state: RwLock<VisibleState>,
    pub(super) control: Mutex<Control>,
    /// Wakes the flusher.
    pub(super) work: Condvar,
    /// Wakes the threads that wait for the flusher.
    pub(super) progress: Condvar,
    pub(super) options: StoreOptions,
    pub(super) health: Arc<BaseHealth>,
}

impl StoreCore {
    /// Takes the write lock for the flusher, which is in no hurry. A waiting writer makes all new readers
    /// queue, so the flusher first tries to come between them.
    pub(super) fn write_politely(&self) -> RwLockWriteGuard<'_, VisibleState> {
        let start = Instant::now();
        while start.elapsed() < POLITE_SWAP {
            if let Some(guard) = self.state.try_write() {
                return guard;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.state.write()
    }

    /// Returns true for a memtable that takes no further writes before a flush.
    pub(super) fn is_full(&self, memtable: &Memtable) -> bool {
        memtable.len() >= self.options.memtable_keys_max
            || memtable.bytes() >= self.options.memtable_bytes_max
    }
}
