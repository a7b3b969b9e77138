//! RDP, row-diagonal parity: two parity shares, XOR only, with the fewest XORs that two parities can have
//! (`encoding_takes_the_fewest_xors_there_can_be`).
//!
//! Corbett, English, Goel, Grcanac, Kleiman, Leong, Sankar: Row-Diagonal Parity for Double Disk Failure
//! Correction, FAST 2004, section 3. For a prime p the array has p-1 rows. Columns 0 to p-2 are data, column
//! p-1 is row parity, column p is diagonal parity. The packet in row r of column c, row parity included, lies
//! on diagonal (r + c) mod p. Diagonal p-1 has no parity. For p = 5, each cell with its diagonal:
//!
//! ```text
//!          data 0  data 1  data 2  data 3 | row parity | diagonal parity
//! row 0      0       1       2       3    |     4      |  of diagonal 0
//! row 1      1       2       3       4    |     0      |  of diagonal 1
//! row 2      2       3       4       0    |     1      |  of diagonal 2
//! row 3      3       4       0       1    |     2      |  of diagonal 3
//! ```
//!
//! With fewer than p-1 data shares the rightmost data columns are imaginary: they are zero and not stored. p
//! is 3, 5 or 17, the smallest with enough columns (`the_smallest_prime_with_room_is_taken`). For these
//! primes p-1 is a power of two, so stripes of 128, 256 or 1024 bytes divide a 4 KiB page.

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "rdp";

/// Primes p for which p-1 is a power of two.
const PRIMES: [usize; 3] = [3, 5, 17];

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m != 2 {
        return Err(wrong("m = 2"));
    }
    let prime = prime_for(k).ok_or_else(|| wrong("k from 1 to 16"))?;
    Ok(Arc::new(XorArray::new(NAME, k, geometry(prime, k))))
}

/// Returns the smallest prime whose array has `k` data columns.
fn prime_for(k: usize) -> Option<usize> {
    PRIMES.into_iter().find(|prime| *prime > k).filter(|_| k > 0)
}

/// Returns the array for a prime, shortened to `k` data columns.
pub fn geometry(prime: usize, k: usize) -> Geometry {
    assert!((1..prime).contains(&k), "RDP with p = {prime} has 1 to {} data columns, not {k}", prime - 1);
    let rows = prime - 1;
    let (row_parity, diagonal_parity) = (k, k + 1);
    let row_equations = (0..rows).map(|row| (0..=row_parity).map(|share| Packet::new(share, row)).collect());
    let diagonal_equations = (0..rows).map(|diagonal| {
        // The share's column in the whole array: row parity comes after the imaginary data columns.
        let columns = (0..k).map(|share| (share, share)).chain([(row_parity, prime - 1)]);
        let cells = columns.map(|(share, column)| (share, (diagonal + prime - column) % prime));
        let mut equation: Vec<Packet> =
            cells.filter(|&(_, row)| row < rows).map(|(share, row)| Packet::new(share, row)).collect();
        equation.push(Packet::new(diagonal_parity, diagonal));
        equation
    });
    let parity = [row_parity, diagonal_parity].into_iter();
    Geometry {
        shares: k + 2,
        rows,
        equations: row_equations.chain(diagonal_equations).collect(),
        parity: parity.flat_map(|share| (0..rows).map(move |row| Packet::new(share, row))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_prime_with_room_is_taken() {
        let primes: Vec<_> = (0..=17).map(prime_for).collect();
        assert_eq!(primes[..6], [None, Some(3), Some(3), Some(5), Some(5), Some(17)]);
        assert_eq!((primes[16], primes[17]), (Some(17), None));
    }

    #[test]
    fn encoding_takes_the_fewest_xors_there_can_be() {
        // Corbett et al., section 6: 2 (p-1) (p-2) for p-1 data columns, that is k-1 for each parity packet.
        for prime in PRIMES {
            let k = prime - 1;
            let code = XorArray::new(NAME, k, geometry(prime, k));
            assert_eq!(code.encode_schedule().xors(), 2 * (prime - 1) * (k - 1), "p = {prime}");
            assert!(code.encode_schedule().ops().all(|(_, sources)| sources.len() == k));
            assert_eq!(code.encode_schedule().scratch(), 0);
        }
    }

    #[test]
    fn decoding_two_data_shares_takes_the_fewest_xors_too() {
        for prime in PRIMES {
            let k = prime - 1;
            let code = XorArray::new(NAME, k, geometry(prime, k));
            for (a, b) in (0..k).flat_map(|a| (a + 1..k).map(move |b| (a, b))) {
                let lost = [a, b].into_iter().collect();
                let schedule = code.decode_schedule(crate::ShareSet::all(k + 2).minus(lost), lost).unwrap();
                assert_eq!(schedule.xors(), 2 * (prime - 1) * (prime - 2), "p = {prime}, {lost} lost");
            }
        }
    }
}
