//! The newest entries in memory, so that replication and applying do not read them back from the disk.

use super::super::types::Entry;
use super::super::wire;
use std::collections::VecDeque;

/// Bytes of the newest entries in memory: two full entries of the proposer, and those before them that
/// followers may lack.
const RECENT_BYTES: usize = 4 << 20;

/// Bytes that an entry's own fields take, about.
const ENTRY_BYTES: usize = 64;

/// The newest entries, without gaps.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    /// Adds the next entry and drops the oldest ones over the limit; the newest entry always stays.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += wire::payload_len(&entry) + ENTRY_BYTES;
        self.entries.push_back(entry);
        while self.bytes > RECENT_BYTES && self.entries.len() > 1 {
            if let Some(old) = self.entries.pop_front() {
                self.bytes -= wire::payload_len(&old) + ENTRY_BYTES;
            }
        }
    }

    /// Drops the entries from an index on.
    pub(super) fn cut_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= wire::payload_len(&gone) + ENTRY_BYTES;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Recent::default();
    }

    /// Returns the entries of a range, if all of them are here.
    pub(super) fn range(&self, start: u64, end: u64) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let (from, to) = (start.checked_sub(first)? as usize, end.checked_sub(first)? as usize);
        (to <= self.entries.len()).then(|| self.entries.range(from..to).cloned().collect())
    }
}
