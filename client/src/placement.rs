//! Placement: a volume's placement groups as this client knows them, and how it learns of new ones.
//!
//! When nodes are added, drained or removed, the rebalance worker moves blocks from closed groups to open
//! ones while clients go on with their old groups. That is safe for these reasons:
//! - A share that does not move is on the node of the old group.
//! - A moved share also stays on its old node for some seconds.
//! - A layout with blocks in closed groups is read again at the age of [`MAY_HAVE_MOVED_AFTER`], which is
//!   shorter than that.

use crate::block::{BlockLocation, Blocks};
use crate::error::Error;
use crate::session::Session;
use parking_lot::RwLock;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Extent, VolumeRecord};
use rain_types::{BlockId, GroupId, NodeId, VolumeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A layout with blocks in closed groups is asked for again at this age, because those blocks may have moved.
/// It is shorter than the time for which moved shares stay at their old nodes.
pub(crate) const MAY_HAVE_MOVED_AFTER: Duration = Duration::from_secs(3);

/// The placement groups of a volume at one moment.
#[derive(Debug)]
pub(crate) struct Groups {
    record: VolumeRecord,
    nodes: Vec<Arc<[NodeId]>>,
    open: Vec<GroupId>,
    closed: BTreeSet<GroupId>,
}

impl Groups {
    /// Fails with `Protocol` on a record without an open group, or with a group that has not n nodes.
    pub(crate) fn new(record: VolumeRecord) -> Result<Groups, Error> {
        let open = record.open_groups();
        if open.is_empty() || record.groups.iter().any(|group| group.nodes.len() != record.code.n()) {
            return Err(Error::Protocol(format!("volume {:?} has no usable placement groups", record.name)));
        }
        let nodes = record.groups.iter().map(|group| group.nodes.as_slice().into()).collect();
        let closed = record.closed_groups().into_iter().map(|(group, _)| group).collect();
        Ok(Groups { nodes, open, closed, record })
    }

    /// The volume's record that the groups are of.
    pub(crate) fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// Whether the group is among these.
    pub(crate) fn contains(&self, group: GroupId) -> bool {
        (group.0 as usize) < self.nodes.len()
    }

    /// Whether the group is closed: its blocks move, or have moved.
    pub(crate) fn is_closed(&self, group: GroupId) -> bool {
        self.closed.contains(&group)
    }

    /// Whether any group is closed.
    pub(crate) fn any_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The location of a block. Fails with `Protocol` on a group that is not among these.
    pub(crate) fn locate(&self, id: BlockId, len: u32, group: GroupId) -> Result<BlockLocation, Error> {
        let nodes = self.nodes.get(group.0 as usize).cloned().ok_or_else(|| {
            Error::Protocol(format!("block {id} is in group {group}, which the volume has not"))
        })?;
        Ok(BlockLocation { id, len, code: self.record.code, group, nodes })
    }

    /// The nodes of all open groups.
    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        self.open.iter().flat_map(|group| self.nodes[group.0 as usize].iter().copied()).collect()
    }

    /// Chooses the open group for a new block: in turn, but a group with fewer nodes down goes before one
    /// with more.
    pub(crate) fn choose(
        &self,
        turn: &AtomicU64,
        is_up: impl Fn(NodeId) -> bool,
    ) -> (GroupId, Arc<[NodeId]>) {
        let count = self.open.len();
        let first = turn.fetch_add(1, Relaxed) as usize;
        let mut chosen = (usize::MAX, self.open[first % count]);
        for group in (0..count).map(|step| self.open[(first + step) % count]) {
            let down = self.nodes[group.0 as usize].iter().filter(|node| !is_up(**node)).count();
            if down < chosen.0 {
                chosen = (down, group);
            }
            // The first group without a node down ends the search. Usually that is the first group looked at.
            if down == 0 {
                break;
            }
        }
        (chosen.1, self.nodes[chosen.1.0 as usize].clone())
    }
}

/// The placement of one volume, kept current by [`Placement::refresh`].
#[derive(Debug)]
pub(crate) struct Placement {
    volume: VolumeId,
    groups: RwLock<Arc<Groups>>,
    /// Counts new blocks, so that they take the groups in turn.
    turn: AtomicU64,
}

impl Placement {
    pub(crate) fn new(record: VolumeRecord) -> Result<Placement, Error> {
        Ok(Placement {
            volume: record.id,
            groups: RwLock::new(Arc::new(Groups::new(record)?)),
            // Clients begin at different groups.
            turn: AtomicU64::new(u64::from(std::process::id())),
        })
    }

    /// The groups as known at this moment.
    pub(crate) fn groups(&self) -> Arc<Groups> {
        self.groups.read().clone()
    }

    /// The location of an extent's block.
    pub(crate) fn locate(&self, extent: &Extent) -> Result<BlockLocation, Error> {
        self.groups().locate(extent.block, extent.block_len, extent.group)
    }

    /// Chooses the group for a new block.
    pub(crate) fn choose_group(&self, blocks: &Blocks) -> (GroupId, Arc<[NodeId]>) {
        self.groups().choose(&self.turn, |node| blocks.is_up(node))
    }

    /// Reads the volume's record from the namespace.
    pub(crate) async fn read_record(&self, session: &Session) -> Result<VolumeRecord, Error> {
        match session.query(&Query::VolumeById { id: self.volume }).await? {
            Answer::Volumes(found) => Ok(found.into_iter().next().ok_or(NsError::NotFound)?),
            _ => Err(Error::unexpected("a volume")),
        }
    }

    /// Reads the groups from the namespace. Returns the volume's record.
    pub(crate) async fn refresh(&self, session: &Session) -> Result<VolumeRecord, Error> {
        let groups = Groups::new(self.read_record(session).await?)?;
        let record = groups.record().clone();
        *self.groups.write() = Arc::new(groups);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::record::{Group, Time};
    use rain_types::{CodeSpec, Codec, Ino, VolumeId};

    fn placed(groups: &[(u32, [u32; 2])]) -> Groups {
        let group =
            |(slot, nodes): &(u32, [u32; 2])| Group { slot: *slot, nodes: nodes.map(NodeId).to_vec() };
        let record = VolumeRecord {
            id: VolumeId(1),
            name: "v".into(),
            code: CodeSpec { codec: Codec::Rs, k: 1, m: 1 },
            root: Ino(1),
            groups: groups.iter().map(group).collect(),
            inodes: 0,
            stored_bytes: 0,
            created: Time::default(),
        };
        Groups::new(record).expect("usable")
    }

    #[test]
    fn new_blocks_go_to_open_groups_and_closed_ones_are_still_known() {
        let groups = placed(&[(0, [1, 2]), (1, [2, 3]), (0, [1, 4])]);
        assert!(
            groups.is_closed(GroupId(0)) && !groups.is_closed(GroupId(1)) && !groups.is_closed(GroupId(2))
        );
        assert!(!groups.is_closed(GroupId(9)) && !groups.contains(GroupId(9)));
        let id = BlockId::default();
        assert_eq!(*groups.locate(id, 9, GroupId(0)).expect("known").nodes, [NodeId(1), NodeId(2)]);
        assert!(groups.locate(id, 9, GroupId(9)).is_err());
        assert_eq!(groups.members(), [1, 2, 3, 4].map(NodeId).into());
        let turn = AtomicU64::new(0);
        let chosen: BTreeSet<GroupId> = (0..8).map(|_| groups.choose(&turn, |_| true).0).collect();
        assert_eq!(chosen, [GroupId(1), GroupId(2)].into());
    }

    #[test]
    fn groups_with_nodes_that_are_away_are_passed_over_while_there_are_others() {
        let groups = placed(&[(0, [1, 2]), (1, [2, 3])]);
        let turn = AtomicU64::new(0);
        assert!((0..8).all(|_| groups.choose(&turn, |node| node != NodeId(3)).0 == GroupId(0)));
        assert!((0..8).all(|_| groups.choose(&turn, |node| node == NodeId(3)).0 == GroupId(1)));
    }
}
