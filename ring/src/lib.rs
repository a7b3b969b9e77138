//! The token ring: an agreed view of the live nodes, and the locks and shared data that rest on it.
//!
//! The design follows the group membership of RAIN and Raincore (Bohossian et al., *Computing in the RAIN*,
//! IEEE TPDS 2001; Fan and Bruck, *The Raincore API for Clusters of Networking Elements*, IEEE Internet
//! Computing 2001). The nodes of a ring pass on one token. Its holder may act for the ring. The token carries
//! the list of members and changes of shared data. A node that does not take the token is removed. The node
//! with the newest copy regenerates a lost token, after it has asked the others by a 911 call. A node outside
//! the ring calls 911 to join.
//!
//! The crate is pure: [`Node::handle`] takes an [`Input`] and returns [`Effect`]s. Timers are effects; there
//! is no clock, no I/O and no randomness inside. [`Endpoint`] adds the link monitor and the choice of
//! addresses, and is the interface for a driver. The model checker, the simulator and the daemon run the same
//! node.
//!
//! # Differences from the papers, and their reasons
//!
//! In the paper, a holder that misses an acknowledgement passes the token to the next node. This makes two
//! tokens as soon as an acknowledgement is lost, because the first pass may have arrived. The model checker
//! finds this in a few steps (`a_pass_to_the_next_node_after_a_missed_acknowledgement_is_caught`). This crate
//! differs as follows:
//!
//! - The token has an **epoch**. Within one epoch each hop of the token goes to one node only, however often
//!   it is sent. A node that misses the acknowledgement calls 911 for a new epoch without the silent node.
//! - A **grant is a promise** to take no token of an older epoch. The promise survives a restart.
//! - The **members of an epoch never change**. Every change of membership (a loss, a join, a leave, a merge,
//!   another order) is a 911 round and a new epoch. So the epoch is the view's number, all nodes with this
//!   number have the same view, and no view goes backwards.
//! - A ring is *primary* if its founder got grants from a majority of the eligible nodes, none of them with a
//!   newer primary copy. Any other ring is an *orphan*; it only agrees on the live nodes.
//!
//! # Invariants
//!
//! [`invariants`] states them; `ring/tests/model` and the simulator hold them:
//! 1. At most one node is EATING in an epoch.
//! 2. At most one primary token is live.
//! 3. Views of one epoch are equal, and no node's view goes backwards.
//! 4. Committed entries stay, and mirrors of the shared data at one position are equal.
//!
//! # States of a node
//!
//! | state | means | goes to |
//! |---|---|---|
//! | HUNGRY | waits for the token | EATING when it takes the token; STARVING when the token has not come for `starving_after`, or when its own pass failed |
//! | EATING | holds the token; may be calling 911 for other members | HUNGRY when it passes the token on, or grants another node's call |
//! | STARVING | calls 911 | EATING when all reachable nodes grant its call; HUNGRY when it grants another node's call; stays when denied, and calls again |
//! | GONE | has left the ring | |
//!
//! The answers to a 911 call (the first row that fits):
//!
//! | caller | answering node | answer |
//! |---|---|---|
//! | any | knows another eligible membership | deny, with that membership (both nodes learn) |
//! | holder of the same ring | any | grant |
//! | holder of another ring | member of a ring of higher rank | deny: outranked |
//! | starving, in the same view | in this ring, with a newer copy | deny: newer copy |
//! | starving, in another view | in a ring | deny: joining (the next holder calls the node in) |
//! | starving | in no ring; its newest primary copy, or else its last copy, is newer | deny: newer copy |
//! | any other | has promised this epoch or a newer one to another node | deny: promised (the caller takes a higher number: a holder at once, a starving node a little later) |
//! | any other | any | grant |
//!
//! A node is *in a ring* if it is not starving and has promised nothing since its last token.
//!
//! Denials only avoid conflicts. Safety rests on the founder's check alone: a majority of grants, and no
//! grant from a node with a newer primary copy.
//!
//! # Raincore's functions here
//!
//! | Raincore | here |
//! |---|---|
//! | `GCM_queryCommunicationMembership` | [`Node::view`] |
//! | `GCM_queryEligibleMembership` | [`Node::eligible`] |
//! | `GCM_setParameters`, `GCM_getParameters` | [`Input::Settings`], [`Node::settings`]; callbacks are [`Effect`]s |
//! | `GCM_acquireMasterLock`, `GCM_releaseMasterLock` | [`Input::AcquireMaster`], [`Input::ReleaseMaster`]; [`Effect::Master`] with a [`Fence`] |
//! | `GCM_sendReliableMessage` | [`Change::Message`]: to all members, in one order |
//! | `GCM_sendUnreliableMessage` | none: a program that can bear lost messages uses its own sockets |
//! | `GDM_SharedData_new`, `_delete`, `_read`, `_write` | [`Change::Create`], [`Change::Delete`], [`SharedData::item`], [`Change::Write`] and [`Change::Patch`] |
//! | `GDM_registerNewDataCallback`, `_DeletedData` | [`Notice::Created`], [`Notice::Written`], [`Notice::Deleted`] |
//! | `GDM_Lock_create`, `_destroy`, `_acquire`, `_release` | [`Change::CreateLock`], [`Change::DestroyLock`], [`Change::Lock`], [`Change::Unlock`]; [`Notice::Locked`] |
//! | `GDM_Lock_wait` | the driver waits for [`Notice::Locked`] |
//! | transactions | [`Change::Transaction`] |
//! | `GDM_genUniqueID` | [`Node::unique_id`] |
//! | `TM_getLogicalTime` | the token's [`Stamp`]; the log index ([`SharedData::applied`]) |
//! | `TM_addTarget`, `TM_unicastReliableMessage`, `TM_registerChannelInfo` | the driver, and [`paths`] for its choice of addresses; [`ProtocolStep::PassFailed`] reports a pass that fails on all addresses |
//!
//! # Left out
//!
//! Sockets, clocks, disks and encryption, which the driver has; the meaning of a load index; more than a
//! hundred nodes (rings of rings: `docs/ring.md`).

mod change;
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

pub use change::{Bytes, Change, NAME_BYTES_MAX, Notice, Refused, VALUE_BYTES_MAX};
pub use durable::Durable;
pub use effect::{Effect, ProtocolStep, Timer};
pub use eligible::{Configuration, Eligible};
pub use endpoint::{Clock, Command, Counts, Endpoint, Event, History, Notification, Traffic};
pub use epoch::{Epoch, Fence, Stamp};
pub use log::{Content, Entry, LogPosition, LogWindow};
pub use message::{Call, CallerState, Denial, Deny, Grant, Message};
pub use node::{Input, Node, OutboxFull, Phase, Rules};
pub use settings::{Detection, Settings, SettingsError};
pub use shared::{ITEMS_MAX, Item, LockState, SharedData};
pub use token::{About, Member, Rank, Report, Token, View};
