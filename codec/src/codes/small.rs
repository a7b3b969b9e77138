//! Mirroring (k = 1: every share is the block) and single parity (m = 1: the last share is the sum of the
//! others), as array codes of one row. For these k and m every other code computes the same in more rows.

use std::sync::Arc;

use super::array::XorArray;
use crate::geometry::{Geometry, Packet};
use crate::{Code, CodeError};

/// The name of mirroring.
pub const MIRROR: &str = "mirror";
/// The name of single parity.
pub const PARITY: &str = "parity";

/// Largest number of shares: share indexes are 8 bits on the wire.
const SHARES_MAX: usize = 255;

pub(crate) fn make_mirror(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    if k != 1 || m >= SHARES_MAX {
        let rule = "k = 1 and m <= 254";
        return Err(CodeError::Geometry { code: MIRROR, k, m, rule, known: super::names() });
    }
    let copy = |share| vec![Packet::new(0, 0), Packet::new(share, 0)];
    let parity = (1..=m).map(|share| Packet::new(share, 0)).collect();
    let geometry = Geometry { shares: m + 1, rows: 1, equations: (1..=m).map(copy).collect(), parity };
    Ok(Arc::new(XorArray::new(MIRROR, 1, geometry)))
}

pub(crate) fn make_parity(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    if m != 1 || k == 0 || k >= SHARES_MAX {
        let rule = "m = 1 and k from 1 to 254";
        return Err(CodeError::Geometry { code: PARITY, k, m, rule, known: super::names() });
    }
    let sum = (0..=k).map(|share| Packet::new(share, 0)).collect();
    let geometry = Geometry { shares: k + 1, rows: 1, equations: vec![sum], parity: vec![Packet::new(k, 0)] };
    Ok(Arc::new(XorArray::new(PARITY, k, geometry)))
}
