//! Makes missing shares again, those of blocks without margin first. `rain_namespace::repair` plans; the
//! block layer of the client reads, decodes and stores.

use super::authority::{Authority, WorkError};
use super::block_list::{self, AT_A_TIME, PAGE, Pages, Round};
use crate::counters::WorkerCounters;
use rain_client::BlockLocation;
use rain_namespace::command::{Command, SharesOf};
use rain_namespace::query::{Answer, BlockEntry, Query};
use rain_namespace::record::VolumeRecord;
use rain_namespace::repair::{self, Plan};
use rain_types::{BlockId, VolumeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Runs while this node leads.
pub(super) async fn run(authority: Authority, counters: Arc<WorkerCounters>) {
    block_list::work(Repairer { authority, counters, after: None }).await;
}

struct Repairer {
    authority: Authority,
    counters: Arc<WorkerCounters>,
    after: Option<(u8, BlockId)>,
}

impl Pages for Repairer {
    const DOING: &str = "repairing";

    fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn rewind(&mut self) {
        self.after = None;
    }

    async fn page(&mut self) -> Result<Round, WorkError> {
        let Repairer { authority, counters, after } = self;
        let question = Query::Missing { after: *after, limit: PAGE };
        let Answer::Blocks(page) = authority.query(&question).await? else { return Ok(Round::End) };
        if after.is_none() {
            counters.waiting.store(page.len() as u64, Relaxed);
        }
        let Some(last) = page.last().cloned() else { return Ok(Round::End) };
        let mut volumes: HashMap<VolumeId, VolumeRecord> = HashMap::new();
        for entry in &page {
            let id = entry.record.volume;
            if !volumes.contains_key(&id)
                && let Answer::Volumes(found) = authority.query(&Query::VolumeById { id }).await?
            {
                volumes.extend(found.into_iter().map(|volume| (volume.id, volume)));
            }
        }
        let Some(volume) = volumes.get(&last.record.volume) else { return Ok(Round::End) };
        *after = Some(repair::position(&last, volume.code));
        let mut present = Vec::new();
        let work: Vec<(BlockEntry, BlockLocation)> = page
            .into_iter()
            .filter_map(|entry| {
                Some((
                    block_list::location(volumes.get(&entry.record.volume)?, &entry, entry.record.group)?,
                    entry,
                ))
            })
            .filter(|(place, entry)| {
                let plan = repair::plan(entry, place.code, &place.nodes, |node| authority.is_up(node));
                matches!(plan, Plan::Make { .. })
            })
            .map(|(place, entry)| (entry, place))
            .collect();
        for some in work.chunks(AT_A_TIME) {
            counters.running.store(true, Relaxed);
            let repairs =
                some.iter().map(|(entry, place)| authority.repair_block(place, entry.record.missing));
            for ((entry, _), repaired) in some.iter().zip(futures::future::join_all(repairs).await) {
                match repaired {
                    Ok(repaired) if repaired.present != 0 => {
                        counters.done.fetch_add(repaired.present.count_ones().into(), Relaxed);
                        counters.bytes.fetch_add(repaired.bytes, Relaxed);
                        counters.read.fetch_add(repaired.read, Relaxed);
                        let (block, group) = (entry.id, entry.record.group);
                        present.push(SharesOf { block, group, bits: repaired.present });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        counters.failed(&error);
                        tracing::warn!(block = %entry.id, %error, "repairing a block; it is tried again later");
                    }
                }
            }
        }
        if present.is_empty() {
            return Ok(Round::NothingHere);
        }
        authority.propose(Command::MarkPresent { shares: present }).await?;
        // From the beginning: blocks that have lost their margin meanwhile come first.
        *after = None;
        Ok(Round::Done)
    }
}
