//! Finds shares that belong to no block: what a client stored and never committed, and what came back with a
//! node after its block was forgotten. Only blocks of sessions that have ended are looked at: such a block can
//! never be committed any more, so what the namespace does not know then is nobody's.

use rain_client::Cluster;
use rain_namespace::query::{Answer, Query};
use rain_types::{BlockId, NodeId, SessionId, ShareIndex};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// After a session's end: its last puts may still be on their way.
const AFTER_SESSION: Duration = Duration::from_secs(10);

/// Between sweeps over everything.
const EVERYTHING_EVERY: Duration = Duration::from_secs(600);

const PAGE: u32 = 2048;

pub(crate) async fn run(cluster: Arc<Cluster>, mut ended: mpsc::Receiver<SessionId>) {
    let mut everything = tokio::time::interval(EVERYTHING_EVERY);
    loop {
        let session = tokio::select! {
            _ = everything.tick() => None,
            session = ended.recv() => match session {
                Some(session) => Some(session),
                None => return,
            },
        };
        tokio::time::sleep(AFTER_SESSION).await;
        let Ok(nodes) = cluster.nodes().await else { continue };
        for node in nodes {
            match sweep_node(&cluster, node.id, session).await {
                Ok(0) => {}
                Ok(deleted) => {
                    tracing::info!(node = %node.id, deleted, "deleted shares that belong to no block")
                }
                Err(error) => {
                    tracing::debug!(node = %node.id, %error, "sweeping a node; it is tried again later")
                }
            }
        }
    }
}

async fn sweep_node(
    cluster: &Cluster,
    node: NodeId,
    session: Option<SessionId>,
) -> Result<usize, rain_client::Error> {
    let mut after = None;
    let mut deleted = 0;
    loop {
        let (page, more) = cluster.list_shares(node, session, after, PAGE).await?;
        after = page.last().copied();
        // Sessions are asked for after the list: one that has ended by now commits nothing of what is listed.
        let Answer::Sessions(open) = cluster.query(&Query::Sessions).await? else { return Ok(deleted) };
        let open: BTreeSet<SessionId> = open.into_iter().map(|session| session.id).collect();
        let settled: Vec<(BlockId, ShareIndex)> =
            page.into_iter().filter(|(block, _)| !open.contains(&block.session)).collect();
        let ids: BTreeSet<BlockId> = settled.iter().map(|(block, _)| *block).collect();
        let mut used: BTreeSet<BlockId> = BTreeSet::new();
        if !ids.is_empty() {
            let ids = ids.into_iter().collect();
            let Answer::Blocks(known) = cluster.query(&Query::Blocks { ids }).await? else {
                return Ok(deleted);
            };
            used.extend(known.into_iter().map(|entry| entry.id));
        }
        let nobodys: Vec<_> = settled.into_iter().filter(|(block, _)| !used.contains(block)).collect();
        if !nobodys.is_empty() {
            cluster.delete_shares(node, &nobodys).await?;
            deleted += nobodys.len();
        }
        if !more || after.is_none() {
            return Ok(deleted);
        }
    }
}
