//! Makes missing shares again, blocks without margin first. What to do is planned by `rain_namespace::repair`;
//! the block layer does it.

use super::WorkerCounters;
use rain_client::{BlockPlace, Cluster, Error};
use rain_namespace::command::{Command, SharesOf};
use rain_namespace::query::{Answer, BlockEntry, Query};
use rain_namespace::record::VolumeRecord;
use rain_namespace::repair::{self, Plan};
use rain_types::{BlockId, VolumeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Between looks when there is nothing to do, or nothing that can be done now.
const IDLE: Duration = Duration::from_secs(1);

/// Blocks listed at a time.
const PAGE: u32 = 256;

/// Pages without anything to do that are passed over before a pause.
const PAGES_AT_ONCE: u32 = 64;

/// Blocks made again at the same time: bounded so that people's reads and writes keep the upper hand.
const AT_A_TIME: usize = 4;

pub(crate) async fn run(cluster: Arc<Cluster>, counters: Arc<WorkerCounters>) {
    let mut after = None;
    let mut pages = 0;
    loop {
        match round(&cluster, &counters, &mut after).await {
            Ok(Round::Made) => {
                // What lost its margin meanwhile comes first.
                after = None;
                pages = 0;
                continue;
            }
            // What can be made may stand behind what cannot.
            Ok(Round::NothingHere) if pages < PAGES_AT_ONCE => {
                pages += 1;
                continue;
            }
            Ok(Round::NothingHere) => {}
            Ok(Round::End) => after = None,
            Err(error) => {
                counters.failed(&error);
                tracing::warn!(%error, "repairing; it is tried again");
            }
        }
        pages = 0;
        counters.running.store(false, Relaxed);
        tokio::time::sleep(IDLE).await;
    }
}

/// What became of a page.
enum Round {
    /// Shares were made.
    Made,
    /// None of it can be made now.
    NothingHere,
    /// There is none.
    End,
}

/// One page of the list; moves on to the next.
async fn round(
    cluster: &Cluster,
    counters: &WorkerCounters,
    after: &mut Option<(u8, BlockId)>,
) -> Result<Round, Error> {
    let question = Query::Missing { after: *after, limit: PAGE };
    let Answer::Blocks(page) = cluster.query(&question).await? else { return Ok(Round::End) };
    if after.is_none() {
        counters.waiting.store(page.len() as u64, Relaxed);
    }
    let Some(last) = page.last().cloned() else { return Ok(Round::End) };
    let mut volumes: HashMap<VolumeId, VolumeRecord> = HashMap::new();
    for entry in &page {
        let id = entry.record.volume;
        if !volumes.contains_key(&id)
            && let Answer::Volumes(found) = cluster.query(&Query::VolumeById { id }).await?
        {
            volumes.extend(found.into_iter().map(|volume| (volume.id, volume)));
        }
    }
    let Some(volume) = volumes.get(&last.record.volume) else { return Ok(Round::End) };
    *after = Some(repair::position(&last, volume.code));
    let mut present = Vec::new();
    let work: Vec<(BlockEntry, BlockPlace)> = page
        .into_iter()
        .filter_map(|entry| Some((place(volumes.get(&entry.record.volume)?, &entry)?, entry)))
        .filter(|(place, entry)| {
            let plan = repair::plan(entry, place.code, &place.nodes, |node| cluster.is_up(node));
            matches!(plan, Plan::Make { .. })
        })
        .map(|(place, entry)| (entry, place))
        .collect();
    for some in work.chunks(AT_A_TIME) {
        counters.running.store(true, Relaxed);
        let repairs = some.iter().map(|(entry, place)| cluster.repair_block(place, entry.record.missing));
        for ((entry, _), repaired) in some.iter().zip(futures::future::join_all(repairs).await) {
            match repaired {
                Ok(repaired) if repaired.present != 0 => {
                    counters.done.fetch_add(repaired.present.count_ones().into(), Relaxed);
                    counters.bytes.fetch_add(repaired.bytes, Relaxed);
                    let (block, group) = (entry.id, entry.record.group);
                    present.push(SharesOf { block, group, bits: repaired.present });
                }
                Ok(_) => {}
                Err(error) => {
                    counters.failed(&error);
                    tracing::warn!(block = %entry.id, %error, "repairing a block; it is tried again");
                }
            }
        }
    }
    if present.is_empty() {
        return Ok(Round::NothingHere);
    }
    cluster.propose_internal(Command::MarkPresent { shares: present }).await?;
    Ok(Round::Made)
}

fn place(volume: &VolumeRecord, entry: &BlockEntry) -> Option<BlockPlace> {
    let group = entry.record.group;
    let nodes = volume.nodes_of(group)?.into();
    Some(BlockPlace { id: entry.id, len: entry.record.len, code: volume.code, group, nodes })
}
