//! The token, and the view that it carries.

use crate::eligible::Eligible;
use crate::epoch::{Epoch, Stamp};
use crate::log::LogWindow;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};

/// A member of a view. The incarnation distinguishes a restarted node from its earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Node number.
    pub node: NodeId,
    /// Number of the node's start.
    pub incarnation: u64,
}

/// The communication membership: the live nodes in ring order. A view never changes: another membership is
/// another view of another epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct View {
    /// Epoch of the view, which identifies it.
    pub epoch: Epoch,
    /// True if the founder got grants from a majority of the eligible nodes and has the newest copy among
    /// them. Any other ring is an *orphan*: it agrees on the live nodes, and has neither locks nor shared
    /// data.
    pub primary: bool,
    /// Members in ring order. The first is the founder, which is the leader.
    pub members: Vec<Member>,
}

impl View {
    /// Returns a node's position in the ring; `None` when it is no member.
    pub fn position(&self, node: NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.node == node)
    }

    /// Returns whether a node is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.position(node).is_some()
    }

    /// Returns the node to which a member passes the token: itself if it is alone; `None` when it is no
    /// member.
    pub fn successor(&self, of: NodeId) -> Option<NodeId> {
        let at = self.position(of)?;
        self.members.get((at + 1) % self.members.len()).map(|member| member.node)
    }

    /// Returns the node that acts for the view where one node must: its founder.
    pub fn leader(&self) -> Option<NodeId> {
        self.members.first().map(|member| member.node)
    }

    /// Returns the view's rank. When two rings meet, the one of higher rank takes in the other.
    pub fn rank(&self) -> Rank {
        Rank {
            primary: self.primary,
            size: if self.primary { 0 } else { self.members.len() as u64 },
            epoch: self.epoch,
        }
    }
}

/// The order of rings that meet: a primary ring is above orphans; of two primaries (one is stale) the newer
/// one is above; of two orphans the larger one, then the newer one. No two rings have the same rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Rank {
    primary: bool,
    size: u64,
    epoch: Epoch,
}

/// A member's entry on the token. Each member writes its own entry when it holds the token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Report {
    /// The member has held the token in this epoch.
    pub visited: bool,
    /// Index of the member's last log entry, while `synced`.
    pub has: u64,
    /// The member's shared data is complete, so that it has all entries up to `has`.
    pub synced: bool,
    /// Stamp of the newest primary token that the member has held with complete shared data.
    pub lineage: Stamp,
    /// The member wants to leave.
    pub leaving: bool,
    /// Node whose pass to this member has failed once (conservative detection).
    pub doubted_by: Option<NodeId>,
    /// The member's report of itself.
    pub about: About,
}

/// A member's report of itself: the token carries it to all members; the ring does not interpret it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct About {
    /// Addresses of the member, one for each interface.
    pub addresses: Vec<String>,
    /// Load index from 0 (idle) to 1000 (full); the driver computes it.
    pub load: u16,
    /// Peers that the member does not reach over at least one link.
    pub links_down: Vec<NodeId>,
}

/// The token. Its holder may act for the ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Token {
    /// Position of the token in the order of all tokens.
    pub stamp: Stamp,
    /// Members that pass it on.
    pub view: View,
    /// Eligible membership that this view installs.
    pub eligible: Eligible,
    /// Reports, one for each member, in the members' order.
    pub reports: Vec<Report>,
    /// Messages and changes of shared data that are not at every member yet; `None` in an orphan ring.
    pub log: Option<LogWindow>,
}

impl Token {
    /// Returns a node's report; `None` when the node is no member.
    pub fn report(&self, node: NodeId) -> Option<&Report> {
        self.reports.get(self.view.position(node)?)
    }

    pub(crate) fn report_mut(&mut self, node: NodeId) -> Option<&mut Report> {
        let at = self.view.position(node)?;
        self.reports.get_mut(at)
    }
}
