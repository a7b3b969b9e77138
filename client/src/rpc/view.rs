//! The token ring's view as this client hears it: which nodes are alive, and their load, streamed by two
//! nodes.
//!
//! The client also finds a dead node by itself, but only by a call that fails or is late. The ring tells
//! every client within one round of the token. The view is a hint: it orders nodes, and it decides nothing
//! about data.
//!
//! Invariants:
//! 1. Only a primary ring is believed. An orphan ring lists one side of a cut, and the client may be on the
//!    other side.
//! 2. The two watchers watch different nodes where the cluster has two, because a watched node may be the one
//!    that is cut off (`two_watchers_never_turn_to_one_node_unless_there_is_no_other`).
//! 3. Without any watched node, every node counts as in the view.

use super::leader::Leader;
use super::node::Node;
use super::nodes::Nodes;
use parking_lot::Mutex;
use rain_proto::v1;
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A watched node counts as gone after this silence. It speaks at least every second.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// Pause between two attempts to find a node to watch.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Deadline for beginning to watch a node.
const BEGIN_TIMEOUT: Duration = Duration::from_millis(1500);

/// Nodes watched at a time. Two, because one of them may be the node that is cut off.
pub(crate) const WATCHERS: usize = 2;

/// Reports without a primary ring in a row after which the watcher turns to another node. While a view is
/// being made, a node has none for milliseconds, so one such report is no reason.
const ORPHAN_REPORTS_MAX: u32 = 3;

/// A primary view as a node reported it.
#[derive(Debug, Clone)]
struct Reported {
    /// The view's number: its epoch, and the node that founded it.
    epoch: (u64, u32),
    /// The members, each with its load index.
    members: BTreeMap<u32, u16>,
    /// The nodes that may be members.
    eligible: BTreeSet<u32>,
}

/// One watcher: the node that it watches, and that node's last report.
#[derive(Debug, Clone, Default)]
struct Watcher {
    node: Option<NodeId>,
    reported: Option<Reported>,
}

/// The view hint: the last reports of all watchers.
#[derive(Debug, Default)]
struct ViewHint(Mutex<[Watcher; WATCHERS]>);

impl ViewHint {
    /// Assigns a node to a watcher, unless another watcher has it. With `even_shared` that is allowed, as a
    /// last resort.
    fn turn_to(&self, watcher: usize, node: NodeId, even_shared: bool) -> bool {
        let mut watchers = self.0.lock();
        let is_taken =
            watchers.iter().enumerate().any(|(other, at)| other != watcher && at.node == Some(node));
        if is_taken && !even_shared {
            return false;
        }
        watchers[watcher].node = Some(node);
        true
    }

    /// Takes the node away from a watcher.
    fn turn_away(&self, watcher: usize) {
        self.0.lock()[watcher].node = None;
    }

    /// Records a watcher's report, and returns the newest report of all watchers.
    fn record(&self, watcher: usize, reported: Option<Reported>) -> Option<Reported> {
        let mut watchers = self.0.lock();
        watchers[watcher].reported = reported;
        watchers
            .iter()
            .filter_map(|watcher| watcher.reported.as_ref())
            .max_by_key(|report| report.epoch)
            .cloned()
    }
}

/// What the watchers share.
#[derive(Debug)]
pub(crate) struct ViewWatch {
    nodes: Arc<Nodes>,
    leader: Arc<Leader>,
    hint: ViewHint,
}

impl ViewWatch {
    pub(crate) fn new(nodes: Arc<Nodes>, leader: Arc<Leader>) -> Arc<ViewWatch> {
        Arc::new(ViewWatch { nodes, leader, hint: ViewHint::default() })
    }

    /// Runs one of the [`WATCHERS`]: watches one node after the other. Never returns; the session aborts the
    /// task.
    pub(crate) async fn run(self: Arc<Self>, watcher: usize) {
        loop {
            let nodes = self.candidates(watcher);
            let too_few = nodes.len() < WATCHERS;
            for node in nodes {
                if !self.hint.turn_to(watcher, node.id, too_few) {
                    continue;
                }
                let mut control = node.control();
                let begun = tokio::time::timeout(BEGIN_TIMEOUT, control.watch_ring(v1::RingRequest {})).await;
                if let Ok(Ok(response)) = begun {
                    self.follow(watcher, response.into_inner()).await;
                    self.take_in(watcher, None);
                }
            }
            self.hint.turn_away(watcher);
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Takes in one node's reports until the node is silent or has no primary ring to report.
    async fn follow(&self, watcher: usize, mut reports: tonic::Streaming<v1::RingResponse>) {
        let mut orphaned = 0;
        while let Ok(Ok(Some(ring))) = tokio::time::timeout(SILENCE_MAX, reports.message()).await {
            if let Some(leader) = &ring.leader {
                self.leader.learn(leader);
            }
            if ring.primary && ring.phase != v1::ring_response::Phase::Starving as i32 {
                orphaned = 0;
                let members = ring.members.iter().map(|member| (member.node, member.load as u16)).collect();
                let eligible = ring.eligible.iter().copied().collect();
                let epoch = (ring.epoch, ring.founder);
                self.take_in(watcher, Some(Reported { epoch, members, eligible }));
            } else {
                orphaned += 1;
                self.take_in(watcher, None);
                if orphaned > ORPHAN_REPORTS_MAX {
                    return;
                }
            }
        }
    }

    /// The nodes for a watcher to try, best first. The second watcher begins at the middle of the list, so
    /// that the two watch different nodes. Nodes that are down come last in both.
    fn candidates(&self, watcher: usize) -> Vec<Arc<Node>> {
        let mut nodes = self.nodes.all();
        nodes.sort_by_key(|node| (node.cost().0, node.id));
        let by = (watcher * nodes.len()) / WATCHERS;
        nodes.rotate_left(by);
        nodes.sort_by_key(|node| node.cost().0);
        nodes
    }

    /// Takes in a watcher's report; none: the watcher hears nothing. The newest report of all watchers
    /// counts.
    fn take_in(&self, watcher: usize, reported: Option<Reported>) {
        let newest = self.hint.record(watcher, reported);
        for node in self.nodes.all() {
            match &newest {
                None => node.update_view(true, 0),
                Some(view) => {
                    let load = view.members.get(&node.id.0);
                    // The ring cannot list a node that is not eligible yet.
                    let is_eligible = view.eligible.contains(&node.id.0);
                    node.update_view(load.is_some() || !is_eligible, load.copied().unwrap_or(0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_watchers_never_turn_to_one_node_unless_there_is_no_other() {
        let hint = ViewHint::default();
        assert!(hint.turn_to(0, NodeId(1), false));
        assert!(!hint.turn_to(1, NodeId(1), false), "another watches it");
        assert!(hint.turn_to(1, NodeId(2), false));
        assert!(hint.turn_to(0, NodeId(1), false), "the same again");
        assert!(!hint.turn_to(0, NodeId(2), false));
        hint.turn_away(1);
        assert!(hint.turn_to(0, NodeId(2), false));
        assert!(hint.turn_to(1, NodeId(2), true), "there is no other");
    }
}
