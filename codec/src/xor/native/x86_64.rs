//! Machine code for x86-64: AVX-512 and AVX2. Encodings: Intel SDM volume 2, sections 2.3 (VEX) and 2.7
//! (EVEX).

use super::super::ROW_BYTES;
use super::assemble::{Encoder, Loop};
use super::program::{Machine, Op};
use crate::geometry::Packet;

/// The vector instruction set in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512: 512 bits, three-operand XOR.
    Avx512,
    /// AVX2: 256 bits, two-operand XOR.
    Avx2,
}

impl Level {
    /// Returns the levels that this machine has, the best first.
    pub(crate) fn here() -> Vec<Level> {
        let has = [
            (Level::Avx512, std::is_x86_feature_detected!("avx512f")),
            (Level::Avx2, std::is_x86_feature_detected!("avx2")),
        ];
        has.into_iter().filter(|(_, has)| *has).map(|(level, _)| level).collect()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Avx512 => "AVX-512, made at run time",
            Level::Avx2 => "AVX2, made at run time",
        }
    }

    pub(crate) fn machine(self) -> Machine {
        match self {
            Level::Avx512 => Machine { registers: 32, three_operands: true },
            Level::Avx2 => Machine { registers: 16, three_operands: false },
        }
    }

    pub(crate) fn vector_bytes(self) -> usize {
        match self {
            Level::Avx512 => 64,
            Level::Avx2 => 32,
        }
    }

    /// Returns whether the level has stores past the cache.
    pub(crate) fn streams(self) -> bool {
        true
    }
}

/// Registers that hold pointers to shares: all except rdi (the list), rsi (the length), rcx (the offset) and
/// rsp.
const POINTERS: [u8; 12] = [0, 2, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15];
/// Index in [`POINTERS`] from which on the calling convention requires the registers to be restored.
const KEPT_FROM: usize = 6;

/// cmp rcx, rsi
const COMPARE: [u8; 3] = [0x48, 0x39, 0xf1];

enum Operand {
    Register(u8),
    /// Memory in the current stripe, `offset` bytes from its beginning.
    Memory {
        pointer: u8,
        offset: usize,
    },
}

/// Writes x86-64 instructions.
pub(crate) struct Writer {
    code: Vec<u8>,
    level: Level,
    streams: bool,
    /// For each share, its pointer register, if it has one of its own.
    pointer_of: Vec<Option<u8>>,
    /// The share to which the register for all other shares points.
    current: Option<usize>,
    /// Registers that are restored at the end.
    kept: &'static [u8],
}

impl Writer {
    pub(crate) fn new(level: Level, streams: bool) -> Writer {
        Writer { code: Vec::new(), level, streams, pointer_of: Vec::new(), current: None, kept: &[] }
    }

    /// Writes `add` or `sub rsi, bytes`.
    fn length(&mut self, how: u8, bytes: usize) {
        self.code.extend([0x48, 0x81, how]);
        self.code.extend((bytes as u32).to_le_bytes());
    }

    fn push(&mut self, register: u8) {
        if register >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x50 + register % 8);
    }

    fn pop(&mut self, register: u8) {
        if register >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x58 + register % 8);
    }

    /// Writes `mov register, [rdi + 8 * share]`.
    fn load_pointer(&mut self, register: u8, share: usize) {
        self.code.extend([0x48 | ((register >> 3) << 2), 0x8b, 0x80 | ((register & 7) << 3) | 7]);
        self.code.extend((8 * share as u32).to_le_bytes());
    }

    /// Returns the register that points to a share; loads the pointer first if it has to.
    fn pointer(&mut self, share: usize) -> u8 {
        self.pointer_of[share].unwrap_or_else(|| {
            if self.current != Some(share) {
                self.load_pointer(POINTERS[0], share);
                self.current = Some(share);
            }
            POINTERS[0]
        })
    }

    fn memory(&mut self, packet: Packet, at: usize) -> Operand {
        Operand::Memory { pointer: self.pointer(packet.share()), offset: packet.row() * ROW_BYTES + at }
    }

    /// Writes an instruction with its prefix: register `reg`, the second source, a register or memory.
    fn vector(&mut self, instruction: Instruction, reg: u8, second: u8, rm: &Operand) {
        let Instruction { map, prefix, wide, opcode } = instruction;
        let bit = |value: u8, at: u8| (value >> at) & 1;
        let (rm_bit3, rm_bit4) = match rm {
            Operand::Register(register) => (bit(*register, 3), bit(*register, 4)),
            // The index is rcx.
            Operand::Memory { pointer, .. } => (bit(*pointer, 3), 0),
        };
        // The encoding stores the bits of register numbers inverted.
        let p1 = ((!second & 15) << 3) | 4 | prefix;
        match self.level {
            Level::Avx512 => {
                let numbers = [(bit(reg, 3), 7), (rm_bit4, 6), (rm_bit3, 5), (bit(reg, 4), 4)]
                    .map(|(bit, at)| (bit ^ 1) << at);
                let p0 = numbers.iter().fold(map, |byte, bit| byte | bit);
                let p2 = 0x40 | ((bit(second, 4) ^ 1) << 3);
                let p1 = (u8::from(wide) << 7) | p1;
                self.code.extend([0x62, p0, p1, p2, opcode]);
            }
            Level::Avx2 => {
                debug_assert!(map == 1 && reg < 16 && second < 16, "what AVX2 has");
                let p0 = ((bit(reg, 3) ^ 1) << 7) | (1 << 6) | ((rm_bit3 ^ 1) << 5) | map;
                self.code.extend([0xc4, p0, p1, opcode]);
            }
        }
        let low = |register: u8| register & 7;
        match rm {
            Operand::Register(register) => self.code.push(0xc0 | (low(reg) << 3) | low(*register)),
            Operand::Memory { pointer, offset } => {
                // [pointer + rcx + offset]; EVEX counts short offsets in units of a vector.
                let vectors = offset / ROW_BYTES;
                if self.level == Level::Avx512 && vectors < 128 {
                    self.code.extend([0x44 | (low(reg) << 3), (1 << 3) | low(*pointer), vectors as u8]);
                } else {
                    self.code.extend([0x84 | (low(reg) << 3), (1 << 3) | low(*pointer)]);
                    self.code.extend((*offset as u32).to_le_bytes());
                }
            }
        }
    }
}

impl Encoder for Writer {
    fn enter(&mut self, used: &[usize]) {
        self.pointer_of = vec![None; used.last().map_or(0, |last| last + 1)];
        // With more shares than registers, the first register is loaded again for each of the other shares.
        let fixed = if used.len() <= POINTERS.len() { &POINTERS[..] } else { &POINTERS[1..] };
        self.kept = &POINTERS[KEPT_FROM..used.len().clamp(KEPT_FROM, POINTERS.len())];
        self.kept.iter().for_each(|register| self.push(*register));
        for (share, register) in used.iter().zip(fixed) {
            self.pointer_of[*share] = Some(*register);
            self.load_pointer(*register, *share);
        }
        self.code.extend([0x31, 0xc9]); // xor ecx, ecx
    }

    fn begin(&mut self, bytes: usize) -> Loop {
        self.length(0xee, bytes);
        self.code.extend(COMPARE);
        self.code.extend([0x0f, 0x8f, 0, 0, 0, 0]); // jg
        self.current = None;
        Loop { begin: self.code.len(), bytes }
    }

    fn end(&mut self, this: &Loop, step: usize) {
        self.code.extend([0x48, 0x81, 0xc1]); // add rcx, step
        self.code.extend((step as u32).to_le_bytes());
        self.code.extend(COMPARE);
        self.code.extend([0x0f, 0x8e]); // jle
        let back = this.begin as i64 - (self.code.len() as i64 + 4);
        self.code.extend((back as i32).to_le_bytes());
        let past = (self.code.len() - this.begin) as u32;
        self.code[this.begin - 4..this.begin].copy_from_slice(&past.to_le_bytes());
        self.length(0xc6, this.bytes);
    }

    fn op(&mut self, op: Op, at: usize) {
        match op {
            Op::Load { to, from } => {
                let memory = self.memory(from, at);
                self.vector(LOAD, to, 0, &memory);
            }
            Op::Store { from, to } => {
                let memory = self.memory(to, at);
                self.vector(if self.streams { STREAM } else { STORE }, from, 0, &memory);
            }
            Op::Clear { to } => self.vector(XOR, to, to, &Operand::Register(to)),
            Op::Copy { to, from } => self.vector(LOAD, to, 0, &Operand::Register(from)),
            Op::Xor { to, a, b } => self.vector(XOR, to, a, &Operand::Register(b)),
            Op::Xor3 { to, a, b } => {
                self.vector(TERNARY, to, a, &Operand::Register(b));
                self.code.push(0x96); // the XOR of three
            }
        }
    }

    fn fetch(&mut self, share: usize, offset: usize) {
        let pointer = self.pointer(share);
        self.code.extend((pointer >= 8).then_some(0x41));
        self.code.extend([0x0f, 0x18, 0x84 | 1 << 3, (1 << 3) | (pointer & 7)]); // prefetcht0
        self.code.extend((offset as u32).to_le_bytes());
    }

    fn leave(mut self) -> Option<Vec<u8>> {
        self.code.extend([0xc5, 0xf8, 0x77]); // vzeroupper
        if self.streams {
            self.code.extend([0x0f, 0xae, 0xf8]); // sfence
        }
        self.kept.iter().rev().for_each(|register| self.pop(*register));
        self.code.push(0xc3); // ret
        Some(self.code)
    }
}

/// One instruction: opcode map, mandatory prefix (1 for 66, 2 for F3), operand width (EVEX only: the VEX
/// forms ignore it), opcode.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    map: u8,
    prefix: u8,
    wide: bool,
    opcode: u8,
}

/// vmovdqu64, vmovdqu
const LOAD: Instruction = Instruction { map: 1, prefix: 2, wide: true, opcode: 0x6f };
const STORE: Instruction = Instruction { map: 1, prefix: 2, wide: true, opcode: 0x7f };
/// vmovntdq
const STREAM: Instruction = Instruction { map: 1, prefix: 1, wide: false, opcode: 0xe7 };
/// vpxorq, vpxor
const XOR: Instruction = Instruction { map: 1, prefix: 1, wide: true, opcode: 0xef };
/// vpternlogq
const TERNARY: Instruction = Instruction { map: 3, prefix: 1, wide: true, opcode: 0x25 };
