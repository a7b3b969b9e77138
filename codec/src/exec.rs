//! The executor: runs a [`Schedule`] over all stripes of a block's shares.
//!
//! Machine code from [`xor`](crate::xor) runs the schedule where the system allows it. Otherwise the portable
//! executor works one stripe at a time: the packets of a stripe (1.5 KiB for RDP 4+2) are read from memory
//! once and then stay in the first-level cache for every later operation. Each target is summed in registers
//! and written once.
//!
//! Invariant: both ways write the same bytes (`machine_code_does_what_schedules_say`,
//! `the_portable_executor_encodes_and_decodes_every_code`).
//!
//! Left out: codes (the executor knows only schedules, so it serves all of them) and instructions
//! ([`xor`](crate::xor) chooses them).

use crate::geometry::Packet;
use crate::schedule::Schedule;
use crate::xor::scalar::Accumulator;
use crate::xor::{ROW_BYTES, Row, Stores};

/// Runs `schedule` on the first `stripes` stripes. `shares` has one buffer for each column of the schedule.
/// The caller has checked that every buffer that the schedule uses has that many stripes.
pub(crate) fn run(schedule: &Schedule, shares: &mut [&mut [u8]], stripes: usize, stores: Stores) {
    if !schedule.compiled().run(schedule, shares, stripes, stores) {
        run_portably(schedule.lean(), shares, stripes);
    }
}

/// Runs `schedule` like [`run`], without machine code.
pub(crate) fn run_portably(schedule: &Schedule, shares: &mut [&mut [u8]], stripes: usize) {
    assert_eq!(shares.len(), schedule.shares(), "a schedule is run on the shares it was made for");
    let mut scratch = vec![[0; ROW_BYTES]; schedule.scratch()];
    let mut columns: Vec<&mut [Row]> = Vec::with_capacity(shares.len() + 1);
    columns.extend(shares.iter_mut().map(|share| share.as_chunks_mut().0));
    columns.push(&mut scratch);
    for stripe in 0..stripes {
        let base = Base { shares: schedule.shares(), row: stripe * schedule.rows() };
        for (target, sources) in schedule.ops() {
            let sum = sum(sources, &columns, base);
            sum.store(&mut columns[target.share()][base.row_of(target)]);
        }
    }
}

/// Runs a schedule that writes only scratch packets on every stripe. Calls `found` with the sums of each
/// stripe in which at least one sum is not zero.
pub(crate) fn find_nonzero(schedule: &Schedule, shares: &[&[u8]], mut found: impl FnMut(&[Accumulator])) {
    let stripes = shares.iter().map(|share| share.len()).max().unwrap_or(0) / (schedule.rows() * ROW_BYTES);
    let columns: Vec<&[Row]> = shares.iter().map(|share| share.as_chunks().0).collect();
    let mut sums = Vec::with_capacity(schedule.scratch());
    for stripe in 0..stripes {
        let base = Base { shares: schedule.shares(), row: stripe * schedule.rows() };
        sums.clear();
        sums.extend(schedule.ops().map(|(_, sources)| sum(sources, &columns, base)));
        if !sums.iter().all(|sum| sum.is_zero()) {
            found(&sums);
        }
    }
}

/// The row at which a stripe begins in the columns of shares. Scratch begins at row 0 in every stripe.
#[derive(Clone, Copy)]
struct Base {
    shares: usize,
    row: usize,
}

impl Base {
    #[inline(always)]
    fn row_of(self, packet: Packet) -> usize {
        let base = if packet.share() < self.shares { self.row } else { 0 };
        base + packet.row()
    }
}

#[inline(always)]
fn sum<C: AsRef<[Row]>>(sources: &[Packet], columns: &[C], base: Base) -> Accumulator {
    let mut sum = Accumulator::ZERO;
    for &source in sources {
        sum.add(&columns[source.share()].as_ref()[base.row_of(source)]);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::array::XorArray;
    use crate::codes::{bcode, cauchy, evenodd, rdp, star, xcode};
    use crate::geometry::Geometry;
    use crate::{Code, ShareSet};

    /// On machines with machine code, only `verify` and this test use the portable executor.
    #[test]
    fn the_portable_executor_encodes_and_decodes_every_code() {
        let geometries: [(usize, Geometry); 9] = [
            (4, rdp::geometry(5, 4)),
            (6, rdp::geometry(17, 6)),
            (5, evenodd::geometry(5, 5)),
            (4, star::geometry(5, 4)),
            (5, xcode::geometry(7)),
            (4, bcode::geometry(6).expect("there is one")),
            (6, cauchy::geometry(6, 3)),
            (10, cauchy::geometry(10, 4)),
            (15, cauchy::geometry(15, 3)),
        ];
        let few = if cfg!(miri) { 1 } else { geometries.len() };
        for (k, geometry) in geometries.into_iter().take(few) {
            let code = XorArray::new("portable", k, geometry);
            let (n, m) = (code.n(), code.m());
            let len = 3 * code.stripe_bytes();
            let byte = |share: usize, at: usize| (share * 89 + at * 7 + at / 64 * 31) as u8;
            let mut right: Vec<Vec<u8>> =
                (0..n).map(|share| (0..len).map(|at| byte(share, at)).collect()).collect();
            run_portably(code.encode_schedule().lean(), &mut views(&mut right), 3);
            let whole: Vec<&[u8]> = right.iter().map(Vec::as_slice).collect();
            assert_eq!(code.verify(&whole), Ok(crate::Verdict::Clean), "{k}+{m}");
            for first in 0..n {
                let lost: ShareSet = (0..m).map(|share| (first + share * 2) % n).collect();
                let present = ShareSet::all(n).minus(lost);
                let schedule = code.decode_schedule(present, lost).expect("no more than m are lost");
                let mut damaged = right.clone();
                lost.iter().for_each(|share| damaged[share].fill(0xdb));
                run_portably(schedule.lean(), &mut views(&mut damaged), 3);
                assert!(damaged == right, "{k}+{m} without {lost}");
            }
        }
    }

    fn views(shares: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
        shares.iter_mut().map(Vec::as_mut_slice).collect()
    }
}
