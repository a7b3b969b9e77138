//! XOR of packets: the only place that touches bytes, and so the only one that has to be fast.
//!
//! [`scalar`] is portable safe Rust on fixed-length arrays, which the compiler turns into the vector
//! instructions of the target's baseline. Kernels for wider vectors go beside it, behind the same few
//! functions, and are held to its results.

pub(crate) mod scalar;

/// Bytes of a packet: a cache line, and a whole number of vectors of every width.
pub(crate) const ROW_BYTES: usize = 64;

/// A packet.
pub(crate) type Row = [u8; ROW_BYTES];
