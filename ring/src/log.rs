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
    pub entries: Vec<Entry>,
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
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The epoch of the entry at an index, if that is known here.
    pub fn epoch_at(&self, index: u64) -> Option<Epoch> {
        if index == self.base { Some(self.base_epoch) } else { self.get(index).map(|entry| entry.epoch) }
    }

    /// Index and epoch of the last entry.
    pub fn last_place(&self) -> Place {
        let last = self.last();
        Place { index: last, epoch: self.epoch_at(last).unwrap_or_default() }
    }

    /// Whether a log that has this entry is the same up to it (entries are made by the holders of one token, in order).
    pub fn holds(&self, place: Place) -> bool {
        self.epoch_at(place.index) == Some(place.epoch)
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

    /// Takes over a newer window. Entries up to its base stay as they are; false if some between are missing.
    pub(crate) fn take(&mut self, window: LogWindow) -> bool {
        if window.base > self.last() || window.base < self.base {
            let whole = window.base <= self.last();
            *self = window;
            return whole;
        }
        self.entries.truncate((window.base - self.base) as usize);
        self.entries.extend(window.entries);
        self.committed = self.committed.max(window.committed);
        true
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
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
        let of = |entry: &Entry| match &entry.content {
            Content::Change { origin, id, .. } if *origin == Member { node, incarnation } => *id,
            _ => 0,
        };
        self.entries.iter().map(of).max().unwrap_or(0)
    }

    /// Bytes of changes, for bounding the token.
    pub(crate) fn bytes(&self) -> usize {
        let of = |entry: &Entry| match &entry.content {
            Content::View(members) => members.len() * 16,
            Content::Change { change, .. } => change.bytes(),
        };
        self.entries.iter().map(of).sum()
    }
}
