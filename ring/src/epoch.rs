//! The order of tokens: an epoch numbers the token's lives, a sequence number its hops within them.

use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One life of the token: from its making by one node, after a round of 911, to its loss or replacement. Also the
/// id of the view made with it: the members of an epoch never change.
///
/// Ordered by number, then by founder, so that no two nodes can ever found the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Higher than any the founder has seen.
    pub number: u64,
    /// Who asked for it.
    pub founder: NodeId,
}

impl Epoch {
    /// Everything with this number or a lower one.
    pub fn up_to(number: u64) -> Epoch {
        Epoch { number, founder: NodeId(u32::MAX) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.founder)
    }
}

/// Where the token is in its life. The sequence number grows by one with each hop and goes on growing over epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The token's life.
    pub epoch: Epoch,
    /// Its hops.
    pub seq: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.epoch, self.seq)
    }
}

/// What an exclusive act carries so that an older holder's act can be refused: compare as a whole, larger is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Version of the eligible membership.
    pub eligible: u64,
    /// The token's stamp at the act.
    pub stamp: Stamp,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.eligible, self.stamp)
    }
}
