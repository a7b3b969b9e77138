//! The location of a block.

use rain_types::{BlockId, CodeSpec, GroupId, NodeId};
use std::sync::Arc;

/// The location of a block: everything that is needed to reach its shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLocation {
    /// The block.
    pub id: BlockId,
    /// The block's length, bytes.
    pub len: u32,
    /// The code of the block's volume.
    pub code: CodeSpec,
    /// The block's placement group.
    pub group: GroupId,
    /// The group's nodes, in the order of the shares 0 to n - 1.
    pub nodes: Arc<[NodeId]>,
}
