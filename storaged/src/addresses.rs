//! The addresses of the nodes: as the namespace records them, or as the nodes themselves have reported since.
//! Nodes that have all moved must find each other before the namespace can record their new addresses.

use parking_lot::RwLock;
use rain_types::NodeId;
use std::collections::BTreeMap;

/// The addresses of all known nodes. A node's own report counts until its record changes
/// (`what_a_node_says_counts_until_its_record_changes`).
#[derive(Debug, Default)]
pub(crate) struct Addresses(RwLock<KnownAddresses>);

#[derive(Debug, Default)]
struct KnownAddresses {
    /// All addresses of each node as the namespace records them, the preferred one first.
    recorded: BTreeMap<NodeId, Vec<String>>,
    /// The address that a node has reported of itself, newer than its record.
    heard: BTreeMap<NodeId, String>,
}

impl Addresses {
    /// Returns the preferred address of a node.
    pub(crate) fn get(&self, node: NodeId) -> Option<String> {
        self.all_of(node).into_iter().next()
    }

    /// Returns all addresses of a node, the preferred one first; empty: the node is not known. A node reports one
    /// address; its recorded ones follow, as they lead over its other networks.
    pub(crate) fn all_of(&self, node: NodeId) -> Vec<String> {
        let known = self.0.read();
        let heard = known.heard.get(&node);
        let recorded = known.recorded.get(&node).into_iter().flatten();
        let others = recorded.filter(|address| Some(*address) != heard);
        heard.into_iter().chain(others).cloned().collect()
    }

    /// Returns the preferred address of every known node.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, String> {
        let known = self.0.read();
        let first = |(node, all): (&NodeId, &Vec<String>)| Some((*node, all.first()?.clone()));
        let mut all: BTreeMap<NodeId, String> = known.recorded.iter().filter_map(first).collect();
        all.extend(known.heard.clone());
        all
    }

    /// Takes the namespace's records. A changed record replaces the node's own report.
    pub(crate) fn record(&self, recorded: BTreeMap<NodeId, Vec<String>>) {
        let mut known = self.0.write();
        let KnownAddresses { recorded: before, heard } = &mut *known;
        heard.retain(|node, _| !before.contains_key(node) || before.get(node) == recorded.get(node));
        *before = recorded;
    }

    /// Takes the address that a node has just given of itself.
    pub(crate) fn hear(&self, node: NodeId, address: String) {
        self.0.write().heard.insert(node, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_counts_until_its_record_changes() {
        let addresses = Addresses::default();
        let record =
            |address: &str| addresses.record(BTreeMap::from([(NodeId(1), vec![address.to_owned()])]));
        record("a:1");
        addresses.hear(NodeId(1), "b:1".into());
        record("a:1");
        assert_eq!(addresses.get(NodeId(1)).as_deref(), Some("b:1"));
        record("b:1");
        record("c:1");
        assert_eq!(addresses.get(NodeId(1)).as_deref(), Some("c:1"));
    }

    #[test]
    fn a_node_that_reports_one_address_keeps_its_others() {
        let addresses = Addresses::default();
        addresses.record(BTreeMap::from([(NodeId(1), vec!["a:1".to_owned(), "b:1".to_owned()])]));
        for (heard, all) in [("a:1", vec!["a:1", "b:1"]), ("b:1", vec!["b:1", "a:1"])] {
            addresses.hear(NodeId(1), heard.into());
            assert_eq!(addresses.all_of(NodeId(1)), all);
        }
        addresses.hear(NodeId(1), "c:1".into());
        assert_eq!(addresses.all_of(NodeId(1)), ["c:1", "a:1", "b:1"]);
    }
}
