//! A set of byte ranges, for the parts of a file whose layout is known. Pure.
//!
//! [`rangemap::RangeSet`] keeps the ranges disjoint and joins those that touch. This wrapper allows empty
//! ranges, which rangemap refuses by a panic.

use std::ops::Range;

/// A set of `u64` positions kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(rangemap::RangeSet<u64>);

impl RangeSet {
    /// Adds a range.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.0.insert(range);
        }
    }

    /// The first position of `range` that is not in the set.
    pub(crate) fn first_gap(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        self.0.gaps(&range).next().map(|gap| gap.start)
    }

    /// Removes all ranges.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_behaves_like_a_set_of_positions(
            inserts in proptest::collection::vec((0u64..60, 0u64..20), 0..30),
            probe in 0u64..70, len in 0u64..20,
        ) {
            let mut set = RangeSet::default();
            let mut model = [false; 100];
            for (start, len) in inserts {
                set.insert(start..start + len);
                model[start as usize..(start + len) as usize].fill(true);
            }
            let expected = (probe..probe + len).find(|at| !model[*at as usize]);
            prop_assert_eq!(set.first_gap(probe..probe + len), expected);
            let mut last = None;
            for range in set.0.iter() {
                prop_assert!(range.start < range.end);
                prop_assert!(last.is_none_or(|last| last < range.start));
                last = Some(range.end);
            }
        }
    }
}
