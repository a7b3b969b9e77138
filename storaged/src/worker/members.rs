//! Keeps the namespace's membership as it should be: every eligible node follows, the right ones vote. Who that is, and the next step,
//! is decided by `keeper::raft::voters`.

use crate::metadata::MetadataService;
use crate::node::Shared;
use rain_namespace::query::{Answer, Query};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A voter that has been out of the ring's view for so long gives its place to another.
const AWAY_AFTER: Duration = Duration::from_secs(10);

/// Runs while this node leads.
pub(crate) async fn run(shared: Arc<Shared>, metadata: Arc<MetadataService>) {
    let mut missing: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let nodes = shared.nodes();
        if nodes.is_empty() {
            continue;
        }
        let view: Option<BTreeSet<NodeId>> = shared.ring().and_then(|ring| {
            let status = ring.status();
            let status = status.borrow();
            status.view.as_ref().map(|view| view.members.iter().map(|member| member.node).collect())
        });
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
                tracing::warn!(%error, "changing who keeps the namespace; it is tried again");
                said = text;
            }
        }
    }
}
