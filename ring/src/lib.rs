//! The token ring: who is alive, agreed on by all who are, and what rests on it.
//!
//! After the group membership of RAIN and Raincore (Bohossian et al., *Computing in the RAIN*, IEEE TPDS 2001; Fan and
//! Bruck, *The Raincore API for Clusters of Networking Elements*, IEEE Internet Computing 2001): nodes of a ring hand on one token; who
//! holds it may act; it carries the list of members, and changes of shared data. A node that does not take it is out;
//! a token that is lost is made anew by the node with the newest copy, which asks the others by a 911 call; and whoever is
//! not in the ring calls 911 to get in.
//!
//! Pure: [`Node::handle`] takes an [`Input`] and gives [`Effect`]s; timers are effects; there is no clock, no I/O and no chance
//! inside. [`Endpoint`] puts the link monitor and the choice of addresses around it, and is what a driver drives. The same node
//! runs under the model checker, the simulator and the daemon.
//!
//! # What is different from the papers, and why
//!
//! The paper's rule of handing the token to the next node when an acknowledgement is missed makes two tokens as soon as an
//! acknowledgement is lost: the first may have arrived (the model checker finds it in a few steps; `tests/model.rs` shows
//! it). Here:
//!
//! - The token has an **epoch**. Within one epoch it is sent to one node only, however often; who misses the acknowledgement asks by
//!   911 for a new epoch without the silent node.
//! - A **grant is a promise** to take no token of an older epoch any more; it survives a restart.
//! - The **members of an epoch never change**: every change of membership (a loss, a join, a leave, a merge, another order) is a
//!   911 round and a new epoch. So the epoch is the view's number, all who have a view with one number have the same, and no
//!   view goes backwards.
//! - A ring whose founder got grants from a majority of the eligible nodes, none of them with a newer primary copy, is *primary*; any
//!   other is an *orphan* that only says who is there.
//!
//! # States of a node
//!
//! | state | means | goes to |
//! |---|---|---|
//! | HUNGRY | waits for the token | EATING when it takes it; STARVING when it has not come for `starving_after`, or when its own pass failed |
//! | EATING | holds the token; may be calling 911 for other members | HUNGRY when it passes it on, or has granted somebody's call |
//! | STARVING | calls 911 | EATING when the call is granted by all who are there; HUNGRY when it grants another's call; stays when denied, and calls again |
//! | GONE | has left | |
//!
//! Who answers a 911 call how (first row that fits):
//!
//! | caller | answered by | answer |
//! |---|---|---|
//! | anybody | one who knows another eligible membership | deny, with it (both learn) |
//! | holder of my ring | | grant |
//! | holder of another ring | member of a ring of higher rank | deny: outranked |
//! | starving, of my view | one in this ring with a newer copy | deny: newer copy |
//! | starving, not of my view | one in a ring | deny: joining (the next holder calls it in) |
//! | starving | one in no ring, whose newest primary copy, or else whose last copy, is newer | deny: newer copy |
//! | any of those left | one who promised this epoch or a newer one to another | deny: promised (the caller takes a higher number: a holder at once, who starves a little later) |
//! | any of those left | | grant |
//!
//! *In a ring* is who does not starve and has promised nothing since its last token.
//!
//! Denials keep the peace; safety is the founder's check alone: a majority of grants, and no grant from a node with a newer
//! primary copy.
//!
//! # Raincore's functions here
//!
//! | Raincore | here |
//! |---|---|
//! | `GCM_queryCommunicationMembership` | [`Node::view`] |
//! | `GCM_queryEligibleMembership` | [`Node::eligible`] |
//! | `GCM_setParameters`, `GCM_getParameters` | [`Input::Settings`], [`Node::settings`]; call-backs are [`Effect`]s |
//! | `GCM_acquireMasterLock`, `GCM_releaseMasterLock` | [`Input::AcquireMaster`], [`Input::ReleaseMaster`]; [`Effect::Master`] with a [`Fence`] |
//! | `GCM_sendReliableMessage` | [`Change::Message`]: to all members, in one order |
//! | `GCM_sendUnreliableMessage` | none: a program that wants to lose messages has its own sockets |
//! | `GDM_SharedData_new`, `_delete`, `_read`, `_write` | [`Change::Create`], [`Change::Delete`], [`Shared::item`], [`Change::Write`] and [`Change::Patch`] |
//! | `GDM_registerNewDataCallback`, `_DeletedData` | [`Notice::Created`], [`Notice::Written`], [`Notice::Deleted`] |
//! | `GDM_Lock_create`, `_destroy`, `_acquire`, `_release` | [`Change::CreateLock`], [`Change::DestroyLock`], [`Change::Lock`], [`Change::Unlock`]; [`Notice::Locked`] |
//! | `GDM_Lock_wait` | the driver's: wait for [`Notice::Locked`] |
//! | transactions | [`Change::Transaction`] |
//! | `GDM_genUniqueID` | [`Node::unique_id`] |
//! | `TM_getLogicalTime` | the token's [`Stamp`]; the log index ([`Shared::applied`]) |
//! | `TM_addTarget`, `TM_unicastReliableMessage`, `TM_registerChannelInfo` | the driver, and [`paths`] for its choice of addresses; a pass that fails on all of them is [`Step::PassFailed`] |
//!
//! # What it leaves out
//!
//! Sockets, clocks, disks and encryption (the driver's); what load means; more than a hundred nodes (rings of rings:
//! `docs/ring.md`).

mod durable;
mod effect;
mod eligible;
mod endpoint;
mod epoch;
pub mod invariants;
pub mod link;
mod log;
mod message;
mod node;
pub mod paths;
mod settings;
mod shared;
mod token;
pub mod wire;

pub use durable::Durable;
pub use effect::{Effect, Step, Timer};
pub use eligible::{Configuration, Eligible};
pub use endpoint::{Clock, Command, Counts, Endpoint, Event, History, Request, Traffic};
pub use epoch::{Epoch, Fence, Stamp};
pub use log::{Content, Entry, LogWindow, Place};
pub use message::{Call, Denial, Deny, Grant, LeaderLease, Message};
pub use node::{Input, Node, OutboxFull, Phase, Rules};
pub use settings::{Detection, Settings, SettingsError};
pub use shared::{
    Bytes, Change, ITEMS_MAX, Item, LockState, NAME_BYTES_MAX, Notice, Refused, Shared, VALUE_BYTES_MAX,
};
pub use token::{About, Member, Rank, Report, Token, View};
