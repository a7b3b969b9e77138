//! [`Schedule`]: a program of XORs over the packets of one stripe, and how it is found.
//!
//! - `solve`: makes wanted packets from known ones, by the code's equations (encode and decode alike);
//! - `repair`: the same for lost shares, reading as little as possible;
//! - `bits`: rows of matrices over GF(2).
//!
//! Invariants of a schedule: a target is written once; a source is a packet that was there before or the
//! target of an earlier operation; no operation reads its own target. The executor relies on nothing else, so
//! another way to find better schedules (common subexpressions, for instance) only has to make one.

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

/// Pairs of sources up to which sums are shared: the search is not worth it for more.
const PAIRS_MAX: usize = 5000;

/// Targets and what each is the XOR of, in order. Column `shares` stands for scratch packets.
#[derive(Debug, Clone)]
pub struct Schedule {
    shares: usize,
    rows: usize,
    scratch: usize,
    /// A target, and where its sources end in `sources`; they begin where those of the one before end.
    targets: Vec<(Packet, usize)>,
    sources: Vec<Packet>,
    compiled: Compiled,
    lean: OnceLock<Box<Schedule>>,
}

/// A step found by a solver: target and sources by packet number. Numbers above the packets' are helpers.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) target: usize,
    pub(crate) sources: Bits,
}

impl Schedule {
    /// Lowers steps: targets in `kept` are written to their share, others to scratch.
    pub(crate) fn from_steps(geometry: &Geometry, steps: &[Step], kept: &Bits) -> Schedule {
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

    /// The same with sums of two packets that several targets want made once, the most wanted first (Paar: Optimized
    /// arithmetic for Reed-Solomon encoders, ISIT 1997): the fewest XORs, worked out when it is first wanted. Machine code has better
    /// uses for registers.
    pub fn lean(&self) -> &Schedule {
        self.lean.get_or_init(|| Box::new(self.shared()))
    }

    fn shared(&self) -> Schedule {
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
            // Whoever wants it first has both of its sources before.
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

    /// Scratch packet i becomes the XOR of equation i, zero for a code word.
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

    /// Columns, but for scratch.
    pub fn shares(&self) -> usize {
        self.shares
    }

    /// Packets of a column.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Packets of scratch that it wants.
    pub fn scratch(&self) -> usize {
        self.scratch
    }

    /// The operations in order: a target and the packets it is the XOR of.
    pub fn ops(&self) -> impl Iterator<Item = (Packet, &[Packet])> {
        let mut begin = 0;
        self.targets.iter().map(move |&(target, end)| {
            let sources = &self.sources[begin..end];
            begin = end;
            (target, sources)
        })
    }

    /// XORs of two packets that it takes for a stripe.
    pub fn xors(&self) -> usize {
        self.ops().map(|(_, sources)| sources.len().saturating_sub(1)).sum()
    }

    /// The rows of each share that must be there before, ascending.
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

    /// Packets read for a stripe.
    pub fn packets_read(&self) -> usize {
        self.reads().iter().map(Vec::len).sum()
    }
}
