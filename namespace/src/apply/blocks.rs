//! Blocks: their records, missing shares, moves between groups, and garbage.
//!
//! Invariants ([`crate::check`]): a block's `live` is the sum of its extents, a block with `live` 0 is
//! garbage, and the counters and the lists by margin and by group agree with the records.

use super::DONE;
use super::table::Table;
use super::table::counters::{BLOCKS, BLOCKS_MISSING, BLOCKS_WITHOUT_MARGIN, GARBAGE, SHARES_MISSING};
use crate::command::{Applied, MovedBlock, SharesOf};
use crate::error::NsError;
use crate::key;
use crate::placement::moving;
use crate::record::{BlockRecord, GarbageRecord, VolumeRecord};
use rain_types::{BlockId, CodeSpec, VolumeId};
use std::collections::BTreeMap;

/// Largest number of blocks that one command moves, so that one entry of the log stays short.
const MOVED_MAX: usize = 4096;

/// Returns the available shares minus k, plus 128: 128 means no margin. The list of missing shares is ordered
/// by it.
pub(crate) fn margin(code: CodeSpec, missing: u64) -> u8 {
    let there = code.n() as i64 - i64::from(missing.count_ones());
    (128 + there - i64::from(code.k)).clamp(0, 255) as u8
}

impl Table<'_> {
    pub(super) fn add_block(&mut self, id: BlockId, record: &BlockRecord) {
        self.write(&key::block(id), record);
        self.kv.put(&key::in_group(record.volume, record.group, id), &[]);
        self.count(BLOCKS, 1);
        self.count_missing(id, record, 1);
    }

    /// Adds a block with missing shares to the list and the counters (`sign` 1), or removes it (`sign` -1).
    fn count_missing(&mut self, id: BlockId, record: &BlockRecord, sign: i64) {
        if record.missing == 0 {
            return;
        }
        let margin = margin(self.code(record.volume), record.missing);
        let key = key::missing(margin, id);
        if sign > 0 {
            self.kv.put(&key, &[]);
        } else {
            self.kv.delete(&key);
        }
        self.count(BLOCKS_MISSING, sign);
        self.count(SHARES_MISSING, sign * i64::from(record.missing.count_ones()));
        if margin <= 128 {
            self.count(BLOCKS_WITHOUT_MARGIN, sign);
        }
    }

    /// Adds `bytes` to a block's live bytes: more extents use it.
    pub(super) fn retain_bytes(&mut self, id: BlockId, bytes: u64) {
        let mut record = self.block(id).expect("an extent's block is there");
        record.live += bytes;
        self.write(&key::block(id), &record);
    }

    /// Removes `bytes` from a block's live bytes; a block without live bytes becomes garbage.
    pub(super) fn release_bytes(&mut self, id: BlockId, bytes: u64) {
        let mut record = self.block(id).expect("an extent's block is there");
        record.live = record.live.checked_sub(bytes).expect("a block shows at least what its extents show");
        if record.live > 0 {
            self.write(&key::block(id), &record);
            return;
        }
        self.kv.delete(&key::block(id));
        self.kv.delete(&key::in_group(record.volume, record.group, id));
        self.count(BLOCKS, -1);
        self.count_missing(id, &record, -1);
        let shares = self.code(record.volume).n();
        let remaining = u64::MAX >> (64 - shares);
        let garbage = GarbageRecord { volume: record.volume, group: record.group, remaining };
        self.write(&key::garbage(id), &garbage);
        self.count(GARBAGE, 1);
    }

    pub(super) fn mark(&mut self, shares: &[SharesOf], missing: bool) -> Applied {
        for SharesOf { block: id, group, bits } in shares {
            let Some(old) = self.block(*id).filter(|block| block.group == *group) else { continue };
            let all = u64::MAX >> (64 - self.code(old.volume).n());
            let bits = bits & all;
            let mut new = old.clone();
            new.missing = if missing { old.missing | bits } else { old.missing & !bits };
            self.change_block(*id, &old, &new);
        }
        DONE
    }

    fn change_block(&mut self, id: BlockId, old: &BlockRecord, new: &BlockRecord) {
        if new == old {
            return;
        }
        self.count_missing(id, old, -1);
        self.write(&key::block(id), new);
        self.count_missing(id, new, 1);
    }

    pub(super) fn move_blocks(&mut self, blocks: &[MovedBlock]) -> Applied {
        if blocks.len() > MOVED_MAX {
            return Err(NsError::Invalid(format!(
                "{} blocks move at once, at most {MOVED_MAX}",
                blocks.len()
            )));
        }
        let mut volumes: BTreeMap<VolumeId, VolumeRecord> = BTreeMap::new();
        for MovedBlock { id, from, to } in blocks {
            let Some(old) = self.block(*id).filter(|block| block.group == *from) else { continue };
            let volume = volumes.entry(old.volume).or_insert_with(|| self.volume(old.volume));
            let nodes = (volume.nodes_of(*from), volume.nodes_of(*to));
            let (Some(before), Some(after)) = nodes else { continue };
            if from == to || volume.open_of(*from) != Some(*to) {
                continue;
            }
            let new = BlockRecord { group: *to, missing: old.missing & !moving(before, after), ..old };
            self.kv.delete(&key::in_group(old.volume, *from, *id));
            self.kv.put(&key::in_group(old.volume, *to, *id), &[]);
            self.change_block(*id, &old, &new);
        }
        DONE
    }

    pub(super) fn reclaimed(&mut self, shares: &[(BlockId, u64)]) -> Applied {
        for (id, bits) in shares {
            let Some(mut record) = self.read::<GarbageRecord>(&key::garbage(*id)) else { continue };
            record.remaining &= !bits;
            if record.remaining == 0 {
                self.kv.delete(&key::garbage(*id));
                self.count(GARBAGE, -1);
            } else {
                self.write(&key::garbage(*id), &record);
            }
        }
        DONE
    }
}
