//! Where a volume's blocks are: its placement groups as far as this client knows them, and how it learns of new ones.
//!
//! When nodes come or go, blocks move from closed groups to open ones behind everybody's back. Nothing here has to be exact for that: the
//! shares that do not move are where they were, those that do stay where they were for a while, and a block whose place was another's word
//! of long ago is looked up again.

use crate::block::BlockLocation;
use crate::cluster::unexpected;
use crate::error::Error;
use crate::volume::Volume;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Extent, VolumeRecord};
use rain_types::{BlockId, GroupId, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A layout that has blocks in closed groups is asked for again when it is so old: they may have moved.
pub(crate) const MAY_HAVE_MOVED_AFTER: Duration = Duration::from_secs(3);

/// A volume's groups.
#[derive(Debug)]
pub(crate) struct Places {
    record: VolumeRecord,
    nodes: Vec<Arc<[NodeId]>>,
    open: Vec<GroupId>,
    closed: BTreeSet<GroupId>,
}

impl Places {
    pub(crate) fn new(record: VolumeRecord) -> Result<Places, Error> {
        let open = record.open_groups();
        if open.is_empty() || record.groups.iter().any(|group| group.nodes.len() != record.code.n()) {
            return Err(Error::Protocol(format!("volume {:?} has no usable placement groups", record.name)));
        }
        let nodes = record.groups.iter().map(|group| group.nodes.as_slice().into()).collect();
        let closed = record.closed_groups().into_iter().map(|(group, _)| group).collect();
        Ok(Places { nodes, open, closed, record })
    }

    pub(crate) fn record(&self) -> &VolumeRecord {
        &self.record
    }

    pub(crate) fn knows(&self, group: GroupId) -> bool {
        (group.0 as usize) < self.nodes.len()
    }

    /// Whether blocks of the group are moving, or have.
    pub(crate) fn is_closed(&self, group: GroupId) -> bool {
        self.closed.contains(&group)
    }

    /// Whether blocks of any group are.
    pub(crate) fn any_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The place of a block.
    pub(crate) fn place(&self, id: BlockId, len: u32, group: GroupId) -> Result<BlockLocation, Error> {
        let nodes = self.nodes.get(group.0 as usize).cloned().ok_or_else(|| {
            Error::Protocol(format!("block {id} is in group {group}, which the volume has not"))
        })?;
        Ok(BlockLocation { id, len, code: self.record.code, group, nodes })
    }

    /// Who is in open groups.
    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        self.open.iter().flat_map(|group| self.nodes[group.0 as usize].iter().copied()).collect()
    }

    /// The open group for a new block: in turn, passing over those with nodes that do not answer where others have none.
    pub(crate) fn choose(
        &self,
        turn: &AtomicU64,
        is_up: impl Fn(NodeId) -> bool,
    ) -> (GroupId, Arc<[NodeId]>) {
        let count = self.open.len();
        let first = turn.fetch_add(1, Relaxed) as usize;
        let mut chosen = (usize::MAX, self.open[first % count]);
        for group in (0..count).map(|step| self.open[(first + step) % count]) {
            let away = self.nodes[group.0 as usize].iter().filter(|node| !is_up(**node)).count();
            if away < chosen.0 {
                chosen = (away, group);
            }
            // The first without loss ends the search; usually it is the first.
            if away == 0 {
                break;
            }
        }
        (chosen.1, self.nodes[chosen.1.0 as usize].clone())
    }
}

impl Volume {
    /// Where a block's shares are.
    pub fn place(&self, extent: &Extent) -> Result<BlockLocation, Error> {
        self.places().place(extent.block, extent.block_len, extent.group)
    }

    /// The group for a new block.
    pub(crate) fn choose_group(&self) -> (GroupId, Arc<[NodeId]>) {
        self.places().choose(&self.next_group, |node| self.cluster.blocks.is_up(node))
    }

    /// What the namespace keeps of the volume now.
    pub(crate) async fn record_now(&self) -> Result<VolumeRecord, Error> {
        match self.cluster.query(&Query::VolumeById { id: self.record().id }).await? {
            Answer::Volumes(found) => Ok(found.into_iter().next().ok_or(NsError::NotFound)?),
            _ => Err(unexpected("a volume")),
        }
    }

    /// Takes in the volume's groups as they are now.
    pub(crate) async fn refresh_places(&self) -> Result<(), Error> {
        let places = Places::new(self.record_now().await?)?;
        self.writeback.volume_is(places.record());
        self.set_places(places);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::record::{Group, Time};
    use rain_types::{CodeSpec, Codec, Ino, VolumeId};

    fn places(groups: &[(u32, [u32; 2])]) -> Places {
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
        Places::new(record).expect("usable")
    }

    #[test]
    fn new_blocks_go_to_open_groups_and_closed_ones_are_still_known() {
        let places = places(&[(0, [1, 2]), (1, [2, 3]), (0, [1, 4])]);
        assert!(
            places.is_closed(GroupId(0)) && !places.is_closed(GroupId(1)) && !places.is_closed(GroupId(2))
        );
        assert!(!places.is_closed(GroupId(9)) && !places.knows(GroupId(9)));
        let id = BlockId::default();
        assert_eq!(*places.place(id, 9, GroupId(0)).expect("known").nodes, [NodeId(1), NodeId(2)]);
        assert!(places.place(id, 9, GroupId(9)).is_err());
        assert_eq!(places.members(), [1, 2, 3, 4].map(NodeId).into());
        let turn = AtomicU64::new(0);
        let chosen: BTreeSet<GroupId> = (0..8).map(|_| places.choose(&turn, |_| true).0).collect();
        assert_eq!(chosen, [GroupId(1), GroupId(2)].into());
    }

    #[test]
    fn groups_with_nodes_that_are_away_are_passed_over_while_there_are_others() {
        let places = places(&[(0, [1, 2]), (1, [2, 3])]);
        let turn = AtomicU64::new(0);
        assert!((0..8).all(|_| places.choose(&turn, |node| node != NodeId(3)).0 == GroupId(0)));
        assert!((0..8).all(|_| places.choose(&turn, |node| node == NodeId(3)).0 == GroupId(1)));
    }
}
