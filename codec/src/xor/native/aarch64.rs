//! Machine code for AArch64: NEON, with the three-operand XOR of the SHA-3 extension where the processor has
//! it. Encodings: Arm Architecture Reference Manual for A-profile, chapters C6 and C7.

use super::super::ROW_BYTES;
use super::assemble::{Encoder, Loop};
use super::program::{Machine, Op};
use crate::geometry::Packet;

/// The vector instruction set in use: 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// NEON with the three-operand EOR3 of SHA-3.
    Sha3,
    /// NEON, which every AArch64 processor has.
    Neon,
}

impl Level {
    /// Returns the levels that this machine has, the best first.
    pub(crate) fn here() -> Vec<Level> {
        let has = [
            (Level::Sha3, std::arch::is_aarch64_feature_detected!("sha3")),
            (Level::Neon, std::arch::is_aarch64_feature_detected!("neon")),
        ];
        has.into_iter().filter(|(_, has)| *has).map(|(level, _)| level).collect()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Sha3 => "NEON with SHA-3's EOR3, made at run time",
            Level::Neon => "NEON, made at run time",
        }
    }

    pub(crate) fn machine(self) -> Machine {
        Machine { registers: 32, three_operands: self == Level::Sha3 }
    }

    pub(crate) fn vector_bytes(self) -> usize {
        16
    }

    /// Returns whether the level has stores past the cache: AArch64 has such hints only for pairs of
    /// registers.
    pub(crate) fn streams(self) -> bool {
        false
    }
}

/// Registers of the list of pointers, the length, and the offset.
const LIST: u32 = 0;
const LENGTH: u32 = 1;
const OFFSET: u32 = 2;
/// Register for numbers that fit into no instruction.
const NUMBER: u32 = 16;
/// Registers that hold pointers to shares; the code advances them with the offset. Not x18, which belongs to
/// the platform, nor x29 and x30.
const POINTERS: [u32; 23] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28];
/// First registers of the pairs that the calling convention preserves.
const KEPT: [u32; 5] = [19, 21, 23, 25, 27];
/// First vector registers of the pairs whose lower halves the calling convention preserves.
const KEPT_VECTORS: [u32; 4] = [8, 10, 12, 14];
const STACK: u32 = 31;

/// Writes AArch64 instructions.
pub(crate) struct Writer {
    code: Vec<u32>,
    /// For each share, its pointer register, if it has one of its own.
    pointer_of: Vec<Option<u32>>,
    /// The pointer registers in use.
    pointers: Vec<u32>,
    /// The share to which the register for all other shares points.
    current: Option<usize>,
    /// Whether all numbers fitted into their instructions.
    fits: bool,
}

impl Writer {
    pub(crate) fn new(_: Level, _: bool) -> Writer {
        Writer { code: Vec::new(), pointer_of: Vec::new(), pointers: Vec::new(), current: None, fits: true }
    }

    /// Encodes an unsigned offset, counted in `unit`s, into the 12 bits from bit 10 on.
    fn offset(&mut self, bytes: usize, unit: usize) -> u32 {
        self.fits &= bytes.is_multiple_of(unit) && bytes / unit < 1 << 12;
        ((bytes / unit) as u32 & 0xfff) << 10
    }

    /// Writes `ldr register, [list, 8 * share]`.
    fn load_pointer(&mut self, register: u32, share: usize) {
        let offset = self.offset(8 * share, 8);
        self.code.push(0xf940_0000 | offset | LIST << 5 | register);
    }

    /// Writes `add` or `sub register, register, bytes`.
    fn add_number(&mut self, register: u32, bytes: usize, subtract: bool) {
        let bit = u32::from(subtract) << 30;
        if bytes < 1 << 12 {
            self.code.push(0x9100_0000 | bit | (bytes as u32) << 10 | register << 5 | register);
        } else {
            self.fits &= bytes < 1 << 32;
            self.code.push(0xd280_0000 | (bytes as u32 & 0xffff) << 5 | NUMBER); // movz
            self.code.push(0xf2a0_0000 | (bytes as u32 >> 16) << 5 | NUMBER); // movk, 16 bits higher
            self.code.push(0x8b00_0000 | bit | NUMBER << 16 | register << 5 | register);
        }
    }

    /// Writes `cmp offset, length`.
    fn compare(&mut self) {
        self.code.push(0xeb00_001f | LENGTH << 16 | OFFSET << 5);
    }

    /// Returns the register that points to a share's current stripe; loads the pointer first if it has to.
    fn pointer(&mut self, share: usize) -> u32 {
        self.pointer_of[share].unwrap_or_else(|| {
            if self.current != Some(share) {
                self.load_pointer(POINTERS[0], share);
                self.code.push(0x8b00_0000 | OFFSET << 16 | POINTERS[0] << 5 | POINTERS[0]);
                self.current = Some(share);
            }
            POINTERS[0]
        })
    }

    /// Writes `ldr` or `str` of a vector.
    fn memory(&mut self, opcode: u32, vector: u8, packet: Packet, at: usize) {
        let pointer = self.pointer(packet.share());
        let offset = self.offset(packet.row() * ROW_BYTES + at, 16);
        self.code.push(opcode | offset | pointer << 5 | u32::from(vector));
    }
}

impl Encoder for Writer {
    fn enter(&mut self, used: &[usize]) {
        // stp; each pair takes 16 bytes of the stack.
        let pair = |opcode: u32, first: u32| opcode | 0x7e << 15 | (first + 1) << 10 | STACK << 5 | first;
        self.code.extend(KEPT_VECTORS.map(|first| pair(0x6d80_0000, first)));
        self.code.extend(KEPT.map(|first| pair(0xa980_0000, first)));
        self.pointer_of = vec![None; used.last().map_or(0, |last| last + 1)];
        // With more shares than registers, the first register is loaded again for each of the other shares.
        let fixed = if used.len() <= POINTERS.len() { &POINTERS[..] } else { &POINTERS[1..] };
        for (share, register) in used.iter().zip(fixed) {
            self.pointer_of[*share] = Some(*register);
            self.pointers.push(*register);
            self.load_pointer(*register, *share);
        }
        self.code.push(0xd280_0000 | OFFSET); // movz offset, 0
    }

    fn begin(&mut self, bytes: usize) -> Loop {
        self.add_number(LENGTH, bytes, true);
        self.compare();
        self.code.push(0x5400_000c); // b.gt, to be filled in
        self.current = None;
        Loop { begin: self.code.len(), bytes }
    }

    fn end(&mut self, this: &Loop, step: usize) {
        for register in self.pointers.clone() {
            self.add_number(register, step, false);
        }
        self.add_number(OFFSET, step, false);
        self.compare();
        let turns = (self.code.len() - this.begin) as u32;
        // 19 bits with a sign.
        self.fits &= turns < 1 << 17;
        self.code.push(0x5400_000d | (turns.wrapping_neg() & 0x7_ffff) << 5); // b.le
        self.code[this.begin - 1] |= (turns + 2) << 5;
        self.add_number(LENGTH, this.bytes, false);
    }

    fn op(&mut self, op: Op, at: usize) {
        let [to, a, b] = match op {
            Op::Load { to, from } => return self.memory(0x3dc0_0000, to, from, at),
            Op::Store { from, to } => return self.memory(0x3d80_0000, from, to, at),
            Op::Clear { to } => [to, to, to],
            Op::Copy { to, from } => [to, from, from],
            Op::Xor { to, a, b } | Op::Xor3 { to, a, b } => [to, a, b],
        }
        .map(u32::from);
        self.code.push(match op {
            Op::Xor3 { .. } => 0xce00_0000 | b << 16 | a << 10 | to << 5 | to, // eor3 to, to, b, a
            Op::Copy { .. } => 0x4ea0_1c00 | b << 16 | a << 5 | to,            // orr
            _ => 0x6e20_1c00 | b << 16 | a << 5 | to,                          // eor
        });
    }

    fn fetch(&mut self, share: usize, offset: usize) {
        let pointer = self.pointer(share);
        let offset = self.offset(offset, 8);
        self.code.push(0xf980_0000 | offset | pointer << 5); // prfm pldl1keep
    }

    fn leave(mut self) -> Option<Vec<u8>> {
        // ldp; each pair frees 16 bytes of the stack.
        let pair = |opcode: u32, first: u32| opcode | 2 << 15 | (first + 1) << 10 | STACK << 5 | first;
        self.code.extend(KEPT.iter().rev().map(|first| pair(0xa8c0_0000, *first)));
        self.code.extend(KEPT_VECTORS.iter().rev().map(|first| pair(0x6cc0_0000, *first)));
        self.code.push(0xd65f_03c0); // ret
        self.fits.then(|| self.code.into_iter().flat_map(u32::to_le_bytes).collect())
    }
}
