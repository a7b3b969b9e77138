//! EVENODD: two parity shares, the first array code of its kind. [`star`](super::star) shares its diagonals.
//!
//! Blaum, Brady, Bruck, Menon: EVENODD: An Efficient Scheme for Tolerating Double Disk Failures in RAID
//! Architectures, IEEE Transactions on Computers 44(2), 1995, section II. For a prime p the array has p-1
//! rows and p data columns. Column p is row parity. Column p+1 holds the parity of the diagonals (r + c) mod
//! p = 0 to p-2. Each of them includes the *adjuster* S, the sum of diagonal p-1, which has no parity of its
//! own. For p = 5, each cell with its diagonal:
//!
//! ```text
//!          data 0  data 1  data 2  data 3  data 4 | row parity | diagonal parity
//! row 0      0       1       2       3       S    |    row 0   |  of diagonal 0 and S
//! row 1      1       2       3       S       0    |    row 1   |  of diagonal 1 and S
//! row 2      2       3       S       0       1    |    row 2   |  of diagonal 2 and S
//! row 3      3       S       0       1       2    |    row 3   |  of diagonal 3 and S
//! ```
//!
//! p is 3, 5 or 17, as for [`rdp`](super::rdp); with fewer than p data shares the rightmost columns are
//! imaginary. A change of a cell on the adjuster's diagonal touches all of column p+1, so RDP and the
//! vertical codes update more cheaply.

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "evenodd";

/// Primes p for which p-1 is a power of two.
pub(super) const PRIMES: [usize; 3] = [3, 5, 17];

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m != 2 {
        return Err(wrong("m = 2"));
    }
    let prime =
        PRIMES.into_iter().find(|prime| *prime >= k && k > 0).ok_or_else(|| wrong("k from 1 to 17"))?;
    Ok(Arc::new(XorArray::new(NAME, k, geometry(prime, k))))
}

/// Returns the array for a prime, shortened to `k` data columns.
pub fn geometry(prime: usize, k: usize) -> Geometry {
    assert!((1..=prime).contains(&k), "EVENODD with p = {prime} has 1 to {prime} data columns, not {k}");
    let rows = prime - 1;
    Geometry {
        shares: k + 2,
        rows,
        equations: row_parity(k, rows).chain(diagonals(prime, k, k + 1, Slope::Rising)).collect(),
        parity: columns(k..k + 2, rows),
    }
}

/// The direction of a diagonal.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slope {
    /// Cells with the same r + c.
    Rising,
    /// Cells with the same r - c.
    Falling,
}

/// Returns all packets of some columns.
pub(super) fn columns(shares: std::ops::Range<usize>, rows: usize) -> Vec<Packet> {
    shares.flat_map(|share| (0..rows).map(move |row| Packet::new(share, row))).collect()
}

/// Returns the equations of row parity: column k is the sum of the data columns.
pub(super) fn row_parity(k: usize, rows: usize) -> impl Iterator<Item = Vec<Packet>> {
    (0..rows).map(move |row| (0..=k).map(|share| Packet::new(share, row)).collect())
}

/// Returns the equations of a parity column: a diagonal and the adjuster's diagonal.
pub(super) fn diagonals(
    prime: usize,
    k: usize,
    share: usize,
    slope: Slope,
) -> impl Iterator<Item = Vec<Packet>> {
    let diagonal = move |line: usize| {
        let row = move |column: usize| match slope {
            Slope::Rising => (line + prime - column) % prime,
            Slope::Falling => (line + column) % prime,
        };
        (0..k).map(move |column| (column, row(column))).filter(move |(_, row)| *row < prime - 1)
    };
    (0..prime - 1).map(move |line| {
        let cells = diagonal(line).chain(diagonal(prime - 1)).chain([(share, line)]);
        cells.map(|(share, row)| Packet::new(share, row)).collect()
    })
}
