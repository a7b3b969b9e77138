//! The eligible membership: the nodes of the cluster, as durable configuration. The live ones among them are
//! the [`View`](crate::View).
//!
//! A change is *joint*: until a token installs the new set, a primary ring needs a majority of the old set
//! and one of the new set (`a_change_takes_a_majority_of_the_old_and_of_the_new`). A node that no ring has
//! configured knows version 0, the empty set, and cannot found a primary ring.

use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A set of eligible nodes. Two sets of the same version are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Eligible {
    /// Version, which grows with every change; 0: not configured.
    pub version: u64,
    /// Eligible nodes.
    pub nodes: BTreeSet<NodeId>,
}

impl Eligible {
    /// Returns whether more than half of the nodes satisfy `of`. The empty set has no majority.
    pub fn has_majority(&self, of: impl Fn(NodeId) -> bool) -> bool {
        let there = self.nodes.iter().filter(|node| of(**node)).count();
        there * 2 > self.nodes.len()
    }
}

/// A node's knowledge of the eligible membership.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// The newest set that a primary ring has installed.
    pub installed: Eligible,
    /// The next set, if a primary ring may have installed it.
    pub pending: Option<Eligible>,
}

impl Configuration {
    /// Returns whether the nodes that satisfy `of` are a majority of every set that may be in force.
    pub fn has_quorum(&self, of: impl Fn(NodeId) -> bool) -> bool {
        self.installed.has_majority(&of)
            && self.pending.as_ref().is_none_or(|pending| pending.has_majority(&of))
    }

    /// Merges another node's knowledge: the newest installed set, and the first set that may follow it.
    /// Returns whether this changed anything.
    pub fn learn(&mut self, other: &Configuration) -> bool {
        let before = (self.installed.version, self.pending.as_ref().map(|pending| pending.version));
        if other.installed.version > self.installed.version {
            self.installed = other.installed.clone();
        }
        let pending = [self.pending.take(), other.pending.clone()];
        self.pending = pending
            .into_iter()
            .flatten()
            .filter(|pending| pending.version > self.installed.version)
            .min_by_key(|pending| pending.version);
        before != (self.installed.version, self.pending.as_ref().map(|pending| pending.version))
    }

    /// Returns whether both know the same versions.
    pub fn agrees(&self, other: &Configuration) -> bool {
        self.installed.version == other.installed.version
            && self.pending.as_ref().map(|pending| pending.version)
                == other.pending.as_ref().map(|pending| pending.version)
    }

    /// Returns the nodes of both sets.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let pending = self.pending.iter().flat_map(|pending| pending.nodes.iter());
        let both: BTreeSet<NodeId> = self.installed.nodes.iter().chain(pending).copied().collect();
        both.into_iter()
    }

    /// Returns whether a node is in one of the sets.
    pub fn contains(&self, node: NodeId) -> bool {
        self.installed.nodes.contains(&node)
            || self.pending.as_ref().is_some_and(|pending| pending.nodes.contains(&node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(version: u64, nodes: &[u32]) -> Eligible {
        Eligible { version, nodes: nodes.iter().copied().map(NodeId).collect() }
    }

    #[test]
    fn a_change_takes_a_majority_of_the_old_and_of_the_new() {
        let of = |nodes: &'static [u32]| move |node: NodeId| nodes.contains(&node.0);
        let both = Configuration { installed: set(1, &[1]), pending: Some(set(2, &[1, 2, 3])) };
        assert!(!both.has_quorum(of(&[2, 3])) && !both.has_quorum(of(&[1])) && both.has_quorum(of(&[1, 2])));
        assert!(!Configuration::default().has_quorum(|_| true), "nobody is no majority");
    }

    #[test]
    fn what_two_nodes_learn_of_each_other_agrees() {
        let mut a = Configuration { installed: set(1, &[1]), pending: Some(set(3, &[1, 3])) };
        let mut b = Configuration { installed: set(1, &[1]), pending: Some(set(2, &[1, 2])) };
        let before = a.clone();
        assert!(a.learn(&b) && !b.learn(&before) && a.agrees(&b));
        assert_eq!(a.pending, Some(set(2, &[1, 2])));
        let c = Configuration { installed: set(2, &[1, 2]), pending: None };
        assert!(a.learn(&c) && a.pending.is_none() && !a.learn(&c));
    }
}
