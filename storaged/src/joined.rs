//! The parts of a node that exist only once it has joined a cluster: its number, the metadata service, the
//! ring.
//!
//! A node serves before it has joined, because its peers ask it who it is. So the services hold a [`Joined`]
//! and find it empty at first. Each part is set once, in this order: member, metadata service, ring.

use crate::addresses::Addresses;
use crate::metadata::MetadataService;
use crate::ring::Ring;
use rain_namespace::record::NodeRecord;
use rain_proto::v1;
use rain_types::{ClusterId, NodeId};
use std::sync::{Arc, OnceLock};
use tonic::Status;

/// The parts, each set once.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The address of this node for others.
    own_address: String,
    addresses: Arc<Addresses>,
    member: OnceLock<(ClusterId, NodeId)>,
    metadata: OnceLock<Arc<MetadataService>>,
    ring: OnceLock<Arc<Ring>>,
}

impl Joined {
    pub(crate) fn new(own_address: String, addresses: Arc<Addresses>) -> Joined {
        Joined {
            own_address,
            addresses,
            member: OnceLock::new(),
            metadata: OnceLock::new(),
            ring: OnceLock::new(),
        }
    }

    pub(crate) fn set_member(&self, cluster: ClusterId, node: NodeId) {
        self.member.get_or_init(|| (cluster, node));
    }

    pub(crate) fn set_metadata(&self, metadata: Arc<MetadataService>) {
        self.metadata.get_or_init(|| metadata);
    }

    pub(crate) fn set_ring(&self, ring: Arc<Ring>) {
        self.ring.get_or_init(|| ring);
    }

    /// Returns the cluster and this node's number; `None` before the node has joined a cluster.
    pub(crate) fn member(&self) -> Option<(ClusterId, NodeId)> {
        self.member.get().copied()
    }

    /// Returns the cluster; `None` before the node has joined one.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.member.get().map(|(cluster, _)| *cluster)
    }

    /// Returns this node's number; `None` before it has one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.member.get().map(|(_, node)| *node)
    }

    /// Returns the token ring; `None` before it has started.
    pub(crate) fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.get()
    }

    /// Returns the metadata service; `None` before it is open.
    pub(crate) fn metadata(&self) -> Option<&Arc<MetadataService>> {
        self.metadata.get()
    }

    /// As [`Joined::metadata`]; a node without it answers "failed precondition".
    pub(crate) fn metadata_or_status(&self) -> Result<&Arc<MetadataService>, Status> {
        self.metadata().ok_or_else(|| Status::failed_precondition("this node is not in a cluster yet"))
    }

    /// Returns the leader of the metadata service and its address, as far as this node knows them. `None`
    /// also where this node leads without a majority's recent confirmation: another may have been elected
    /// since.
    pub(crate) fn leader(&self) -> Option<v1::Leader> {
        let metadata = self.metadata()?;
        let leadership = metadata.leadership();
        let leadership = leadership.borrow();
        let leader = leadership.leader?;
        if leadership.mine && !metadata.is_confirmed() {
            return None;
        }
        let address = if leadership.mine {
            self.own_address.clone()
        } else {
            self.addresses.get(leader).unwrap_or_else(|| leadership.address.clone())
        };
        let cluster = metadata.member().cluster.to_string();
        Some(v1::Leader { term: leadership.term, node: leader.0, address, cluster })
    }

    /// Returns true where the ring's view has a majority of the voters. Then there is a leader, or there will
    /// be one soon.
    pub(crate) fn sees_majority(&self) -> bool {
        let (Some(metadata), Some(ring)) = (self.metadata(), self.ring()) else { return false };
        let leadership = metadata.leadership();
        let voters = &leadership.borrow().voters;
        let status = ring.status();
        let status = status.borrow();
        let Some(view) = &status.view else { return false };
        let there = view.members.iter().filter(|member| voters.contains(&member.node)).count();
        there * 2 > voters.len()
    }

    /// Returns the eligible nodes, as this node's own state has them; empty before it has joined.
    pub(crate) fn nodes(&self) -> Vec<NodeRecord> {
        self.metadata().map(|metadata| metadata.nodes()).unwrap_or_default()
    }
}
