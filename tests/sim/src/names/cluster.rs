//! The simulated cluster: nodes that start, lose their power and are cut off.

use super::wires::{Port, Wires, Wiring};
use crate::disk::Disk;
use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use rain_namespace::command::{Command, NodeSpec, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Time;
use rain_types::{ClusterId, CodeSpec, Codec, NodeId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storaged::metadata::raft::Election;
use storaged::metadata::{
    Member, MetadataOptions, MetadataService, Namespace, ProposerOptions, StoreOptions,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const CLUSTER: ClusterId = ClusterId(0x51a1);

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Voters.
    pub nodes: u32,
    /// Operations with a reply.
    pub done: usize,
    /// Power losses.
    pub power_losses: u32,
    /// Partitions.
    pub partitions: u32,
    /// Disks that were slow for a while.
    pub slow_disks: u32,
    /// Virtual time.
    pub time: Duration,
    /// Of every reply and its moment, and of the state at the end: equal for equal runs.
    pub print: u64,
}

thread_local! {
    /// When the run on this thread began.
    pub(super) static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The clock for entries: virtual, from a fixed day on.
fn virtual_now() -> Time {
    let since = START.with(Cell::get).map(|start| start.elapsed()).unwrap_or_default();
    Time { secs: 1_000_000 + since.as_secs() as i64, nanos: since.subsec_nanos() }
}

pub(super) struct Node {
    pub(super) disk: Disk,
    life: u32,
    election: Option<JoinHandle<()>>,
}

/// The cluster.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) wires: Wires,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    options: MetadataOptions,
    /// For the files that are no part of the simulation: a lock for each life of a node.
    folder: TempDir,
    pub(super) run: Run,
}

impl World {
    pub(super) async fn new(seed: u64) -> anyhow::Result<World> {
        let mut rng = Rng::with_seed(seed);
        let count = if rng.bool() { 3 } else { 5 };
        // Some runs with a log so short that who was away needs the whole namespace.
        let short = rng.u8(..3) == 0;
        let options = MetadataOptions {
            store: StoreOptions {
                commit_interval: Duration::from_millis(rng.u64(20..400)),
                layer_keys_max: 2000,
                layer_bytes_max: 1 << 20,
                cache_bytes: 1 << 20,
            },
            proposer: ProposerOptions { now: virtual_now, ..ProposerOptions::default() },
            segment_bytes: if short { 16 << 10 } else { 64 << 10 },
            keep_bytes: if short { 24 << 10 } else { 512 << 10 },
            ..MetadataOptions::default()
        };
        let wiring = Wiring { rng: rng.fork(), members: BTreeMap::new(), side: BTreeMap::new(), lossy: 0 };
        let nodes = (1..=count)
            .map(|id| (NodeId(id), Node { disk: Disk::new(rng.u64(..)), life: 0, election: None }))
            .collect();
        let mut world = World {
            rng,
            wires: Wires(Arc::new(Mutex::new(wiring))),
            nodes,
            options,
            folder: tempfile::tempdir()?,
            run: Run { nodes: count, ..Run::default() },
        };
        for id in 1..=count {
            world.start(NodeId(id)).await?;
        }
        world.found().await?;
        Ok(world)
    }

    async fn found(&mut self) -> anyhow::Result<()> {
        let founder = self.wires.metadata(NodeId(1)).context("the founder")?;
        founder.found().await?;
        self.leader().await?;
        let volume = Command::CreateVolume {
            name: "v".into(),
            code: CodeSpec { codec: Codec::Rs, k: 2, m: 1 },
            groups: 2,
            uid: 0,
            gid: 0,
            mode: 0o755,
        };
        let nodes = self.nodes.keys().map(|id| Command::RegisterNode {
            id: *id,
            node: NodeSpec { address: format!("n{id}:1"), weight: 1, ..NodeSpec::default() },
        });
        for command in nodes.chain([volume]) {
            let request = Request::internal(command);
            founder.propose(request).await?.map_err(|refused| anyhow::anyhow!("{refused}"))?;
        }
        drop(founder);
        self.settle().await
    }

    async fn start(&mut self, id: NodeId) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(&id).context("a node")?;
        node.life += 1;
        let life = node.life;
        let root = self.folder.path().join(format!("{id}-{life}"));
        let member = Member { cluster: CLUSTER, node: id, address: format!("n{id}:1") };
        let port = Arc::new(Port { from: id, life, wires: self.wires.clone() });
        let media = Arc::new(node.disk.media(&root));
        let opened =
            MetadataService::open_with(&root, member, self.options.clone(), port, Arc::new(Namespace), media)
                .await;
        let metadata = Arc::new(opened.with_context(|| format!("node {id} does not start again"))?);
        let (wires, weak) = (self.wires.clone(), Arc::downgrade(&metadata));
        node.election = Some(tokio::spawn(async move {
            let (mut election, mut turns) = (Election::default(), 0u32);
            while let Some(metadata) = weak.upgrade() {
                metadata.election(&mut election, Some(&wires.view(id))).await;
                turns += 1;
                if turns.is_multiple_of(100) {
                    // A log that cannot be made shorter is no failure of what is promised here.
                    let _ = metadata.compact().await;
                }
                drop(metadata);
                sleep(Duration::from_millis(15)).await;
            }
        }));
        self.wires.wiring().members.insert(id, (life, metadata));
        Ok(())
    }

    /// The power of a node goes, most likely in the middle of a write.
    async fn crash(&mut self, id: NodeId) -> anyhow::Result<()> {
        let fuse = self.rng.u64(..9);
        let node = self.nodes.get_mut(&id).context("a node")?;
        node.disk.burn_fuse(fuse);
        sleep(Duration::from_millis(self.rng.u64(..30))).await;
        if let Some(election) = node.election.take() {
            election.abort();
        }
        let gone = self.wires.wiring().members.remove(&id);
        node.disk.lose_power();
        // What is left of the process ends by and by, and reaches neither disk nor wires.
        tokio::spawn(async move {
            if let Some((_, metadata)) = gone {
                metadata.close().await;
            }
        });
        self.run.power_losses += 1;
        Ok(())
    }

    pub(super) async fn leader(&self) -> anyhow::Result<NodeId> {
        let begun = Instant::now();
        loop {
            if let Some(leader) = self.wires.all().iter().find(|metadata| metadata.is_confirmed()) {
                return Ok(leader.member().node);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "nobody leads for 30 s, though nothing fails: {}",
                self.standings()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// For people: what each node believes.
    pub(super) fn standings(&self) -> String {
        let leader_lease = |metadata: &Arc<MetadataService>| {
            let leadership = metadata.leadership().borrow().clone();
            let (stats, node) = (metadata.stats(), metadata.member().node);
            let stopped = stats.stopped.unwrap_or_default();
            format!(
                "\n  node {node}: term {} led by {:?}, voters {:?}, learners {:?}, log {}..{}, applied {} {stopped}",
                leadership.term,
                leadership.leader,
                leadership.voters,
                leadership.learners,
                stats.log_first,
                stats.log_last,
                metadata.applied_index(),
            )
        };
        self.wires.all().iter().map(leader_lease).collect()
    }

    /// Until all nodes vote.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let leader = self.wires.metadata(self.leader().await?).context("the leader")?;
            let Ok(Answer::Nodes(nodes)) = leader.query(&Query::Nodes) else { bail!("no list of nodes") };
            let losses = (self.run.nodes as u8 - 1) / 2;
            let stepped = leader.settle_membership(&nodes, losses, &BTreeSet::new()).await.unwrap_or(true);
            if !stepped && leader.leadership().borrow().voters.len() == self.run.nodes as usize {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "not all nodes vote after 60 s");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn some_fault(&mut self) -> anyhow::Result<()> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let all = self.wires.all();
        let leader = all.iter().find(|metadata| metadata.leadership().borrow().mine);
        let leader = leader.map(|metadata| metadata.member().node);
        drop(all);
        let any = ids[self.rng.usize(..ids.len())];
        let victim = leader.filter(|_| self.rng.bool()).unwrap_or(any);
        let long = Duration::from_millis(self.rng.u64(50..2500));
        match self.rng.u8(..8) {
            0..=2 => {
                self.crash(victim).await?;
                sleep(long / 2).await;
                self.start(victim).await?;
            }
            // All at once.
            3 => {
                for id in &ids {
                    self.crash(*id).await?;
                }
                sleep(long / 4).await;
                for id in &ids {
                    self.start(*id).await?;
                }
            }
            4 | 5 => {
                let side = ids.iter().map(|id| (*id, self.rng.u32(..2))).collect();
                self.wires.wiring().side = side;
                sleep(long).await;
                self.wires.wiring().side.clear();
                self.run.partitions += 1;
            }
            6 => {
                self.nodes[&victim].disk.set_delay(20..600);
                sleep(long * 2).await;
                self.nodes[&victim].disk.set_delay(1..3);
                self.run.slow_disks += 1;
            }
            _ => {
                self.wires.wiring().lossy = self.rng.u32(20..300);
                sleep(long).await;
                self.wires.wiring().lossy = 0;
            }
        }
        sleep(Duration::from_millis(self.rng.u64(..700))).await;
        Ok(())
    }

    /// Until all nodes have applied the same; a mark of what that is.
    pub(super) async fn agree(&self) -> anyhow::Result<[u8; 32]> {
        let begun = Instant::now();
        loop {
            let positions: BTreeSet<u64> =
                self.wires.all().iter().map(|metadata| metadata.applied_index()).collect();
            if positions.len() == 1 && self.wires.all().len() == self.nodes.len() {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "the nodes do not agree: {positions:?}");
            sleep(Duration::from_millis(20)).await;
        }
        let mut digests = BTreeMap::new();
        for metadata in self.wires.all() {
            let checked = metadata.check()?;
            let node = metadata.member().node;
            ensure!(checked.violations.is_empty(), "node {node} is not sound: {:?}", checked.violations);
            digests.insert((checked.position, checked.digest), node);
        }
        ensure!(digests.len() == 1, "the stores differ: {digests:?}");
        let ((_, digest), _) = digests.pop_first().context("a node")?;
        Ok(digest)
    }
}
