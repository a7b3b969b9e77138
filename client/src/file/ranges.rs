//! A set of byte ranges: which stretches of something are known. Pure.
//!
//! Invariant: ranges are non-empty, disjoint, and never touch each other.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of `u64` positions kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range; what it touches or overlaps joins it.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let joined: Vec<u64> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|(_, stop)| **stop >= start)
            .map(|(from, _)| *from)
            .collect();
        for from in joined {
            if let Some(stop) = self.ranges.remove(&from) {
                start = start.min(from);
                end = end.max(stop);
            }
        }
        self.ranges.insert(start, end);
    }

    /// The first position of `range` that is not in the set.
    pub(crate) fn first_gap(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        match self.ranges.range(..=range.start).next_back() {
            Some((_, stop)) if *stop > range.start => (*stop < range.end).then_some(*stop),
            _ => Some(range.start),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
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
            for (start, end) in &set.ranges {
                prop_assert!(start < end);
                prop_assert!(last.is_none_or(|last| last < *start));
                last = Some(*end);
            }
        }
    }
}
