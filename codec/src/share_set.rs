//! [`ShareSet`]: which of a block's shares, as a bit set that is `Copy`.
//!
//! Invariant: members are below [`ShareSet::CAPACITY`]; a code never has more shares than that.

use std::fmt;

/// A set of share indexes, each below 256.
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
    /// How many shares can be told apart.
    pub const CAPACITY: usize = 256;
    /// No share.
    pub const EMPTY: ShareSet = ShareSet([0; 4]);

    /// The shares `0..n`.
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

    /// Bit i of `bits` says whether share i is a member.
    pub const fn from_bits_u64(bits: u64) -> ShareSet {
        ShareSet([bits, 0, 0, 0])
    }

    /// The inverse of [`ShareSet::from_bits_u64`]; `None` when a member is 64 or above.
    pub const fn to_bits_u64(self) -> Option<u64> {
        match self.0 {
            [bits, 0, 0, 0] => Some(bits),
            _ => None,
        }
    }

    /// Is this share a member?
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

    /// Takes a share out, if it is a member.
    pub fn remove(&mut self, share: usize) {
        if share < Self::CAPACITY {
            self.0[share / 64] &= !(1 << (share % 64));
        }
    }

    /// This set and one share more.
    ///
    /// # Panics
    /// When `share` is not below [`ShareSet::CAPACITY`].
    #[must_use]
    pub fn with(mut self, share: usize) -> ShareSet {
        self.insert(share);
        self
    }

    /// This set but for one share.
    #[must_use]
    pub fn without(mut self, share: usize) -> ShareSet {
        self.remove(share);
        self
    }

    /// The members of either.
    #[must_use]
    pub fn union(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The members of both.
    #[must_use]
    pub fn intersection(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The members of this set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: ShareSet) -> ShareSet {
        ShareSet(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// The `count` lowest members, or all when there are fewer.
    #[must_use]
    pub fn lowest(self, count: usize) -> ShareSet {
        self.iter().take(count).collect()
    }

    /// Is every member also in `other`?
    pub fn is_subset(self, other: ShareSet) -> bool {
        self.minus(other).is_empty()
    }

    /// How many members.
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Has it no member?
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The members, ascending.
    pub fn iter(self) -> Iter {
        Iter(self)
    }
}

/// The members of a [`ShareSet`], ascending.
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
