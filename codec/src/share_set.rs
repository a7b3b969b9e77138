//! [`ShareSet`]: a set of a block's shares, as a bit set that is `Copy`.
//!
//! Invariant: every member is below [`ShareSet::CAPACITY`]; no code has more shares than that
//! (`sets_behave_like_sets_across_words`).

use std::fmt;

/// A set of share indexes. Every index is below 256.
///
/// ```
/// use rain_codec::ShareSet;
/// let present = ShareSet::all(6).without(1).without(4);
/// assert_eq!(present.iter().collect::<Vec<_>>(), [0, 2, 3, 5]);
/// assert_eq!(present.to_string(), "{0, 2, 3, 5}");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct ShareSet([u64; 4]);

impl ShareSet {
    /// Largest number of shares that a set can represent: one bit each of four words.
    pub const CAPACITY: usize = 256;
    /// The empty set.
    pub const EMPTY: ShareSet = ShareSet([0; 4]);

    /// Returns the set of the shares `0..n`.
    ///
    /// # Panics
    /// When `n` is above [`ShareSet::CAPACITY`].
    pub fn all(n: usize) -> ShareSet {
        assert!(n <= Self::CAPACITY, "{n} shares are more than {}", Self::CAPACITY);
        ShareSet(std::array::from_fn(|word| match n.saturating_sub(word * 64) {
            0 => 0,
            some @ 1..64 => (1 << some) - 1,
            _ => u64::MAX,
        }))
    }

    /// Returns the set in which share i is a member if bit i of `bits` is set.
    pub const fn from_bits_u64(bits: u64) -> ShareSet {
        ShareSet([bits, 0, 0, 0])
    }

    /// Returns the inverse of [`ShareSet::from_bits_u64`]; `None` when a member is 64 or above.
    pub const fn to_bits_u64(self) -> Option<u64> {
        match self.0 {
            [bits, 0, 0, 0] => Some(bits),
            _ => None,
        }
    }

    /// Returns whether `share` is a member.
    pub fn contains(self, share: usize) -> bool {
        share < Self::CAPACITY && self.0[share / 64] >> (share % 64) & 1 == 1
    }

    /// Adds a share.
    ///
    /// # Panics
    /// When `share` is not below [`ShareSet::CAPACITY`].
    pub fn insert(&mut self, share: usize) {
        assert!(share < Self::CAPACITY, "share {share} is not below {}", Self::CAPACITY);
        self.0[share / 64] |= 1 << (share % 64);
    }

    /// Removes a share; a share that is not a member is ignored.
    pub fn remove(&mut self, share: usize) {
        if share < Self::CAPACITY {
            self.0[share / 64] &= !(1 << (share % 64));
        }
    }

    /// Returns this set with `share` added.
    ///
    /// # Panics
    /// When `share` is not below [`ShareSet::CAPACITY`].
    #[must_use]
    pub fn with(mut self, share: usize) -> ShareSet {
        self.insert(share);
        self
    }

    /// Returns this set with `share` removed.
    #[must_use]
    pub fn without(mut self, share: usize) -> ShareSet {
        self.remove(share);
        self
    }

    /// Returns the shares that are in at least one of the two sets.
    #[must_use]
    pub fn union(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Returns the shares that are in both sets.
    #[must_use]
    pub fn intersection(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Returns the members of this set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Returns the `count` lowest members, or all members when there are fewer.
    #[must_use]
    pub fn lowest(self, count: usize) -> ShareSet {
        self.iter().take(count).collect()
    }

    /// Returns whether every member is also in `other`.
    pub fn is_subset(self, other: ShareSet) -> bool {
        self.minus(other).is_empty()
    }

    /// Returns the number of members.
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns whether the set has no member.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// Returns the members in ascending order.
    pub fn iter(self) -> Iter {
        Iter(self)
    }
}

/// An iterator over the members of a [`ShareSet`], ascending.
#[derive(Debug, Clone)]
pub struct Iter(ShareSet);

impl Iterator for Iter {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let word = self.0.0.iter().position(|&word| word != 0)?;
        let share = word * 64 + self.0.0[word].trailing_zeros() as usize;
        self.0.remove(share);
        Some(share)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl ExactSizeIterator for Iter {}

impl IntoIterator for ShareSet {
    type Item = usize;
    type IntoIter = Iter;
    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl FromIterator<usize> for ShareSet {
    /// # Panics
    /// When a share is not below [`ShareSet::CAPACITY`].
    fn from_iter<I: IntoIterator<Item = usize>>(shares: I) -> ShareSet {
        let mut set = ShareSet::EMPTY;
        for share in shares {
            set.insert(share);
        }
        set
    }
}

impl fmt::Display for ShareSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, share) in self.iter().enumerate() {
            write!(f, "{}{share}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for ShareSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_behave_like_sets_across_words() {
        let set: ShareSet = [0, 63, 64, 200, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 200, 255]);
        assert_eq!(set.len(), 5);
        assert!(set.contains(200) && !set.contains(199) && !set.contains(1000));
        assert_eq!(set.without(64).minus(ShareSet::from_bits_u64(1)).to_string(), "{63, 200, 255}");
        assert!(set.without(0).is_subset(set) && !set.is_subset(set.without(0)));
        assert_eq!(ShareSet::all(5).to_bits_u64(), Some(31));
        assert_eq!(set.to_bits_u64(), None);
        assert_eq!(ShareSet::all(256).len(), 256);
        assert_eq!(set.lowest(2), [0, 63].into_iter().collect());
    }
}
