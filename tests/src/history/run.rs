//! Clients at work on a real cluster while parts of it fail, and the history of their operations.
//!
//! The nodes are real processes in network namespaces. Four clients of the library, each with a session of
//! its own, work on one directory of four names, one file with a value, and one lock. The seed chooses the
//! operations and the faults. The machine decides their timing, so a seed does not give the same history
//! twice.

use crate::real::{ClusterOptions, TestCluster};
use anyhow::{Context, ensure};
use fastrand::Rng;
use rain_client::{Client, Error, NewInode, OpenFile, Options, Volume};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_namespace::lock::{Lock, LockKind};
use rain_namespace::record::FileKind;
use rain_sim::history::{Event, Violation, linearize};
use rain_sim::model::{ClientState, LockModel, Name, NamesModel, Op, Part, Reply, ValueModel};
use rain_types::Ino;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Clients that work at the same time.
const CLIENTS: u32 = 4;

/// Names in the directory: few, so that the clients meet at each of them.
const NAMES: u8 = 4;

/// Length of a phase in which all clients work, or one alone. It is long enough for a client that works alone
/// to be delegated the directory.
const PHASE: Duration = Duration::from_millis(120);

/// Pause between two operations of a client. It leaves the machine time to make the faults.
const PAUSE: Duration = Duration::from_millis(2);

/// Options of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct HistoryOptions {
    /// Seed of the choices of operations and faults.
    pub seed: u64,
    /// Number of faults, one after the other.
    pub faults: u32,
    /// Whether one client answers lookups from memory. The check must find such answers.
    pub stale: bool,
}

/// Results of one run.
#[derive(Debug)]
pub struct HistoryReport {
    /// Seed of the run.
    pub seed: u64,
    /// Faults that were made.
    pub faults: Vec<String>,
    /// Operations that got a reply.
    pub done: usize,
    /// Operations without a reply: they may have been done or not.
    pub unknown: usize,
    /// Changes that were acknowledged early: before the namespace had them.
    pub acknowledged_early: u64,
    /// Parts of the history that no order explains.
    pub violations: Vec<(Part, Violation)>,
}

/// A cluster with four clients, for many runs. Dropping it ends all of them.
pub struct HistoryCluster {
    cluster: TestCluster,
    nodes: u32,
    runtime: Option<Runtime>,
    clients: Vec<Arc<Client>>,
}

impl HistoryCluster {
    /// Starts a cluster of three or five voters, and connects the clients.
    pub fn new(rain: &Path, nodes: u32) -> anyhow::Result<HistoryCluster> {
        let code = if nodes >= 5 { "3+2" } else { "2+1" };
        let options = ClusterOptions { nodes, code, cables: 2, ..ClusterOptions::new(rain) };
        let cluster = TestCluster::start(options)?;
        cluster.wait_settled(nodes as usize, Duration::from_secs(30))?;
        let network = cluster.lan()?.network(0)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || {
                if let Err(error) = network.enter() {
                    panic!("entering the client's network namespace: {error}");
                }
            })
            .enable_all()
            .build()?;
        let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
        let clients = (0..CLIENTS)
            .map(|number| {
                let addresses = addresses.clone();
                let options = Options {
                    label: format!("history client {number}"),
                    allow_stale: false,
                    // One client sends every change to the leader.
                    write_back: number > 0,
                    // A short back-off, so that the delegation of the directory moves often.
                    delegation_backoff: Duration::from_millis(3),
                    ..Options::default()
                };
                // On a thread of the runtime: the present thread is not in the client's network namespace.
                let connecting = runtime.spawn(async move { Client::connect(&addresses, options).await });
                Ok(runtime.block_on(connecting)??)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(HistoryCluster { cluster, nodes, runtime: Some(runtime), clients })
    }

    /// Records one history and checks it.
    ///
    /// A violation is part of the report. Fails when the cluster does not settle, or when a fault cannot be
    /// made.
    pub fn play(&mut self, options: HistoryOptions) -> anyhow::Result<HistoryReport> {
        self.cluster.restart_all()?;
        self.cluster.wait_settled(self.nodes as usize, Duration::from_secs(40))?;
        let mut rng = Rng::with_seed(options.seed);
        let folder = format!("history-{}", options.seed);
        let early_before = self.acknowledged_early();
        let (start, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let runtime = self.runtime.as_ref().context("the runtime has ended")?;
        let workspaces: Vec<Workspace> = {
            let mut workspaces = Vec::new();
            for cluster in &self.clients {
                let (cluster, folder) = (cluster.clone(), folder.clone());
                let finding = runtime.spawn(async move { Workspace::find(&cluster, &folder).await });
                workspaces.push(runtime.block_on(finding)??);
            }
            workspaces
        };
        let working: Vec<_> = workspaces
            .into_iter()
            .enumerate()
            .map(|(number, workspace)| {
                let stale = options.stale && number == 0;
                let client = HistoryClient {
                    number: number as u32,
                    workspace,
                    rng: Rng::with_seed(options.seed.wrapping_mul(1000) + number as u64),
                    start,
                    known: BTreeMap::new(),
                    stale: stale.then(BTreeMap::new),
                    doubtful: false,
                    holds: false,
                };
                runtime.spawn(client.work(stop.clone()))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let mut faults = Vec::new();
        for _ in 0..options.faults {
            faults.push(self.strike(&mut rng)?);
            std::thread::sleep(Duration::from_millis(200 + rng.u64(..500)));
        }
        if options.faults == 0 {
            std::thread::sleep(Duration::from_millis(700));
        }
        stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        let runtime = self.runtime.as_ref().context("the runtime has ended")?;
        for client in working {
            history.extend(runtime.block_on(client)?);
        }
        let of = |part: Part| -> Vec<_> {
            history.iter().filter(|event| event.op.part() == part).cloned().collect()
        };
        let checked = [
            (Part::Names, linearize(NamesModel::default(), &of(Part::Names))),
            (Part::Value, linearize(ValueModel::default(), &of(Part::Value))),
            (Part::Lock, linearize(LockModel::default(), &of(Part::Lock))),
        ];
        let violations =
            checked.into_iter().filter_map(|(part, found)| found.err().map(|found| (part, found)));
        let unknown = history.iter().filter(|event| event.reply.is_none()).count();
        Ok(HistoryReport {
            seed: options.seed,
            faults,
            done: history.len() - unknown,
            unknown,
            acknowledged_early: self.acknowledged_early() - early_before,
            violations: violations.collect(),
        })
    }

    fn acknowledged_early(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().acknowledged_early).sum()
    }

    /// Makes one fault, ends it, and returns its name.
    fn strike(&mut self, rng: &mut Rng) -> anyhow::Result<String> {
        let cluster = &mut self.cluster;
        let leads = rng.u64(..2) == 0;
        // While there is no leader, any node will do.
        let leader = cluster.leader().unwrap_or(1);
        let others: Vec<u32> = (1..=self.nodes).filter(|node| *node != leader).collect();
        let other = others[rng.u64(..others.len() as u64) as usize];
        let victim = if leads { leader } else { other };
        let who = if leads { "the leader" } else { "a follower" };
        let long = Duration::from_millis(200 + rng.u64(..1300));
        let kind = rng.u64(..6);
        match kind {
            0 | 1 => {
                cluster.kill(victim)?;
                std::thread::sleep(long / 2);
                cluster.restart(victim)?;
            }
            2 => {
                (0..2).try_for_each(|cable| cluster.lan()?.pull(victim, cable, true))?;
                std::thread::sleep(long);
                (0..2).try_for_each(|cable| cluster.lan()?.pull(victim, cable, false))?;
            }
            3 => {
                let mut apart = vec![victim];
                apart.extend(others.iter().filter(|node| **node != victim).take(self.nodes as usize / 2 - 1));
                cluster.lan()?.split(&apart)?;
                std::thread::sleep(long);
                cluster.lan()?.split(&[])?;
            }
            4 => {
                cluster.pause(victim, true)?;
                std::thread::sleep(long);
                cluster.pause(victim, false)?;
            }
            _ => {
                cluster.lan()?.pull(victim, 0, true)?;
                std::thread::sleep(long);
                cluster.lan()?.pull(victim, 0, false)?;
            }
        }
        let what = ["killed", "killed", "cut off", "in a minority", "paused", "without one of two links"];
        Ok(format!("{who} {}", what[kind as usize]))
    }
}

impl Drop for HistoryCluster {
    fn drop(&mut self) {
        self.clients.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// What a client works on.
struct Workspace {
    volume: Arc<Volume>,
    dir: Ino,
    value: Ino,
    lock: Arc<OpenFile>,
}

impl Workspace {
    /// Creates the directory and the files, or finds those that another client has created.
    async fn find(cluster: &Arc<Client>, folder: &str) -> anyhow::Result<Workspace> {
        let volume = cluster.volume("main").await?;
        let folder = folder.as_bytes();
        let dir = match volume.lookup(volume.root(), folder).await {
            Ok(attr) => attr.ino,
            Err(_) => {
                let new = NewInode::new(FileKind::Directory, 0o755, 0, 0);
                volume.make(volume.root(), folder, new).await?.ino
            }
        };
        // Beside the directory: all names in it belong to the model.
        let mut files = Vec::new();
        for kind in ["value", "lock"] {
            let name = [folder, b"-", kind.as_bytes()].concat();
            let new = NewInode { or_existing: true, ..NewInode::new(FileKind::File, 0o644, 0, 0) };
            files.push(volume.make(volume.root(), &name, new).await?.ino);
        }
        let lock = volume.open(files[1]).await?;
        Ok(Workspace { value: files[0], lock, dir, volume })
    }
}

struct HistoryClient {
    number: u32,
    workspace: Workspace,
    rng: Rng,
    start: Instant,
    /// Files that the client has seen, by their names at that time.
    known: BTreeMap<Name, u64>,
    /// Latest replies to lookups with their times; answering from them is the deliberate fault.
    stale: Option<BTreeMap<Name, (Instant, Reply)>>,
    /// Whether the latest written value may not be stored. Until the next one is, this client reads its own
    /// buffer.
    doubtful: bool,
    /// Whether the client has the lock.
    holds: bool,
}

/// A name in the directory: one letter each.
fn name(name: Name) -> [u8; 1] {
    [b'a' + name]
}

/// The reply that a refusal stands for. Any other error leaves the outcome unknown.
fn refused(error: Error) -> Result<Reply, Error> {
    match error {
        Error::Refused(NsError::NotFound | NsError::Stale) => Ok(Reply::NotFound),
        Error::Refused(NsError::Exists) => Ok(Reply::Exists),
        error => Err(error),
    }
}

impl HistoryClient {
    fn choose(&mut self) -> Op {
        let known = ClientState { names: NAMES, files: &self.known, holds: self.holds };
        match Op::choose(known, |below| self.rng.u64(..below)) {
            Op::Get if self.doubtful => Op::List,
            op => op,
        }
    }

    /// Whether it is this client's time to work. Phases in which all work alternate with phases in which one
    /// works alone, and is delegated the directory.
    fn is_my_time(&self) -> bool {
        let phase = self.start.elapsed().as_millis() / PHASE.as_millis();
        phase.is_multiple_of(2) || phase / 2 % u128::from(CLIENTS) == u128::from(self.number)
    }

    async fn work(mut self, stop: Arc<AtomicBool>) -> Vec<Event<Op, Reply>> {
        let mut history = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if !self.is_my_time() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let op = self.choose();
            let begun = self.start.elapsed().as_nanos() as u64;
            let reply = self.perform(&op).await;
            let ended = self.start.elapsed().as_nanos() as u64;
            let reply = match reply {
                Ok(reply) => Some(reply),
                Err(Error::NoMajority { may_be_done: false, .. }) if !matches!(op, Op::Put(_)) => {
                    tokio::time::sleep(PAUSE * 10).await;
                    continue;
                }
                Err(_) => None,
            };
            if reply.is_some() || !op.only_looks() {
                history.push(Event { client: self.number, op, reply, begun, ended });
            }
            tokio::time::sleep(PAUSE).await;
        }
        if self.holds {
            // The lock must be free for the next history; this unlock is not part of the present one.
            let _ = self.workspace.lock.unlock(&self.lock()).await;
        }
        history
    }

    fn lock(&self) -> Lock {
        Lock { kind: LockKind::Flock, owner: 1, exclusive: true, first: 0, last: u64::MAX, pid: self.number }
    }

    async fn perform(&mut self, op: &Op) -> Result<Reply, Error> {
        let Workspace { volume, dir, value, lock } = &self.workspace;
        let dir = *dir;
        match op {
            Op::Create(at) => {
                let new = NewInode::new(FileKind::File, 0o644, 0, 0);
                match volume.make(dir, &name(*at), new).await {
                    Ok(attr) => {
                        self.known.insert(*at, attr.ino.0);
                        Ok(Reply::File(attr.ino.0))
                    }
                    Err(error) => refused(error),
                }
            }
            Op::Unlink(at) => volume.unlink(dir, &name(*at)).await.map(|()| Reply::Done).or_else(refused),
            Op::Rename(from, to) => {
                let renamed = volume.rename(dir, &name(*from), dir, &name(*to), RenameMode::Replace).await;
                renamed.map(|()| Reply::Done).or_else(refused)
            }
            Op::Link(file, at) => {
                let linked = volume.link(Ino(*file), dir, &name(*at)).await;
                linked.map(|attr| Reply::File(attr.ino.0)).or_else(refused)
            }
            Op::Lookup(at) => {
                if let Some((when, reply)) = self.stale.as_ref().and_then(|stale| stale.get(at))
                    && when.elapsed() < Duration::from_millis(200)
                {
                    return Ok(reply.clone());
                }
                let found = volume.lookup(dir, &name(*at)).await;
                let reply = found.map(|attr| Reply::File(attr.ino.0)).or_else(refused)?;
                if let Reply::File(file) = reply {
                    self.known.insert(*at, file);
                }
                if let Some(stale) = &mut self.stale {
                    stale.insert(*at, (Instant::now(), reply.clone()));
                }
                Ok(reply)
            }
            Op::List => {
                let (entries, _) = volume.read_directory(dir, None, 100).await?;
                let names = entries.iter().map(|entry| (entry.name[0] - b'a', entry.attr.ino.0));
                Ok(Reply::Names(names.collect()))
            }
            Op::Put(number) => {
                self.doubtful = true;
                let file = volume.open(*value).await?;
                file.write(0, &number.to_le_bytes()).await?;
                file.flush().await?;
                self.doubtful = false;
                Ok(Reply::Done)
            }
            Op::Get => {
                let bytes = volume.open(*value).await?.read(0, 8).await?;
                let bytes = bytes.as_ref().try_into().unwrap_or([0; 8]);
                Ok(Reply::Value(u64::from_le_bytes(bytes)))
            }
            Op::TryLock => {
                let locked = lock.try_lock(&self.lock()).await?.is_some();
                self.holds = locked;
                Ok(if locked { Reply::Done } else { Reply::Held })
            }
            Op::Unlock => {
                lock.unlock(&self.lock()).await?;
                self.holds = false;
                Ok(Reply::Done)
            }
        }
    }
}

/// Fails with the violations of a history, if there are any.
pub fn expect_linearizable(report: &HistoryReport) -> anyhow::Result<()> {
    let HistoryReport { seed, faults, violations, .. } = report;
    ensure!(
        violations.is_empty(),
        "seed {seed}, {faults:?}: no order of the operations explains {violations:#?}"
    );
    Ok(())
}
