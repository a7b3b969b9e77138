//! Whole blocks kept after reading, and the reads of whole blocks under way, so that many small reads of one
//! block fetch it once. Blocks never change, so nothing here can be stale.
//!
//! Invariant: the bytes of finished blocks stay under the limit (the newest one is kept even alone).

use bytes::Bytes;
use rain_types::BlockId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

#[derive(Debug)]
pub(super) struct BlockCache {
    bytes_max: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<BlockId, Slot>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    cell: Arc<OnceCell<Bytes>>,
    /// Bytes counted for it: 0 until it is read.
    bytes: u64,
    used: u64,
}

impl BlockCache {
    pub(super) fn new(bytes_max: u64) -> BlockCache {
        BlockCache { bytes_max, inner: Mutex::default() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block if it is here.
    pub(super) fn get(&self, block: BlockId) -> Option<Bytes> {
        let mut inner = self.inner();
        inner.clock += 1;
        let clock = inner.clock;
        let slot = inner.slots.get_mut(&block)?;
        slot.used = clock;
        slot.cell.get().cloned()
    }

    /// Whether the block is here or on its way.
    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.inner().slots.contains_key(&block)
    }

    /// The cell to read the block into; everybody who wants the block gets the same.
    pub(super) fn cell(&self, block: BlockId) -> Arc<OnceCell<Bytes>> {
        let mut inner = self.inner();
        inner.clock += 1;
        let used = inner.clock;
        let slot = inner.slots.entry(block).or_insert_with(|| Slot { cell: Arc::default(), bytes: 0, used });
        slot.used = used;
        slot.cell.clone()
    }

    /// Counts a block that was read, and drops the least recently used ones over the limit.
    pub(super) fn settle(&self, block: BlockId) {
        let mut inner = self.inner();
        let Some(slot) = inner.slots.get_mut(&block) else { return };
        let now = slot.cell.get().map_or(0, |data| data.len() as u64);
        let before = std::mem::replace(&mut slot.bytes, now);
        inner.bytes = inner.bytes + now - before;
        while inner.bytes > self.bytes_max {
            let oldest = inner
                .slots
                .iter()
                .filter(|(id, slot)| **id != block && slot.bytes > 0)
                .min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
            if let Some(slot) = inner.slots.remove(&oldest) {
                inner.bytes -= slot.bytes;
            }
        }
    }

    /// Forgets a read that failed, so that the next one begins anew.
    pub(super) fn forget_failed(&self, block: BlockId) {
        let mut inner = self.inner();
        if inner.slots.get(&block).is_some_and(|slot| slot.cell.get().is_none()) {
            inner.slots.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_types::SessionId;

    fn id(seq: u64) -> BlockId {
        BlockId { session: SessionId(1), seq }
    }

    #[test]
    fn the_cache_stays_under_its_limit_and_keeps_what_was_used_last() {
        let cache = BlockCache::new(3000);
        for seq in 1..=5 {
            cache.cell(id(seq)).set(Bytes::from(vec![0; 1000])).expect("empty");
            cache.settle(id(seq));
            assert!(cache.get(id(1)).is_some(), "used again and again");
        }
        assert!(cache.inner().bytes <= 3000);
        assert!(cache.get(id(5)).is_some() && cache.get(id(2)).is_none());
    }

    #[test]
    fn a_failed_read_leaves_nothing() {
        let cache = BlockCache::new(10);
        cache.cell(id(1));
        cache.forget_failed(id(1));
        assert!(cache.inner().slots.is_empty());
    }
}
