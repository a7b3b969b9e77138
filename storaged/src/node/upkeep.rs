//! The loops of the metadata service that run on every member: election, contact with the peers, compaction.

use crate::addresses::Addresses;
use crate::bootstrap::{self, Started};
use crate::metadata::MetadataService;
use crate::metadata::raft::election::Election;
use crate::ring::{Ring, RingStatus};
use rain_types::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// Interval of the checks whether an election is due: a small part of a lease (200 ms), which a failover
/// waits for anyway.
const ELECTION_CHECK_EVERY: Duration = Duration::from_millis(15);

/// Without contact with a leader for this time the peers are asked for their addresses. Two leases, so that
/// an ordinary failover hardly asks.
const ASK_PEERS_AFTER: Duration = Duration::from_millis(400);

/// Interval of these questions.
const ASK_PEERS_EVERY: Duration = Duration::from_millis(500);

/// Interval of the checks whether the log can be compacted.
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// Stands for election whenever that is due.
pub(super) async fn elect(ring: Arc<Ring>, metadata: Arc<MetadataService>) {
    let mut status = ring.status();
    let mut election = Election::default();
    loop {
        let view = reachable(&status.borrow_and_update());
        metadata.run_election(&mut election, view.as_deref()).await;
        tokio::time::sleep(ELECTION_CHECK_EVERY).await;
    }
}

/// Returns the nodes of the ring's view whose first link is up: messages between members go over the first
/// link. `None`: there is no view yet.
fn reachable(status: &RingStatus) -> Option<Vec<NodeId>> {
    let is_cut =
        |node: NodeId| status.links.iter().any(|(path, up, _)| path.peer == node && path.link == 0 && !up);
    let view = status.view.as_ref()?;
    Some(view.members.iter().map(|member| member.node).filter(|node| !is_cut(*node)).collect())
}

/// Asks the peers for their numbers and addresses while this node has no contact with a leader: all may have
/// moved.
pub(super) async fn ask_peers(addresses: Arc<Addresses>, metadata: Arc<MetadataService>, started: Started) {
    let mut leadership = metadata.leadership();
    let cluster = metadata.member().cluster.to_string();
    loop {
        if metadata.age() > ASK_PEERS_AFTER {
            for (address, other) in bootstrap::describe_all(&started).await {
                if other.cluster == cluster && other.node != 0 {
                    addresses.hear(NodeId(other.node), other.address);
                } else if !other.cluster.is_empty() && other.cluster != cluster {
                    tracing::warn!(
                        "{address} of --peers belongs to cluster {}, this node to {cluster}: check --peers",
                        other.cluster
                    );
                }
            }
        }
        let _ = tokio::time::timeout(ASK_PEERS_EVERY, leadership.changed()).await;
    }
}

/// Compacts the log from time to time.
pub(super) async fn compact(metadata: Arc<MetadataService>) {
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        if let Err(error) = metadata.compact().await {
            tracing::debug!(%error, "compacting the namespace's log");
        }
    }
}
