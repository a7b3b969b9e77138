//! XOR in 64-bit words, safe and portable.
//!
//! Invariant: sums are the bytewise XOR (`sums_are_bytewise_xor`).

use super::Row;

/// A sum of packets, kept in registers.
#[derive(Clone, Copy)]
pub(crate) struct Accumulator([u64; 8]);

impl Accumulator {
    /// The sum of no packets.
    pub(crate) const ZERO: Accumulator = Accumulator([0; 8]);

    /// Adds a packet to the sum.
    #[inline(always)]
    pub(crate) fn add(&mut self, row: &Row) {
        let (words, _) = row.as_chunks::<8>();
        for (sum, word) in self.0.iter_mut().zip(words) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }

    /// Adds another sum to this one.
    pub(crate) fn add_sum(&mut self, other: Accumulator) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, word)| *sum ^= word);
    }

    /// Writes the sum to a packet.
    #[inline(always)]
    pub(crate) fn store(self, row: &mut Row) {
        let (words, _) = row.as_chunks_mut::<8>();
        for (word, sum) in words.iter_mut().zip(self.0) {
            *word = sum.to_ne_bytes();
        }
    }

    /// Returns whether the sum is zero.
    #[inline(always)]
    pub(crate) fn is_zero(self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }
}

/// Adds (XORs) `from` to `to`; both have the same length.
pub(crate) fn add_bytes(to: &mut [u8], from: &[u8]) {
    debug_assert_eq!(to.len(), from.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to ^= from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_bytewise_xor() {
        let a: Row = std::array::from_fn(|i| i as u8 * 3);
        let b: Row = std::array::from_fn(|i| (i as u8).wrapping_mul(7) ^ 0x5a);
        let mut sum = Accumulator::ZERO;
        assert!(sum.is_zero());
        sum.add(&a);
        sum.add(&b);
        let mut row = [0; 64];
        sum.store(&mut row);
        assert!((0..64).all(|i| row[i] == a[i] ^ b[i]));
        assert!(!sum.is_zero());
        sum.add(&row);
        assert!(sum.is_zero());
        add_bytes(&mut row[..63], &a[..63]);
        assert_eq!(row[..63], b[..63]);
    }
}
