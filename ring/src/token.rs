//! The token and the view that it carries.

use crate::eligible::Eligible;
use crate::epoch::{Epoch, Stamp};
use crate::log::LogWindow;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};

/// A member of a view. The incarnation tells a node that was started again from its earlier self.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: u64,
}

/// Communication membership: who answers now, in ring order. Nothing in it ever changes: another membership is another
/// view of another epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct View {
    /// Which view this is.
    pub epoch: Epoch,
    /// Founded by a majority of the eligible nodes and with the newest copy among them. Any other ring is an *orphan*: it
    /// says who is there, and has neither locks nor shared data.
    pub primary: bool,
    /// In ring order; the founder is the first, and the leader.
    pub members: Vec<Member>,
}

impl View {
    /// Where a node is in the ring.
    pub fn position(&self, node: NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.node == node)
    }

    /// Whether a node is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.position(node).is_some()
    }

    /// Whom a member hands the token to. Itself, if it is alone; nobody, if it is no member.
    pub fn successor(&self, of: NodeId) -> Option<NodeId> {
        let at = self.position(of)?;
        self.members.get((at + 1) % self.members.len()).map(|member| member.node)
    }

    /// The node that acts for the view where one must: its founder.
    pub fn leader(&self) -> Option<NodeId> {
        self.members.first().map(|member| member.node)
    }

    /// Which of two rings takes in the other when they meet.
    pub fn rank(&self) -> Rank {
        Rank {
            primary: self.primary,
            size: if self.primary { 0 } else { self.members.len() as u64 },
            epoch: self.epoch,
        }
    }
}

/// The order in which rings give way to each other: a primary ring before orphans, of two primaries (one is stale) the
/// newer, of two orphans the larger, then the newer. No two rings have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Rank {
    primary: bool,
    size: u64,
    epoch: Epoch,
}

/// What the token tells of one member. Each member writes its own when it holds the token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Report {
    /// Held the token in this epoch.
    pub visited: bool,
    /// Index of its last log entry, while `synced`.
    pub has: u64,
    /// Has the shared data whole, so that entries up to `has` are all there.
    pub synced: bool,
    /// The newest primary token it has held with the shared data whole.
    pub lineage: Stamp,
    /// Wants to go.
    pub leaving: bool,
    /// The pass to it has failed once, from this sender (conservative detection).
    pub doubted_by: Option<NodeId>,
    /// What it says of itself.
    pub about: About,
}

/// What a member says of itself: carried to all, understood by none here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct About {
    /// Where it is reached, one entry for each interface.
    pub addresses: Vec<String>,
    /// 0 (idle) to 1000 (full); the formula is the driver's.
    pub load: u16,
    /// Peers that it does not reach over some of its links.
    pub links_down: Vec<NodeId>,
}

/// The token. Who holds it may act for the ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Token {
    /// Where it is in its life.
    pub stamp: Stamp,
    /// Who passes it on.
    pub view: View,
    /// The eligible membership that this view installs.
    pub eligible: Eligible,
    /// One for each member, in their order.
    pub reports: Vec<Report>,
    /// Messages and changes of shared data under way; none in an orphan ring.
    pub log: Option<LogWindow>,
}

impl Token {
    /// What it tells of a node.
    pub fn report(&self, node: NodeId) -> Option<&Report> {
        self.reports.get(self.view.position(node)?)
    }

    pub(crate) fn report_mut(&mut self, node: NodeId) -> Option<&mut Report> {
        let at = self.view.position(node)?;
        self.reports.get_mut(at)
    }
}
