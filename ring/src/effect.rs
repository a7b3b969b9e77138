//! What a node wants done, and what it tells.

use crate::durable::Durable;
use crate::epoch::{Epoch, Fence, Stamp};
use crate::message::{Denial, LeaderLease, Message};
use crate::shared::Notice;
use crate::token::{Member, View};
use rain_types::NodeId;
use std::time::Duration;

/// A timer of a node. Setting one that runs replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The holder's turn ends.
    Turn,
    /// The pass is not acknowledged yet.
    Pass,
    /// The token has not come.
    Starve,
    /// The 911 call is not answered by all yet.
    Call,
    /// Greet eligible nodes outside.
    Hello,
    /// The next part of the shared data has not come.
    Sync,
    /// The lease of the master lock ends.
    Lease,
}

/// What is to be done by the driver, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send a message. `attempt` counts the sends of this one from 0: the driver takes another address for each.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// Which try.
        attempt: u32,
    },
    /// Give [`Input::Timer`](crate::Input::Timer) after this time, unless replaced or cancelled.
    Set(Timer, Duration),
    /// Not any more.
    Cancel(Timer),
    /// Make this durable, then give [`Input::Persisted`](crate::Input::Persisted).
    Persist(Durable),
    /// The view is another one.
    View(View),
    /// Something for the users of the shared data.
    Notice(Notice),
    /// The master lock is this node's, until it is released or the lease ends.
    Master(Fence),
    /// The master lock is not this node's any more.
    MasterLost,
    /// This node has left; nothing more will come.
    Left,
    /// A step of the protocol, for people and counters.
    Step(Step),
}

/// A step of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// It took the token: EATING.
    Took(Stamp),
    /// It handed the token on: HUNGRY.
    Passed {
        /// To whom.
        to: NodeId,
        /// With which stamp.
        stamp: Stamp,
    },
    /// The successor did not acknowledge.
    PassFailed {
        /// Who.
        to: NodeId,
    },
    /// It has not seen the token for too long: STARVING.
    Starves,
    /// It calls 911.
    Called {
        /// For this epoch.
        epoch: Epoch,
        /// In which position.
        leader_lease: LeaderLease,
    },
    /// It allows somebody's call.
    Granted {
        /// Whose.
        to: NodeId,
        /// Which epoch.
        epoch: Epoch,
    },
    /// It refuses somebody's call.
    Denied {
        /// Whose.
        to: NodeId,
        /// Which epoch.
        epoch: Epoch,
        /// Why.
        why: Denial,
    },
    /// Its own call was refused.
    Refused {
        /// By whom.
        by: NodeId,
        /// Why.
        why: Denial,
    },
    /// It made the token anew.
    Founded(Stamp),
    /// A token came that it takes no more.
    StaleToken {
        /// From whom.
        from: NodeId,
        /// Which.
        stamp: Stamp,
    },
    /// Somebody outside asks to join.
    Applied(Member),
    /// Somebody asked to join whom it does not know to be eligible, or other nonsense; dropped.
    Nonsense {
        /// From whom.
        from: NodeId,
        /// What was wrong.
        why: &'static str,
    },
    /// The shared data is whole again.
    Synced {
        /// Up to which entry.
        index: u64,
    },
}
