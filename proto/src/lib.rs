//! RAIN's gRPC services and messages, generated from `proto/rain.proto`, and their conversion to and from the
//! domain's types.
//!
//! Invariants:
//! 1. Only [`convert`] translates between the wire and the domain.
//! 2. A conversion from the wire checks every value (`lies_are_refused`).
//!
//! Left out: connections, tasks and retries.

pub mod convert;

/// The generated messages, clients and servers.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("rain.v1");
}

/// The compiled `.proto` file, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rain.descriptors"));

/// Length of the part of a share's payload that one checksum covers, bytes: one page, so that a small read
/// checks little.
pub const CHUNK_BYTES: usize = 4096;

/// Largest message that either side accepts, bytes: enough for a share of a whole block, or for an entry of
/// the log.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
