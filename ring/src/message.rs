//! The messages between nodes of a ring. Messages are unicast; each may be lost, duplicated, delayed or
//! reordered.

use crate::change::Bytes;
use crate::eligible::Configuration;
use crate::epoch::{Epoch, Stamp};
use crate::log::LogPosition;
use crate::token::{About, Member, Rank, Token};
use serde::{Deserialize, Serialize};

/// A message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Message {
    /// The token.
    Token(Box<Token>),
    /// Acknowledges the token with this stamp.
    TokenAck(Stamp),
    /// Refuses the token, because the sender has promised a newer epoch.
    TokenNack {
        /// Stamp of the refused token.
        stamp: Stamp,
        /// Epoch that the sender has promised.
        promised: Epoch,
    },
    /// A 911 call: asks for the right to regenerate the token, or to join the ring.
    Call(Box<Call>),
    /// Grants a 911 call; promises to take no older token.
    Grant(Box<Grant>),
    /// Denies a 911 call.
    Deny(Box<Deny>),
    /// Announces a ring to eligible nodes outside of it.
    Hello {
        /// Rank of the ring.
        rank: Rank,
        /// Epoch of its view.
        epoch: Epoch,
        /// Members of the ring.
        members: Vec<Member>,
    },
    /// Asks for the next part of a snapshot of the shared data.
    SnapshotAsk {
        /// Smallest log index that the snapshot must include.
        need: u64,
        /// Index of the snapshot of which the sender has the first part; 0 for none.
        index: u64,
        /// Bytes of it that the sender has.
        have: u64,
    },
    /// A part of a snapshot of the shared data.
    SnapshotPart {
        /// Log index of the last entry in the snapshot.
        index: u64,
        /// Length of the snapshot, bytes.
        total: u64,
        /// Offset of this part, bytes.
        offset: u64,
        /// Bytes of this part.
        bytes: Bytes,
    },
}

impl Message {
    /// Returns the name of the message's kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Token(_) => "token",
            Message::TokenAck(_) => "token-ack",
            Message::TokenNack { .. } => "token-nack",
            Message::Call(_) => "911",
            Message::Grant(_) => "grant",
            Message::Deny(_) => "deny",
            Message::Hello { .. } => "hello",
            Message::SnapshotAsk { .. } => "snapshot-ask",
            Message::SnapshotPart { .. } => "snapshot-part",
        }
    }
}

/// The state in which a node calls 911.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CallerState {
    /// The node has not seen the token for `starving_after`.
    Starving,
    /// The node holds the token and wants other members.
    Holder,
}

/// A 911 call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Call {
    /// Epoch that the caller wants to found.
    pub epoch: Epoch,
    /// State of the caller.
    pub caller_state: CallerState,
    /// Stamp of the caller's last copy of the token; zero for none.
    pub copy: Stamp,
    /// Stamp of the newest primary token that the caller has held.
    pub lineage: Stamp,
    /// Rank of the caller's ring.
    pub rank: Rank,
    /// Eligible membership, as the caller knows it.
    pub configuration: Configuration,
}

/// The answer that grants a 911 call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Granted epoch.
    pub epoch: Epoch,
    /// Stamp of the newest primary token that the sender has held.
    pub lineage: Stamp,
    /// Summary of the sender's log: [`LogWindow::runs`](crate::LogWindow::runs).
    pub log: Vec<LogPosition>,
    /// The sender's report of itself.
    pub about: About,
}

/// The reason of a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// The sender has promised this epoch or a newer one to another node.
    Promised,
    /// The sender has a newer copy of the token.
    NewerCopy,
    /// The sender is in a ring without the caller; the ring will call the caller in.
    Joining,
    /// The sender is in a ring of higher rank than the caller's.
    Outranked,
    /// The two nodes know different eligible memberships; the sender's is in this answer.
    Configuration,
}

/// The answer that denies a 911 call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Deny {
    /// Denied epoch.
    pub epoch: Epoch,
    /// Reason.
    pub why: Denial,
    /// Epoch that the sender has promised.
    pub promised: Epoch,
    /// Eligible membership, as the sender knows it.
    pub configuration: Configuration,
}
