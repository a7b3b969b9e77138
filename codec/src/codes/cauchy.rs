//! Cauchy bit-matrix codes: any k and m by XOR alone.
//!
//! Bloemer, Kalfane, Karp, Karpinski, Luby, Zuckerman: An XOR-Based Erasure-Resilient Coding Scheme, ICSI
//! TR-95-048, 1995. Every square part of the matrix with elements 1 / (x_i + y_j) of GF(2^w), all x and y
//! distinct, has an inverse. So k data words with m such sums are an MDS code. Multiplication by an element
//! is linear over GF(2): it is a w by w matrix of bits. So the code is an XOR array of w rows, with w = 4 for
//! up to 16 shares, else 8.
//!
//! *Good* matrices have few bits (Plank, Xu: Optimizing Cauchy Reed-Solomon Codes for Fault-Tolerant Network
//! Storage Applications, NCA 2006). Any column or row may be scaled. Columns are scaled so that the first
//! parity share is the plain sum of the data. Every other row is scaled by the element that leaves the fewest
//! bits.
//!
//! For m = 2 and 3 there are lighter matrices. With m = 2 the second row can be any k distinct elements a.
//! With m = 3 the rows are 1, a and 1/a: Vandermonde's 1, a, a^2 with scaled columns. Every square part of it
//! has an inverse: for two columns a and b the rows a and 1/a depend on each other only if a^2 = b^2, and
//! squares are distinct in these fields. So the k elements with the fewest bits in all are taken; for 17+3
//! this gives a third fewer bits than Cauchy's matrix.
//!
//! 3+2, where row r of share 4 is the sum of the cells marked with r (the elements are 1, 2 and 9 of GF(16)):
//!
//! ```text
//!         data 0   data 1   data 2 | share 3              | share 4
//! row 0     0        1        0 3  | d00 + d01 + d02      | cells with 0
//! row 1     1        2        0    | d10 + d11 + d12      | cells with 1
//! row 2     2        3        1    | d20 + d21 + d22      | cells with 2
//! row 3     3        0 1      2    | d30 + d31 + d32      | cells with 3
//! ```
//!
//! Left out: the search for the very best x and y. With sums in registers the bits matter little
//! (`docs/codec.md`).

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "cauchy";

/// GF(2^w), given by a primitive polynomial.
#[derive(Debug, Clone, Copy)]
struct Field {
    w: usize,
    polynomial: u32,
}

/// GF(2^4), for up to 16 shares.
const GF16: Field = Field { w: 4, polynomial: 0x13 };
/// GF(2^8) by the primitive polynomial whose elements are lightest.
const GF256: Field = Field { w: 8, polynomial: 0x12d };

impl Field {
    fn size(self) -> usize {
        1 << self.w
    }

    fn times(self, a: u32, b: u32) -> u32 {
        let mut product = 0;
        let mut shifted = a;
        for bit in 0..self.w {
            if b >> bit & 1 == 1 {
                product ^= shifted;
            }
            shifted <<= 1;
            if shifted >> self.w != 0 {
                shifted ^= self.polynomial;
            }
        }
        product
    }

    fn inverse(self, a: u32) -> u32 {
        (1..self.size() as u32).find(|b| self.times(a, *b) == 1).expect("not zero, in a field")
    }

    /// Returns the number of ones in the matrix of multiplication by an element.
    fn bits(self, a: u32) -> u32 {
        (0..self.w).map(|column| self.times(a, 1 << column).count_ones()).sum()
    }
}

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m == 0 || k == 0 {
        return Err(wrong("k >= 1 and m >= 1"));
    }
    let shares = k.checked_add(m).filter(|shares| *shares <= 255).ok_or_else(|| wrong("k + m <= 255"))?;
    let field = if shares <= GF16.size() { GF16 } else { GF256 };
    Ok(Arc::new(XorArray::new(NAME, k, geometry_over(field, k, m))))
}

/// Returns the array of k data and m parity shares: 4 rows for up to 16 shares, else 8.
pub fn geometry(k: usize, m: usize) -> Geometry {
    geometry_over(if k + m <= GF16.size() { GF16 } else { GF256 }, k, m)
}

fn geometry_over(field: Field, k: usize, m: usize) -> Geometry {
    let w = field.w;
    let mut equations = Vec::with_capacity(m * w);
    for (i, elements) in matrix(field, k, m).iter().enumerate() {
        for row in 0..w {
            let mut equation = vec![Packet::new(k + i, row)];
            for (j, element) in elements.iter().enumerate() {
                let columns = (0..w).filter(|column| field.times(*element, 1 << column) >> row & 1 == 1);
                equation.extend(columns.map(|column| Packet::new(j, column)));
            }
            equations.push(equation);
        }
    }
    let parity = (k..k + m).flat_map(|share| (0..w).map(move |row| Packet::new(share, row)));
    Geometry { shares: k + m, rows: w, equations, parity: parity.collect() }
}

/// Returns the elements of the matrix, one row for each parity share.
fn matrix(field: Field, k: usize, m: usize) -> Vec<Vec<u32>> {
    if m <= 3 {
        let rows = |a: u32| [1, a, field.inverse(a)];
        let bits = |a: u32| rows(a)[..m].iter().map(|element| field.bits(*element)).sum::<u32>();
        let mut elements: Vec<u32> = (1..field.size() as u32).collect();
        elements.sort_by_key(|a| (bits(*a), *a));
        // There are k distinct elements, because k + m is at most the field's size.
        return (0..m).map(|row| elements[..k].iter().map(|a| rows(*a)[row]).collect()).collect();
    }
    let element = |i: usize, j: usize| field.inverse(i as u32 ^ (m + j) as u32);
    let scale: Vec<u32> = (0..k).map(|j| field.inverse(element(0, j))).collect();
    let mut rows = vec![vec![1; k]];
    for i in 1..m {
        let row: Vec<u32> = (0..k).map(|j| field.times(element(i, j), scale[j])).collect();
        let scaled = |by: u32| row.iter().map(|element| field.times(*element, by)).collect::<Vec<_>>();
        let lightest = (1..field.size() as u32).map(scaled);
        let weight = |row: &Vec<u32>| row.iter().map(|element| field.bits(*element)).sum::<u32>();
        rows.push(lightest.min_by_key(weight).expect("a field has elements"));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_fields() {
        for field in [GF16, GF256] {
            for a in 1..field.size() as u32 {
                assert_eq!(field.times(a, field.inverse(a)), 1);
                assert_eq!(field.times(a, 1), a);
            }
        }
    }
}
