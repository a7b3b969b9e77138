//! The simulated cluster: nodes that start, lose their power and are cut off, and checks over all of them.

use super::network::{Network, NetworkState, NodeTransport};
use crate::disk::Disk;
use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use parking_lot::Mutex;
use rain_namespace::command::{Command, NodeSpec, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Time;
use rain_types::{ClusterId, CodeSpec, Codec, NodeId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storaged::metadata::raft::Election;
use storaged::metadata::{
    Member, MetadataOptions, MetadataService, Namespace, ProposerOptions, StoreOptions,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Identity of the simulated cluster; any value.
const CLUSTER: ClusterId = ClusterId(0x51a1);

/// Figures of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceRun {
    /// Voters.
    pub nodes: u32,
    /// Operations that got a reply.
    pub done: usize,
    /// Power losses.
    pub power_losses: u32,
    /// Partitions of the network.
    pub partitions: u32,
    /// Disks that were slow for a while.
    pub slow_disks: u32,
    /// Length of the run in virtual time.
    pub time: Duration,
    /// Hash of every reply with its moment, and of the state at the end. Equal runs have equal fingerprints.
    pub fingerprint: u64,
}

thread_local! {
    /// Begin of the run on this thread.
    pub(super) static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Clock for the times in log entries: virtual time, from a fixed day on.
fn virtual_now() -> Time {
    let since = START.with(Cell::get).map(|start| start.elapsed()).unwrap_or_default();
    Time { secs: 1_000_000 + since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// One machine.
pub(super) struct Node {
    pub(super) disk: Disk,
    life: u32,
    election: Option<JoinHandle<()>>,
}

/// The cluster.
pub(super) struct SimCluster {
    pub(super) rng: Rng,
    pub(super) network: Network,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    options: MetadataOptions,
    /// Folder for the files that are not simulated: one lock file for each start of a node.
    folder: TempDir,
    pub(super) run: NamespaceRun,
}

impl SimCluster {
    pub(super) async fn new(seed: u64) -> anyhow::Result<SimCluster> {
        let mut rng = Rng::with_seed(seed);
        let count = if rng.bool() { 3 } else { 5 };
        // In some runs the log is so short that a node that was away needs a snapshot of the whole namespace.
        let short = rng.u8(..3) == 0;
        let options = MetadataOptions {
            store: StoreOptions {
                commit_interval: Duration::from_millis(rng.u64(20..400)),
                memtable_keys_max: 2000,
                memtable_bytes_max: 1 << 20,
                cache_bytes: 1 << 20,
            },
            proposer: ProposerOptions { now: virtual_now, ..ProposerOptions::default() },
            segment_bytes: if short { 16 << 10 } else { 64 << 10 },
            keep_bytes: if short { 24 << 10 } else { 512 << 10 },
            ..MetadataOptions::default()
        };
        let wiring =
            NetworkState { rng: rng.fork(), members: BTreeMap::new(), side: BTreeMap::new(), lossy: 0 };
        let nodes = (1..=count)
            .map(|id| (NodeId(id), Node { disk: Disk::new(rng.u64(..)), life: 0, election: None }))
            .collect();
        let mut cluster = SimCluster {
            rng,
            network: Network(Arc::new(Mutex::new(wiring))),
            nodes,
            options,
            folder: tempfile::tempdir()?,
            run: NamespaceRun { nodes: count, ..NamespaceRun::default() },
        };
        for id in 1..=count {
            cluster.start(NodeId(id)).await?;
        }
        cluster.bootstrap().await?;
        Ok(cluster)
    }

    async fn bootstrap(&mut self) -> anyhow::Result<()> {
        let founder = self.network.metadata(NodeId(1)).context("the founder does not run")?;
        founder.bootstrap().await?;
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
        let node = self.nodes.get_mut(&id).context("no such node")?;
        node.life += 1;
        let life = node.life;
        let root = self.folder.path().join(format!("{id}-{life}"));
        let member = Member { cluster: CLUSTER, node: id, address: format!("n{id}:1") };
        let port = Arc::new(NodeTransport { from: id, life, network: self.network.clone() });
        let media = Arc::new(node.disk.media(&root));
        let opened =
            MetadataService::open_with(&root, member, self.options.clone(), port, Arc::new(Namespace), media)
                .await;
        let metadata = Arc::new(opened.with_context(|| format!("starting node {id}"))?);
        let (network, weak) = (self.network.clone(), Arc::downgrade(&metadata));
        node.election = Some(tokio::spawn(async move {
            let (mut election, mut turns) = (Election::default(), 0u32);
            while let Some(metadata) = weak.upgrade() {
                metadata.run_election(&mut election, Some(&network.view(id))).await;
                turns += 1;
                if turns.is_multiple_of(100) {
                    // A log that cannot be compacted breaks no rule of this simulation.
                    let _ = metadata.compact().await;
                }
                drop(metadata);
                sleep(Duration::from_millis(15)).await;
            }
        }));
        self.network.0.lock().members.insert(id, (life, metadata));
        Ok(())
    }

    /// Cuts the power of a node, most likely in the middle of a write.
    async fn crash(&mut self, id: NodeId) -> anyhow::Result<()> {
        let fuse = self.rng.u64(..9);
        let node = self.nodes.get_mut(&id).context("no such node")?;
        node.disk.burn_fuse(fuse);
        sleep(Duration::from_millis(self.rng.u64(..30))).await;
        if let Some(election) = node.election.take() {
            election.abort();
        }
        let gone = self.network.0.lock().members.remove(&id);
        node.disk.lose_power();
        // The rest of the process ends later; it reaches neither the disk nor the network.
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
            if let Some(leader) = self.network.all().iter().find(|metadata| metadata.is_confirmed()) {
                return Ok(leader.member().node);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "no node leads after 30 s, although nothing fails: {}",
                self.beliefs()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// One line per node, for messages: its term, leader, voters and log.
    pub(super) fn beliefs(&self) -> String {
        let belief = |metadata: &Arc<MetadataService>| {
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
        self.network.all().iter().map(belief).collect()
    }

    /// Waits until all nodes vote.
    ///
    /// Fails after 60 s.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let leader = self.network.metadata(self.leader().await?).context("the leader")?;
            let Ok(Answer::Nodes(nodes)) = leader.query(&Query::Nodes) else {
                bail!("the leader does not list the nodes")
            };
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
        let all = self.network.all();
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
            // All nodes at once.
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
                self.network.0.lock().side = side;
                sleep(long).await;
                self.network.0.lock().side.clear();
                self.run.partitions += 1;
            }
            6 => {
                self.nodes[&victim].disk.set_delay(20..600);
                sleep(long * 2).await;
                self.nodes[&victim].disk.set_delay(1..3);
                self.run.slow_disks += 1;
            }
            _ => {
                self.network.0.lock().lossy = self.rng.u32(20..300);
                sleep(long).await;
                self.network.0.lock().lossy = 0;
            }
        }
        sleep(Duration::from_millis(self.rng.u64(..700))).await;
        Ok(())
    }

    /// Waits until all nodes have applied the same entries, and returns the digest of their state.
    ///
    /// Fails when they do not within 60 s, when the check of a node finds violations, and when the digests
    /// differ.
    pub(super) async fn agree(&self) -> anyhow::Result<[u8; 32]> {
        let begun = Instant::now();
        loop {
            let positions: BTreeSet<u64> =
                self.network.all().iter().map(|metadata| metadata.applied_index()).collect();
            if positions.len() == 1 && self.network.all().len() == self.nodes.len() {
                break;
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "the nodes have applied different positions after 60 s: {positions:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
        let mut digests = BTreeMap::new();
        for metadata in self.network.all() {
            let checked = metadata.check()?;
            let node = metadata.member().node;
            ensure!(
                checked.violations.is_empty(),
                "node {node} breaks rules of the namespace: {:?}",
                checked.violations
            );
            digests.insert((checked.position, checked.digest), node);
        }
        ensure!(digests.len() == 1, "the stores differ: {digests:?}");
        let ((_, digest), _) = digests.pop_first().context("no such node")?;
        Ok(digest)
    }
}
