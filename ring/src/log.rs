//! The ordered log that travels with the token: multicast messages and changes of shared data.
//!
//! The token's holder appends entries, and every member copies the entries that it lacks. An entry is
//! *committed* once a majority of the eligible nodes has held the token of this very epoch with the entry.
//! Then every later primary ring has it, because its founder has the newest copy among a majority. This is
//! the argument of Raft's commitment rule, with tokens in place of terms. The entry leaves the token when
//! every member has it.
//!
//! Held by `what_two_logs_have_in_common_is_found`, `a_window_replaces_what_comes_after_its_base`, and the
//! property "what is committed stays" of `ring/tests/model`.

use crate::change::Change;
use crate::epoch::Epoch;
use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A position in the log. The epoch is part of it, because an abandoned ring may have had another entry at
/// the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// Index of the entry, from 1; 0 is before the first.
    pub index: u64,
    /// Epoch of the entry.
    pub epoch: Epoch,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Epoch of the holder that appended the entry; it distinguishes two entries at one index.
    pub epoch: Epoch,
    /// Content of the entry.
    pub content: Content,
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Content {
    /// The foundation of a primary ring with these members: the first entry of its epoch.
    View(Vec<Member>),
    /// A change by a member.
    Change {
        /// Member that submitted the change.
        origin: Member,
        /// Number of the change, counted by the origin from 1 in each incarnation.
        id: u64,
        /// The change.
        change: Change,
    },
}

/// A contiguous part of the log, and the commit index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogWindow {
    /// Index before the first entry here; all entries up to it are committed and at every member.
    pub base: u64,
    /// Epoch of the entry at `base`.
    pub base_epoch: Epoch,
    /// Entries from `base + 1` on.
    pub entries: Vec<Arc<Entry>>,
    /// Index of the last committed entry.
    pub committed: u64,
}

impl LogWindow {
    /// Returns the index of the last entry.
    pub fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Returns the entry at an index, if it is here.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(Arc::as_ref)
    }

    /// Returns the epoch of the entry at an index, if it is known here.
    pub fn epoch_at(&self, index: u64) -> Option<Epoch> {
        if index == self.base { Some(self.base_epoch) } else { self.get(index).map(|entry| entry.epoch) }
    }

    /// Returns a summary of the log: its base, and the last entry of each epoch.
    pub fn runs(&self) -> Vec<LogPosition> {
        let mut runs = vec![LogPosition { index: self.base, epoch: self.base_epoch }];
        for (at, entry) in self.entries.iter().enumerate() {
            let place = LogPosition { index: self.base + 1 + at as u64, epoch: entry.epoch };
            match runs.last_mut() {
                Some(last) if at > 0 && last.epoch == entry.epoch => *last = place,
                _ => runs.push(place),
            }
        }
        runs
    }

    /// Returns the last index up to which another log, given by its runs, equals this one; `None` if the
    /// windows have nothing in common. Two logs that share an entry of one index and epoch are equal up to
    /// it, because the holders of one token append the entries one after the other.
    pub fn common(&self, runs: &[LogPosition]) -> Option<u64> {
        for at in (0..runs.len()).rev() {
            let from = if at == 0 { runs[0].index } else { runs[at - 1].index + 1 };
            let last = runs[at].index.min(self.last());
            let first = from.max(self.base);
            if let Some(index) =
                (first..=last).rev().find(|index| self.epoch_at(*index) == Some(runs[at].epoch))
            {
                return Some(index);
            }
        }
        None
    }

    /// Returns the part of the log after `base`.
    pub(crate) fn after(&self, base: u64) -> LogWindow {
        let skip = base.saturating_sub(self.base) as usize;
        LogWindow {
            base: base.max(self.base),
            base_epoch: self.epoch_at(base).unwrap_or(self.base_epoch),
            entries: self.entries.iter().skip(skip).cloned().collect(),
            committed: self.committed,
        }
    }

    /// Returns whether no entry is missing between this log and a newer window.
    pub(crate) fn reaches(&self, window: &LogWindow) -> bool {
        window.base <= self.last()
    }

    /// Replaces everything after the base of a newer window by the window. No entry may be missing in
    /// between. Entries up to the window's base stay.
    pub(crate) fn take(&mut self, window: LogWindow) {
        if window.base < self.base {
            *self = window;
            return;
        }
        self.entries.truncate((window.base - self.base) as usize);
        self.entries.extend(window.entries);
        self.committed = self.committed.max(window.committed);
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(Arc::new(entry));
    }

    /// Drops entries up to `index`, as far as they are here.
    pub(crate) fn trim(&mut self, index: u64) {
        let drop = index.min(self.last()).saturating_sub(self.base);
        self.base_epoch = self.epoch_at(self.base + drop).unwrap_or(self.base_epoch);
        self.entries.drain(..drop as usize);
        self.base += drop;
    }

    /// Returns the highest change id of an origin in this log; 0 for none.
    pub(crate) fn last_id_of(&self, node: NodeId, incarnation: u64) -> u64 {
        let of = |entry: &Arc<Entry>| match &entry.content {
            Content::Change { origin, id, .. } if *origin == Member { node, incarnation } => *id,
            _ => 0,
        };
        self.entries.iter().map(of).max().unwrap_or(0)
    }

    /// Returns the size of the changes in bytes, which bounds the token.
    pub(crate) fn bytes(&self) -> usize {
        let of = |entry: &Arc<Entry>| match &entry.content {
            Content::View(members) => members.len() * 16,
            Content::Change { change, .. } => change.bytes(),
        };
        self.entries.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(base: (u64, u64), epochs: &[u64]) -> LogWindow {
        let epoch = |number| Epoch { number, founder: NodeId(1) };
        let entries =
            epochs.iter().map(|number| Entry { epoch: epoch(*number), content: Content::View(Vec::new()) });
        let entries = entries.map(Arc::new).collect();
        LogWindow { base: base.0, base_epoch: epoch(base.1), entries, committed: base.0 }
    }

    #[test]
    fn what_two_logs_have_in_common_is_found() {
        let mine = log((10, 1), &[1, 2, 2, 3]);
        for (theirs, common) in [
            (log((10, 1), &[1, 2, 2, 3]), Some(14)),
            (log((8, 1), &[1, 1, 1, 2]), Some(12)),
            (log((8, 1), &[1, 1, 1, 2, 2, 2, 2]), Some(13)),
            (log((10, 1), &[1, 5, 5]), Some(11)),
            (log((10, 1), &[5]), Some(10)),
            (log((12, 2), &[2, 3, 3]), Some(14)),
            (log((4, 1), &[1, 1]), None),
            (log((20, 3), &[3]), None),
            (log((12, 9), &[9]), None),
        ] {
            assert_eq!(mine.common(&theirs.runs()), common, "{theirs:?}");
        }
        assert_eq!(mine.runs().iter().map(|place| place.index).collect::<Vec<_>>(), [10, 11, 13, 14]);
    }

    #[test]
    fn a_window_replaces_what_comes_after_its_base() {
        let mut mine = log((10, 1), &[1, 2, 2, 3]);
        mine.take(log((12, 2), &[4, 4, 4]));
        assert_eq!(
            (mine.base, mine.last(), mine.epoch_at(12), mine.epoch_at(13)),
            (10, 15, log((0, 2), &[]).epoch_at(0), log((0, 4), &[]).epoch_at(0))
        );
        assert!(!mine.reaches(&log((20, 5), &[5])), "entries between are missing");
        mine.trim(14);
        assert_eq!((mine.base, mine.base_epoch.number, mine.entries.len()), (14, 4, 1));
    }
}
