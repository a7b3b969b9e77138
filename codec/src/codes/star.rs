//! STAR: three parity shares; [`evenodd`](super::evenodd) with one more column.
//!
//! Huang, Xu: STAR: An Efficient Coding Scheme for Correcting Triple Storage Node Failures, IEEE Transactions
//! on Computers 57(7), 2008 (FAST 2005), section 3. The first two parity columns are the row parity and the
//! diagonal parity of EVENODD. The third column holds the parity of the diagonals (r - c) mod p, with an
//! adjuster of its own. p is 3, 5 or 17, the smallest that is at least k. For p = 5, each cell with its
//! rising and its falling diagonal; S and T are the diagonals of the adjusters:
//!
//! ```text
//!          data 0  data 1  data 2  data 3  data 4 | row parity | rising parity    | falling parity
//! row 0     0 0     1 T     2 3     3 2     S 1   |   row 0    | diagonal 0 and S | diagonal 0 and T
//! row 1     1 1     2 0     3 T     S 3     0 2   |   row 1    | diagonal 1 and S | diagonal 1 and T
//! row 2     2 2     3 1     S 0     0 T     1 3   |   row 2    | diagonal 2 and S | diagonal 2 and T
//! row 3     3 3     S 2     0 1     1 0     2 T   |   row 3    | diagonal 3 and S | diagonal 3 and T
//! ```

use std::sync::Arc;

use super::array::XorArray;
use super::evenodd::{PRIMES, Slope, columns, diagonals, row_parity};
use crate::geometry::Geometry;
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "star";

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m != 3 {
        return Err(wrong("m = 3"));
    }
    let prime =
        PRIMES.into_iter().find(|prime| *prime >= k && k > 0).ok_or_else(|| wrong("k from 1 to 17"))?;
    Ok(Arc::new(XorArray::new(NAME, k, geometry(prime, k))))
}

/// Returns the array for a prime, shortened to `k` data columns.
pub fn geometry(prime: usize, k: usize) -> Geometry {
    assert!((1..=prime).contains(&k), "STAR with p = {prime} has 1 to {prime} data columns, not {k}");
    let rows = prime - 1;
    let equations = row_parity(k, rows).chain(diagonals(prime, k, k + 1, Slope::Rising)).chain(diagonals(
        prime,
        k,
        k + 2,
        Slope::Falling,
    ));
    Geometry { shares: k + 3, rows, equations: equations.collect(), parity: columns(k..k + 3, rows) }
}
