//! Moves blocks when nodes were added or drained. The worker opens placement groups that fit the current
//! nodes. For each block in a closed group it makes the shares on their new nodes, has the namespace record
//! the move, and deletes the old shares later ([`OLD_SHARES_STAY`]). `rain_namespace::placement` plans the
//! moves; the block layer of the client makes and places the shares.
//!
//! A block that moves is complete all the time: it keeps its old shares until the new ones are durable and
//! the namespace has recorded the move.

use super::authority::{Authority, WorkError};
use super::block_list::{self, AT_A_TIME, PAGE, Pages, Round};
use super::block_records::{BlockRecords, PlacementLock};
use crate::counters::WorkerCounters;
use rain_client::BlockLocation;
use rain_namespace::command::{Command, MovedBlock};
use rain_namespace::placement;
use rain_namespace::query::{Answer, BlockEntry, Query};
use rain_namespace::record::VolumeRecord;
use rain_types::{BlockId, GroupId, NodeId, ShareIndex, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Time for which old shares stay. Clients learn of new groups within a second, and fetch a placement that
/// may have changed again after three.
const OLD_SHARES_STAY: Duration = Duration::from_secs(10);

/// Old shares that wait for their deletion, a bound on memory. With more, no block moves until some are
/// deleted.
const OLD_SHARES_MAX: usize = 100_000;

/// Old shares that are deleted in one round: as many blocks as one query answers.
const DELETED_AT_ONCE: usize = 4096;

/// Where the list of stray blocks goes on.
type Position = (VolumeId, GroupId, BlockId);

/// Runs while this node leads.
pub(super) async fn run(authority: Authority, counters: Arc<WorkerCounters>, lock: PlacementLock) {
    block_list::work(Mover { authority, counters, lock, seen: None, after: None, old: VecDeque::new() })
        .await;
}

struct Mover {
    authority: Authority,
    counters: Arc<WorkerCounters>,
    lock: PlacementLock,
    /// The placement version (`Totals::places`) for which all groups that fit the nodes are open.
    seen: Option<u64>,
    after: Option<Position>,
    /// Shares that no block may need, each with the time of its deletion.
    old: VecDeque<(Instant, NodeId, BlockId, ShareIndex)>,
}

impl Pages for Mover {
    const DOING: &str = "moving blocks";

    fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn rewind(&mut self) {
        self.after = None;
    }

    async fn page(&mut self) -> Result<Round, WorkError> {
        let _placing = self.lock.clone().lock_owned().await;
        self.delete_old().await?;
        if self.old.len() >= OLD_SHARES_MAX {
            return Ok(Round::NothingHere);
        }
        self.regroup().await?;
        let question = Query::Strays { after: self.after, limit: PAGE };
        let Answer::Blocks(page) = self.authority.query(&question).await? else { return Ok(Round::End) };
        if self.after.is_none() {
            self.counters.waiting.store(page.len() as u64, Relaxed);
        }
        let Some(last) = page.last() else { return Ok(Round::End) };
        self.after = Some((last.record.volume, last.record.group, last.id));
        let volumes = self.authority.volumes().await?;
        let volumes: BTreeMap<_, _> = volumes.into_iter().map(|volume| (volume.id, volume)).collect();
        let moves: Vec<Move> = page
            .iter()
            .filter_map(|entry| Move::plan(volumes.get(&entry.record.volume)?, entry))
            // Until all of its new nodes answer, the block is as well off in its old group.
            .filter(|planned| planned.shares().all(|index| self.authority.is_up(planned.to.nodes[index])))
            .collect();
        let mut moved = Vec::new();
        let due = Instant::now() + OLD_SHARES_STAY;
        for some in moves.chunks(AT_A_TIME) {
            self.counters.running.store(true, Relaxed);
            let made = some
                .iter()
                .map(|planned| self.authority.move_block(&planned.from, &planned.to, planned.missing));
            for (planned, made) in some.iter().zip(futures::future::join_all(made).await) {
                // Old and new ones: the records say at their deletion which of them the block does not need.
                for index in planned.shares() {
                    let old =
                        |place: &BlockLocation| (due, place.nodes[index], place.id, ShareIndex(index as u8));
                    self.old.extend([old(&planned.from), old(&planned.to)]);
                }
                match made {
                    Ok(made) if planned.shares().all(|index| made.present & 1 << index != 0) => {
                        self.counters.bytes.fetch_add(made.bytes, Relaxed);
                        self.counters.read.fetch_add(made.read, Relaxed);
                        moved.push(planned);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.counters.failed(&error);
                        tracing::warn!(block = %planned.from.id, %error, "moving a block; it is tried again later");
                    }
                }
            }
        }
        if moved.is_empty() {
            return Ok(Round::NothingHere);
        }
        let blocks = moved.iter().map(|planned| planned.block()).collect();
        self.authority.propose(Command::MoveBlocks { blocks }).await?;
        self.counters.done.fetch_add(moved.len() as u64, Relaxed);
        Ok(Round::Done)
    }
}

impl Mover {
    /// Opens groups that fit the current nodes, if nodes or groups have changed since the last time.
    async fn regroup(&mut self) -> Result<(), WorkError> {
        let Answer::Totals(totals) = self.authority.query(&Query::Totals).await? else { return Ok(()) };
        if self.seen == Some(totals.places) {
            return Ok(());
        }
        let nodes = self.authority.nodes().await?;
        for volume in self.authority.volumes().await? {
            // With too few nodes there is no plan; `rain status` says so, and what to do.
            if placement::plan_following(&volume, &nodes).is_some_and(|following| !following.is_empty()) {
                tracing::info!(volume = volume.name, "the nodes have changed: blocks of the volume move");
                self.authority.propose(Command::Regroup { volume: volume.id }).await?;
                self.after = None;
            }
        }
        self.authority.refresh_nodes().await?;
        self.seen = Some(totals.places);
        Ok(())
    }

    /// Deletes the old shares that are due. The worker `stray_shares` finds those of a node that does not
    /// answer.
    async fn delete_old(&mut self) -> Result<(), WorkError> {
        let now = Instant::now();
        let due = self.old.iter().take_while(|(due, ..)| *due <= now).take(DELETED_AT_ONCE).count();
        if due == 0 {
            return Ok(());
        }
        let known =
            BlockRecords::read(&self.authority, self.old.iter().take(due).map(|(_, _, block, _)| *block))
                .await?;
        let mut by_node: BTreeMap<NodeId, Vec<(BlockId, ShareIndex)>> = BTreeMap::new();
        for (_, node, block, index) in self.old.drain(..due) {
            // A block without a record was deleted since. The garbage collector knows only one of its groups.
            if !known.is_placed(node, block, index).unwrap_or(false) {
                by_node.entry(node).or_default().push((block, index));
            }
        }
        for (node, shares) in by_node {
            if self.authority.is_up(node)
                && let Err(error) = self.authority.delete_shares(node, &shares, known.layout).await
            {
                tracing::debug!(%node, %error, "deleting shares of blocks that have moved");
            }
        }
        Ok(())
    }
}

/// A block that is to move.
struct Move {
    from: BlockLocation,
    to: BlockLocation,
    missing: u64,
}

impl Move {
    fn plan(volume: &VolumeRecord, entry: &BlockEntry) -> Option<Move> {
        let group = entry.record.group;
        let (from, to) = (
            block_list::location(volume, entry, group)?,
            block_list::location(volume, entry, volume.open_of(group)?)?,
        );
        Some(Move { from, to, missing: entry.record.missing })
    }

    /// Returns the indices of the shares whose nodes differ.
    fn shares(&self) -> impl Iterator<Item = usize> {
        let bits = placement::moving(&self.from.nodes, &self.to.nodes);
        (0..self.from.nodes.len()).filter(move |index| bits & 1 << index != 0)
    }

    fn block(&self) -> MovedBlock {
        MovedBlock { id: self.from.id, from: self.from.group, to: self.to.group }
    }
}
