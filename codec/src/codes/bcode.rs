//! B-Code: a vertical code of lowest density. Each data packet is in exactly two parity packets, and each
//! share has at most one parity packet (`every_data_packet_is_in_two_parities`).
//!
//! Xu, Bohossian, Bruck, Wagner: Low-Density MDS Codes and Factors of Complete Graphs, IEEE Transactions on
//! Information Theory 45(6), 1999. The parity packets are the vertices of a complete graph and the data
//! packets are its edges: an edge is in the parity of its two ends. A *perfect one-factorisation* determines
//! the columns. It splits the edges of a complete graph on V vertices into V-1 perfect matchings, such that
//! any two of them together are one cycle through all vertices (`the_factorisations_are_perfect`). Two
//! vertices u and v are removed. A matching's column then holds its remaining edges and the parity of u's
//! partner. The matching with the edge uv has one edge more and no parity; without that column the array is
//! the code for one share less. Losing two columns leaves a cycle cut at u and v: two paths, each with one
//! end whose parity is lost and one end from which decoding starts.
//!
//! For five shares there are six vertices; u and v are removed, and 0 to 3 are parity packets. The fifth
//! matching has the edge uv, so its column has only data:
//!
//! ```text
//!         share 0     share 1     share 2     share 3     share 4
//! row 0   edge 23     edge 02     edge 13     edge 01     edge 03
//! row 1   parity 0    parity 1    parity 2    parity 3    edge 12
//!
//! parity 0 = edge 01 + edge 02 + edge 03; likewise the others
//! ```
//!
//! For every prime p two families of such factorisations are known: on V = p+1 and on V = 2p vertices. They
//! give n = V-1 and n = V-2 shares, that is every n from 3 to 13 and from 16 to 24. The array has V/2 - 1
//! rows.

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of the code.
pub const NAME: &str = "bcode";

/// Largest number of shares for which the code is offered.
const SHARES_MAX: usize = 24;

type Edge = (usize, usize);

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    let wrong = |rule| CodeError::Geometry { code: NAME, k, m, rule, known: super::names() };
    if m != 2 {
        return Err(wrong("m = 2"));
    }
    let none = "k + 2 from 3 to 24, one or two less than p + 1 or 2p for a prime p";
    let shares =
        k.checked_add(2).filter(|shares| (3..=SHARES_MAX).contains(shares)).ok_or_else(|| wrong(none))?;
    let geometry = geometry(shares).ok_or_else(|| wrong(none))?;
    Ok(Arc::new(XorArray::new(NAME, k, geometry)))
}

/// Returns the array for this number of shares; `None` when no factorisation for it is known here.
pub fn geometry(shares: usize) -> Option<Geometry> {
    let vertices = (shares + 1).next_multiple_of(2);
    let factors = factorisation(vertices)?;
    let (u, v) = (vertices - 1, vertices - 2);
    let rows = vertices / 2 - 1;
    // Columns with parity come first. The column without parity, if it is needed, comes last.
    let (whole, with_parity): (Vec<_>, Vec<_>) = factors.into_iter().partition(|factor| has(factor, u, v));
    let columns: Vec<Vec<Edge>> = with_parity.into_iter().chain(whole).take(shares).collect();
    let mut equations: Vec<Vec<Packet>> = vec![Vec::new(); vertices - 2];
    let mut parity = Vec::new();
    for (share, factor) in columns.iter().enumerate() {
        let data = factor.iter().filter(|(a, b)| ![u, v].contains(a) && ![u, v].contains(b));
        for (row, (a, b)) in data.enumerate() {
            equations[*a].push(Packet::new(share, row));
            equations[*b].push(Packet::new(share, row));
        }
        if !has(factor, u, v) {
            let partner = factor.iter().find_map(|(a, b)| match (*a == u, *b == u) {
                (true, _) => Some(*b),
                (_, true) => Some(*a),
                _ => None,
            });
            let packet = Packet::new(share, rows - 1);
            equations[partner.expect("a factor has every vertex")].push(packet);
            parity.push(packet);
        }
    }
    Some(Geometry { shares, rows, equations, parity })
}

fn has(factor: &[Edge], u: usize, v: usize) -> bool {
    factor.iter().any(|edge| *edge == (u, v) || *edge == (v, u))
}

fn is_prime(number: usize) -> bool {
    number > 1 && (2..number).all(|divisor| !number.is_multiple_of(divisor))
}

/// Returns a perfect one-factorisation of the complete graph on `vertices` vertices, if one is known here.
fn factorisation(vertices: usize) -> Option<Vec<Vec<Edge>>> {
    let p = vertices - 1;
    if p >= 3 && is_prime(p) {
        // Vertices 0 to p-1 and one more. In factor i, the one more meets i, and i+j meets i-j.
        let factor = |i: usize| {
            let pairs = (1..=p / 2).map(move |j| ((i + j) % p, (i + p - j) % p));
            std::iter::once((p, i)).chain(pairs).collect()
        };
        return Some((0..p).map(factor).collect());
    }
    let p = vertices / 2;
    if p < 3 || !is_prime(p) {
        return None;
    }
    // Two copies of 0 to p-1: the factors above in both copies, where i meets its copy, and every shift
    // between the copies.
    let within = (0..p).map(|i| {
        let pairs = (1..=p / 2).flat_map(move |j| {
            let (a, b) = ((i + j) % p, (i + p - j) % p);
            [(a, b), (a + p, b + p)]
        });
        std::iter::once((i, i + p)).chain(pairs).collect()
    });
    let across = (1..p).map(|shift| (0..p).map(|a| (a, (a + shift) % p + p)).collect());
    Some(within.chain(across).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factorisations_are_perfect() {
        for vertices in (4..=26).step_by(2) {
            let Some(factors) = factorisation(vertices) else {
                assert!([16, 22].contains(&vertices) || vertices == 28, "none on {vertices} vertices");
                continue;
            };
            assert_eq!(factors.len(), vertices - 1);
            let partner = |factor: &[Edge], vertex: usize| {
                let edge = factor.iter().find(|(a, b)| *a == vertex || *b == vertex).expect("every vertex");
                if edge.0 == vertex { edge.1 } else { edge.0 }
            };
            for (i, one) in factors.iter().enumerate() {
                assert_eq!(one.len(), vertices / 2);
                for other in &factors[..i] {
                    let (mut at, mut steps) = (0, 0);
                    loop {
                        at = partner(other, partner(one, at));
                        steps += 2;
                        if at == 0 {
                            break;
                        }
                    }
                    assert_eq!(steps, vertices, "two factors are one cycle");
                }
            }
        }
    }

    #[test]
    fn every_data_packet_is_in_two_parities() {
        for shares in 3..=SHARES_MAX {
            let Some(geometry) = geometry(shares) else { continue };
            let data = geometry.packets() - geometry.parity.len();
            let uses: usize = geometry.equations.iter().map(|equation| equation.len() - 1).sum();
            assert_eq!(uses, 2 * data, "{shares} shares");
            assert_eq!(data, geometry.rows * (shares - 2), "MDS: as much parity as two shares");
        }
    }
}
