//! [`XorArray`]: a [`Code`] made from a [`Geometry`], for any XOR array code.
//!
//! A share is laid out stripe after stripe. A stripe holds the rows of the array's column, 64 bytes each.
//!
//! ```text
//! share i:  | row 0 | row 1 | .. | row r-1 | row 0 | row 1 | .. | row r-1 | ..
//!           '---------- stripe 0 ----------'---------- stripe 1 ---------'
//! ```
//!
//! The block's bytes fill the data rows of share 0, stripe after stripe, then those of share 1, and so on. In
//! a horizontal code all rows of a data share are data, so the share is one contiguous part of the block
//! (`data_share_i_is_run_i_of_the_block`). In a vertical code it is the share without its parity rows.
//!
//! Schedules come from the solver by the sets of present and wanted shares, and are cached.

use std::ops::Range;
use std::sync::Arc;

use crate::cache::Cache;
use crate::code::{check_lengths, check_sets, check_update};
use crate::exec;
use crate::geometry::{Geometry, Packet};
use crate::plan::CodeId;
use crate::schedule::{Bits, Schedule, cheapest_repair, solve};
use crate::xor::scalar::{Accumulator, add_bytes};
use crate::xor::{ROW_BYTES, Stores};
use crate::{Code, CodeError, Piece, RepairPlan, ShareRead, ShareSet, Verdict};

/// Largest number of erasure patterns whose decode schedules are cached: all patterns of 16+2.
const SCHEDULES_MAX: usize = 512;
/// Largest number of repair plans that are cached.
const PLANS_MAX: usize = 64;

/// An XOR array code with its schedules.
#[derive(Debug)]
pub struct XorArray {
    id: CodeId,
    geometry: Geometry,
    /// For each share, its data rows, ascending.
    data_rows: Vec<Vec<usize>>,
    /// For each packet by number, the parity packets that depend on it.
    dependents: Vec<Vec<Packet>>,
    /// For each share, the sets of equations whose sum has no packet of the share.
    alibis: Vec<Vec<Vec<usize>>>,
    encode: Schedule,
    syndromes: Schedule,
    decodes: Cache<(ShareSet, ShareSet), Arc<Schedule>>,
    plans: Cache<(ShareSet, ShareSet), RepairPlan>,
}

impl XorArray {
    /// Returns the code of this geometry; any `k` of its shares suffice.
    ///
    /// # Panics
    /// When `k` is not from 1 to the number of shares, or when the equations do not determine the parity.
    pub fn new(name: &'static str, k: usize, geometry: Geometry) -> XorArray {
        assert!((1..=geometry.shares).contains(&k), "k = {k} of {} shares", geometry.shares);
        let parity = geometry.parity_bits();
        let encode = solve(&geometry, &parity, &parity).expect("a code's data determine its parity");
        let is_data = |share: usize, row: &usize| !parity.contains(share * geometry.rows + row);
        let data_rows = (0..geometry.shares)
            .map(|share| (0..geometry.rows).filter(|row| is_data(share, row)).collect())
            .collect();
        XorArray {
            id: CodeId { name, k, m: geometry.shares - k },
            data_rows,
            dependents: dependents(&geometry, &encode),
            alibis: (0..geometry.shares).map(|share| alibis(&geometry, share)).collect(),
            syndromes: Schedule::syndromes(&geometry),
            encode,
            decodes: Cache::new(SCHEDULES_MAX),
            plans: Cache::new(PLANS_MAX),
            geometry,
        }
    }

    /// Returns the schedule of `encode`.
    pub fn encode_schedule(&self) -> &Schedule {
        &self.encode
    }

    /// Returns the schedule of `reconstruct`. Fails when the equations do not determine the wanted shares.
    pub fn decode_schedule(&self, present: ShareSet, wanted: ShareSet) -> Result<Arc<Schedule>, CodeError> {
        let lost = wanted.minus(present);
        self.decodes.get_or_make((present, lost), || self.make_decode(present, lost))
    }

    fn make_decode(&self, present: ShareSet, lost: ShareSet) -> Result<Arc<Schedule>, CodeError> {
        let unknown = self.geometry.packets_of(ShareSet::all(self.n()).minus(present));
        solve(&self.geometry, &unknown, &self.geometry.packets_of(lost))
            .map(Arc::new)
            .ok_or(CodeError::Undetermined { present, wanted: lost })
    }

    fn make_plan(&self, lost: ShareSet, available: ShareSet) -> Result<RepairPlan, CodeError> {
        // Two candidates: from all available shares, and from k whole shares. In shortened RDP the diagonal
        // parity is cheaper from the data alone than with the help of row parity.
        let schedule = [available, available.lowest(self.id.k)]
            .into_iter()
            .filter_map(|sources| {
                let unknown = self.geometry.packets_of(ShareSet::all(self.n()).minus(sources));
                cheapest_repair(&self.geometry, &unknown, &self.geometry.packets_of(lost))
            })
            .min_by_key(Schedule::packets_read)
            .ok_or(CodeError::Undetermined { present: available, wanted: lost })?;
        let reads = schedule.reads().into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        Ok(RepairPlan {
            code: self.id,
            lost,
            reads: reads.map(|(share, rows)| ShareRead { share, rows }).collect(),
            rows: self.geometry.rows,
            row_bytes: ROW_BYTES,
            schedule: Some(Arc::new(schedule)),
        })
    }

    /// Checks the buffers of the shares in `used`, then runs the schedule, which uses no other.
    fn run(
        &self,
        schedule: &Schedule,
        shares: &mut [&mut [u8]],
        used: ShareSet,
        stores: Stores,
    ) -> Result<(), CodeError> {
        let lens = shares.iter().map(|share| share.len());
        let len = check_lengths(lens, self.n(), self.stripe_bytes(), used)?;
        exec::run(schedule, shares, len / self.stripe_bytes(), stores);
        Ok(())
    }
}

impl Code for XorArray {
    fn name(&self) -> &'static str {
        self.id.name
    }

    fn k(&self) -> usize {
        self.id.k
    }

    fn m(&self) -> usize {
        self.id.m
    }

    fn rows(&self) -> usize {
        self.geometry.rows
    }

    fn stripe_bytes(&self) -> usize {
        self.geometry.rows * ROW_BYTES
    }

    fn share_bytes(&self, block_bytes: usize) -> usize {
        let data_packets = self.geometry.packets() - self.geometry.parity.len();
        block_bytes.div_ceil(data_packets * ROW_BYTES) * self.stripe_bytes()
    }

    fn locate(&self, block_bytes: usize, range: Range<usize>) -> Vec<Piece> {
        let stripes = self.share_bytes(block_bytes) / self.stripe_bytes();
        let end = range.end.min(block_bytes);
        let mut pieces = Vec::new();
        let mut share_begin = 0;
        for (share, rows) in self.data_rows.iter().enumerate() {
            let share_end = share_begin + stripes * rows.len() * ROW_BYTES;
            let mut at = range.start.max(share_begin);
            while at < share_end.min(end) {
                let (share_offset, run) =
                    run_of_data(rows, self.geometry.rows, at - share_begin, share_end - at);
                let len = run.min(end - at);
                pieces.push(Piece { share, share_offset, block_offset: at, len });
                at += len;
            }
            share_begin = share_end;
        }
        pieces
    }

    fn encode_with(&self, shares: &mut [&mut [u8]], stores: Stores) -> Result<(), CodeError> {
        self.run(&self.encode, shares, ShareSet::all(self.n()), stores)
    }

    fn reconstruct_with(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
        stores: Stores,
    ) -> Result<(), CodeError> {
        check_sets(present, wanted, self.n(), self.id.k)?;
        let lost = wanted.minus(present);
        let make = || self.make_decode(present, lost);
        let used = present.union(wanted);
        self.decodes.with((present, lost), make, |schedule| self.run(schedule, shares, used, stores))?
    }

    fn verify(&self, shares: &[&[u8]]) -> Result<Verdict, CodeError> {
        let n = self.n();
        check_lengths(shares.iter().map(|share| share.len()), n, self.stripe_bytes(), ShareSet::all(n))?;
        let mut clean = true;
        let mut suspects = ShareSet::all(n);
        exec::find_nonzero(&self.syndromes, shares, |sums| {
            clean = false;
            // If only this share were wrong, every sum of equations without its packets would still be zero.
            let convicted =
                |share: &usize| self.alibis[*share].iter().all(|alibi| total(sums, alibi).is_zero());
            suspects = suspects.iter().filter(convicted).collect();
        });
        let mut suspects = suspects.iter();
        Ok(match (clean, suspects.next(), suspects.next()) {
            (true, _, _) => Verdict::Clean,
            (false, Some(share), None) => Verdict::WrongShare(share),
            _ => Verdict::Inconsistent,
        })
    }

    fn update(
        &self,
        share: usize,
        offset: usize,
        delta: &[u8],
        shares: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        let Some(_) = check_update(share, offset, delta, shares, self.n(), self.stripe_bytes())? else {
            return Ok(());
        };
        let rows: Vec<RowRun> = row_runs(offset, delta.len(), self.geometry.rows).collect();
        if let Some(run) = rows.iter().find(|run| !self.data_rows[share].contains(&run.row)) {
            return Err(CodeError::NotData { share, offset: offset + run.delta.start });
        }
        for run in rows {
            for parity in &self.dependents[self.geometry.number(Packet::new(share, run.row))] {
                let buffer = &mut *shares[parity.share()];
                if !buffer.is_empty() {
                    let begin = run.stripe * self.stripe_bytes() + parity.row() * ROW_BYTES + run.byte;
                    add_bytes(&mut buffer[begin..][..run.delta.len()], &delta[run.delta.clone()]);
                }
            }
        }
        Ok(())
    }

    fn repair_plan(&self, lost: ShareSet, available: ShareSet) -> Result<RepairPlan, CodeError> {
        let available = available.minus(lost);
        check_sets(available, lost, self.n(), self.id.k)?;
        self.plans.get_or_make((lost, available), || self.make_plan(lost, available))
    }

    fn reconstruct_from_plan(&self, plan: &RepairPlan, shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        self.id.check(plan)?;
        let schedule = plan.schedule.as_ref().expect("this kind of code puts a schedule into its plans");
        self.run(schedule, shares, plan.sources().union(plan.lost), Stores::Cached)
    }
}

/// Returns the position of byte `at` of a share's data in the share, and the number of data bytes that follow
/// it without a gap, at most `left`.
fn run_of_data(data_rows: &[usize], rows: usize, at: usize, left: usize) -> (usize, usize) {
    if data_rows.len() == rows {
        return (at, left);
    }
    let data_stripe = data_rows.len() * ROW_BYTES;
    let (stripe, in_stripe) = (at / data_stripe, at % data_stripe);
    let (i, byte) = (in_stripe / ROW_BYTES, in_stripe % ROW_BYTES);
    let following = data_rows[i..].windows(2).take_while(|pair| pair[1] == pair[0] + 1).count();
    let offset = (stripe * rows + data_rows[i]) * ROW_BYTES + byte;
    (offset, (ROW_BYTES - byte + following * ROW_BYTES).min(left))
}

/// The part of an update that lies in one row.
struct RowRun {
    stripe: usize,
    row: usize,
    /// First byte in the row.
    byte: usize,
    /// Range of the delta.
    delta: Range<usize>,
}

fn row_runs(offset: usize, len: usize, rows: usize) -> impl Iterator<Item = RowRun> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done;
        let byte = at % ROW_BYTES;
        let delta = done..len.min(done + ROW_BYTES - byte);
        done = delta.end;
        let (stripe, row) = (at / ROW_BYTES / rows, at / ROW_BYTES % rows);
        (!delta.is_empty()).then_some(RowRun { stripe, row, byte, delta })
    })
}

/// Returns, for each packet, the parity packets that depend on it. It runs `encode` on sets instead of bytes.
fn dependents(geometry: &Geometry, encode: &Schedule) -> Vec<Vec<Packet>> {
    let packets = geometry.packets();
    let mut sums: Vec<Bits> = (0..packets).map(|number| Bits::of(packets, [number])).collect();
    let mut dependents = vec![Vec::new(); packets];
    for (target, sources) in encode.ops() {
        let mut sum = Bits::new(packets);
        sources.iter().for_each(|&source| sum.add(&sums[geometry.number(source)]));
        // The column after the last share is scratch.
        if target.share() < geometry.shares {
            sum.iter().for_each(|data| dependents[data].push(target));
        }
        let number = geometry.number(target);
        sums.resize(sums.len().max(number + 1), Bits::new(packets));
        sums[number] = sum;
    }
    dependents
}

/// Returns the sets of equations whose sum has no packet of `share`: the left null space of the share's
/// columns of the parity-check matrix.
fn alibis(geometry: &Geometry, share: usize) -> Vec<Vec<usize>> {
    let of_share = geometry.packets_of(ShareSet::EMPTY.with(share));
    let count = geometry.equations.len();
    let equations = geometry.equation_bits();
    let mut rows: Vec<(Bits, Bits)> =
        equations.into_iter().enumerate().map(|(i, equation)| (equation, Bits::of(count, [i]))).collect();
    for packet in of_share.iter() {
        let Some(pivot) = rows.iter().position(|(equation, _)| equation.contains(packet)) else { continue };
        let (pivot, pivot_from) = rows.swap_remove(pivot);
        for (equation, from) in rows.iter_mut().filter(|(equation, _)| equation.contains(packet)) {
            equation.add(&pivot);
            from.add(&pivot_from);
        }
    }
    rows.into_iter().map(|(_, from)| from.iter().collect()).collect()
}

fn total(sums: &[Accumulator], which: &[usize]) -> Accumulator {
    let mut total = Accumulator::ZERO;
    which.iter().for_each(|&i| total.add_sum(sums[i]));
    total
}
