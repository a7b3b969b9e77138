//! [`Schedule`]: a program of XORs over the packets of one stripe, and the solvers that find it.
//!
//! - `solve`: makes wanted packets from known ones by the code's equations; encoding and decoding both use
//!   it.
//! - `repair`: makes lost shares and reads as few packets as possible.
//! - `bits`: rows of matrices over GF(2).
//!
//! Invariants of a schedule, which the executor relies on:
//! 1. Each target is written once.
//! 2. A source is a packet that was present before, or the target of an earlier operation.
//! 3. No operation reads its own target.
//!
//! `the_portable_executor_encodes_and_decodes_every_code` and
//! `every_code_survives_every_loss_up_to_14_shares` hold them. A better way to find schedules (other common
//! subexpressions, for instance) has to keep only these.

mod bits;
mod repair;
mod solve;

pub(crate) use bits::Bits;
pub(crate) use repair::cheapest_repair;
pub(crate) use solve::solve;

use crate::geometry::{Geometry, Packet};
use crate::xor::Compiled;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// Largest number of pairs of sources for which shared sums are searched. For more the search is not worth
/// its time.
const PAIRS_MAX: usize = 5000;

/// A list of operations: each target packet is the XOR of its sources. Column number `shares` stands for
/// scratch packets.
#[derive(Debug, Clone)]
pub struct Schedule {
    shares: usize,
    rows: usize,
    scratch: usize,
    /// Each target with the end of its sources in `sources`. The sources begin at the end of the target
    /// before.
    targets: Vec<(Packet, usize)>,
    sources: Vec<Packet>,
    compiled: Compiled,
    lean: OnceLock<Box<Schedule>>,
}

/// One operation found by a solver, by packet number. Numbers above those of the packets stand for helper
/// sums.
#[derive(Debug, Clone)]
pub(crate) struct XorStep {
    pub(crate) target: usize,
    pub(crate) sources: Bits,
}

impl Schedule {
    /// Turns solved operations into a schedule. Targets in `kept` are written to their share, all others to
    /// scratch.
    pub(crate) fn from_steps(geometry: &Geometry, steps: &[XorStep], kept: &Bits) -> Schedule {
        let mut schedule = Schedule::empty(geometry);
        let mut place: Vec<Packet> = (0..geometry.packets()).map(|number| geometry.packet(number)).collect();
        for step in steps {
            place.resize(place.len().max(step.target + 1), Packet::new(geometry.shares, 0));
            if step.target >= geometry.packets() || !kept.contains(step.target) {
                place[step.target] = Packet::new(geometry.shares, schedule.scratch);
                schedule.scratch += 1;
            }
            let sources: Vec<Packet> = step.sources.iter().map(|source| place[source]).collect();
            schedule.push(place[step.target], &sources);
        }
        schedule
    }

    /// Returns the same schedule with fewest XORs: a sum of two packets that several targets need is made
    /// once, the most needed sum first (Paar: Optimized arithmetic for Reed-Solomon encoders, ISIT 1997). The
    /// result is computed at the first call and kept. Machine code does not use it, because it has better
    /// uses for registers.
    pub fn lean(&self) -> &Schedule {
        self.lean.get_or_init(|| Box::new(self.with_shared_sums()))
    }

    fn with_shared_sums(&self) -> Schedule {
        let pairs: usize = self.ops().map(|(_, sources)| sources.len() * sources.len() / 2).sum();
        if pairs > PAIRS_MAX {
            return self.clone();
        }
        let mut ops: Vec<(Packet, BTreeSet<Packet>)> =
            self.ops().map(|(target, sources)| (target, sources.iter().copied().collect())).collect();
        let mut scratch = self.scratch;
        loop {
            let mut wanted: BTreeMap<(Packet, Packet), usize> = BTreeMap::new();
            for (_, sources) in &ops {
                let sources: Vec<Packet> = sources.iter().copied().collect();
                for (i, a) in sources.iter().enumerate() {
                    sources[i + 1..].iter().for_each(|b| *wanted.entry((*a, *b)).or_default() += 1);
                }
            }
            let most = wanted.into_iter().max_by_key(|(pair, count)| (*count, std::cmp::Reverse(*pair)));
            let Some(((a, b), _)) = most.filter(|(_, count)| *count > 1) else { break };
            let sum = Packet::new(self.shares, scratch);
            scratch += 1;
            let has = |sources: &BTreeSet<Packet>| sources.contains(&a) && sources.contains(&b);
            // The sources of the pair exist before the first operation that needs the pair.
            let first = ops.iter().position(|(_, sources)| has(sources)).expect("two want it");
            for (_, sources) in ops.iter_mut().filter(|(_, sources)| has(sources)) {
                sources.remove(&a);
                sources.remove(&b);
                sources.insert(sum);
            }
            ops.insert(first, (sum, BTreeSet::from([a, b])));
        }
        let mut shared = Schedule {
            shares: self.shares,
            rows: self.rows,
            scratch,
            targets: Vec::new(),
            sources: Vec::new(),
            compiled: Compiled::default(),
            lean: OnceLock::new(),
        };
        for (target, sources) in ops {
            shared.push(target, &sources.into_iter().collect::<Vec<_>>());
        }
        shared
    }

    /// Returns the schedule that sets scratch packet i to the XOR of equation i, which is zero in a code
    /// word.
    pub(crate) fn syndromes(geometry: &Geometry) -> Schedule {
        let mut schedule = Schedule::empty(geometry);
        for (i, equation) in geometry.equations.iter().enumerate() {
            schedule.push(Packet::new(geometry.shares, i), equation);
        }
        schedule.scratch = geometry.equations.len();
        schedule
    }

    fn empty(geometry: &Geometry) -> Schedule {
        let (shares, rows) = (geometry.shares, geometry.rows);
        Schedule {
            shares,
            rows,
            scratch: 0,
            targets: Vec::new(),
            sources: Vec::new(),
            compiled: Compiled::default(),
            lean: OnceLock::new(),
        }
    }

    fn push(&mut self, target: Packet, sources: &[Packet]) {
        self.sources.extend_from_slice(sources);
        self.targets.push((target, self.sources.len()));
    }

    pub(crate) fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Returns the number of columns, without the scratch column.
    pub fn shares(&self) -> usize {
        self.shares
    }

    /// Returns the number of packets in a column.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of scratch packets that the schedule needs.
    pub fn scratch(&self) -> usize {
        self.scratch
    }

    /// Returns the operations in order: a target and the packets whose XOR it is.
    pub fn ops(&self) -> impl Iterator<Item = (Packet, &[Packet])> {
        let mut begin = 0;
        self.targets.iter().map(move |&(target, end)| {
            let sources = &self.sources[begin..end];
            begin = end;
            (target, sources)
        })
    }

    /// Returns the number of XORs of two packets for one stripe.
    pub fn xors(&self) -> usize {
        self.ops().map(|(_, sources)| sources.len().saturating_sub(1)).sum()
    }

    /// Returns the rows of each share that must be present before the schedule runs, ascending.
    pub fn reads(&self) -> Vec<Vec<usize>> {
        let mut written = Bits::new(self.shares * self.rows);
        let mut read = Bits::new(self.shares * self.rows);
        for (target, sources) in self.ops() {
            for source in sources.iter().filter(|source| source.share() < self.shares) {
                let number = source.share() * self.rows + source.row();
                if !written.contains(number) {
                    read.insert(number);
                }
            }
            if target.share() < self.shares {
                written.insert(target.share() * self.rows + target.row());
            }
        }
        let rows_of = |share| (0..self.rows).filter(|row| read.contains(share * self.rows + row)).collect();
        (0..self.shares).map(rows_of).collect()
    }

    /// Returns the number of packets read for one stripe.
    pub fn packets_read(&self) -> usize {
        self.reads().iter().map(Vec::len).sum()
    }
}
