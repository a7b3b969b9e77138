//! Blocks: in use, missing shares, garbage.

use super::DONE;
use super::table::Table;
use super::table::counters::{BLOCKS, BLOCKS_MISSING, BLOCKS_WITHOUT_MARGIN, GARBAGE, SHARES_MISSING};
use crate::command::Applied;
use crate::key;
use crate::record::{BlockRecord, GarbageRecord};
use rain_types::{BlockId, CodeSpec};

/// Shares there less k, as the missing index orders them: 128 is no margin.
pub(crate) fn margin(code: CodeSpec, missing: u64) -> u8 {
    let there = code.n() as i64 - i64::from(missing.count_ones());
    (128 + there - i64::from(code.k)).clamp(0, 255) as u8
}

impl Table<'_> {
    pub(super) fn add_block(&mut self, id: BlockId, record: &BlockRecord) {
        self.write(&key::block(id), record);
        self.count(BLOCKS, 1);
        self.count_missing(id, record, 1);
    }

    /// Lists a block's missing shares, or takes them off the list.
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

    /// Bytes of a block show no longer; a block that shows nowhere becomes garbage.
    pub(super) fn unshow(&mut self, id: BlockId, bytes: u64) {
        let mut record = self.block(id).expect("an extent's block is there");
        record.live = record.live.checked_sub(bytes).expect("a block shows at least what its extents show");
        if record.live > 0 {
            self.write(&key::block(id), &record);
            return;
        }
        self.kv.delete(&key::block(id));
        self.count(BLOCKS, -1);
        self.count_missing(id, &record, -1);
        let shares = self.code(record.volume).n();
        let remaining = u64::MAX >> (64 - shares);
        let garbage = GarbageRecord { volume: record.volume, group: record.group, remaining };
        self.write(&key::garbage(id), &garbage);
        self.count(GARBAGE, 1);
    }

    pub(super) fn mark(&mut self, shares: &[(BlockId, u64)], missing: bool) -> Applied {
        for (id, bits) in shares {
            let Some(old) = self.block(*id) else { continue };
            let all = u64::MAX >> (64 - self.code(old.volume).n());
            let bits = bits & all;
            let mut new = old.clone();
            new.missing = if missing { old.missing | bits } else { old.missing & !bits };
            if new.missing != old.missing {
                self.count_missing(*id, &old, -1);
                self.write(&key::block(*id), &new);
                self.count_missing(*id, &new, 1);
            }
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
