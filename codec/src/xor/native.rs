//! Machine code for a [`Program`]: x86-64 with AVX-512 or AVX2, made at run time. The only place with `unsafe`.
//!
//! A code has as many decoders as erasure patterns, so they cannot be compiled ahead; interpreting them costs
//! half of the speed (`docs/codec.md`). Seven instructions are all there is to encode. Memory is never writable and
//! executable at once: it is filled, then sealed for execution. Where the system forbids that, or the machine is another,
//! the portable executor does the work.
//!
//! Why it is safe: the code touches only `shares[s] + offset` for packets (s, row) of the program and offsets of whole
//! stripes below the given length; [`Native::run`] checks that every such share is that long. Registers that the
//! calling convention keeps are saved.

#![allow(unsafe_code)]

use super::program::{Machine, Op, Program};
use super::{ROW_BYTES, Stores};
use crate::geometry::Packet;
use crate::schedule::Schedule;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr;

/// The vectors used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// 512 bits, three operands.
    Avx512,
    /// 256 bits.
    Avx2,
}

impl Level {
    /// The best that this machine has.
    pub(crate) fn detect() -> Option<Level> {
        if cfg!(miri) {
            None
        } else if std::is_x86_feature_detected!("avx512f") {
            Some(Level::Avx512)
        } else if std::is_x86_feature_detected!("avx2") {
            Some(Level::Avx2)
        } else {
            None
        }
    }

    pub(crate) fn machine(self) -> Machine {
        match self {
            Level::Avx512 => Machine { registers: 32, three_operands: true },
            Level::Avx2 => Machine { registers: 16, three_operands: false },
        }
    }

    fn vector_bytes(self) -> usize {
        match self {
            Level::Avx512 => 64,
            Level::Avx2 => 32,
        }
    }
}

/// Code that runs a schedule over stripes.
#[derive(Debug)]
pub(crate) struct Native {
    memory: Memory,
    /// Which shares it touches.
    touched: Vec<bool>,
    stripe_bytes: usize,
    streams: bool,
}

type Entry = unsafe extern "sysv64" fn(shares: *const *mut u8, bytes: usize);

impl Native {
    /// Makes the code; `None` where the system does not let code be made.
    pub(crate) fn new(schedule: &Schedule, level: Level, stores: Stores) -> Option<Native> {
        let program = Program::new(schedule, level.machine());
        let mut touched = vec![false; schedule.shares()];
        for op in &program.ops {
            if let Op::Load { from: packet, .. } | Op::Store { to: packet, .. } = op {
                touched[packet.share()] = true;
            }
        }
        let stripe_bytes = schedule.rows() * ROW_BYTES;
        let streams = stores == Stores::Streaming;
        let code = Assembler::assemble(&program, level, &touched, stripe_bytes, streams);
        Some(Native { memory: Memory::sealed(&code)?, touched, stripe_bytes, streams })
    }

    /// Runs it on the first `stripes` stripes of shares that are that long where it touches them. Gives false, having
    /// done nothing, when it cannot: streaming to shares that are not aligned.
    pub(crate) fn run(&self, shares: &mut [&mut [u8]], stripes: usize) -> bool {
        assert_eq!(shares.len(), self.touched.len(), "code is run on the shares it was made for");
        let bytes = stripes * self.stripe_bytes;
        // On the stack for as many shares as there usually are.
        let mut few = [ptr::null_mut(); 32];
        let mut many = Vec::new();
        let pointers = match few.get_mut(..shares.len()) {
            Some(few) => few,
            None => {
                many.resize(shares.len(), ptr::null_mut());
                &mut many[..]
            }
        };
        for ((share, touched), pointer) in shares.iter_mut().zip(&self.touched).zip(pointers.iter_mut()) {
            assert!(!touched || share.len() >= bytes, "a share of {} bytes, not {bytes}", share.len());
            *pointer = share.as_mut_ptr();
        }
        let misaligned = |(pointer, touched): (&*mut u8, &bool)| *touched && pointer.addr() % 64 != 0;
        if self.streams && pointers.iter().zip(&self.touched).any(misaligned) {
            return false;
        }
        if bytes > 0 {
            // SAFETY: the memory holds a function of this type (`Assembler::assemble`), executable since `sealed`. It reads
            // and writes only the first `bytes` bytes of touched shares, which were just checked to be that long and are
            // borrowed mutably, and the list of pointers. The vector level was detected, or the caller would not have it.
            unsafe {
                let entry = std::mem::transmute::<*const c_void, Entry>(self.memory.start.cast_const());
                entry(pointers.as_ptr(), bytes);
            }
        }
        true
    }
}

/// Pages that hold code.
#[derive(Debug)]
struct Memory {
    start: *mut c_void,
    len: usize,
}

// SAFETY: after `sealed` the pages are never written again, by anybody, until the only owner drops them.
unsafe impl Send for Memory {}
// SAFETY: as above: shared use only reads and executes.
unsafe impl Sync for Memory {}

impl Memory {
    fn sealed(code: &[u8]) -> Option<Memory> {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let len = code.len().next_multiple_of(4096);
        // SAFETY: a new private mapping, of nobody else's memory.
        let start = unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
                .ok()?
        };
        let memory = Memory { start, len };
        // SAFETY: the mapping is `len >= code.len()` bytes, writable, and nobody else's.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), start.cast(), code.len()) };
        // SAFETY: the whole of our own mapping; no reference to it exists.
        unsafe { mprotect(start, len, MprotectFlags::READ | MprotectFlags::EXEC).ok()? };
        Some(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; the code in it runs only while `Native` is borrowed.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// Registers that hold pointers to shares: all but rdi (the list), rsi (the length), rcx (the offset) and rsp.
const POINTERS: [u8; 12] = [0, 2, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15];
/// Of these, from this one on the caller wants them back.
const KEPT_FROM: usize = 6;

/// Bytes of each share that are fetched ahead of their use, one run after the other.
const AHEAD_BYTES: usize = 1024;
/// Instructions of all the stripes of a block, about: longer loops do not fit the processor's cache of decoded ones.
const OPS_MAX: usize = 1000;
/// Shares read from which on that is done.
const AHEAD_FROM: usize = 4;

/// The lines of the next block, in the order in which they are fetched: share by share.
struct Ahead {
    lines: Vec<(usize, usize)>,
    fetched: usize,
    loads: usize,
}

impl Ahead {
    fn new(shares: &BTreeSet<usize>, block: usize) -> Ahead {
        let of = |share: usize| (block..2 * block).step_by(ROW_BYTES).map(move |offset| (share, offset));
        Ahead { lines: shares.iter().flat_map(|share| of(*share)).collect(), fetched: 0, loads: 0 }
    }

    /// What to fetch beside the current load of so many.
    fn next(&mut self, loads: usize) -> Option<(usize, usize)> {
        if self.fetched * loads >= (self.loads + 1) * self.lines.len() {
            self.loads += 1;
            return None;
        }
        self.fetched += 1;
        Some(self.lines[self.fetched - 1])
    }
}

/// add rsi, sub rsi
const ADD: u8 = 0xc6;
const SUB: u8 = 0xee;

enum Operand {
    Register(u8),
    /// In the current stripe, so many bytes from its begin.
    Memory {
        pointer: u8,
        offset: usize,
    },
}

/// Writes instructions. Encodings: Intel SDM volume 2, sections 2.3 (VEX) and 2.7 (EVEX).
struct Assembler {
    code: Vec<u8>,
    level: Level,
    /// Which pointer register each share has.
    pointer_of: Vec<Option<u8>>,
    /// What the register for all other shares points to.
    current: Option<usize>,
}

impl Assembler {
    fn assemble(
        program: &Program,
        level: Level,
        touched: &[bool],
        stripe_bytes: usize,
        streams: bool,
    ) -> Vec<u8> {
        let mut asm =
            Assembler { code: Vec::new(), level, pointer_of: vec![None; touched.len()], current: None };
        let used: Vec<usize> = (0..touched.len()).filter(|share| touched[*share]).collect();
        // With more shares than registers the first one is loaded again and again.
        let fixed = if used.len() <= POINTERS.len() { &POINTERS[..] } else { &POINTERS[1..] };
        for (share, register) in used.iter().zip(fixed) {
            asm.pointer_of[*share] = Some(*register);
        }
        let kept = &POINTERS[KEPT_FROM.min(used.len())..used.len().clamp(KEPT_FROM, POINTERS.len())];
        kept.iter().for_each(|register| asm.push(*register));
        for share in &used {
            if let Some(register) = asm.pointer_of[*share] {
                asm.load_pointer(register, *share);
            }
        }
        asm.code.extend([0x31, 0xc9]); // xor ecx, ecx
        let stripes = (AHEAD_BYTES / stripe_bytes).min((OPS_MAX / program.ops.len().max(1)).max(1));
        let loaded: BTreeSet<usize> = program.loads().map(|packet| packet.share()).collect();
        if stripes > 0 && loaded.len() >= AHEAD_FROM {
            let block = stripes * stripe_bytes;
            asm.length(SUB, 2 * block);
            let begin = asm.code.len();
            asm.code.extend([0x48, 0x39, 0xf1, 0x0f, 0x8f, 0, 0, 0, 0]); // cmp rcx, rsi; jg end
            let jump = asm.code.len();
            let mut ahead = Ahead::new(&loaded, block);
            let loads = stripes * (ROW_BYTES / level.vector_bytes()) * program.loads().count();
            for stripe in 0..stripes {
                asm.stripe(program, stripe * stripe_bytes, streams, Some(&mut ahead), loads);
            }
            asm.add_offset(block);
            asm.jump(&[0xe9], begin); // jmp begin
            let end = (asm.code.len() - jump) as u32;
            asm.code[jump - 4..jump].copy_from_slice(&end.to_le_bytes());
            asm.length(ADD, 2 * block);
            asm.current = None;
        }
        let begin = asm.code.len();
        asm.stripe(program, 0, streams, None, 0);
        asm.add_offset(stripe_bytes);
        asm.code.extend([0x48, 0x39, 0xf1]); // cmp rcx, rsi
        asm.jump(&[0x0f, 0x82], begin); // jb begin
        asm.code.extend([0xc5, 0xf8, 0x77]); // vzeroupper
        if streams {
            asm.code.extend([0x0f, 0xae, 0xf8]); // sfence
        }
        kept.iter().rev().for_each(|register| asm.pop(*register));
        asm.code.push(0xc3); // ret
        asm.code
    }

    /// One stripe, so many bytes after the current one.
    fn stripe(
        &mut self,
        program: &Program,
        at: usize,
        streams: bool,
        mut ahead: Option<&mut Ahead>,
        loads: usize,
    ) {
        for lane in (0..ROW_BYTES).step_by(self.level.vector_bytes()) {
            for op in &program.ops {
                if let (Some(ahead), Op::Load { .. }) = (&mut ahead, op) {
                    while let Some((share, offset)) = ahead.next(loads) {
                        let pointer = self.pointer(share);
                        self.prefetch(pointer, offset);
                    }
                }
                self.op(*op, at + lane, streams);
            }
        }
    }

    /// add or sub rsi, bytes
    fn length(&mut self, how: u8, bytes: usize) {
        self.code.extend([0x48, 0x81, how]);
        self.code.extend((bytes as u32).to_le_bytes());
    }

    /// add rcx, bytes
    fn add_offset(&mut self, bytes: usize) {
        self.code.extend([0x48, 0x81, 0xc1]);
        self.code.extend((bytes as u32).to_le_bytes());
    }

    /// A jump back.
    fn jump(&mut self, opcode: &[u8], to: usize) {
        self.code.extend(opcode);
        let back = to as i64 - (self.code.len() as i64 + 4);
        self.code.extend((back as i32).to_le_bytes());
    }

    /// prefetcht0 [pointer + rcx + offset]
    fn prefetch(&mut self, pointer: u8, offset: usize) {
        self.code.extend((pointer >= 8).then_some(0x41));
        self.code.extend([0x0f, 0x18, 0x84 | 1 << 3, (1 << 3) | (pointer & 7)]);
        self.code.extend((offset as u32).to_le_bytes());
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

    /// mov register, [rdi + 8 * share]
    fn load_pointer(&mut self, register: u8, share: usize) {
        self.code.extend([0x48 | ((register >> 3) << 2), 0x8b, 0x80 | ((register & 7) << 3) | 7]);
        self.code.extend((8 * share as u32).to_le_bytes());
    }

    /// The register that points to a share.
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

    fn op(&mut self, op: Op, at: usize, streams: bool) {
        match op {
            Op::Load { to, from } => {
                let memory = self.memory(from, at);
                self.vector(LOAD, to, 0, &memory);
            }
            Op::Store { from, to } => {
                let memory = self.memory(to, at);
                self.vector(if streams { STREAM } else { STORE }, from, 0, &memory);
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

    /// An instruction with its prefix: `reg`, the second source, register or memory.
    fn vector(&mut self, instruction: Instruction, reg: u8, second: u8, rm: &Operand) {
        let Instruction { map, prefix, wide, opcode } = instruction;
        let bit = |value: u8, at: u8| (value >> at) & 1;
        let (rm_bit3, rm_bit4) = match rm {
            Operand::Register(register) => (bit(*register, 3), bit(*register, 4)),
            // The index is rcx.
            Operand::Memory { pointer, .. } => (bit(*pointer, 3), 0),
        };
        // Bits of register numbers are stored inverted.
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
                // [pointer + rcx + offset]; EVEX counts short offsets in vectors.
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

/// Opcode map, mandatory prefix (1 for 66, 2 for F3), operand width (EVEX only: the VEX forms ignore it), opcode.
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
