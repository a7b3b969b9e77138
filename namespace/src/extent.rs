//! Arithmetic of extents: the remains of an extent when a range of the file is removed, and a map of extents
//! for caches. `apply` and the clients trim with the same function.
//!
//! Invariant: the extents of a map never overlap (`a_map_shows_what_was_put_in_last`).

use crate::record::Extent;
use std::collections::BTreeMap;
use std::ops::Range;

/// Returns the remains of an extent before and after the bytes `from..to`.
pub fn without(extent: &Extent, from: u64, to: u64) -> [Option<Extent>; 2] {
    let before = (extent.offset < from)
        .then(|| Extent { len: (extent.end().min(from) - extent.offset) as u32, ..*extent });
    let after = (extent.end() > to).then(|| {
        let start = extent.offset.max(to);
        let cut = (start - extent.offset) as u32;
        Extent { offset: start, len: extent.len - cut, block_offset: extent.block_offset + cut, ..*extent }
    });
    [before, after]
}

/// A range of a file: data in a block, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Data in a block.
    Data(Extent),
    /// No block: the range reads as inline data, else as zeros.
    Hole {
        /// First byte in the file.
        offset: u64,
        /// Length in bytes, never 0.
        len: u64,
    },
}

/// Extents by offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtentMap {
    extents: BTreeMap<u64, Extent>,
}

impl ExtentMap {
    /// Returns the number of extents.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Returns whether the map has no extent.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Returns the extents that overlap a range, in order, untrimmed.
    pub fn overlapping(&self, range: Range<u64>) -> Vec<Extent> {
        let first = self.extents.range(..=range.start).next_back().map_or(range.start, |(offset, _)| *offset);
        if first >= range.end {
            return Vec::new();
        }
        self.extents
            .range(first..range.end)
            .map(|(_, extent)| *extent)
            .filter(|extent| extent.end() > range.start)
            .collect()
    }

    /// Returns the extents and holes that cover `range`, cut to it, in order and without a gap.
    pub fn range(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        for extent in self.overlapping(range.clone()) {
            let [_, extent] = without(&extent, 0, range.start);
            let Some([Some(extent), _]) = extent.map(|extent| without(&extent, range.end, u64::MAX)) else {
                continue;
            };
            if extent.offset > at {
                pieces.push(Piece::Hole { offset: at, len: extent.offset - at });
            }
            at = extent.end();
            pieces.push(Piece::Data(extent));
        }
        if at < range.end {
            pieces.push(Piece::Hole { offset: at, len: range.end - at });
        }
        pieces
    }

    /// Adds an extent; extents that it overlaps are trimmed.
    pub fn insert(&mut self, extent: Extent) {
        self.punch(extent.offset, extent.end());
        self.extents.insert(extent.offset, extent);
    }

    /// Removes the bytes `from..to`.
    pub fn punch(&mut self, from: u64, to: u64) {
        for old in self.overlapping(from..to) {
            self.extents.remove(&old.offset);
            for left in without(&old, from, to).into_iter().flatten() {
                self.extents.insert(left.offset, left);
            }
        }
    }

    /// Removes all bytes from `size` on.
    pub fn truncate(&mut self, size: u64) {
        self.punch(size, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rain_types::{BlockId, GroupId, SessionId};

    fn extent(offset: u64, len: u32, block: u64) -> Extent {
        let block = BlockId { session: SessionId(1), seq: block };
        Extent { offset, len, block, block_offset: 5, block_len: 1000, group: GroupId(0) }
    }

    #[test]
    fn the_middle_taken_out_leaves_both_ends_at_their_places_in_the_block() {
        let [before, after] = without(&extent(100, 50, 1), 110, 130);
        assert_eq!(before, Some(extent(100, 10, 1)));
        assert_eq!(after, Some(Extent { offset: 130, len: 20, block_offset: 35, ..extent(0, 1, 1) }));
        assert_eq!(without(&extent(100, 50, 1), 0, 1000), [None, None]);
    }

    proptest! {
        /// Compares the map with an array of bytes, each with its block and its offset in the block.
        #[test]
        fn a_map_shows_what_was_put_in_last(
            steps in prop::collection::vec((0u64..300, 1u32..100, 0u8..4), 1..40),
            from in 0u64..400,
            len in 0u64..200,
        ) {
            let mut map = ExtentMap::default();
            let mut bytes = vec![None; 400];
            for (step, (offset, len, what)) in steps.into_iter().enumerate() {
                let (from, to) = (offset as usize, offset as usize + len as usize);
                match what {
                    0 => {
                        map.punch(offset, to as u64);
                        bytes[from..to].fill(None);
                    }
                    1 => {
                        map.truncate(offset);
                        bytes[from..].fill(None);
                    }
                    _ => {
                        map.insert(extent(offset, len, step as u64));
                        for (at, byte) in bytes[from..to].iter_mut().enumerate() {
                            *byte = Some((step as u64, 5 + at as u32));
                        }
                    }
                }
            }
            bytes.resize(700, None);
            let mut at = from;
            for piece in map.range(from..from + len) {
                let (offset, len) = match piece {
                    Piece::Data(extent) => (extent.offset, u64::from(extent.len)),
                    Piece::Hole { offset, len } => (offset, len),
                };
                prop_assert_eq!(offset, at);
                prop_assert!(len > 0);
                for inside in 0..len {
                    let shows = match piece {
                        Piece::Data(extent) => Some((extent.block.seq, extent.block_offset + inside as u32)),
                        Piece::Hole { .. } => None,
                    };
                    prop_assert_eq!(shows, bytes[(offset + inside) as usize]);
                }
                at += len;
            }
            prop_assert_eq!(at, from + len);
        }
    }
}
