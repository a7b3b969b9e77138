//! The block cache: whole blocks kept after reading, and the reads of whole blocks under way. Many small reads
//! of one block fetch it once. Blocks never change, so a cached block is never stale.
//!
//! Invariants:
//! 1. The bytes of finished blocks stay under the limit
//!    (`the_cache_stays_under_its_limit_and_keeps_what_was_used_last`).
//! 2. A read that failed leaves nothing (`a_failed_read_leaves_nothing`).
//! 3. A block that was just read is in the cache, however many reads were under way
//!    (`a_block_that_was_just_read_is_kept_whatever_was_read_beside_it`).

use crate::options::BLOCK_BYTES_MAX;
use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use rain_types::BlockId;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The part of the limit that blocks in steady use may fill. The rest is left to blocks that were fetched and
/// not read yet: several sequential readers, each some blocks ahead of its program, must not push them out.
const HOT_PART: f64 = 0.5;

/// Blocks for which the cache allocates its tables at least.
const BLOCKS_MIN: usize = 16;

/// The cell into which a block is read; every reader of the block shares it.
type BlockCell = Arc<OnceCell<Bytes>>;

#[derive(Debug, Clone, Copy)]
struct BlockBytes;

impl Weighter<BlockId, Bytes> for BlockBytes {
    fn weight(&self, _: &BlockId, block: &Bytes) -> u64 {
        block.len() as u64
    }
}

type Finished = Cache<BlockId, Bytes, BlockBytes, DefaultHashBuilder, DefaultLifecycle<BlockId, Bytes>>;

#[derive(Debug)]
struct Inner {
    /// Reads under way. They do not count against the limit.
    reading: HashMap<BlockId, BlockCell>,
    finished: Finished,
}

#[derive(Debug)]
pub(super) struct BlockCache(Mutex<Inner>);

impl BlockCache {
    /// A cache for this many bytes of blocks. A block larger than half of that is not kept.
    pub(super) fn new(bytes_max: u64) -> BlockCache {
        let blocks = (bytes_max / BLOCK_BYTES_MAX as u64) as usize;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(blocks.max(BLOCKS_MIN))
            .weight_capacity(bytes_max)
            .hot_allocation(HOT_PART)
            .build()
            .expect("the options are complete");
        let (hashes, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let finished = Cache::with_options(options, BlockBytes, hashes, lifecycle);
        BlockCache(Mutex::new(Inner { reading: HashMap::new(), finished }))
    }

    /// The block, if it is in the cache.
    pub(super) fn get(&self, block: BlockId) -> Option<Bytes> {
        self.0.lock().finished.get(&block).cloned()
    }

    /// Whether the block is in the cache or being read.
    pub(super) fn contains(&self, block: BlockId) -> bool {
        let inner = self.0.lock();
        inner.finished.contains_key(&block) || inner.reading.contains_key(&block)
    }

    /// The cell to read the block into. All readers of a block get the same cell; it is filled where the block
    /// is in the cache.
    pub(super) fn cell(&self, block: BlockId) -> BlockCell {
        let mut inner = self.0.lock();
        match inner.finished.get(&block) {
            Some(data) => Arc::new(OnceCell::new_with(Some(data.clone()))),
            None => inner.reading.entry(block).or_default().clone(),
        }
    }

    /// Moves a block that was read into the cache; older blocks give way to it.
    pub(super) fn settle(&self, block: BlockId) {
        let mut inner = self.0.lock();
        if let Some(data) = inner.reading.remove(&block).and_then(|cell| cell.get().cloned()) {
            inner.finished.insert(block, data);
        }
    }

    /// Removes a read that failed, so that the next reader starts anew.
    pub(super) fn forget_failed(&self, block: BlockId) {
        let mut inner = self.0.lock();
        if inner.reading.get(&block).is_some_and(|cell| cell.get().is_none()) {
            inner.reading.remove(&block);
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
        assert!(cache.0.lock().finished.weight() <= 3000);
        assert!(cache.get(id(5)).is_some() && cache.get(id(2)).is_none());
    }

    #[test]
    fn a_failed_read_leaves_nothing() {
        let cache = BlockCache::new(10);
        cache.cell(id(1));
        cache.forget_failed(id(1));
        let inner = cache.0.lock();
        assert!(inner.finished.is_empty() && inner.reading.is_empty());
    }

    #[test]
    fn a_block_that_was_just_read_is_kept_whatever_was_read_beside_it() {
        let cache = BlockCache::new(3000);
        let cells: Vec<_> = (1..=3).map(|seq| (id(seq), cache.cell(id(seq)))).collect();
        for (block, cell) in &cells {
            cell.set(Bytes::from(vec![0; 1000])).expect("empty");
            cache.settle(*block);
        }
        for seq in 4..=9 {
            cache.cell(id(seq)).set(Bytes::from(vec![0; 1000])).expect("empty");
            cache.settle(id(seq));
            assert!(cache.get(id(seq)).is_some(), "block {seq}");
        }
    }
}
