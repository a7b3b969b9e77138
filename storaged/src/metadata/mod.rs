//! The metadata service: the namespace, replicated. A change is durable on a majority of the voters before it
//! is acknowledged, and all nodes apply the same changes in the same order.
//!
//! ```text
//!   propose -> proposer -> raft (log of a majority, durable) -> machine.apply over store -> outcome
//!   ask     -> store (one consistent state), if this node is certainly the leader -> machine.answer
//! ```
//!
//! - `service`: the facade [`MetadataService`]. `options`, `error`: its settings, figures and errors. `lock`:
//!   one process per directory. `check`: the namespace's invariants, checked in place.
//! - [`log`]: numbered records on disk. [`store`]: the ordered store under the namespace. [`proposer`]:
//!   gathers requests into entries. [`machine`]: the deterministic machine, normally [`Namespace`]. [`raft`]:
//!   drives openraft, with election, pre-vote, read index, membership and compaction. `blocking`: work that
//!   waits for a disk.
//!
//! Invariants:
//! 1. An acknowledged request survives a crash of any minority at any point, and of all at once
//!    (`acknowledged_requests_survive_a_power_loss`, `acknowledged_requests_survive_kill_9`).
//! 2. Every node applies the same entries and has the same store
//!    (`a_replay_gives_the_same_bytes_as_never_crashing`).
//! 3. A directory belongs to one process.
//!
//! The service knows nothing of shares, sessions' leases or gRPC.

mod blocking;
mod check;
mod error;
mod lock;
pub mod log;
pub mod machine;
mod options;
pub mod proposer;
pub mod raft;
mod service;
pub mod store;

pub use check::Checked;
pub use error::{AskError, MetadataError};
pub use log::{CommandLog, LogError};
pub use machine::{Machine, Namespace};
pub use options::{Member, MetadataOptions, MetadataStats};
pub use proposer::{ProposeError, ProposerOptions};
pub use raft::leadership::Leadership;
pub use raft::lease::Times;
pub use raft::network::{AppendStream, Delivery, Transport, TransportError};
pub use raft::receiver::ReceiveError;
pub use service::MetadataService;
pub use store::{AppliedPosition, MetaStore, StoreError, StoreOptions, StoreStats};
