//! The cluster's own word on who is alive: the token ring's view and load indices, watched on two nodes at a time.
//!
//! A client finds out by itself, too, but only by a call that fails or is late; the ring says so to every client within a round of
//! the token. Only a primary ring is believed: an orphan says who is on its side of a cut, and the client may be on the other. When no
//! node can be watched, what the client finds out itself is all it has.

use crate::client::Client;
use rain_proto::v1;
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// A watched node is silent for so long only when it is gone: it speaks every second.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// Between two tries to find a node to watch.
const AGAIN_EVERY: Duration = Duration::from_millis(200);

const BEGIN_TIMEOUT: Duration = Duration::from_millis(1500);

/// So many nodes are watched at a time: one of them may be the very one that is cut off.
pub(crate) const WATCHERS: usize = 2;

/// A view as a watcher was told it: the epoch's number and founder, the members with their load, and who is eligible.
#[derive(Debug, Clone)]
struct Told {
    epoch: (u64, u32),
    members: BTreeMap<u32, u16>,
    eligible: BTreeSet<u32>,
}

/// What a watcher was told last, and by whom.
#[derive(Debug, Clone, Default)]
struct Watcher {
    node: Option<NodeId>,
    told: Option<Told>,
}

/// What the watchers were told last.
#[derive(Debug, Default)]
pub(crate) struct ViewHint(Mutex<[Watcher; WATCHERS]>);

impl ViewHint {
    fn watchers(&self) -> MutexGuard<'_, [Watcher; WATCHERS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher turns to a node, unless another watches it: both would be blind when it is cut off. The last resort is any.
    fn turn_to(&self, watcher: usize, node: NodeId, any: bool) -> bool {
        let mut watchers = self.watchers();
        let is_taken =
            watchers.iter().enumerate().any(|(other, at)| other != watcher && at.node == Some(node));
        if is_taken && !any {
            return false;
        }
        watchers[watcher].node = Some(node);
        true
    }

    fn turn_away(&self, watcher: usize) {
        self.watchers()[watcher].node = None;
    }
}

/// Watches one node after the other for as long as the client lives.
pub(crate) async fn watch(cluster: Weak<Client>, watcher: usize) {
    loop {
        let Some(strong) = cluster.upgrade() else { return };
        let nodes = strong.nodes_to_watch(watcher);
        let alone = nodes.len() < WATCHERS;
        drop(strong);
        for node in nodes {
            let Some(strong) = cluster.upgrade() else { return };
            if !strong.view_hint.turn_to(watcher, node.id, alone) {
                continue;
            }
            drop(strong);
            let mut control = node.control();
            let begun = tokio::time::timeout(BEGIN_TIMEOUT, control.watch_ring(v1::RingRequest {})).await;
            if let Ok(Ok(response)) = begun {
                follow(&cluster, watcher, response.into_inner()).await;
                match cluster.upgrade() {
                    Some(strong) => strong.hear_ring(watcher, None),
                    None => return,
                }
            }
        }
        match cluster.upgrade() {
            Some(strong) => strong.view_hint.turn_away(watcher),
            None => return,
        }
        tokio::time::sleep(AGAIN_EVERY).await;
    }
}

/// Takes in what one node says until it is silent, or has no primary ring to speak of.
async fn follow(cluster: &Weak<Client>, watcher: usize, mut said: tonic::Streaming<v1::RingResponse>) {
    let mut orphaned = 0;
    while let Ok(Ok(Some(ring))) = tokio::time::timeout(SILENCE_MAX, said.message()).await {
        let Some(cluster) = cluster.upgrade() else { return };
        if let Some(leader) = &ring.leader {
            cluster.told_leader(leader);
        }
        if ring.primary && ring.phase != v1::ring_response::Phase::Starving as i32 {
            orphaned = 0;
            let members = ring.members.iter().map(|member| (member.node, member.load as u16)).collect();
            let eligible = ring.eligible.iter().copied().collect();
            cluster.hear_ring(watcher, Some(Told { epoch: (ring.epoch, ring.founder), members, eligible }));
        } else {
            orphaned += 1;
            cluster.hear_ring(watcher, None);
            // Not at once: while a view is being made this is so for milliseconds.
            if orphaned > 3 {
                return;
            }
        }
    }
}

impl Client {
    /// The best first, for the second watcher from the second on: the two watch different nodes where there are two.
    fn nodes_to_watch(&self, watcher: usize) -> Vec<Arc<crate::rpc::node::Node>> {
        let mut nodes = self.all_nodes();
        nodes.sort_by_key(|node| (node.cost().0, node.id));
        let by = (watcher * nodes.len()) / WATCHERS;
        nodes.rotate_left(by);
        // Those that are up before those that are not, whoever begins.
        nodes.sort_by_key(|node| node.cost().0);
        nodes
    }

    /// A watcher was told of a view, or hears nothing more. The newest of all counts; without any nobody is known to be away.
    fn hear_ring(&self, watcher: usize, told: Option<Told>) {
        let newest = {
            let mut watchers = self.view_hint.watchers();
            watchers[watcher].told = told;
            watchers.iter().filter_map(|watcher| watcher.told.as_ref()).max_by_key(|told| told.epoch).cloned()
        };
        for node in self.all_nodes() {
            match &newest {
                None => node.ring_says(true, 0),
                Some(told) => {
                    let member = told.members.get(&node.id.0);
                    // A node that is not eligible yet is nobody the ring could know.
                    let known = told.eligible.contains(&node.id.0);
                    node.ring_says(member.is_some() || !known, member.copied().unwrap_or(0));
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
        let word = ViewHint::default();
        assert!(word.turn_to(0, NodeId(1), false));
        assert!(!word.turn_to(1, NodeId(1), false), "another watches it");
        assert!(word.turn_to(1, NodeId(2), false));
        assert!(word.turn_to(0, NodeId(1), false), "the same again");
        assert!(!word.turn_to(0, NodeId(2), false));
        word.turn_away(1);
        assert!(word.turn_to(0, NodeId(2), false));
        assert!(word.turn_to(1, NodeId(2), true), "there is no other");
    }
}
