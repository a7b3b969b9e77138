//! The effects of a node: actions for its driver and notifications for the users of the ring.

use crate::change::Notice;
use crate::durable::Durable;
use crate::epoch::{Epoch, Fence, Stamp};
use crate::message::{CallerState, Denial, Message};
use crate::token::{Member, View};
use rain_types::NodeId;
use std::time::Duration;

/// A timer of a node. Setting a running timer replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// End of the holder's turn.
    Turn,
    /// Deadline of the acknowledgement of a pass.
    Pass,
    /// Deadline of the token's arrival.
    Starve,
    /// Deadline of the answers to a 911 call.
    Call,
    /// Next announcement to eligible nodes outside the ring.
    Hello,
    /// Deadline of the next part of a snapshot.
    Sync,
    /// End of the lease of the master lock.
    Lease,
}

/// An action for the driver. Effects are executed in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send a message.
    Send {
        /// Receiver.
        to: NodeId,
        /// Message.
        message: Message,
        /// Number of the attempt, from 0; the driver takes another address for each.
        attempt: u32,
    },
    /// Return [`Input::Timer`](crate::Input::Timer) after this time, unless the timer is replaced or
    /// cancelled.
    Set(Timer, Duration),
    /// Cancel a timer.
    Cancel(Timer),
    /// Make this state durable, then return [`Input::Persisted`](crate::Input::Persisted).
    Persist(Durable),
    /// The view has changed.
    View(View),
    /// A notice for the users of the shared data.
    Notice(Notice),
    /// This node has the master lock, until it releases the lock or the lease ends.
    Master(Fence),
    /// This node has lost the master lock.
    MasterLost,
    /// This node has left the ring; it has no further effects.
    Left,
    /// A step of the protocol, for logs and counters.
    Step(ProtocolStep),
}

/// A step of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProtocolStep {
    /// The node took the token: EATING.
    Took(Stamp),
    /// The node passed the token: HUNGRY.
    Passed {
        /// Receiver.
        to: NodeId,
        /// Stamp of the passed token.
        stamp: Stamp,
    },
    /// The successor did not acknowledge the token.
    PassFailed {
        /// Successor.
        to: NodeId,
    },
    /// The node has not seen the token for `starving_after`: STARVING.
    Starves,
    /// The node calls 911.
    Called {
        /// Epoch that it wants to found.
        epoch: Epoch,
        /// State of the caller.
        caller_state: CallerState,
    },
    /// The node granted a call.
    Granted {
        /// Caller.
        to: NodeId,
        /// Granted epoch.
        epoch: Epoch,
    },
    /// The node denied a call.
    Denied {
        /// Caller.
        to: NodeId,
        /// Denied epoch.
        epoch: Epoch,
        /// Reason.
        why: Denial,
    },
    /// Another node denied this node's call.
    Refused {
        /// Denying node.
        by: NodeId,
        /// Reason.
        why: Denial,
    },
    /// The node regenerated the token.
    Founded(Stamp),
    /// The node refused a token of an old epoch.
    StaleToken {
        /// Sender of the token.
        from: NodeId,
        /// Stamp of the token.
        stamp: Stamp,
    },
    /// A node outside the ring asks to join.
    Applied(Member),
    /// The node dropped a message that makes no sense, or a join of a node that is not known to be eligible.
    Nonsense {
        /// Sender of the message.
        from: NodeId,
        /// Reason.
        why: &'static str,
    },
    /// The shared data is complete again.
    Synced {
        /// Log index of its last entry.
        index: u64,
    },
}
