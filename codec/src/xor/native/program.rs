//! [`Program`]: a schedule turned into one pass over a stripe with all sums in registers.
//!
//! Every packet is loaded once for as many sums as fit into the machine's registers; for most codes and
//! erasure patterns these are all sums. With a three-operand XOR, packets pass through a window: the
//! registers that the sums leave free. A sum waits for a second packet while its first is in the window,
//! which takes half an instruction for each packet of a sum. Without a three-operand XOR, packets are taken
//! two at a time together with their sum, which takes three quarters of an instruction in a dense matrix.
//! Sums that are sources of other sums (RDP's row parity, a decoder's zig-zag and syndromes) are added from
//! their registers.
//!
//! Invariants (`programs_do_what_schedules_say`; the cost:
//! `a_dense_matrix_costs_a_quarter_of_an_instruction_a_cell`):
//! 1. A register is read only after it was written.
//! 2. Every kept target is stored exactly once.
//!
//! Left out: machine code (the module `native`). `docs/codec.md` lists other methods that were tried
//! and their results.

#[cfg(test)]
use super::super::Row;
use crate::geometry::Packet;
use crate::schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};

/// The machine's resources that a program depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Number of vector registers.
    pub(crate) registers: usize,
    /// Whether one instruction can compute the XOR of three registers.
    pub(crate) three_operands: bool,
}

/// Registers of the smallest window of packets.
const WINDOW_MIN: usize = 6;
/// Registers of a pair of packets and its sum.
const PAIR: usize = 3;

/// One instruction. Each register holds one packet, or the vector-sized part of one.
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

/// Sums that are computed together, each in a register.
struct Pass {
    sums: Vec<RegisterSum>,
    /// Number of registers of the sums, from register 0 on.
    registers: usize,
}

/// One sum of a pass: packets from memory and earlier sums of the same pass.
struct RegisterSum {
    /// Packet to which the sum is stored; `None`: only other sums use it.
    target: Option<Packet>,
    register: u8,
    packets: Vec<Packet>,
    /// Registers of the earlier sums that are added. A register that this sum takes over is not among them.
    sums: Vec<u8>,
}

impl Program {
    pub(crate) fn new(schedule: &Schedule, machine: Machine) -> Program {
        let sums_max = machine.registers - if machine.three_operands { WINDOW_MIN } else { PAIR };
        // Sums that the schedule shares between targets can save instructions here, too, or can cost
        // registers.
        let shared = of_passes(&passes(schedule, sums_max, true), machine);
        let whole = of_passes(&passes(schedule, sums_max, false), machine);
        Program { ops: if shared.len() < whole.len() { shared } else { whole } }
    }

    /// Returns the packets that the program loads; a packet that it loads twice comes twice.
    pub(crate) fn loads(&self) -> impl Iterator<Item = Packet> {
        self.ops.iter().filter_map(|op| match op {
            Op::Load { from, .. } => Some(*from),
            _ => None,
        })
    }

    /// Runs the program on one stripe without machine code.
    #[cfg(test)]
    pub(crate) fn interpret(&self, columns: &mut [Vec<Row>], stripe: usize, rows: usize) {
        use crate::xor::scalar::Accumulator;
        let mut registers = [[0xee; 64]; 32];
        let add = |rows: &[&Row]| {
            let mut sum = Accumulator::ZERO;
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

fn of_passes(passes: &[Pass], machine: Machine) -> Vec<Op> {
    let shortest = |pass: &Pass| {
        let by_share = in_order(pass, |packet| (packet.share(), packet.row()));
        let by_row = in_order(pass, |packet| (packet.row(), packet.share()));
        let way = if machine.three_operands { windowed } else { paired };
        let ways = [by_row, by_share].map(|packets| way(pass, machine, &packets));
        ways.into_iter().min_by_key(Vec::len).expect("there are two")
    };
    passes.iter().flat_map(shortest).collect()
}

/// Returns the packets of a pass, sorted by `order`, each with the registers of the sums that use it.
fn in_order<K: Ord>(pass: &Pass, order: impl Fn(&Packet) -> K) -> Vec<(Packet, Vec<u8>)> {
    let mut users: BTreeMap<Packet, Vec<u8>> = BTreeMap::new();
    for sum in &pass.sums {
        for packet in &sum.packets {
            users.entry(*packet).or_default().push(sum.register);
        }
    }
    let mut packets: Vec<(Packet, Vec<u8>)> = users.into_iter().collect();
    packets.sort_by_key(|(packet, _)| order(packet));
    packets
}

/// Cuts a schedule into passes of at most `registers_max` registers. A sum of an earlier pass is read from
/// its stored target, or expanded into its sources when it was not stored. All scratch sums are expanded
/// unless `keep_scratch`. A sum without packets of its own takes over the register of a source that no later
/// sum uses; a decoder's packets thus take over their syndromes.
fn passes(schedule: &Schedule, registers_max: usize, keep_scratch: bool) -> Vec<Pass> {
    let is_scratch = |packet: Packet| packet.share() == schedule.shares();
    let made_of = scratch_made_of(schedule);
    let sums = schedule.ops().filter(|(target, _)| keep_scratch || !is_scratch(*target));
    let sources = |sources: &[Packet]| match keep_scratch {
        true => sources.to_vec(),
        false => expanded(sources, &made_of, |_| false),
    };
    let ops: Vec<(Packet, Vec<Packet>)> = sums.map(|(target, of)| (target, sources(of))).collect();
    let mut last_use: BTreeMap<Packet, usize> = BTreeMap::new();
    for (number, (_, sources)) in ops.iter().enumerate() {
        last_use.extend(sources.iter().map(|source| (*source, number)));
    }
    let number_of: BTreeMap<Packet, usize> =
        ops.iter().enumerate().map(|(number, (target, _))| (*target, number)).collect();
    let mut passes: Vec<Pass> = Vec::new();
    // The registers of the sums of the current pass.
    let mut register_of: BTreeMap<Packet, u8> = BTreeMap::new();
    for (number, (target, sources)) in ops.into_iter().enumerate() {
        let own = |source: &Packet| !register_of.contains_key(source);
        let taken_over = sources.iter().find(|source| last_use[source] == number);
        let taken_over = taken_over.copied().filter(|_| !sources.iter().any(own));
        let full = passes.last().is_none_or(|pass| pass.registers == registers_max);
        if full && taken_over.is_none() {
            passes.push(Pass { sums: Vec::new(), registers: 0 });
            register_of.clear();
        }
        let pass = passes.last_mut().expect("one was begun");
        let register = match taken_over.and_then(|source| register_of.remove(&source)) {
            Some(register) => register,
            None => {
                pass.registers += 1;
                pass.registers as u8 - 1
            }
        };
        let others: Vec<Packet> = sources.into_iter().filter(|source| Some(*source) != taken_over).collect();
        let of = expanded(&others, &made_of, |source| register_of.contains_key(source));
        let (mut sums, packets): (Vec<Packet>, Vec<Packet>) =
            of.into_iter().partition(|source| register_of.contains_key(source));
        // The sum that was made last comes last, because only it has to be waited for.
        sums.sort_by_key(|source| number_of[source]);
        let sums = sums.iter().map(|source| register_of[source]).collect();
        register_of.insert(target, register);
        let target = (!is_scratch(target)).then_some(target);
        pass.sums.push(RegisterSum { target, register, packets, sums });
    }
    passes
}

/// Returns the sources of each scratch sum, with no scratch among them.
fn scratch_made_of(schedule: &Schedule) -> BTreeMap<Packet, Vec<Packet>> {
    let mut made_of = BTreeMap::new();
    for (target, sources) in schedule.ops().filter(|(target, _)| target.share() == schedule.shares()) {
        made_of.insert(target, expanded(sources, &made_of, |_| false));
    }
    made_of
}

/// Replaces scratch sums among the sources by their own sources, except those that are `at_hand`.
fn expanded(
    sources: &[Packet],
    made_of: &BTreeMap<Packet, Vec<Packet>>,
    at_hand: impl Fn(&Packet) -> bool,
) -> Vec<Packet> {
    let mut packets = BTreeSet::new();
    for source in sources {
        match made_of.get(source).filter(|_| !at_hand(source)) {
            Some(inner) => inner.iter().for_each(|packet| toggle(&mut packets, *packet)),
            None => toggle(&mut packets, *source),
        }
    }
    packets.into_iter().collect()
}

/// Adds a packet to a sum. A packet that is added twice cancels.
fn toggle(packets: &mut BTreeSet<Packet>, packet: Packet) {
    if !packets.remove(&packet) {
        packets.insert(packet);
    }
}

/// Writes the instructions of a pass. Sums are in registers 0 and up, packets and pairs in the registers
/// above.
struct Emitter {
    ops: Vec<Op>,
    machine: Machine,
    /// For each sum's register, whether it has a value.
    begun: Vec<bool>,
}

impl Emitter {
    fn new(pass: &Pass, machine: Machine) -> Emitter {
        Emitter { ops: Vec::new(), machine, begun: vec![false; pass.registers] }
    }

    /// Adds `registers` to the sum in register `to`.
    fn add(&mut self, to: u8, registers: &[u8]) {
        let mut rest = registers;
        while let Some((&a, more)) = rest.split_first() {
            rest = more;
            let b = rest.first().copied();
            let op = match (self.begun[to as usize], b) {
                (false, Some(b)) => Op::Xor { to, a, b },
                (true, Some(b)) if self.machine.three_operands => Op::Xor3 { to, a, b },
                (true, _) => {
                    self.ops.push(Op::Xor { to, a: to, b: a });
                    continue;
                }
                (false, None) => Op::Copy { to, from: a },
            };
            self.ops.push(op);
            self.begun[to as usize] = true;
            rest = rest.get(1..).unwrap_or_default();
        }
    }

    /// Adds to each sum the packet that its register still waits for and its earlier sums, then stores the
    /// sum.
    fn finish(mut self, pass: &Pass, mut waiting: Vec<Option<u8>>) -> Vec<Op> {
        for sum in &pass.sums {
            let to = sum.register;
            let packet = waiting[to as usize].take();
            self.add(to, &packet.into_iter().chain(sum.sums.iter().copied()).collect::<Vec<_>>());
            if !self.begun[to as usize] {
                self.ops.push(Op::Clear { to });
                self.begun[to as usize] = true;
            }
            if let Some(target) = sum.target {
                self.ops.push(Op::Store { from: to, to: target });
            }
        }
        self.ops
    }
}

/// Takes packets two at a time, and computes the sum of both where several sums use it.
fn paired(pass: &Pass, machine: Machine, packets: &[(Packet, Vec<u8>)]) -> Vec<Op> {
    let mut emitter = Emitter::new(pass, machine);
    let [first, second, both] = [0, 1, 2].map(|at| (pass.registers + at) as u8);
    for pair in packets.chunks(2) {
        for (to, (packet, _)) in [first, second].into_iter().zip(pair) {
            emitter.ops.push(Op::Load { to, from: *packet });
        }
        let wants = |at: usize, sum: u8| pair.get(at).is_some_and(|(_, sums)| sums.contains(&sum));
        let sums = 0..pass.registers as u8;
        let summed = sums.clone().filter(|sum| wants(0, *sum) && wants(1, *sum)).count() > 1;
        if summed {
            emitter.ops.push(Op::Xor { to: both, a: first, b: second });
        }
        for sum in sums {
            match (wants(0, sum), wants(1, sum)) {
                (true, true) if summed => emitter.add(sum, &[both]),
                (true, true) => emitter.add(sum, &[first, second]),
                (true, false) => emitter.add(sum, &[first]),
                (false, true) => emitter.add(sum, &[second]),
                (false, false) => {}
            }
        }
    }
    emitter.finish(pass, vec![None; pass.registers])
}

/// Takes packets one by one through a window of the free registers. A sum waits for a second packet while its
/// first is in the window.
fn windowed(pass: &Pass, machine: Machine, packets: &[(Packet, Vec<u8>)]) -> Vec<Op> {
    let mut emitter = Emitter::new(pass, machine);
    // For each sum's register, the register of a packet that is not added yet.
    let mut waiting: Vec<Option<u8>> = vec![None; pass.registers];
    // Registers of the window, the one filled longest ago first.
    let mut window: Vec<u8> = (pass.registers as u8..machine.registers as u8).collect();
    for (packet, users) in packets {
        let waited_for =
            |register: &u8| waiting.iter().filter(|waiting| **waiting == Some(*register)).count();
        let fewest =
            (0..window.len()).min_by_key(|at| waited_for(&window[*at])).expect("a window has registers");
        let register = window.remove(fewest);
        window.push(register);
        for (sum, waiting) in
            waiting.iter_mut().enumerate().filter(|(_, waiting)| **waiting == Some(register))
        {
            emitter.add(sum as u8, &[register]);
            *waiting = None;
        }
        emitter.ops.push(Op::Load { to: register, from: *packet });
        for sum in users {
            match waiting[*sum as usize].take() {
                Some(first) => emitter.add(*sum, &[first, register]),
                None => waiting[*sum as usize] = Some(register),
            }
        }
    }
    emitter.finish(pass, waiting)
}
