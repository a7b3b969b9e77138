//! XOR of packets: the only place that touches bytes, and so the only one that has to be fast.
//!
//! [`scalar`] is portable safe Rust on fixed-length arrays, which the compiler turns into the vector
//! instructions of the target's baseline (SSE2, NEON). [`native`] makes machine code for the wider vectors of
//! x86-64 and for AArch64, and is held to the same results.

#[cfg(any(all(target_arch = "x86_64", unix), all(target_arch = "aarch64", target_os = "linux")))]
mod native;
#[cfg(not(any(all(target_arch = "x86_64", unix), all(target_arch = "aarch64", target_os = "linux"))))]
#[path = "absent.rs"]
mod native;
pub(crate) mod scalar;

use crate::schedule::Schedule;
use std::sync::OnceLock;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Stores {
    /// Into the cache: right when they are read soon, or the block is in the cache.
    #[default]
    Cached,
    /// Past the cache, where all buffers are aligned to 64 bytes: right for far more data than the cache holds.
    Streaming,
}

/// Machine code for a schedule, made when it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    kinds: [OnceLock<Option<native::Native>>; 2],
}

impl Compiled {
    /// Runs the schedule on the first stripes, if there is machine code for it here.
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

/// Which instructions do the work here, for people.
pub fn instructions() -> &'static str {
    native::best().map_or("portable", native::Level::name)
}

/// Bytes of a packet: a cache line, and a whole number of vectors of every width.
pub(crate) const ROW_BYTES: usize = 64;

/// A packet.
pub(crate) type Row = [u8; ROW_BYTES];
