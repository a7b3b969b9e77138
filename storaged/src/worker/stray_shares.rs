//! Finds shares that belong to no block: what a client stored and never committed, what came back with a node after its block was forgotten,
//! and what a block left behind that moved. Of blocks that the namespace does not know only those of sessions that have ended are looked at:
//! such a block can never be committed any more, so it is nobody's.

use super::rebalance::{Known, Turn};
use rain_client::Client;
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

pub(crate) async fn run(cluster: Arc<Client>, mut ended: mpsc::Receiver<SessionId>, turn: Turn) {
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
            match sweep_node(&cluster, node.id, session, &turn).await {
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
    cluster: &Client,
    node: NodeId,
    session: Option<SessionId>,
    turn: &Turn,
) -> Result<usize, rain_client::Error> {
    let mut after = None;
    let mut deleted = 0;
    loop {
        let (page, more) = cluster.list_shares(node, session, after, PAGE).await?;
        after = page.last().copied();
        if page.is_empty() {
            return Ok(deleted);
        }
        let _turn = turn.lock().await;
        // Sessions are asked for after the list: one that has ended by now commits nothing of what is listed.
        let Answer::Sessions(open) = cluster.query(&Query::Sessions).await? else { return Ok(deleted) };
        let open: BTreeSet<SessionId> = open.into_iter().map(|session| session.id).collect();
        let known = Known::of(cluster, page.iter().map(|(block, _)| *block)).await?;
        let is_nobodys = |(block, index): &(BlockId, ShareIndex)| {
            let is_placed = known.is_placed(node, *block, *index);
            !is_placed.unwrap_or_else(|| open.contains(&block.session))
        };
        let nobodys: Vec<_> = page.into_iter().filter(is_nobodys).collect();
        if !nobodys.is_empty() {
            cluster.delete_shares(node, &nobodys).await?;
            deleted += nobodys.len();
        }
        if !more {
            return Ok(deleted);
        }
    }
}
