//! Keeps the membership of the metadata service as it should be: every eligible node follows, and the right
//! ones vote. `metadata::raft::voters` decides on each change.

use crate::metadata::MetadataService;
use crate::ring::Ring;
use rain_namespace::query::{Answer, Query};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two rounds: one change of the membership in each.
const EVERY: Duration = Duration::from_millis(100);

/// A voter that has been out of the ring's view for this time loses its vote to another node. Long enough for
/// a restart.
const AWAY_AFTER: Duration = Duration::from_secs(10);

/// Runs while this node leads.
pub(super) async fn run(metadata: Arc<MetadataService>, ring: Arc<Ring>) {
    let mut missing: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut said = String::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let nodes = metadata.nodes();
        if nodes.is_empty() {
            continue;
        }
        let view: Option<BTreeSet<NodeId>> = {
            let status = ring.status();
            let status = status.borrow();
            status.view.as_ref().map(|view| view.members.iter().map(|member| member.node).collect())
        };
        let now = Instant::now();
        missing.retain(|id, _| view.as_ref().is_none_or(|view| !view.contains(id)));
        if let Some(view) = &view {
            for node in nodes.iter().filter(|node| !view.contains(&node.id)) {
                missing.entry(node.id).or_insert(now);
            }
        }
        let away: BTreeSet<NodeId> = missing
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > AWAY_AFTER)
            .map(|(id, _)| *id)
            .collect();
        let losses = match metadata.query(&Query::Volumes) {
            Ok(Answer::Volumes(volumes)) => volumes.iter().map(|volume| volume.code.m).max().unwrap_or(0),
            _ => continue,
        };
        if let Err(error) = metadata.settle_membership(&nodes, losses, &away).await {
            let text = error.to_string();
            if text != said {
                tracing::warn!(%error, "changing the members of the metadata service; trying again");
                said = text;
            }
        }
    }
}
