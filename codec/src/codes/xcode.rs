//! X-Code: a vertical code in which a change of data touches the fewest parity packets possible, two.
//!
//! Xu, Bruck: X-Code: MDS Array Codes with Optimal Encoding, IEEE Transactions on Information Theory 45(1),
//! 1999, section II. For a prime n the array is n by n. Rows 0 to n-3 are data. Row n-2 is the parity of the
//! diagonals of slope 1, row n-1 that of slope -1; both cover data only. So every share has the same part of
//! the parity, and no share is hotter than another. For n = 5, each data cell with the two shares that hold
//! its parity:
//!
//! ```text
//!               share 0  share 1  share 2  share 3  share 4
//! data row 0      3 2      4 3      0 4      1 0      2 1       parity of slope 1, parity of slope -1
//! data row 1      2 3      3 4      4 0      0 1      1 2
//! data row 2      1 4      2 0      3 1      4 2      0 3
//! parity row 3    slope 1
//! parity row 4    slope -1
//! ```
//!
//! X-Code cannot be shortened, because a share without data would still have parity.

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "xcode";

/// The primes for which the code is offered: arrays of larger ones have too many rows.
const PRIMES: [usize; 8] = [3, 5, 7, 11, 13, 17, 19, 23];

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m != 2 {
        return Err(wrong("m = 2"));
    }
    let prime = PRIMES.into_iter().find(|prime| *prime == k.saturating_add(2));
    let prime = prime.ok_or_else(|| wrong("k + 2 a prime from 3 to 23"))?;
    Ok(Arc::new(XorArray::new(NAME, k, geometry(prime))))
}

/// Returns the array for a prime number of shares.
pub fn geometry(prime: usize) -> Geometry {
    let data_rows = prime - 2;
    let line = |share: usize, parity_row: usize, column_of: &dyn Fn(usize) -> usize| -> Vec<Packet> {
        let cells = (0..data_rows).map(|row| Packet::new(column_of(row) % prime, row));
        cells.chain([Packet::new(share, parity_row)]).collect()
    };
    let rising = (0..prime).map(|i| line(i, prime - 2, &|row| i + row + 2));
    let falling = (0..prime).map(|i| line(i, prime - 1, &|row| i + 2 * prime - row - 2));
    let parity = (0..prime).flat_map(|i| [Packet::new(i, prime - 2), Packet::new(i, prime - 1)]);
    Geometry {
        shares: prime,
        rows: prime,
        equations: rising.chain(falling).collect(),
        parity: parity.collect(),
    }
}
