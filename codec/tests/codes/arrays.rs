//! Arrays that the crate does not offer yet, given by their equations alone.

use std::sync::Arc;

use rain_codec::Code;
use rain_codec::codes::array::XorArray;
use rain_codec::geometry::{Geometry, Packet};

pub(crate) fn all() -> Vec<Arc<dyn Code>> {
    vec![
        Arc::new(evenodd(5, 5)),
        Arc::new(evenodd(5, 3)),
        Arc::new(star(5, 5)),
        Arc::new(star(5, 4)),
        Arc::new(xcode(5)),
        Arc::new(xcode(7)),
    ]
}

/// Cells (r, c) of data columns with r + c (or r - c) = `line` mod p.
fn diagonal(prime: usize, k: usize, line: usize, falling: bool) -> Vec<Packet> {
    let row = |c: usize| if falling { (line + prime - c) % prime } else { (line + c) % prime };
    (0..k).filter(|&c| row(c) < prime - 1).map(|c| Packet::new(c, row(c))).collect()
}

/// Equations of a parity column at `share` along diagonals, each with the adjuster, the diagonal p-1.
fn adjusted(prime: usize, k: usize, share: usize, falling: bool) -> impl Iterator<Item = Vec<Packet>> {
    (0..prime - 1).map(move |line| {
        let mut equation = diagonal(prime, k, line, falling);
        equation.extend(diagonal(prime, k, prime - 1, falling));
        equation.push(Packet::new(share, line));
        equation
    })
}

fn columns(range: std::ops::Range<usize>, rows: usize) -> Vec<Packet> {
    range.flat_map(|share| (0..rows).map(move |row| Packet::new(share, row))).collect()
}

/// Blaum, Brady, Bruck, Menon 1995. Decoding needs sums of equations, for the adjuster.
fn evenodd(prime: usize, k: usize) -> XorArray {
    let rows = prime - 1;
    let row_equations = (0..rows).map(|row| (0..=k).map(|share| Packet::new(share, row)).collect());
    let equations = row_equations.chain(adjusted(prime, k, k + 1, true)).collect();
    XorArray::new("evenodd", k, Geometry { shares: k + 2, rows, equations, parity: columns(k..k + 2, rows) })
}

/// Huang, Xu 2005: EVENODD with a third parity column of slope -1.
fn star(prime: usize, k: usize) -> XorArray {
    let rows = prime - 1;
    let row_equations = (0..rows).map(|row| (0..=k).map(|share| Packet::new(share, row)).collect());
    let diagonals = adjusted(prime, k, k + 1, true).chain(adjusted(prime, k, k + 2, false));
    let equations = row_equations.chain(diagonals).collect();
    XorArray::new("star", k, Geometry { shares: k + 3, rows, equations, parity: columns(k..k + 3, rows) })
}

/// Xu, Bruck 1999. Vertical: every share has p-2 rows of data and two of parity.
fn xcode(prime: usize) -> XorArray {
    let data_rows = prime - 2;
    let line = |i: usize, row: usize, slope: &dyn Fn(usize) -> usize| -> Vec<Packet> {
        let cells = (0..data_rows).map(|r| Packet::new((i + slope(r)) % prime, r));
        cells.chain([Packet::new(i, row)]).collect()
    };
    let rising = (0..prime).map(|i| line(i, prime - 2, &|r| r + 2));
    let falling = (0..prime).map(|i| line(i, prime - 1, &|r| prime - 2 - r + prime));
    let parity = (0..prime).flat_map(|i| [Packet::new(i, prime - 2), Packet::new(i, prime - 1)]);
    let geometry = Geometry {
        shares: prime,
        rows: prime,
        equations: rising.chain(falling).collect(),
        parity: parity.collect(),
    };
    XorArray::new("xcode", prime - 2, geometry)
}
