//! Deletes stray shares: shares that a client stored and never committed, shares that came back with a node
//! after their block was deleted, and shares that a moved block has left behind.
//!
//! A share of a block that the namespace does not know is stray only when the block's session has ended: then
//! the block can never be committed any more.

use super::authority::{Authority, WorkError};
use super::block_records::{BlockRecords, PlacementLock};
use rain_namespace::query::{Answer, Query};
use rain_types::{BlockId, NodeId, SessionId, ShareIndex};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pause after the end of a session: its last puts may still be on their way.
const AFTER_SESSION: Duration = Duration::from_secs(10);

/// Interval of the searches through the shares of all sessions.
const EVERYTHING_EVERY: Duration = Duration::from_secs(600);

/// Maximum number of shares in one answer of a node: one query of the namespace takes all of their blocks.
const PAGE: u32 = 2048;

/// Runs while this node leads: after the end of each session, and through everything from time to time.
pub(super) async fn run(authority: Authority, mut ended: mpsc::Receiver<SessionId>, lock: PlacementLock) {
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
        let Ok(nodes) = authority.nodes().await else { continue };
        for node in nodes {
            match search_node(&authority, node.id, session, &lock).await {
                Ok(0) => {}
                Ok(deleted) => {
                    tracing::info!(node = %node.id, deleted, "deleted stray shares")
                }
                Err(error) => {
                    tracing::debug!(node = %node.id, %error, "searching a node for stray shares; it is tried again later")
                }
            }
        }
    }
}

/// Deletes the stray shares on a node, of one session or of all; returns how many.
pub(crate) async fn search_node(
    authority: &Authority,
    node: NodeId,
    session: Option<SessionId>,
    lock: &PlacementLock,
) -> Result<usize, WorkError> {
    let mut after = None;
    let mut deleted = 0;
    loop {
        let (page, more) = authority.list_shares(node, session, after, PAGE).await?;
        after = page.last().copied();
        if page.is_empty() {
            return Ok(deleted);
        }
        let _placing = lock.lock().await;
        // Asked for after the list: a session that has ended by now commits none of the listed shares.
        let Answer::Sessions(open) = authority.query(&Query::Sessions).await? else { return Ok(deleted) };
        let open: BTreeSet<SessionId> = open.into_iter().map(|session| session.id).collect();
        let records = BlockRecords::read(authority, page.iter().map(|(block, _)| *block)).await?;
        let is_stray = |(block, index): &(BlockId, ShareIndex)| {
            let is_placed = records.is_placed(node, *block, *index);
            !is_placed.unwrap_or_else(|| open.contains(&block.session))
        };
        let stray: Vec<_> = page.into_iter().filter(is_stray).collect();
        if !stray.is_empty() {
            authority.delete_shares(node, &stray, records.layout).await?;
            deleted += stray.len();
        }
        if !more {
            return Ok(deleted);
        }
    }
}
