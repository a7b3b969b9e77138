//! Moves blocks to where the nodes now have them: opens the groups that the nodes ask for, makes each stray block's shares on their new
//! nodes, has the block moved, and deletes the old shares a while later. What is to move is planned by `rain_namespace::placement`; the
//! block layer makes and places the shares.
//!
//! A block that moves is whole all the time: it has its old shares until the new ones are durable and the namespace has said so.

use super::WorkerCounters;
use super::block_list::{self, AT_A_TIME, PAGE, Pages, Round};
use rain_client::{BlockLocation, Client, Error};
use rain_namespace::command::{Command, MovedBlock};
use rain_namespace::placement;
use rain_namespace::query::{Answer, BlockEntry, Query};
use rain_namespace::record::{BlockRecord, VolumeRecord};
use rain_types::{BlockId, GroupId, NodeId, ShareIndex, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Old shares stay for so long: clients learn of new groups within a second, and ask for what may have moved again after three.
const OLD_SHARES_STAY: Duration = Duration::from_secs(10);

/// Old shares that wait for it. With more, nothing moves until some are gone.
const OLD_SHARES_MAX: usize = 100_000;

/// Old shares that are deleted in one go.
const DELETED_AT_ONCE: usize = 4096;

/// So that nobody deletes what somebody else has just moved in.
pub(crate) type Turn = Arc<tokio::sync::Mutex<()>>;

type Position = (VolumeId, GroupId, BlockId);

pub(crate) async fn run(cluster: Arc<Client>, counters: Arc<WorkerCounters>, turn: Turn) {
    block_list::work(Mover { cluster, counters, turn, seen: None, after: None, old: VecDeque::new() }).await;
}

struct Mover {
    cluster: Arc<Client>,
    counters: Arc<WorkerCounters>,
    turn: Turn,
    /// How often places had changed when all groups that were asked for were open.
    seen: Option<u64>,
    after: Option<Position>,
    /// Shares that nobody needs, and when they may go.
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

    async fn page(&mut self) -> Result<Round, Error> {
        let _turn = self.turn.clone().lock_owned().await;
        self.delete_old().await?;
        if self.old.len() >= OLD_SHARES_MAX {
            return Ok(Round::NothingHere);
        }
        self.regroup().await?;
        let question = Query::Strays { after: self.after, limit: PAGE };
        let Answer::Blocks(page) = self.cluster.query(&question).await? else { return Ok(Round::End) };
        if self.after.is_none() {
            self.counters.waiting.store(page.len() as u64, Relaxed);
        }
        let Some(last) = page.last() else { return Ok(Round::End) };
        self.after = Some((last.record.volume, last.record.group, last.id));
        let volumes = self.cluster.volumes().await?;
        let volumes: BTreeMap<_, _> = volumes.into_iter().map(|volume| (volume.id, volume)).collect();
        let moves: Vec<Move> = page
            .iter()
            .filter_map(|entry| Move::plan(volumes.get(&entry.record.volume)?, entry))
            // Its new nodes are there; until they are, the block is as well off where it is.
            .filter(|planned| planned.shares().all(|index| self.cluster.is_up(planned.to.nodes[index])))
            .collect();
        let mut moved = Vec::new();
        let due = Instant::now() + OLD_SHARES_STAY;
        for some in moves.chunks(AT_A_TIME) {
            self.counters.running.store(true, Relaxed);
            let made = some
                .iter()
                .map(|planned| self.cluster.move_block(&planned.from, &planned.to, planned.missing));
            for (planned, made) in some.iter().zip(futures::future::join_all(made).await) {
                // On both sides: which of them the block needs no more is looked up when they are due.
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
                        tracing::warn!(block = %planned.from.id, %error, "moving a block; it is tried again");
                    }
                }
            }
        }
        if moved.is_empty() {
            return Ok(Round::NothingHere);
        }
        let blocks = moved.iter().map(|planned| planned.block()).collect();
        self.cluster.propose_internal(Command::MoveBlocks { blocks }).await?;
        self.counters.done.fetch_add(moved.len() as u64, Relaxed);
        Ok(Round::Done)
    }
}

impl Mover {
    /// Has the groups opened that the nodes ask for, if nodes have changed since the last time.
    async fn regroup(&mut self) -> Result<(), Error> {
        let Answer::Totals(totals) = self.cluster.query(&Query::Totals).await? else { return Ok(()) };
        if self.seen == Some(totals.places) {
            return Ok(());
        }
        let nodes = self.cluster.nodes().await?;
        for volume in self.cluster.volumes().await? {
            // Too few nodes: `rain status` says so, and what mends it.
            if placement::plan_following(&volume, &nodes).is_some_and(|following| !following.is_empty()) {
                tracing::info!(volume = volume.name, "nodes have come or go: its blocks move");
                self.cluster.propose_internal(Command::Regroup { volume: volume.id }).await?;
                self.after = None;
            }
        }
        self.cluster.refresh_nodes().await?;
        self.seen = Some(totals.places);
        Ok(())
    }

    /// What is not deleted because its node does not answer is found by the sweep.
    async fn delete_old(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let due = self.old.iter().take_while(|(due, ..)| *due <= now).take(DELETED_AT_ONCE).count();
        if due == 0 {
            return Ok(());
        }
        let known =
            Known::of(&self.cluster, self.old.iter().take(due).map(|(_, _, block, _)| *block)).await?;
        let mut by_node: BTreeMap<NodeId, Vec<(BlockId, ShareIndex)>> = BTreeMap::new();
        for (_, node, block, index) in self.old.drain(..due) {
            // A block that is known no more was deleted since, and reclaim knows one of its places only.
            if !known.is_placed(node, block, index).unwrap_or(false) {
                by_node.entry(node).or_default().push((block, index));
            }
        }
        for (node, shares) in by_node {
            if self.cluster.is_up(node)
                && let Err(error) = self.cluster.delete_shares(node, &shares).await
            {
                tracing::debug!(%node, %error, "deleting shares of blocks that have moved");
            }
        }
        Ok(())
    }
}

/// What the namespace says of some blocks.
pub(super) struct Known {
    blocks: BTreeMap<BlockId, BlockRecord>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
}

impl Known {
    /// Of at most 4096 blocks.
    pub(super) async fn of(cluster: &Client, blocks: impl Iterator<Item = BlockId>) -> Result<Known, Error> {
        let ids: BTreeSet<BlockId> = blocks.collect();
        let found = match cluster.query(&Query::Blocks { ids: ids.into_iter().collect() }).await? {
            Answer::Blocks(found) => found,
            _ => return Err(Error::Protocol("the answer is not blocks".into())),
        };
        let volumes = cluster.volumes().await?;
        Ok(Known {
            blocks: found.into_iter().map(|entry| (entry.id, entry.record)).collect(),
            volumes: volumes.into_iter().map(|volume| (volume.id, volume)).collect(),
        })
    }

    /// Whether a node has a share by right: its block is there, or moves there. None: there is no such block.
    pub(super) fn is_placed(&self, node: NodeId, block: BlockId, index: ShareIndex) -> Option<bool> {
        let record = self.blocks.get(&block)?;
        let volume = self.volumes.get(&record.volume)?;
        let places = [Some(record.group), volume.open_of(record.group)];
        let has_it = |group| {
            volume.nodes_of(group).is_some_and(|nodes| nodes.get(usize::from(index.0)) == Some(&node))
        };
        Some(places.into_iter().flatten().any(has_it))
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
            block_list::place(volume, entry, group)?,
            block_list::place(volume, entry, volume.open_of(group)?)?,
        );
        Some(Move { from, to, missing: entry.record.missing })
    }

    /// The shares whose nodes differ.
    fn shares(&self) -> impl Iterator<Item = usize> {
        let bits = placement::moving(&self.from.nodes, &self.to.nodes);
        (0..self.from.nodes.len()).filter(move |index| bits & 1 << index != 0)
    }

    fn block(&self) -> MovedBlock {
        MovedBlock { id: self.from.id, from: self.from.group, to: self.to.group }
    }
}
