//! [`cheapest_repair`]: a schedule that makes lost shares and reads as few packets as possible.
//!
//! A packet that lies in several equations can be made from any of them, and equations that share packets
//! cost less together. Half the rows of a lost RDP column from row parity and half from diagonal parity read
//! three quarters of what row parity alone reads (Xiang, Xu, Lui, Chang: Optimal recovery of single disk
//! failure in RDP code storage systems, SIGMETRICS 2010). Sums of equations are equations, too. In a dense
//! code the sum of a few equations often reads fewer packets than each of them (Khan, Burns, Plank, Pierce,
//! Huang: Rethinking Erasure Codes for Cloud File Systems: Minimizing I/O for Recovery and Degraded Reads,
//! FAST 2012). There are two searches, and the better result is taken:
//!
//! - `ByPacket` chooses one equation for each lost packet. The search is exhaustive with bounds: at most 2^15
//!   leaves for the arrays here.
//! - `BySum` chooses as many sums of equations as packets are lost, such that the sums determine the packets.
//!   At each step it tries the few sums that add the fewest packets to read. It guarantees no optimum, but
//!   finds the known optimum of RDP with p = 5.
//!
//! Held by `rdp_reads_three_quarters_to_make_one_data_share_again`,
//! `sums_of_equations_read_less_than_single_ones` and
//! `every_plan_rebuilds_what_it_promises_from_what_it_names`.

use super::{Bits, Schedule, XorStep, solve};
use crate::geometry::Geometry;

/// Visits after which the search by packet keeps the best result so far: twice what the largest array here
/// can take.
const VISITS_MAX: usize = 1 << 17;
/// Largest number of equation sums that are considered: all sums of 16 equations.
const SUMS_MAX: usize = 1 << 16;
/// Largest number of sums that are tried at each step. Searches of many steps try fewer.
const WIDTH: usize = 3;
/// Largest number of sums that one search may examine: some tens of milliseconds.
const LOOKS_MAX: usize = 1 << 23;

/// Returns a schedule that makes the packets `lost` from packets that are not `unknown`, with the fewest
/// packets read that the searches find. Returns `None` when the equations do not determine the packets.
pub(crate) fn cheapest_repair(geometry: &Geometry, unknown: &Bits, lost: &Bits) -> Option<Schedule> {
    let solved = solve(geometry, unknown, lost)?;
    let by_packet = ByPacket::search(geometry, unknown, lost, solved.packets_read());
    let reads = by_packet.as_ref().map_or(solved.packets_read(), Schedule::packets_read);
    let by_sum = BySum::search(geometry, unknown, lost, reads);
    Some(by_sum.or(by_packet).unwrap_or(solved))
}

struct ByPacket {
    choices: Vec<Vec<XorStep>>,
    chosen: Vec<usize>,
    best: Option<Vec<XorStep>>,
    best_reads: usize,
    visits: usize,
}

impl ByPacket {
    /// Returns a schedule that reads fewer than `reads` packets, if the search finds one.
    fn search(geometry: &Geometry, unknown: &Bits, lost: &Bits, reads: usize) -> Option<Schedule> {
        let mut search = ByPacket {
            choices: choices(geometry, unknown, lost),
            chosen: Vec::new(),
            best: None,
            best_reads: reads,
            visits: 0,
        };
        search.descend(&Bits::new(geometry.packets()));
        search.best.map(|steps| Schedule::from_steps(geometry, &steps, lost))
    }

    fn descend(&mut self, read: &Bits) {
        self.visits += 1;
        if read.len() >= self.best_reads || self.visits > VISITS_MAX {
            return;
        }
        let depth = self.chosen.len();
        if depth == self.choices.len() {
            self.best_reads = read.len();
            let steps = self.choices.iter().zip(&self.chosen).map(|(steps, &choice)| steps[choice].clone());
            self.best = Some(steps.collect());
            return;
        }
        for choice in 0..self.choices[depth].len() {
            let mut read = read.clone();
            read.unite(&self.choices[depth][choice].sources);
            self.chosen.push(choice);
            self.descend(&read);
            self.chosen.pop();
        }
    }
}

/// Returns, for each lost packet, every equation in which it is the only unknown.
fn choices(geometry: &Geometry, unknown: &Bits, lost: &Bits) -> Vec<Vec<XorStep>> {
    let equations = geometry.equation_bits();
    let steps_for = |target| {
        let alone = equations.iter().filter(move |equation| equation.only_common(unknown) == Some(target));
        let steps = alone.map(|equation| {
            let mut sources = equation.clone();
            sources.remove(target);
            XorStep { target, sources }
        });
        steps.collect::<Vec<_>>()
    };
    let mut choices: Vec<Vec<XorStep>> = lost.iter().map(steps_for).collect();
    // Packets with the fewest choices come first, so that the bound is tight early.
    choices.sort_by_key(Vec::len);
    choices
}

/// A sum of equations whose only unknown packets are lost ones.
#[derive(Clone)]
struct EquationSum {
    /// The lost packets in the sum: bit i for the i-th.
    lost: u64,
    /// The known packets in the sum.
    read: Bits,
}

struct BySum {
    sums: Vec<EquationSum>,
    /// Number of lost packets.
    wanted: usize,
    width: usize,
    chosen: Vec<EquationSum>,
    best: Option<Vec<EquationSum>>,
    best_reads: usize,
}

/// A candidate for the next sum.
struct Candidate {
    reads: usize,
    /// `lost` of the sum, reduced by the sums chosen before; not zero.
    lost: u64,
    sum: usize,
}

impl BySum {
    /// Returns a schedule that reads fewer than `reads` packets, if the search finds one.
    fn search(geometry: &Geometry, unknown: &Bits, lost: &Bits, reads: usize) -> Option<Schedule> {
        let wanted = lost.len();
        if wanted > 64 {
            return None;
        }
        let sums = sums(geometry, unknown, lost);
        let looks =
            |width: usize| width.checked_pow(wanted as u32).and_then(|leaves| leaves.checked_mul(sums.len()));
        let width = (2..=WIDTH)
            .rev()
            .find(|width| looks(*width).is_some_and(|looks| looks <= LOOKS_MAX))
            .unwrap_or(1);
        let mut search = BySum { sums, wanted, width, chosen: Vec::new(), best: None, best_reads: reads };
        search.descend(&Bits::new(geometry.packets()), &[]);
        let mut best = search.best?;
        // Each sum gets one lost packet of its own, which is then the sum of the other packets in it.
        for at in 0..wanted {
            let pivot = (0..wanted).find(|bit| best[at].lost >> bit & 1 == 1).expect("they are independent");
            let chosen = best[at].clone();
            for (_, sum) in
                best.iter_mut().enumerate().filter(|(other, sum)| *other != at && sum.lost >> pivot & 1 == 1)
            {
                sum.lost ^= chosen.lost;
                sum.read.add(&chosen.read);
            }
        }
        let packets: Vec<usize> = lost.iter().collect();
        let step = |sum: EquationSum| XorStep {
            target: packets[sum.lost.trailing_zeros() as usize],
            sources: sum.read,
        };
        let steps: Vec<XorStep> = best.into_iter().map(step).collect();
        Some(Schedule::from_steps(geometry, &steps, lost))
    }

    /// Extends the chosen sums. `independent` holds the lost packets of each chosen sum, reduced by the sums
    /// before it.
    fn descend(&mut self, read: &Bits, independent: &[u64]) {
        if independent.len() == self.wanted {
            self.best_reads = read.len();
            self.best = Some(self.chosen.clone());
            return;
        }
        for next in self.cheapest(read, independent) {
            // Another branch may have found a better result in the meantime.
            if next.reads < self.best_reads {
                let sum = self.sums[next.sum].clone();
                let mut read = read.clone();
                read.unite(&sum.read);
                self.chosen.push(sum);
                self.descend(&read, &[independent, &[next.lost]].concat());
                self.chosen.pop();
            }
        }
    }

    /// Returns the sums that add the fewest packets to read and do not depend on the chosen sums, the best
    /// first.
    fn cheapest(&self, read: &Bits, independent: &[u64]) -> Vec<Candidate> {
        let mut best: Vec<Candidate> = Vec::with_capacity(self.width + 1);
        for (number, sum) in self.sums.iter().enumerate() {
            let lost = independent.iter().fold(sum.lost, |rest, chosen| rest.min(rest ^ chosen));
            let reads = read.united_len(&sum.read);
            let worst =
                best.last().filter(|_| best.len() == self.width).map_or(self.best_reads, |next| next.reads);
            let known = |next: &Candidate| next.lost == lost && next.reads == reads;
            if lost != 0 && reads < worst && !best.iter().any(known) {
                let at = best.partition_point(|next| next.reads <= reads);
                best.insert(at, Candidate { reads, lost, sum: number });
                best.truncate(self.width);
            }
        }
        best
    }
}

/// Returns the sums of equations that contain lost packets and otherwise only known packets: sums of one
/// equation, of two, and so on, up to the number at which [`SUMS_MAX`] is reached.
fn sums(geometry: &Geometry, unknown: &Bits, lost: &Bits) -> Vec<EquationSum> {
    let equations = geometry.equation_bits();
    let mut at_once = 0;
    let (mut all, mut of_so_many) = (0, 1);
    while at_once < equations.len() {
        of_so_many = of_so_many * (equations.len() - at_once) / (at_once + 1);
        if all + of_so_many > SUMS_MAX {
            break;
        }
        all += of_so_many;
        at_once += 1;
    }
    let mut gone = unknown.clone();
    lost.iter().for_each(|packet| gone.remove(packet));
    let packets: Vec<usize> = lost.iter().collect();
    let mut sums = Vec::new();
    let mut add = |sum: &Bits| {
        let of_lost = packets.iter().enumerate().filter(|(_, packet)| sum.contains(**packet));
        let of_lost = of_lost.fold(0, |bits, (bit, _)| bits | 1 << bit);
        if of_lost != 0 && !sum.intersects(&gone) {
            let mut read = sum.clone();
            packets.iter().for_each(|packet| read.remove(*packet));
            sums.push(EquationSum { lost: of_lost, read });
        }
    };
    add_sums(&equations, at_once, &Bits::new(geometry.packets()), &mut add);
    sums
}

/// Calls `add` with every sum of `sum` and of one to `at_once` of the equations.
fn add_sums(equations: &[Bits], at_once: usize, sum: &Bits, add: &mut impl FnMut(&Bits)) {
    if at_once == 0 {
        return;
    }
    for (at, equation) in equations.iter().enumerate() {
        let mut sum = sum.clone();
        sum.add(equation);
        add(&sum);
        add_sums(&equations[at + 1..], at_once - 1, &sum, add);
    }
}
