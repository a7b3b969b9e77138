//! [`Bits`]: a vector over GF(2), which is also a set of small numbers.
//!
//! Invariant: two vectors that are combined have the same bound; the callers keep it.

/// A set of numbers below a bound, which is fixed when the set is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(bound: usize) -> Bits {
        Bits(vec![0; bound.div_ceil(64)])
    }

    pub(crate) fn of(bound: usize, members: impl IntoIterator<Item = usize>) -> Bits {
        let mut bits = Bits::new(bound);
        for member in members {
            bits.insert(member);
        }
        bits
    }

    pub(crate) fn contains(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    pub(crate) fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    pub(crate) fn remove(&mut self, i: usize) {
        self.0[i / 64] &= !(1 << (i % 64));
    }

    /// The symmetric difference: addition over GF(2).
    pub(crate) fn add(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a ^= b);
    }

    pub(crate) fn unite(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the number of members of the union.
    pub(crate) fn united_len(&self, other: &Bits) -> usize {
        self.0.iter().zip(&other.0).map(|(a, b)| (a | b).count_ones() as usize).sum()
    }

    pub(crate) fn intersects(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// Returns the members that both sets have, ascending.
    pub(crate) fn common<'a>(&'a self, other: &'a Bits) -> impl Iterator<Item = usize> + 'a {
        let words = self.0.iter().zip(&other.0).map(|(a, b)| a & b);
        words.enumerate().flat_map(|(i, word)| members(word).map(move |bit| i * 64 + bit))
    }

    /// Returns the members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| members(word).map(move |bit| i * 64 + bit))
    }

    /// Returns the only member that both sets have; `None` when they have none or several.
    pub(crate) fn only_common(&self, other: &Bits) -> Option<usize> {
        let mut common = self.common(other);
        common.next().filter(|_| common.next().is_none())
    }
}

fn members(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
