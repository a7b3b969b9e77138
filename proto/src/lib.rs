//! RAIN's gRPC services and messages, generated from `proto/rain.proto`, and the conversions between them
//! and the domain's types ([`convert`]: the only place where the wire meets the domain).
//!
//! It knows nothing of connections, tasks or retries.

pub mod convert;

/// The generated messages, clients and servers.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("rain.v1");
}

/// The compiled `.proto` file, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rain.descriptors"));

/// Bytes of a share's payload that one checksum covers.
pub const CHUNK_BYTES: usize = 4096;

/// The largest message either side takes: a share of a whole block, or a namespace entry, with room.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
