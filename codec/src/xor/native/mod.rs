//! Machine code for a [`Program`], made at run time: x86-64 with AVX-512 or AVX2, AArch64 with NEON. The only
//! module with `unsafe`.
//!
//! A code has as many decoders as erasure patterns, so they cannot be compiled ahead. Interpreting them costs
//! half of the speed (`docs/codec.md`). The portable executor takes over where the system forbids executable
//! memory and on other machines.
//!
//! Why this is safe:
//! 1. The code touches only `shares[s] + offset` for packets (s, row) of the program and for offsets of whole
//!    stripes below the given length. [`Native::run`] checks that every such share is that long.
//! 2. Registers that the calling convention preserves are saved and restored.
//! 3. Memory is never writable and executable at once: it is filled, then sealed for execution.
//!
//! `machine_code_does_what_schedules_say` compares the code with the portable executor for random schedules,
//! with guard bytes around every share.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod assemble;
mod program;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use super::{ROW_BYTES, Stores};
use crate::schedule::Schedule;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::Level;
#[cfg(target_arch = "aarch64")]
use aarch64::Writer;
use assemble::assemble;
use program::{Op, Program};
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::Level;
#[cfg(target_arch = "x86_64")]
use x86_64::Writer;

/// Returns the vector levels that this machine has, the best first. Miri runs no machine code, so it has
/// none.
fn levels() -> Vec<Level> {
    if cfg!(miri) { Vec::new() } else { Level::here() }
}

/// Returns the best vector level of this machine.
pub(crate) fn best() -> Option<Level> {
    static BEST: OnceLock<Option<Level>> = OnceLock::new();
    *BEST.get_or_init(|| levels().first().copied())
}

/// Machine code that runs one schedule over stripes.
#[derive(Debug)]
pub(crate) struct Native {
    memory: Memory,
    /// For each share, whether the code touches it.
    touched: Vec<bool>,
    stripe_bytes: usize,
    streams: bool,
}

type Entry = unsafe extern "C" fn(shares: *const *mut u8, bytes: usize);

impl Native {
    /// Makes the code. Returns `None` where the system forbids executable memory or the machine has no such
    /// stores.
    pub(crate) fn new(schedule: &Schedule, level: Level, stores: Stores) -> Option<Native> {
        let streams = stores == Stores::Streaming;
        if streams && !level.streams() {
            return None;
        }
        let program = Program::new(schedule, level.machine());
        let mut touched = vec![false; schedule.shares()];
        for op in &program.ops {
            if let Op::Load { from: packet, .. } | Op::Store { to: packet, .. } = op {
                touched[packet.share()] = true;
            }
        }
        let used: Vec<usize> = (0..touched.len()).filter(|share| touched[*share]).collect();
        let stripe_bytes = schedule.rows() * ROW_BYTES;
        let writer = Writer::new(level, streams);
        let code = assemble(writer, &program, &used, stripe_bytes, level.vector_bytes())?;
        Some(Native { memory: Memory::sealed(&code)?, touched, stripe_bytes, streams })
    }

    /// Runs the code on the first `stripes` stripes. The shares that it touches must have that many. Returns
    /// false, having written nothing, when it cannot run: streaming stores to shares that are not aligned.
    pub(crate) fn run(&self, shares: &mut [&mut [u8]], stripes: usize) -> bool {
        assert_eq!(shares.len(), self.touched.len(), "code is run on the shares it was made for");
        let bytes = stripes * self.stripe_bytes;
        // A list on the stack suffices for the usual number of shares.
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
            // SAFETY: the memory holds a function of this type (`assemble`), executable since `sealed`. It reads
            // the list of pointers, and reads and writes only the first `bytes` bytes of touched shares.
            // These were just checked to be that long, and are borrowed mutably. The vector level was
            // detected, or the caller would not have it.
            unsafe {
                let entry = std::mem::transmute::<*const c_void, Entry>(self.memory.start.cast_const());
                entry(pointers.as_ptr(), bytes);
            }
        }
        true
    }
}

/// Memory pages that hold machine code.
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
        #[cfg(target_arch = "aarch64")]
        // SAFETY: our own mapping, readable.
        unsafe {
            make_visible(start.addr(), len);
        }
        Some(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; the code in it runs only while `Native` is borrowed.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// Makes written code visible to instruction fetch: on this machine the instruction cache does not follow the
/// data cache (Arm ARM, B2.7.4, "Synchronization and coherency issues between data and instruction
/// accesses").
///
/// # Safety
/// The memory must be mapped and readable.
#[cfg(target_arch = "aarch64")]
unsafe fn make_visible(start: usize, len: usize) {
    use std::arch::asm;
    let types: usize;
    // SAFETY: reads a register that programs may read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack)) };
    let line = |shift: usize| 4 << (types >> shift & 15);
    for address in (start & !(line(16) - 1)..start + len).step_by(line(16)) {
        // SAFETY: cleans a line of readable memory.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
    for address in (start & !(line(0) - 1)..start + len).step_by(line(0)) {
        // SAFETY: invalidates a line of readable memory.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}
