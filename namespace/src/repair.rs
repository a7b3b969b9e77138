//! Repair plans: which missing shares of a block to make, and from which shares
//! (`what_lives_is_made_from_what_lives`).
//!
//! Left out: execution, and the choice of the live nodes. The caller passes the live nodes, because one
//! node's view of the cluster is not part of the namespace.

use crate::apply::margin;
use crate::query::BlockEntry;
use rain_types::{BlockId, CodeSpec, NodeId};

/// The plan for one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Make the shares `make` from at least k of the shares `sources`.
    Make {
        /// Missing shares whose nodes are live: bit i for share i.
        make: u64,
        /// Present shares whose nodes are live: bit i for share i.
        sources: u64,
    },
    /// Wait: none of the nodes of the missing shares is live.
    Wait,
    /// Wait: fewer than k shares are reachable, until a node returns.
    OutOfReach {
        /// Number of reachable shares.
        reachable: u32,
    },
}

/// Returns a block's position in the list of blocks with missing shares: its margin, then its id.
pub fn position(entry: &BlockEntry, code: CodeSpec) -> (u8, BlockId) {
    (margin(code, entry.record.missing), entry.id)
}

/// Returns the plan for one block. `nodes` are the nodes of its shares 0 to n.
pub fn plan(entry: &BlockEntry, code: CodeSpec, nodes: &[NodeId], is_live: impl Fn(NodeId) -> bool) -> Plan {
    let (mut make, mut sources) = (0u64, 0u64);
    for (index, _) in nodes.iter().enumerate().filter(|(_, node)| is_live(**node)) {
        if entry.record.missing & 1 << index != 0 {
            make |= 1 << index;
        } else {
            sources |= 1 << index;
        }
    }
    let reachable = sources.count_ones();
    if reachable < u32::from(code.k) {
        Plan::OutOfReach { reachable }
    } else if make == 0 {
        Plan::Wait
    } else {
        Plan::Make { make, sources }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BlockRecord;
    use rain_types::{Codec, GroupId, VolumeId};

    #[test]
    fn what_lives_is_made_from_what_lives() {
        let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
        let nodes: Vec<NodeId> = (1..=6).map(NodeId).collect();
        let entry = |missing| BlockEntry {
            id: BlockId::default(),
            record: BlockRecord { volume: VolumeId(1), group: GroupId(0), len: 9, live: 9, missing },
        };
        let all = |_| true;
        assert_eq!(plan(&entry(0b11), code, &nodes, all), Plan::Make { make: 0b11, sources: 0b11_1100 });
        assert_eq!(plan(&entry(0b1), code, &nodes, |node| node.0 != 1), Plan::Wait);
        let fewer = |node: NodeId| node.0 < 5;
        assert_eq!(plan(&entry(0b1), code, &nodes, fewer), Plan::OutOfReach { reachable: 3 });
        assert_eq!(
            plan(&entry(0b10), code, &nodes, |node| node.0 != 6),
            Plan::Make { make: 0b10, sources: 0b1_1101 }
        );
    }
}
