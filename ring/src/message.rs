//! What nodes of a ring tell each other. Unicast only; every message may be lost, doubled, late or out of order.

use crate::eligible::Configuration;
use crate::epoch::{Epoch, Stamp};
use crate::log::Place;
use crate::shared::Bytes;
use crate::token::{About, Member, Rank, Token};
use serde::{Deserialize, Serialize};

/// A message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Here is the token.
    Token(Box<Token>),
    /// I have the token with this stamp.
    TokenAck(Stamp),
    /// I take no token of this epoch any more: I have promised a newer one.
    TokenNack {
        /// Of the token.
        stamp: Stamp,
        /// What I have promised.
        promised: Epoch,
    },
    /// 911: let me make the token anew; or, to those who know me not: let me in.
    Call(Box<Call>),
    /// You may, as far as I am concerned: I take nothing older any more.
    Grant(Box<Grant>),
    /// You may not.
    Deny(Box<Deny>),
    /// There is a ring here. To eligible nodes that are not in it.
    Hello {
        /// Its rank.
        rank: Rank,
        /// Its view.
        epoch: Epoch,
        /// Who is in it.
        members: Vec<Member>,
    },
    /// Send me the shared data.
    SnapshotAsk {
        /// It must have this entry at least.
        need: u64,
        /// The snapshot that I have the first part of, by its index; 0 for none yet.
        index: u64,
        /// Bytes of it that I have.
        have: u64,
    },
    /// A part of the shared data.
    SnapshotPart {
        /// Index of its last entry.
        index: u64,
        /// Bytes in all.
        total: u64,
        /// Where this part begins.
        offset: u64,
        /// The part.
        bytes: Bytes,
    },
}

impl Message {
    /// Its kind, for logs.
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

/// In which position somebody calls 911.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaderLease {
    /// I have not seen the token for too long.
    Starving,
    /// I hold the token, and want other members than it has.
    Holder,
}

/// A 911 call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The epoch to be founded.
    pub epoch: Epoch,
    /// Why.
    pub leader_lease: LeaderLease,
    /// My last copy of the token; zero for none.
    pub copy: Stamp,
    /// The newest primary token that I have held.
    pub lineage: Stamp,
    /// The rank of my ring.
    pub rank: Rank,
    /// What I know of the eligible membership.
    pub configuration: Configuration,
}

/// The answer that allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// The epoch allowed.
    pub epoch: Epoch,
    /// The newest primary token that I have held.
    pub lineage: Stamp,
    /// My log in short: [`LogWindow::runs`](crate::LogWindow::runs).
    pub log: Vec<Place>,
    /// About me.
    pub about: About,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// I have promised this epoch or a newer one to somebody.
    Promised,
    /// I have a newer copy of the token.
    NewerCopy,
    /// I am in a ring that you are not in: it will call you.
    Joining,
    /// I am in a ring that yours gives way to.
    Outranked,
    /// We know different eligible memberships; mine is with this answer.
    Configuration,
}

/// The answer that refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Deny {
    /// The epoch refused.
    pub epoch: Epoch,
    /// Why.
    pub why: Denial,
    /// What I have promised.
    pub promised: Epoch,
    /// What I know of the eligible membership.
    pub configuration: Configuration,
}
