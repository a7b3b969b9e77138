//! The client of a RAIN cluster, used alike by mounts, commands, programs and the nodes' own workers.
//!
//! The crate is a ladder. Each rung uses only the rungs below it; `tests/tests/house` of the workspace
//! holds this.
//!
//! | rung | what it is |
//! |---|---|
//! | [`client`], [`admin`] | the facade: volumes in use and the renewal loop; calls of administrators |
//! | [`volume`] | names and attributes |
//! | [`file`] | data: buffer, flush, read, locks |
//! | [`writeback`] | delegated directories, and the queue of acknowledged changes |
//! | [`block`], [`placement`] | store n shares, retrieve any k, repair; the nodes that a block is on |
//! | [`session`] | numbering, tickets, propose and query, renewal |
//! | [`rpc`] | nodes and their connections, the leader, the ring's view, hedging |
//! | [`error`], [`options`], [`stats`] | used by every rung |
//!
//! Invariants:
//! 1. Nothing waits without bound. Where needed nodes do not answer, an operation fails after
//!    [`Options::dead_after`]; where they answer too slowly, after [`Options::slow_after`].
//!    Exceptions: a wait for a lock ends when its caller gives up; the write-back task tries for as long as the
//!    session lives.
//! 2. Every queue and cache has a limit ([`Options`]).
//! 3. Data that a flush could not store stays in memory. The next flush and a background task try again; an
//!    error never throws written data away.
//! 4. Every byte read is checked against its chunk's checksum before a program sees it.
//!
//! The crate knows nothing of FUSE and of a node's disk. The crate `rain-namespace` defines the effect of a
//! command. This crate sends commands; [`writeback`] lets [`rain_namespace::delegation`] decide some locally.

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
#[cfg(test)]
mod tests;
mod volume;
mod writeback;

pub use block::{BlockLocation, Repaired, ShareState, WorkOrder, WorkTerm};
pub use client::Client;
pub use error::Error;
pub use file::{Dropped, KernelCache, OpenFile};
pub use options::{BLOCK_BYTES_MAX, INLINE_BYTES_MAX, Options, ReadPolicy};
pub use rpc::endpoint::grpc_endpoint;
pub use rpc::node::NodeHealth;
pub use session::Session;
pub use stats::ClientStats;
pub use volume::{Guard, NewInode, Space, Volume};
