//! The block cache: whole blocks kept after reading, and the reads of whole blocks under way. Many small
//! reads of one block fetch it once. Blocks never change, so a cached block is never stale.
//!
//! Invariants:
//! 1. The bytes of finished blocks stay under the limit
//!    (`the_cache_stays_under_its_limit_and_keeps_what_was_used_last`).
//! 2. A read that failed leaves nothing (`a_failed_read_leaves_nothing`).

use crate::options::BLOCK_BYTES_MAX;
use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use rain_types::BlockId;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The part of the cache for blocks that were read more than once. The other half is for new blocks: several
/// sequential readers, each some blocks ahead of its program, must not push out what they have fetched and
/// not read.
const HOT_PART: f64 = 0.5;

/// Blocks for which the cache allocates its tables at least.
const BLOCKS_MIN: usize = 16;

/// The cell into which a block is read; every reader of the block shares it.
type BlockCell = Arc<OnceCell<Bytes>>;

#[derive(Debug, Clone)]
struct Slot {
    cell: BlockCell,
    /// The block's length in bytes; 0 while its read is under way. The cache never evicts a slot of 0 bytes.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct SlotBytes;

impl Weighter<BlockId, Slot> for SlotBytes {
    fn weight(&self, _: &BlockId, slot: &Slot) -> u64 {
        slot.bytes
    }
}

type Slots = Cache<BlockId, Slot, SlotBytes, DefaultHashBuilder, DefaultLifecycle<BlockId, Slot>>;

#[derive(Debug)]
pub(super) struct BlockCache(Mutex<Slots>);

impl BlockCache {
    pub(super) fn new(bytes_max: u64) -> BlockCache {
        let blocks = (bytes_max / BLOCK_BYTES_MAX as u64) as usize;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(blocks.max(BLOCKS_MIN))
            .weight_capacity(bytes_max)
            .hot_allocation(HOT_PART)
            .build()
            .expect("the options are complete");
        let slots = Cache::with_options(
            options,
            SlotBytes,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        BlockCache(Mutex::new(slots))
    }

    /// The block, if it is in the cache.
    pub(super) fn get(&self, block: BlockId) -> Option<Bytes> {
        self.0.lock().get(&block)?.cell.get().cloned()
    }

    /// Whether the block is in the cache or being read.
    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.0.lock().contains_key(&block)
    }

    /// The cell to read the block into. All readers of a block get the same cell.
    pub(super) fn cell(&self, block: BlockId) -> BlockCell {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(&block) {
            return slot.cell.clone();
        }
        let cell = BlockCell::default();
        slots.insert(block, Slot { cell: cell.clone(), bytes: 0 });
        cell
    }

    /// Counts the bytes of a block that was read; older blocks give way to it.
    pub(super) fn settle(&self, block: BlockId) {
        let mut slots = self.0.lock();
        let Some(slot) = slots.peek(&block) else { return };
        let bytes = slot.cell.get().map_or(0, |data| data.len() as u64);
        if bytes != slot.bytes {
            let slot = Slot { cell: slot.cell.clone(), bytes };
            slots.insert(block, slot);
        }
    }

    /// Removes a read that failed, so that the next reader starts anew.
    pub(super) fn forget_failed(&self, block: BlockId) {
        self.0.lock().remove_if(&block, |slot| slot.cell.get().is_none());
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
        assert!(cache.0.lock().weight() <= 3000);
        assert!(cache.get(id(5)).is_some() && cache.get(id(2)).is_none());
    }

    #[test]
    fn a_failed_read_leaves_nothing() {
        let cache = BlockCache::new(10);
        cache.cell(id(1));
        cache.forget_failed(id(1));
        assert!(cache.0.lock().is_empty());
    }
}
