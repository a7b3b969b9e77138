//! [`Program`]: a schedule turned into one pass over a stripe with all sums in registers.
//!
//! Every packet is loaded once for as many sums as fit into the machine's registers (all of them for most codes
//! and erasure patterns). Packets are taken four at a time, with the sums of two and two: whatever part of the
//! four a sum needs, one three-operand XOR adds it. So a dense matrix costs a quarter of an instruction for each
//! of its cells instead of a half (two at a time where the machine has no third operand). Sums that are sources of
//! other sums (RDP's row parity, a decoder's zig-zag) are added from their registers.
//!
//! What else was tried, and what it gave, is in `docs/codec.md`. Invariants: a register is read only after it was
//! written; every kept target is stored exactly once. Not here: machine code ([`native`](super::native)).

#[cfg(test)]
use super::Row;
use crate::geometry::Packet;
use crate::schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};

/// What the machine offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Vector registers.
    pub(crate) registers: usize,
    /// Whether a register can take the XOR of itself and two others.
    pub(crate) three_operands: bool,
}

/// One instruction on registers of a packet each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Load {
        to: u8,
        from: Packet,
    },
    Store {
        from: u8,
        to: Packet,
    },
    Clear {
        to: u8,
    },
    Copy {
        to: u8,
        from: u8,
    },
    /// `to = a + b`
    Xor {
        to: u8,
        a: u8,
        b: u8,
    },
    /// `to = to + a + b`
    Xor3 {
        to: u8,
        a: u8,
        b: u8,
    },
}

/// Instructions for one stripe.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) ops: Vec<Op>,
}

/// A sum of a pass: packets in memory and earlier sums of the same pass.
struct Sum {
    /// Where it is stored; none: it only helps others.
    target: Option<Packet>,
    packets: Vec<Packet>,
    sums: Vec<usize>,
}

impl Program {
    pub(crate) fn new(schedule: &Schedule, machine: Machine) -> Program {
        let group = if machine.three_operands { 4 } else { 2 };
        // A group and the sums of its pairs.
        let sums_max = machine.registers - group - group / 2;
        // Sums that the schedule shares between targets may save instructions here, too, or cost registers.
        let shared = of_passes(&passes(schedule, sums_max, true), machine, group);
        let expanded = of_passes(&passes(schedule, sums_max, false), machine, group);
        Program { ops: if shared.len() < expanded.len() { shared } else { expanded } }
    }

    /// The packets that it reads, as often as it does.
    pub(crate) fn loads(&self) -> impl Iterator<Item = Packet> {
        self.ops.iter().filter_map(|op| match op {
            Op::Load { from, .. } => Some(*from),
            _ => None,
        })
    }

    /// Runs it on one stripe without machine code.
    #[cfg(test)]
    pub(crate) fn interpret(&self, columns: &mut [Vec<Row>], stripe: usize, rows: usize) {
        use super::scalar::Sum;
        let mut registers = [[0xee; 64]; 32];
        let add = |rows: &[&Row]| {
            let mut sum = Sum::ZERO;
            rows.iter().for_each(|row| sum.add(row));
            let mut row = [0; 64];
            sum.store(&mut row);
            row
        };
        for op in &self.ops {
            match *op {
                Op::Load { to, from } => {
                    registers[to as usize] = columns[from.share()][stripe * rows + from.row()];
                }
                Op::Store { from, to } => {
                    columns[to.share()][stripe * rows + to.row()] = registers[from as usize];
                }
                Op::Clear { to } => registers[to as usize] = [0; 64],
                Op::Copy { to, from } => registers[to as usize] = registers[from as usize],
                Op::Xor { to, a, b } => {
                    registers[to as usize] = add(&[&registers[a as usize], &registers[b as usize]]);
                }
                Op::Xor3 { to, a, b } => {
                    let rows = [to, a, b].map(|register| registers[register as usize]);
                    registers[to as usize] = add(&[&rows[0], &rows[1], &rows[2]]);
                }
            }
        }
    }
}

fn of_passes(passes: &[Vec<Sum>], machine: Machine, group: usize) -> Vec<Op> {
    let shortest = |pass: &Vec<Sum>| {
        let by_share = in_order(pass, |packet| (packet.share(), packet.row()));
        let by_row = in_order(pass, |packet| (packet.row(), packet.share()));
        let ways = [by_share, by_row].into_iter().flat_map(|packets| {
            let windowed = machine.three_operands.then(|| windowed(pass, machine, &packets));
            [Some(grouped(pass, machine, group, &packets)), windowed].into_iter().flatten()
        });
        ways.rev().min_by_key(Vec::len).expect("there are some")
    };
    passes.iter().flat_map(shortest).collect()
}

/// The packets of a pass in some order, each with the sums that want it.
fn in_order<K: Ord>(pass: &[Sum], order: impl Fn(&Packet) -> K) -> Vec<(Packet, Vec<usize>)> {
    let mut users: BTreeMap<Packet, Vec<usize>> = BTreeMap::new();
    for (number, sum) in pass.iter().enumerate() {
        for packet in &sum.packets {
            users.entry(*packet).or_default().push(number);
        }
    }
    let mut packets: Vec<(Packet, Vec<usize>)> = users.into_iter().collect();
    packets.sort_by_key(|(packet, _)| order(packet));
    packets
}

/// Cuts a schedule into passes of so many sums. A sum of an earlier pass is read from where it was stored, or, when it was
/// not, made of what it is made of; so are all scratch sums unless they are to be kept.
fn passes(schedule: &Schedule, sums_max: usize, keep_scratch: bool) -> Vec<Vec<Sum>> {
    let is_scratch = |packet: Packet| packet.share() == schedule.shares();
    let ops: Vec<(Packet, &[Packet])> =
        schedule.ops().filter(|(target, _)| keep_scratch || !is_scratch(*target)).collect();
    let number_of: BTreeMap<Packet, usize> =
        ops.iter().enumerate().map(|(number, (target, _))| (*target, number)).collect();
    // What each scratch sum is made of, without scratch.
    let mut made_of: BTreeMap<Packet, BTreeSet<Packet>> = BTreeMap::new();
    for (target, sources) in schedule.ops().filter(|(target, _)| is_scratch(*target)) {
        let mut packets = BTreeSet::new();
        for source in sources {
            match made_of.get(source) {
                Some(inner) => inner.iter().for_each(|packet| toggle(&mut packets, *packet)),
                None => toggle(&mut packets, *source),
            }
        }
        made_of.insert(target, packets);
    }
    let mut passes: Vec<Vec<Sum>> = Vec::new();
    for (first, chunk) in ops.chunks(sums_max).enumerate() {
        let first = first * sums_max;
        let in_this_pass = |packet: &Packet| number_of.get(packet).is_some_and(|number| *number >= first);
        let mut pass = Vec::with_capacity(chunk.len());
        for (target, sources) in chunk {
            let mut packets = BTreeSet::new();
            for source in *sources {
                match made_of.get(source).filter(|_| !in_this_pass(source)) {
                    Some(inner) => inner.iter().for_each(|packet| toggle(&mut packets, *packet)),
                    None => toggle(&mut packets, *source),
                }
            }
            let (sums, packets): (Vec<Packet>, Vec<Packet>) = packets.into_iter().partition(in_this_pass);
            pass.push(Sum {
                target: (!is_scratch(*target)).then_some(*target),
                packets,
                sums: sums.iter().map(|packet| number_of[packet] - first).collect(),
            });
        }
        passes.push(pass);
    }
    passes
}

/// Adds a packet to a sum: twice is not at all.
fn toggle(packets: &mut BTreeSet<Packet>, packet: Packet) {
    if !packets.remove(&packet) {
        packets.insert(packet);
    }
}

/// Sums in registers 0 and up, the group's packets and pairs above.
struct Emitter {
    ops: Vec<Op>,
    machine: Machine,
    /// Which sums have a value.
    begun: Vec<bool>,
}

impl Emitter {
    /// Adds some registers to a sum.
    fn add(&mut self, sum: usize, registers: &[u8]) {
        let to = sum as u8;
        let mut rest = registers;
        while let Some((&a, more)) = rest.split_first() {
            rest = more;
            let b = rest.first().copied();
            let op = match (self.begun[sum], b) {
                (false, Some(b)) => Op::Xor { to, a, b },
                (true, Some(b)) if self.machine.three_operands => Op::Xor3 { to, a, b },
                (true, _) => {
                    self.ops.push(Op::Xor { to, a: to, b: a });
                    continue;
                }
                (false, None) => Op::Copy { to, from: a },
            };
            self.ops.push(op);
            self.begun[sum] = true;
            rest = rest.get(1..).unwrap_or_default();
        }
    }

    /// Adds to each sum the packet that it still waits for and earlier sums, and stores it.
    fn finish(mut self, pass: &[Sum], waiting: impl Fn(usize) -> Option<u8>) -> Vec<Op> {
        for (number, sum) in pass.iter().enumerate() {
            let registers: Vec<u8> =
                waiting(number).into_iter().chain(sum.sums.iter().map(|earlier| *earlier as u8)).collect();
            self.add(number, &registers);
            if !self.begun[number] {
                self.ops.push(Op::Clear { to: number as u8 });
            }
            if let Some(target) = sum.target {
                self.ops.push(Op::Store { from: number as u8, to: target });
            }
        }
        self.ops
    }
}

/// Packets four at a time (two), with the sums of pairs.
fn grouped(pass: &[Sum], machine: Machine, group: usize, packets: &[(Packet, Vec<usize>)]) -> Vec<Op> {
    let mut emitter = Emitter { ops: Vec::new(), machine, begun: vec![false; pass.len()] };
    let loaded = pass.len() as u8;
    let pairs = loaded + group as u8;
    for four in packets.chunks(group) {
        for (at, (packet, _)) in four.iter().enumerate() {
            emitter.ops.push(Op::Load { to: loaded + at as u8, from: *packet });
        }
        // For each sum, which of each pair it needs: bit 0 the first, bit 1 the second.
        let needs: Vec<Vec<u8>> = (0..pass.len())
            .map(|sum| {
                let bit = |(_, users): &(Packet, Vec<usize>)| u8::from(users.contains(&sum));
                let of_pair = |pair: &[(Packet, Vec<usize>)]| {
                    bit(&pair[0]) | pair.get(1).map_or(0, |second| bit(second) << 1)
                };
                four.chunks(2).map(of_pair).collect()
            })
            .collect();
        let others =
            |need: &[u8], pair: usize| need.iter().enumerate().any(|(at, part)| at != pair && *part != 0);
        let mut summed = [false; 2];
        for pair in 0..four.len().div_ceil(2) {
            let both = needs.iter().filter(|need| need[pair] == 3);
            // Worth an instruction when it saves one: a lone pair is added by a three-operand XOR, or begins a sum.
            let saved = both.filter(|need| !machine.three_operands || others(need, pair)).count();
            if saved > 1 || saved == 1 && machine.three_operands {
                let a = loaded + 2 * pair as u8;
                emitter.ops.push(Op::Xor { to: pairs + pair as u8, a, b: a + 1 });
                summed[pair] = true;
            }
        }
        for (sum, need) in needs.iter().enumerate() {
            let mut registers = Vec::with_capacity(4);
            for (pair, part) in need.iter().enumerate() {
                let first = loaded + 2 * pair as u8;
                match part {
                    1 => registers.push(first),
                    2 => registers.push(first + 1),
                    3 if summed[pair] && (!machine.three_operands || others(need, pair)) => {
                        registers.push(pairs + pair as u8);
                    }
                    3 => registers.extend([first, first + 1]),
                    _ => {}
                }
            }
            emitter.add(sum, &registers);
        }
    }
    emitter.finish(pass, |_| None)
}

/// Packets one by one, in as many registers as the sums leave. A sum waits for a second packet while its first is there.
fn windowed(pass: &[Sum], machine: Machine, packets: &[(Packet, Vec<usize>)]) -> Vec<Op> {
    let mut emitter = Emitter { ops: Vec::new(), machine, begun: vec![false; pass.len()] };
    // For each sum, the register with a packet that it has not yet got.
    let mut waiting: Vec<Option<u8>> = vec![None; pass.len()];
    // Registers of the window, the one filled longest ago first.
    let mut window: Vec<u8> = (pass.len() as u8..machine.registers as u8).collect();
    for (packet, users) in packets {
        let waited_for =
            |register: &u8| waiting.iter().filter(|waiting| **waiting == Some(*register)).count();
        let fewest =
            (0..window.len()).min_by_key(|at| waited_for(&window[*at])).expect("a window has registers");
        let register = window.remove(fewest);
        window.push(register);
        for sum in (0..pass.len()).filter(|sum| waiting[*sum] == Some(register)).collect::<Vec<_>>() {
            emitter.add(sum, &[register]);
            waiting[sum] = None;
        }
        emitter.ops.push(Op::Load { to: register, from: *packet });
        for sum in users {
            match waiting[*sum].take() {
                Some(first) => emitter.add(*sum, &[first, register]),
                None => waiting[*sum] = Some(register),
            }
        }
    }
    emitter.finish(pass, |sum| waiting[sum])
}
