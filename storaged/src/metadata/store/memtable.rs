//! Writes in memory that the base does not have yet.

use super::AppliedPosition;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// Bytes that a map's node, two vectors and the allocator add to a pair: an estimate, for the limit on
/// memory.
const PAIR_OVERHEAD: usize = 112;

/// Writes in the order of their keys. The value `None` is a tombstone: the key is removed.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    map: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// The last entry whose writes are here.
    last: AppliedPosition,
    /// The membership, if an entry here has changed it.
    membership: Option<Arc<[u8]>>,
}

/// A range of a memtable.
pub(super) type MemtableRange<'a> = Peekable<btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>>;

fn value_len(value: &Option<Vec<u8>>) -> usize {
    value.as_ref().map_or(0, Vec::len)
}

impl Memtable {
    /// Writes a pair, or a tombstone.
    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match self.map.entry(key) {
            btree_map::Entry::Occupied(mut pair) => {
                self.bytes += value_len(&value);
                self.bytes -= value_len(pair.get());
                pair.insert(value);
            }
            btree_map::Entry::Vacant(pair) => {
                self.bytes += pair.key().len() + value_len(&value) + PAIR_OVERHEAD;
                pair.insert(value);
            }
        }
    }

    /// Takes over the writes of a newer memtable.
    pub(super) fn absorb(&mut self, newer: Memtable) {
        for (key, value) in newer.map {
            self.set(key, value);
        }
    }

    /// Notes the last entry whose writes are here.
    pub(super) fn set_last(&mut self, last: AppliedPosition) {
        self.last = last;
    }

    pub(super) fn last(&self) -> AppliedPosition {
        self.last
    }

    pub(super) fn set_membership(&mut self, membership: Arc<[u8]>) {
        self.membership = Some(membership);
    }

    pub(super) fn membership(&self) -> Option<&[u8]> {
        self.membership.as_deref()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns the bytes in use, estimated.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        self.map.iter()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.map.get(key)
    }

    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> MemtableRange<'_> {
        self.map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable()
    }
}
