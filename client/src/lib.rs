//! The client of a RAIN cluster: what a mount, a command, a program and a node's own workers use alike.
//!
//! - [`Client`] finds the namespace's leader and follows it, sends it commands and queries, and renews the
//!   session; [`block`] stores and retrieves blocks over the nodes.
//! - [`Volume`] is a mountable tree: names and attributes. [`OpenFile`] is a file's data.
//!
//! Invariants:
//! 1. Nothing waits without bound. Where needed nodes are unreachable an operation gives up after
//!    [`Options::dead_after`]; where they answer but slowly, after [`Options::slow_after`].
//! 2. Every queue and cache has a limit ([`Options`]).
//! 3. What a flush did not manage to store stays in memory and is tried again, by the next flush and in the
//!    background; an error never throws written data away.
//! 4. Every byte read is checked against its chunk's checksum before anybody sees it.
//!
//! - Where [`Options::behind`] says so, names and small files are told to the namespace behind the caller ([`behind`]).
//!
//! It knows nothing of FUSE, of a node's disk, or of what the namespace's functions do, but to ask them.

mod admin;
pub mod block;
mod client;
mod error;
mod file;
mod options;
mod placement;
mod rpc;
mod session;
mod stats;
mod volume;
mod writeback;

pub use block::{BlockLocation, Repaired, ShareState};
pub use client::Client;
pub use error::Error;
pub use file::{LockGrant, OpenFile};
pub use options::{Options, ReadPolicy};
pub use rpc::node::{NodeHealth, grpc_endpoint};
pub use stats::ClientStats;
pub use volume::{NewInode, Space, Volume};

/// The largest block, bytes.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Files up to this length live inline in the namespace, bytes.
pub const INLINE_BYTES_MAX: usize = 4096;
