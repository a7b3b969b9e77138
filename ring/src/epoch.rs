//! The order of tokens: an epoch numbers the regenerations of the token, and a sequence number its hops.

use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One generation of the token: from its regeneration by one node, after a 911 round, to its loss or
/// replacement. The epoch also identifies the view, because the members of an epoch never change.
///
/// Epochs are ordered by number, then by founder, so no two nodes can found the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Number, higher than every number that the founder has seen.
    pub number: u64,
    /// Node that called for the epoch.
    pub founder: NodeId,
}

impl Epoch {
    /// Returns the highest epoch with this number.
    pub fn up_to(number: u64) -> Epoch {
        Epoch { number, founder: NodeId(u32::MAX) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.founder)
    }
}

/// A position in the order of tokens. The sequence number grows by one with each hop, also across epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Epoch of the token.
    pub epoch: Epoch,
    /// Number of hops.
    pub seq: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.epoch, self.seq)
    }
}

/// A fencing token: an exclusive action carries it, so that an action of an earlier holder can be refused.
/// Fences compare as a whole; the larger one is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Version of the eligible membership.
    pub eligible: u64,
    /// Stamp of the token at the time of the action.
    pub stamp: Stamp,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.eligible, self.stamp)
    }
}
