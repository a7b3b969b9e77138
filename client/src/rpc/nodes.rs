//! The register of the cluster's nodes: one [`Node`] for each eligible node that has an address.
//!
//! Invariant: a node keeps its `Node`, and with it its connections and health, as long as its addresses stay
//! the same.

use super::node::{Node, NodeHealth};
use crate::error::Error;
use parking_lot::RwLock;
use rain_namespace::error::NsError;
use rain_namespace::record::NodeRecord;
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes by number.
pub(crate) type NodeMap = BTreeMap<NodeId, Arc<Node>>;

/// The register. The map is replaced as a whole, so that readers keep a consistent one without a lock.
#[derive(Debug)]
pub(crate) struct Nodes {
    cluster: ClusterId,
    map: RwLock<Arc<NodeMap>>,
}

impl Nodes {
    /// An empty register of a cluster's nodes.
    pub(crate) fn new(cluster: ClusterId) -> Arc<Nodes> {
        Arc::new(Nodes { cluster, map: RwLock::default() })
    }

    /// Replaces the register's contents by the namespace's records. Fails on an address that is no
    /// `host:port`.
    pub(crate) fn update(&self, records: &[NodeRecord]) -> Result<(), Error> {
        let mut current = self.map.write();
        let mut nodes = NodeMap::new();
        for record in records.iter().filter(|record| !record.address.is_empty()) {
            let addresses: Vec<String> = record.addresses().cloned().collect();
            let kept = current.get(&record.id).filter(|node| node.addresses() == addresses);
            let node = match kept {
                Some(node) => node.clone(),
                None => Node::new(self.cluster, record.id, addresses)
                    .map_err(|error| Error::Protocol(format!("address {:?}: {error}", record.address)))?,
            };
            nodes.insert(record.id, node);
        }
        *current = Arc::new(nodes);
        Ok(())
    }

    /// The nodes at this moment.
    pub(crate) fn map(&self) -> Arc<NodeMap> {
        self.map.read().clone()
    }

    /// All nodes in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.map.read().values().cloned().collect()
    }

    /// One node. Fails with `NotFound` where the register has none of this number.
    pub(crate) fn get(&self, id: NodeId) -> Result<Arc<Node>, Error> {
        self.map.read().get(&id).cloned().ok_or(Error::Refused(NsError::NotFound))
    }

    /// Whether a node answers, as far as this client and the ring know. An unknown node does not.
    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.map.read().get(&id).is_some_and(|node| node.is_up())
    }

    /// Each node's health, as this client's calls have met it.
    pub(crate) fn health(&self) -> Vec<(NodeId, NodeHealth)> {
        self.map.read().values().map(|node| (node.id, node.health())).collect()
    }

    /// The nodes that are outside of the ring's view.
    pub(crate) fn out_of_view(&self) -> Vec<NodeId> {
        self.map.read().values().filter(|node| !node.is_in_view()).map(|node| node.id).collect()
    }
}
