//! The ordered log that travels with the token: multicast messages and changes of shared data.
//!
//! The token's holder appends; every member copies what it lacks. An entry is *committed* once a majority of the eligible nodes
//! has held the token of this very epoch with it: then any later primary ring has it, because its founder has the newest
//! copy among a majority (the argument of Raft's commitment rule, with tokens in place of terms). It leaves the token when every
//! member has it.

use crate::epoch::Epoch;
use crate::shared::Change;
use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An entry's place: with the epoch, because one index may have had another entry in a ring that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Place {
    /// Its index, from 1; 0 is before the first.
    pub index: u64,
    /// Its epoch.
    pub epoch: Epoch,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Of the holder that appended it: tells two entries with one index apart.
    pub epoch: Epoch,
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Content {
    /// A primary ring was founded with these members: the first entry of its epoch.
    View(Vec<Member>),
    /// A member's change.
    Change {
        /// Whose.
        origin: Member,
        /// Counted by the origin in this incarnation from 1.
        id: u64,
        /// What.
        change: Change,
    },
}

/// Entries without gaps, and how far they are committed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogWindow {
    /// Index of the entry before the first here; all up to it are committed and with every member.
    pub base: u64,
    /// Epoch of the entry at `base`.
    pub base_epoch: Epoch,
    /// The entries `base + 1 ..`.
    pub entries: Vec<Arc<Entry>>,
    /// Index of the last committed entry.
    pub committed: u64,
}

impl LogWindow {
    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The entry at an index, if it is here.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(Arc::as_ref)
    }

    /// The epoch of the entry at an index, if that is known here.
    pub fn epoch_at(&self, index: u64) -> Option<Epoch> {
        if index == self.base { Some(self.base_epoch) } else { self.get(index).map(|entry| entry.epoch) }
    }

    /// The log in short: where it begins, and the last entry of each epoch in it.
    pub fn runs(&self) -> Vec<Place> {
        let mut runs = vec![Place { index: self.base, epoch: self.base_epoch }];
        for (at, entry) in self.entries.iter().enumerate() {
            let place = Place { index: self.base + 1 + at as u64, epoch: entry.epoch };
            match runs.last_mut() {
                Some(last) if at > 0 && last.epoch == entry.epoch => *last = place,
                _ => runs.push(place),
            }
        }
        runs
    }

    /// The last index up to which another log, given by its runs, is the same as this one; none if they have nothing in
    /// common here. Two logs that have an entry of one index and epoch in common are the same up to it: entries are made by the
    /// holders of one token, one after the other.
    pub fn common(&self, runs: &[Place]) -> Option<u64> {
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

    /// The part after `base`.
    pub(crate) fn after(&self, base: u64) -> LogWindow {
        let skip = base.saturating_sub(self.base) as usize;
        LogWindow {
            base: base.max(self.base),
            base_epoch: self.epoch_at(base).unwrap_or(self.base_epoch),
            entries: self.entries.iter().skip(skip).cloned().collect(),
            committed: self.committed,
        }
    }

    /// Whether there is nothing missing between this log and a newer window.
    pub(crate) fn reaches(&self, window: &LogWindow) -> bool {
        window.base <= self.last()
    }

    /// Takes over a newer window, which it reaches. Entries up to the window's base stay as they are.
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

    /// Forgets entries up to `index`, as far as they are here.
    pub(crate) fn trim(&mut self, index: u64) {
        let drop = index.min(self.last()).saturating_sub(self.base);
        self.base_epoch = self.epoch_at(self.base + drop).unwrap_or(self.base_epoch);
        self.entries.drain(..drop as usize);
        self.base += drop;
    }

    /// The highest id that an origin has in here.
    pub(crate) fn last_id_of(&self, node: NodeId, incarnation: u64) -> u64 {
        let of = |entry: &Arc<Entry>| match &entry.content {
            Content::Change { origin, id, .. } if *origin == Member { node, incarnation } => *id,
            _ => 0,
        };
        self.entries.iter().map(of).max().unwrap_or(0)
    }

    /// Bytes of changes, for bounding the token.
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
