//! Garbage collection: deletes the shares of blocks that no file uses any more. The namespace lists the
//! garbage of a node until the node has deleted it, so the garbage of a node that does not answer is not
//! forgotten.

use super::authority::{Authority, WorkError};
use crate::counters::WorkerCounters;
use rain_namespace::command::Command;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::VolumeRecord;
use rain_types::{BlockId, NodeId, ShareIndex, VolumeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Pause between reading the list of garbage and the deletion: a reader that has looked a block up just
/// before still finds it.
const GRACE: Duration = Duration::from_secs(2);

/// Pause when there is nothing to do.
const IDLE: Duration = Duration::from_secs(3);

/// Blocks of one query.
const PAGE: u32 = 1024;

/// Runs while this node leads.
pub(super) async fn run(authority: Authority, counters: Arc<WorkerCounters>) {
    loop {
        let did = match round(&authority, &counters).await {
            Ok(did) => did,
            Err(error) => {
                counters.failed(&error);
                tracing::warn!(%error, "deleting garbage; it is tried again");
                0
            }
        };
        counters.running.store(false, Relaxed);
        if did == 0 {
            tokio::time::sleep(IDLE).await;
        }
    }
}

/// Goes over all garbage once; returns the number of deleted shares.
async fn round(authority: &Authority, counters: &WorkerCounters) -> Result<u64, WorkError> {
    let mut after = None;
    let mut deleted = 0;
    let mut volumes: HashMap<VolumeId, VolumeRecord> = HashMap::new();
    loop {
        let Answer::Garbage(page) = authority.query(&Query::Garbage { after, limit: PAGE }).await? else {
            return Ok(deleted);
        };
        counters.waiting.store(page.len() as u64, Relaxed);
        let Some((last, _)) = page.last() else { return Ok(deleted) };
        after = Some(*last);
        counters.running.store(true, Relaxed);
        tokio::time::sleep(GRACE).await;
        let layout = authority.layout().await?;
        let nodes_now: BTreeSet<NodeId> = authority.nodes().await?.into_iter().map(|node| node.id).collect();
        let mut gone: BTreeMap<BlockId, u64> = BTreeMap::new();
        let mut by_node: BTreeMap<NodeId, Vec<(BlockId, ShareIndex)>> = BTreeMap::new();
        for (block, record) in &page {
            if volumes.get(&record.volume).is_none_or(|volume| volume.nodes_of(record.group).is_none()) {
                let Answer::Volumes(found) =
                    authority.query(&Query::VolumeById { id: record.volume }).await?
                else {
                    continue;
                };
                for volume in found {
                    volumes.insert(volume.id, volume);
                }
            }
            let nodes = volumes.get(&record.volume).and_then(|volume| volume.nodes_of(record.group));
            for (index, node) in nodes.into_iter().flatten().enumerate() {
                if record.remaining & 1 << index == 0 {
                    continue;
                }
                if !nodes_now.contains(node) {
                    // The node was removed from the cluster, and its shares with it.
                    *gone.entry(*block).or_default() |= 1 << index;
                } else {
                    by_node.entry(*node).or_default().push((*block, ShareIndex(index as u8)));
                }
            }
        }
        for (node, shares) in by_node {
            // The garbage of a node that does not answer stays listed.
            if authority.delete_shares(node, &shares, layout).await.is_err() {
                continue;
            }
            deleted += shares.len() as u64;
            counters.done.fetch_add(shares.len() as u64, Relaxed);
            for (block, index) in shares {
                *gone.entry(block).or_default() |= 1 << index.0;
            }
        }
        if !gone.is_empty() {
            authority.propose(Command::Reclaimed { shares: gone.into_iter().collect() }).await?;
        }
    }
}
