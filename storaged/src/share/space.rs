//! The free units of the segments. Pure: in memory only, made from the index at every start.
//!
//! Best fit over runs of free units; a freed run is joined with its neighbours
//! (`what_is_taken_never_overlaps_and_freed_runs_join`). There are no size classes: a share wastes less than
//! a unit, and most shares have one size and fit into the holes of others.

use super::layout::SharePosition;
use std::collections::{BTreeMap, BTreeSet};

/// Free runs by position and by length.
#[derive(Debug, Default)]
pub(super) struct Space {
    by_position: BTreeMap<(u32, u32), u32>,
    by_length: BTreeSet<(u32, u32, u32)>,
}

impl Space {
    /// Adds a run of free units.
    pub(super) fn free(&mut self, position: SharePosition) {
        let SharePosition { segment, mut unit, mut units } = position;
        if units == 0 {
            return;
        }
        if let Some((&(_, before), &length)) =
            self.by_position.range((segment, 0)..(segment, unit)).next_back()
        {
            assert!(before + length <= unit, "units {unit}+{units} of segment {segment} are freed twice");
            if before + length == unit {
                self.take_out(segment, before, length);
                (unit, units) = (before, units + length);
            }
        }
        if let Some((&(_, after), &length)) =
            self.by_position.range((segment, unit)..=(segment, u32::MAX)).next()
        {
            assert!(unit + units <= after, "units {unit}+{units} of segment {segment} are freed twice");
            if unit + units == after {
                self.take_out(segment, after, length);
                units += length;
            }
        }
        self.by_position.insert((segment, unit), units);
        self.by_length.insert((units, segment, unit));
    }

    fn take_out(&mut self, segment: u32, unit: u32, units: u32) {
        self.by_position.remove(&(segment, unit));
        self.by_length.remove(&(units, segment, unit));
    }

    /// Takes the shortest run that is long enough.
    pub(super) fn take(&mut self, units: u32) -> Option<SharePosition> {
        let (length, segment, unit) = self.by_length.range((units, 0, 0)..).next().copied()?;
        self.take_out(segment, unit, length);
        self.free(SharePosition { segment, unit: unit + units, units: length - units });
        Some(SharePosition { segment, unit, units })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_taken_never_overlaps_and_freed_runs_join(sizes in proptest::collection::vec((1u32..20, any::<bool>()), 1..120)) {
            let mut space = Space::default();
            for segment in 1..=2 {
                space.free(SharePosition { segment, unit: 0, units: 256 });
            }
            let mut taken: Vec<SharePosition> = Vec::new();
            for (units, free) in sizes {
                if free && !taken.is_empty() {
                    space.free(taken.swap_remove(units as usize % taken.len()));
                } else if let Some(position) = space.take(units) {
                    prop_assert_eq!(position.units, units);
                    for other in &taken {
                        let apart = other.segment != position.segment
                            || other.unit + other.units <= position.unit
                            || position.unit + position.units <= other.unit;
                        prop_assert!(apart, "{:?} {:?}", other, position);
                    }
                    taken.push(position);
                }
            }
            for position in taken.drain(..) {
                space.free(position);
            }
            prop_assert_eq!(space.by_position.into_iter().collect::<Vec<_>>(), vec![((1, 0), 256), ((2, 0), 256)]);
        }
    }
}
