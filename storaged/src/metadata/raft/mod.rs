//! Drives [openraft] over the metadata service's log and store. It holds no rules of the namespace and no
//! rules of consensus; RAIN's own decisions (when to stand for election, when a leader may answer alone, who
//! votes) are pure and in files of their own.
//!
//! ```text
//!   proposer -> openraft -> log_store (CommandLog, fsynced) -> network -> the others' log_store
//!                        -> machine (MetaStore, applied)    -> outcomes
//! ```
//!
//! | file | what it is | pure |
//! |---|---|---|
//! | `types`, `wire` | RAIN's types for openraft; their bytes, in the log and between members | yes |
//! | `log_store` | entries and votes, durable | |
//! | `machine` | committed entries, applied; snapshots | |
//! | `network`, `receiver` | messages to the other members, and from them | |
//! | `election` | when to stand for election | yes |
//! | `pre_vote`, `candidate` | whether the others would vote; the request for votes | |
//! | `lease` | whether a leader may answer alone | yes |
//! | `read_index` | a majority's confirmation for a leader without its lease | |
//! | `voters` | which members should vote | yes |
//! | `membership` | the change of the members | |
//! | `compaction` | which records of the log go | |
//! | `leadership` | the leader and the members, as this node knows them | |
//!
//! Positions: openraft counts entries from 0, the log and the store from 1 (0: nothing yet).
//! [`types::position`] is the only place that knows.

pub(crate) mod candidate;
pub(crate) mod compaction;
pub(crate) mod election;
pub(crate) mod leadership;
pub(crate) mod lease;
pub(crate) mod log_store;
pub(crate) mod machine;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod pre_vote;
pub(crate) mod read_index;
pub(crate) mod receiver;
pub mod types;
pub(crate) mod voters;
pub(crate) mod wire;

pub use election::Election;
