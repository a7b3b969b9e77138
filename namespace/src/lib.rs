//! The namespace: every filesystem operation as a deterministic function over an ordered store.
//!
//! - [`command::Command`] changes it, [`apply`] says how; [`query::Query`] asks, [`query::answer`] answers.
//! - [`holding::DelegationSet`]: what a session may decide by itself, in directories that are delegated to it.
//! - [`kv::KvTxn`] is all it needs of the world.
//!
//! It knows nothing of clocks, randomness, tasks, sockets, disks, the ring or Raft.

mod answer;
mod apply;
pub mod check;
pub mod command;
pub mod delegation;
pub mod error;
pub mod extent;
pub mod key;
pub mod kv;
pub mod lock;
pub mod placement;
pub mod query;
pub mod record;
pub mod repair;
pub mod wire;

pub use apply::{apply, apply_entry};
