//! The cluster's own word on who is alive: the token ring's view and load indices, watched on one node at a time.
//!
//! A client finds out by itself, too, but only by a call that fails or is late; the ring says so to every client within a round of
//! the token. Only a primary ring is believed: an orphan says who is on its side of a cut, and the client may be on the other. When no
//! node can be watched, what the client finds out itself is all it has.

use crate::cluster::Cluster;
use rain_proto::v1;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A watched node is silent for so long only when it is gone: it speaks every second.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// Between two tries to find a node to watch.
const AGAIN_EVERY: Duration = Duration::from_millis(200);

const BEGIN_TIMEOUT: Duration = Duration::from_millis(1500);

/// Watches for as long as the client lives.
pub(crate) async fn watch(cluster: Weak<Cluster>) {
    loop {
        let Some(strong) = cluster.upgrade() else { return };
        let nodes = strong.nodes_best_first();
        drop(strong);
        for node in nodes {
            let mut control = node.control();
            let begun = tokio::time::timeout(BEGIN_TIMEOUT, control.watch_ring(v1::RingRequest {})).await;
            if let Ok(Ok(response)) = begun {
                follow(&cluster, response.into_inner()).await;
                // Another node may know better; until one says so nobody is away.
                match cluster.upgrade() {
                    Some(strong) => strong.ring_is_silent(),
                    None => return,
                }
            }
        }
        tokio::time::sleep(AGAIN_EVERY).await;
    }
}

/// Takes in what one node says until it is silent, or has no primary ring to speak of.
async fn follow(cluster: &Weak<Cluster>, mut said: tonic::Streaming<v1::RingResponse>) {
    let mut orphaned = 0;
    while let Ok(Ok(Some(ring))) = tokio::time::timeout(SILENCE_MAX, said.message()).await {
        let Some(cluster) = cluster.upgrade() else { return };
        if ring.primary && ring.phase != v1::ring_response::Phase::Starving as i32 {
            orphaned = 0;
            cluster.take_ring(&ring);
        } else {
            orphaned += 1;
            cluster.ring_is_silent();
            // Not at once: while a view is being made this is so for milliseconds.
            if orphaned > 3 {
                return;
            }
        }
    }
}

impl Cluster {
    fn nodes_best_first(&self) -> Vec<Arc<crate::node::Node>> {
        let mut nodes = self.all_nodes();
        nodes.sort_by_key(|node| node.cost());
        nodes
    }

    /// The view as the ring tells it.
    fn take_ring(&self, ring: &v1::RingResponse) {
        for node in self.all_nodes() {
            let member = ring.members.iter().find(|member| member.node == node.id.0);
            // A node that is not eligible yet is nobody the ring could know.
            let known = ring.eligible.contains(&node.id.0);
            node.ring_says(member.is_some() || !known, member.map_or(0, |member| member.load as u16));
        }
    }

    fn ring_is_silent(&self) {
        for node in self.all_nodes() {
            node.ring_says(true, 0);
        }
    }
}
