//! The driver of Raft: [openraft] over the keeper's log and store. It holds no rules of the namespace and no rules of consensus; the
//! few decisions that are RAIN's own (when to campaign, when a leader may read alone, who votes) are pure and in files of their own.
//!
//! ```text
//!   proposer -> openraft -> log_store (CommandLog, fsynced) -> network -> the others' log_store
//!                        -> machine (MetaStore, applied)    -> outcomes
//! ```
//!
//! - `types`: what openraft is told RAIN's entries and nodes are. `wire`: their bytes, in the log and between nodes.
//! - `log_store`: entries and votes, durable. `machine`: committed entries, applied; snapshots. `network`: to the others.
//! - `standing`: whether a leader may answer alone. `campaign`: when to ask for votes. `voters`: who should have one.
//!
//! Positions: openraft counts entries from 0, the log and the store from 1 (0: nothing yet). [`types::position`] is the only
//! place that knows.

pub(crate) mod election;
pub(crate) mod lease;
pub(crate) mod log_store;
pub(crate) mod machine;
pub(crate) mod network;
pub mod types;
pub(crate) mod voters;
pub(crate) mod wire;

pub use election::Election;
