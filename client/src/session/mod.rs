//! The session: this client's identity at the namespace, and the way of commands and queries to it.
//!
//! - [`numbers`] gives requests, blocks and lock tickets their numbers; [`propose`] sends commands, [`query`]
//!   sends queries.
//! - [`leases`] is what this client may rely on, [`contact`] keeps it. [`kept`] has the answers that are given
//!   again without asking, [`own_changes`] the changes that make them wrong.
//! - [`renewal`] keeps the session alive and replaces one that has ended; [`openings`] counts opens under way
//!   for it.
//!
//! Invariants:
//! 1. A command carries its session and a number. Sending it again after a broken connection applies it once.
//! 2. A session that ended without this client's knowledge (a long pause) is replaced by a new one. Blocks
//!    that were not yet committed belong to the old session; the file rung stores them again.
//! 3. An answer of a node that does not lead takes nothing back that this client has seen, as long as any
//!    node that answers has it ([`seen`]).
//! 4. Tasks that were given to the session end with it at the latest ([`Session::own`]).
//!
//! This rung knows nothing of blocks' contents, volumes or files. [`Session::renew`] asks its caller which
//! files are open.

mod contact;
mod kept;
pub(crate) mod leases;
mod moment;
mod numbers;
pub(crate) mod openings;
mod own_changes;
mod propose;
mod query;
mod renewal;
mod request;
mod seen;
mod state;

pub(crate) use renewal::Renewed;
pub(crate) use request::{Numbered, ToSend};
pub use state::Session;
