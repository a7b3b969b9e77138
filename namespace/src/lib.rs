//! The namespace: every filesystem operation as a deterministic function over an ordered store.
//!
//! - [`command::Command`] is a change, and [`apply()`] executes it. [`query::Query`] is a question, and
//!   [`query::answer`] answers it.
//! - [`delegation::DelegationSet`] decides commands on directories that are delegated to one session.
//! - [`lease::LeaseTable`] has the leases of sessions on inodes, of one leader.
//! - [`kv::KvTxn`] is the only interface to the outside.
//!
//! Invariants:
//! 1. The store, the commands and their times decide every outcome
//!    (`the_namespace_does_what_a_plain_tree_does`).
//! 2. The records agree with each other after every command ([`mod@check`], in the model test).
//! 3. The encodings do not change (`tests/golden.rs`).
//!
//! Left out: clocks, randomness, tasks, sockets, disks, the ring and Raft.

pub mod acl;
mod answer;
mod apply;
pub mod check;
pub mod command;
pub mod delegation;
pub mod error;
pub mod extent;
pub mod key;
pub mod kv;
pub mod lease;
pub mod lock;
mod outcome;
pub mod placement;
pub mod query;
pub mod record;
pub mod repair;
pub mod wire;

pub use apply::{apply, apply_entry};
