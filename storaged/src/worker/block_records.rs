//! The namespace's records of some blocks, and the lock that keeps workers from deleting shares that another
//! worker has just placed.

use super::authority::{Authority, Layout, WorkError};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{BlockRecord, VolumeRecord};
use rain_types::{BlockId, NodeId, ShareIndex, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Held by a worker from reading the records of blocks until it has moved the blocks or deleted their stray
/// shares.
pub(crate) type PlacementLock = Arc<tokio::sync::Mutex<()>>;

/// The records of some blocks and of all volumes.
pub(super) struct BlockRecords {
    /// Read before the records: what is deleted because of them is deleted by this version.
    pub(super) layout: Layout,
    blocks: BTreeMap<BlockId, BlockRecord>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
}

impl BlockRecords {
    /// Reads the records of at most 4096 blocks.
    pub(super) async fn read(
        authority: &Authority,
        blocks: impl Iterator<Item = BlockId>,
    ) -> Result<BlockRecords, WorkError> {
        let layout = authority.layout().await?;
        let ids: BTreeSet<BlockId> = blocks.collect();
        let found = match authority.query(&Query::Blocks { ids: ids.into_iter().collect() }).await? {
            Answer::Blocks(found) => found,
            _ => return Err(WorkError::Unexpected("blocks")),
        };
        let volumes = authority.volumes().await?;
        Ok(BlockRecords {
            layout,
            blocks: found.into_iter().map(|entry| (entry.id, entry.record)).collect(),
            volumes: volumes.into_iter().map(|volume| (volume.id, volume)).collect(),
        })
    }

    /// Returns true where a node is the right place of a share: its block lies in a group with this node, or
    /// moves to one. `None`: there is no such block.
    pub(super) fn is_placed(&self, node: NodeId, block: BlockId, index: ShareIndex) -> Option<bool> {
        let record = self.blocks.get(&block)?;
        let volume = self.volumes.get(&record.volume)?;
        let groups = [Some(record.group), volume.open_of(record.group)];
        let has_it = |group| {
            volume.nodes_of(group).is_some_and(|nodes| nodes.get(usize::from(index.0)) == Some(&node))
        };
        Some(groups.into_iter().flatten().any(has_it))
    }
}
