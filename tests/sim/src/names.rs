//! The namespace under Raft, simulated by seed: the daemon's own keepers (consensus, log, store, proposer, reads under a lease) on one
//! thread, in virtual time, on disks that lose what was not synced, over wires that delay, lose and are cut.
//!
//! What must hold: every reply that four clients got has an order that explains it (names, a value, a lock); at the end all nodes have
//! the same, and it is sound.
//!
//! A run is decided by its seed: the same seed gives the same replies at the same moments ([`Run::print`]), as long as tokio's own
//! dice are seeded, too (`--cfg tokio_unstable`, which `cargo xtask sim namespace` sets).

use crate::disk::Disk;
use crate::history::{Event, linearize};
use crate::model::{Known, Mutex as LockModel, Name, Names, Op, Part, Register, Reply};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use fastrand::Rng;
use rain_namespace::command::{Applied, AttrChange, Command, NodeSpec, Outcome, RenameMode, Request};
use rain_namespace::error::NsError;
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::{FileKind, Time};
use rain_types::{ClusterId, CodeSpec, Codec, Ino, NodeId, RequestId, SessionId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storaged::metadata::raft::Election;
use storaged::metadata::{
    AppendStream, Delivery, Member, MetadataOptions, MetadataService, Namespace, ProposerOptions,
    StoreOptions, Transport, TransportError,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const CLIENTS: u32 = 4;
const NAMES: u8 = 4;
const CLUSTER: ClusterId = ClusterId(0x51a1);

/// A client gives up after this: no fault lasts so long.
const PATIENCE: Duration = Duration::from_secs(60);

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
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The clock for entries: virtual, from a fixed day on.
fn virtual_now() -> Time {
    let since = START.with(Cell::get).map(|start| start.elapsed()).unwrap_or_default();
    Time { secs: 1_000_000 + since.as_secs() as i64, nanos: since.subsec_nanos() }
}

#[derive(Debug)]
struct Wiring {
    rng: Rng,
    members: BTreeMap<NodeId, (u32, Arc<MetadataService>)>,
    side: BTreeMap<NodeId, u32>,
    /// Of a thousand messages so many are lost.
    lossy: u32,
}

/// The wires, and who is at their ends.
#[derive(Debug, Clone)]
struct Wires(Arc<Mutex<Wiring>>);

impl Wires {
    fn wiring(&self) -> MutexGuard<'_, Wiring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metadata(&self, id: NodeId) -> Option<Arc<MetadataService>> {
        self.wiring().members.get(&id).map(|(_, metadata)| metadata.clone())
    }

    fn all(&self) -> Vec<Arc<MetadataService>> {
        self.wiring().members.values().map(|(_, metadata)| metadata.clone()).collect()
    }

    /// Who answers a node: what the ring would say.
    fn view(&self, from: NodeId) -> Vec<NodeId> {
        let wiring = self.wiring();
        let side = |node: &NodeId| wiring.side.get(node).copied().unwrap_or(0);
        wiring.members.keys().filter(|node| side(node) == side(&from)).copied().collect()
    }
}

/// A node's end, in one of its lives.
#[derive(Debug, Clone)]
struct Port {
    from: NodeId,
    life: u32,
    wires: Wires,
}

impl Port {
    /// Who is reached, if the message arrives, and after how long.
    fn reach(&self, to: NodeId) -> Option<(Duration, Arc<MetadataService>)> {
        let mut wiring = self.wires.wiring();
        let side = |node: &NodeId| wiring.side.get(node).copied().unwrap_or(0);
        let lives = wiring.members.get(&self.from).is_some_and(|(life, _)| *life == self.life);
        if !lives || side(&self.from) != side(&to) {
            return None;
        }
        let metadata = wiring.members.get(&to)?.1.clone();
        let lossy = wiring.lossy;
        if wiring.rng.u32(..1000) < lossy {
            return None;
        }
        let delay = wiring.rng.u64(1..3) + if wiring.rng.u8(..50) == 0 { wiring.rng.u64(..40) } else { 0 };
        Some((Duration::from_millis(delay), metadata))
    }

    async fn carry(self, to: NodeId, message: Bytes) -> Result<Bytes, TransportError> {
        let silence = async {
            sleep(Duration::from_secs(5)).await;
            TransportError("gone".into())
        };
        let Some((delay, metadata)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        // What has arrived is dealt with, also when nobody waits for the answer.
        let answer = tokio::spawn(async move { metadata.message(message).await });
        let answer = answer.await.map_err(|_| TransportError("gone".into()))?;
        let Some((delay, _)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        answer.map_err(|error| TransportError(error.to_string()))
    }
}

#[derive(Debug)]
struct PortAppendStream(Port, NodeId);

impl AppendStream for PortAppendStream {
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a> {
        Box::pin(self.0.clone().carry(self.1, message))
    }
}

impl Transport for Port {
    fn append_stream(&self, to: NodeId, _address: &str) -> Box<dyn AppendStream> {
        Box::new(PortAppendStream(self.clone(), to))
    }

    fn call<'a>(&'a self, to: NodeId, _address: &'a str, message: Bytes) -> Delivery<'a> {
        Box::pin(self.clone().carry(to, message))
    }

    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        message: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a> {
        let port = self.clone();
        Box::pin(async move {
            let gone = || TransportError("gone".into());
            let (delay, metadata) = port.reach(to).ok_or_else(gone)?;
            sleep(delay).await;
            let taken = tokio::spawn(async move { metadata.snapshot(message, pieces).await });
            taken.await.map_err(|_| gone())?.map_err(|error| TransportError(error.to_string()))
        })
    }
}

struct Node {
    disk: Disk,
    life: u32,
    election: Option<JoinHandle<()>>,
}

/// The cluster.
struct World {
    rng: Rng,
    wires: Wires,
    nodes: BTreeMap<NodeId, Node>,
    options: MetadataOptions,
    /// For the files that are no part of the simulation: a lock for each life of a node.
    folder: TempDir,
    run: Run,
}

impl World {
    async fn new(seed: u64) -> anyhow::Result<World> {
        let mut rng = Rng::with_seed(seed);
        let count = if rng.bool() { 3 } else { 5 };
        // Some runs with a log so short that who was away needs the whole namespace.
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
        world.bootstrap().await?;
        Ok(world)
    }

    async fn bootstrap(&mut self) -> anyhow::Result<()> {
        let founder = self.wires.metadata(NodeId(1)).context("the founder")?;
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
                metadata.run_election(&mut election, Some(&wires.view(id))).await;
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

    async fn leader(&self) -> anyhow::Result<NodeId> {
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
    fn standings(&self) -> String {
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
    async fn settle(&self) -> anyhow::Result<()> {
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

    async fn some_fault(&mut self) -> anyhow::Result<()> {
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
    async fn agree(&self) -> anyhow::Result<[u8; 32]> {
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

/// A client with a session.
struct Client {
    number: u32,
    rng: Rng,
    wires: Wires,
    start: Instant,
    session: SessionId,
    seq: u64,
    dir: Ino,
    value: Ino,
    lock: Ino,
    known: BTreeMap<Name, u64>,
    holds: bool,
}

impl Client {
    /// Proposes at whoever says that it leads, again and again under the same number.
    async fn propose(&mut self, command: Command) -> Option<Applied> {
        self.seq += 1;
        let id = Some(RequestId { session: self.session, seq: self.seq });
        send(&self.wires, &mut self.rng, Request { id, done_below: self.seq, time: None, command }).await
    }

    async fn ask(&mut self, query: Query) -> Option<Answered> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for metadata in in_any_order(&self.wires, &mut self.rng) {
                if let Ok(Ok(answered)) = timeout(Duration::from_secs(2), metadata.ask(&query)).await {
                    return Some(answered);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    fn choose(&mut self) -> Op {
        let known = Known { names: NAMES, files: &self.known, holds: self.holds };
        Op::choose(known, |below| self.rng.u64(..below))
    }

    async fn perform(&mut self, op: &Op) -> Option<Reply> {
        let name = |name: Name| vec![b'a' + name];
        let dir = self.dir;
        let lock = Lock {
            kind: LockKind::Flock,
            owner: u64::from(self.number),
            exclusive: true,
            first: 0,
            last: u64::MAX,
            pid: self.number,
        };
        let applied = match op.clone() {
            Op::Lookup(at) => {
                let answered = self.ask(Query::Lookup { parent: dir, name: name(at) }).await?;
                return Some(match answered {
                    Ok(Answer::Attr(attr)) => {
                        self.known.insert(at, attr.ino.0);
                        Reply::File(attr.ino.0)
                    }
                    _ => Reply::NotFound,
                });
            }
            Op::List => {
                let answered = self.ask(Query::ReadDirectory { dir, after: None, limit: 100 }).await?;
                let Ok(Answer::Directory { entries, .. }) = answered else { return Some(Reply::NotFound) };
                let names = entries.iter().map(|entry| (entry.name[0] - b'a', entry.attr.ino.0));
                return Some(Reply::Names(names.collect()));
            }
            Op::Get => {
                return match self.ask(Query::GetAttr { ino: self.value }).await? {
                    Ok(Answer::Attr(attr)) => Some(Reply::Value(attr.size)),
                    _ => Some(Reply::NotFound),
                };
            }
            Op::Create(at) => self.propose(make(dir, name(at), FileKind::File)).await?,
            Op::Unlink(at) => self.propose(Command::Unlink { parent: dir, name: name(at) }).await?,
            Op::Rename(from, to) => {
                let (name, new_name) = (name(from), name(to));
                let mode = RenameMode::Replace;
                self.propose(Command::Rename { parent: dir, name, new_parent: dir, new_name, mode }).await?
            }
            Op::Link(file, at) => {
                self.propose(Command::Link { ino: Ino(file), parent: dir, name: name(at) }).await?
            }
            Op::Put(number) => {
                let change = AttrChange { size: Some(number), ..AttrChange::default() };
                self.propose(Command::SetAttr { ino: self.value, change }).await?
            }
            Op::TryLock => self.propose(Command::Lock { ino: self.lock, lock, ticket: None }).await?,
            Op::Unlock => self.propose(Command::Unlock { ino: self.lock, lock }).await?,
        };
        Some(match (op, applied) {
            (Op::Create(at), Ok(Outcome::Attr(attr))) => {
                self.known.insert(*at, attr.ino.0);
                Reply::File(attr.ino.0)
            }
            (Op::Link(..), Ok(Outcome::Attr(attr))) => Reply::File(attr.ino.0),
            (Op::TryLock, Ok(Outcome::Lock { state, .. })) => {
                self.holds = state == LockState::Granted;
                if self.holds { Reply::Done } else { Reply::Held }
            }
            (Op::Unlock, Ok(_)) => {
                self.holds = false;
                Reply::Done
            }
            (_, Ok(_)) => Reply::Done,
            (_, Err(NsError::Exists)) => Reply::Exists,
            (_, Err(_)) => Reply::NotFound,
        })
    }

    async fn work(mut self, stop: Rc<Cell<bool>>) -> Vec<Event<Op, Reply>> {
        let mut history = Vec::new();
        while !stop.get() {
            let op = self.choose();
            let begun = self.start.elapsed().as_nanos() as u64;
            let reply = self.perform(&op).await;
            let ended = self.start.elapsed().as_nanos() as u64;
            if reply.is_some() || !op.only_looks() {
                history.push(Event { client: self.number, op, reply, begun, ended });
            }
            sleep(Duration::from_millis(self.rng.u64(1..30))).await;
        }
        history
    }
}

fn make(parent: Ino, name: Vec<u8>, kind: FileKind) -> Command {
    let (mode, uid, gid, rdev, target) = (0o644, 0, 0, 0, Vec::new());
    Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing: false, ino: None }
}

fn in_any_order(wires: &Wires, rng: &mut Rng) -> Vec<Arc<MetadataService>> {
    let mut all = wires.all();
    rng.shuffle(&mut all);
    all
}

async fn send(wires: &Wires, rng: &mut Rng, request: Request) -> Option<Applied> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for metadata in in_any_order(wires, rng) {
            if !metadata.leadership().borrow().mine {
                continue;
            }
            if let Ok(Ok(applied)) = timeout(Duration::from_secs(3), metadata.propose(request.clone())).await
            {
                return Some(applied);
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}

/// Runs a seed.
pub fn run(seed: u64) -> anyhow::Result<Run> {
    run_on(seed, false)
}

/// Runs a seed on disks that lie about the log: many such runs must fail, or the simulation sees nothing.
pub fn run_on_lying_disks(seed: u64) -> anyhow::Result<Run> {
    run_on(seed, true)
}

fn run_on(seed: u64, lying: bool) -> anyhow::Result<Run> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build()?;
    let local = tokio::task::LocalSet::new();
    let run = local.block_on(&runtime, simulate(seed, lying));
    drop(local);
    runtime.shutdown_background();
    run
}

/// How long it takes until another node leads when the leader's disk hangs in the middle of a write.
pub fn leaders_disk_hangs(seed: u64) -> anyhow::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let mut world = World::new(seed).await?;
        let old = world.leader().await?;
        world.nodes[&old].disk.set_delay(600_000..600_001);
        let metadata = world.wires.metadata(old).context("the leader")?;
        let command = Command::OpenSession { label: "waits".into() };
        let request = Request::internal(command);
        let proposing = tokio::spawn(async move { metadata.propose(request).await });
        let begun = Instant::now();
        while !world
            .wires
            .all()
            .iter()
            .any(|metadata| metadata.member().node != old && metadata.is_confirmed())
        {
            ensure!(begun.elapsed() < Duration::from_secs(60), "nobody else leads: {}", world.standings());
            sleep(Duration::from_millis(10)).await;
        }
        let took = begun.elapsed();
        let mut rng = world.rng.fork();
        let again = Request::internal(Command::OpenSession { label: "on".into() });
        ensure!(
            send(&world.wires, &mut rng, again).await.is_some_and(|applied| applied.is_ok()),
            "nothing goes on"
        );
        proposing.abort();
        Ok(took)
    })
}

async fn simulate(seed: u64, lying: bool) -> anyhow::Result<Run> {
    let start = Instant::now();
    START.with(|began| began.set(Some(start)));
    let mut world = World::new(seed).await?;
    let internal = Request::internal;
    let mut rng = world.rng.fork();
    let volume = world.wires.metadata(world.leader().await?).context("the leader")?;
    let Ok(Answer::Volumes(volumes)) = volume.query(&Query::Volume { name: "v".into() }) else {
        bail!("there is no volume")
    };
    drop(volume);
    let root = volumes[0].root;
    let mut inos = Vec::new();
    for (name, kind) in [("dir", FileKind::Directory), ("value", FileKind::File), ("lock", FileKind::File)] {
        let made = send(&world.wires, &mut rng, internal(make(root, name.into(), kind))).await;
        let Some(Ok(Outcome::Attr(attr))) = made else { bail!("{name} could not be made: {made:?}") };
        inos.push(attr.ino);
    }
    let stop = Rc::new(Cell::new(false));
    let mut working = Vec::new();
    for number in 0..CLIENTS {
        let opened =
            send(&world.wires, &mut rng, internal(Command::OpenSession { label: "sim".into() })).await;
        let Some(Ok(Outcome::Session(session))) = opened else { bail!("no session: {opened:?}") };
        let client = Client {
            number,
            rng: world.rng.fork(),
            wires: world.wires.clone(),
            start,
            session,
            seq: 0,
            dir: inos[0],
            value: inos[1],
            lock: inos[2],
            known: BTreeMap::new(),
            holds: false,
        };
        working.push(tokio::task::spawn_local(client.work(stop.clone())));
    }
    sleep(Duration::from_millis(200)).await;
    if lying {
        world.nodes.values().for_each(|node| node.disk.lie(Path::new("log")));
    }
    for _ in 0..world.rng.u32(2..7) {
        world.some_fault().await?;
    }
    stop.set(true);
    let mut history = Vec::new();
    for client in working {
        history.extend(client.await?);
    }
    world.settle().await?;
    let digest = world.agree().await?;
    for part in [Part::Names, Part::Value, Part::Lock] {
        let events: Vec<_> = history.iter().filter(|event| event.op.part() == part).cloned().collect();
        let checked = match part {
            Part::Names => linearize(Names::default(), &events),
            Part::Value => linearize(Register::default(), &events),
            Part::Lock => linearize(LockModel::default(), &events),
        };
        if let Err(violation) = checked {
            bail!("no order explains what was seen of {part:?}: {violation:#?}");
        }
    }
    let mut hasher = DefaultHasher::new();
    for event in &history {
        (event.client, &event.op, &event.reply, event.begun, event.ended).hash(&mut hasher);
    }
    digest.hash(&mut hasher);
    let mut run = world.run.clone();
    run.done = history.iter().filter(|event| event.reply.is_some()).count();
    run.time = start.elapsed();
    run.print = hasher.finish();
    Ok(run)
}
