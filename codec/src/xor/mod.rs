//! XOR of packets: the only module that touches bytes, and so the only one that must be fast.
//!
//! [`scalar`] is portable safe Rust on fixed-length arrays; the compiler turns it into the vector
//! instructions of the target's baseline (SSE2, NEON). [`native`] makes machine code for the wider vectors of
//! x86-64 and for AArch64.
//!
//! Invariant: both give the same bytes (`machine_code_does_what_schedules_say`).

#[cfg(any(all(target_arch = "x86_64", unix), all(target_arch = "aarch64", target_os = "linux")))]
mod native;
#[cfg(not(any(all(target_arch = "x86_64", unix), all(target_arch = "aarch64", target_os = "linux"))))]
#[path = "absent.rs"]
mod native;
pub(crate) mod scalar;

use crate::schedule::Schedule;
use std::sync::OnceLock;

/// The kind of store instruction that writes results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Stores {
    /// Stores into the cache: right when the results are read soon, or the block is in the cache.
    #[default]
    Cached,
    /// Stores past the cache (non-temporal), if all buffers are aligned to 64 bytes: right for far more data
    /// than the cache holds.
    Streaming,
}

/// The machine code of a schedule, one version for each kind of store. A version is made at its first use.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    kinds: [OnceLock<Option<native::Native>>; 2],
}

impl Compiled {
    /// Runs the schedule on the first `stripes` stripes. Returns false, having written nothing, when this
    /// machine has no machine code for it.
    pub(crate) fn run(
        &self,
        schedule: &Schedule,
        shares: &mut [&mut [u8]],
        stripes: usize,
        stores: Stores,
    ) -> bool {
        let run = |stores: Stores, shares: &mut [&mut [u8]]| {
            let make = || native::Native::new(schedule, native::best()?, stores);
            let native = self.kinds[stores as usize].get_or_init(make);
            native.as_ref().is_some_and(|native| native.run(shares, stripes))
        };
        run(stores, shares) || stores == Stores::Streaming && run(Stores::Cached, shares)
    }
}

impl Clone for Compiled {
    fn clone(&self) -> Compiled {
        Compiled::default()
    }
}

/// Returns the name of the instruction set that runs the schedules on this machine, for people.
pub fn instructions() -> &'static str {
    native::best().map_or("portable", native::Level::name)
}

/// Length of a packet, bytes: one cache line, and a whole number of vectors of every width.
pub(crate) const ROW_BYTES: usize = 64;

/// The bytes of one packet.
pub(crate) type Row = [u8; ROW_BYTES];
