//! Clients at work on a real cluster while parts of it fail, and what they saw.
//!
//! Real processes in network namespaces; four clients of the library, each with a session of its own, on one directory of four names, one
//! file with a value and one lock. The seed chooses what each client does and what fails; when things happen is the machine's.

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

const CLIENTS: u32 = 4;
const NAMES: u8 = 4;

/// How long all work, or one does.
const PHASE: Duration = Duration::from_millis(120);

/// Between two operations of a client: the machine is to have time for the faults, too.
const PAUSE: Duration = Duration::from_millis(2);

/// What is wanted of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// What is chosen.
    pub seed: u64,
    /// Things that fail, one after the other.
    pub faults: u32,
    /// One of the clients answers lookups from memory: the checker must catch it.
    pub stale: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What failed.
    pub faults: Vec<String>,
    /// Operations with a reply.
    pub done: usize,
    /// Operations whose outcome nobody knows.
    pub unknown: usize,
    /// Changes that were told before the namespace had them.
    pub acknowledged_early: u64,
    /// What no order explains.
    pub violations: Vec<(Part, Violation)>,
}

/// A cluster for many runs.
pub struct Stage {
    cluster: TestCluster,
    nodes: u32,
    runtime: Option<Runtime>,
    clients: Vec<Arc<Client>>,
}

impl Stage {
    /// Three or five voters, and four clients.
    pub fn new(rain: &Path, nodes: u32) -> anyhow::Result<Stage> {
        let code = if nodes >= 5 { "3+2" } else { "2+1" };
        let options = ClusterOptions { nodes, code, cables: 2, ..ClusterOptions::new(rain) };
        let cluster = TestCluster::start(options)?;
        cluster.wait_settled(nodes as usize, Duration::from_secs(30))?;
        let door = cluster.lan()?.door(0)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || {
                if let Err(error) = door.enter() {
                    panic!("entering the client's network: {error}");
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
                    // One does everything through the leader.
                    write_back: number > 0,
                    // They are to fight for the directory.
                    delegation_backoff: Duration::from_millis(3),
                    ..Options::default()
                };
                // On a worker: this thread is not in the client's network.
                let connecting = runtime.spawn(async move { Client::connect(&addresses, options).await });
                Ok(runtime.block_on(connecting)??)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Stage { cluster, nodes, runtime: Some(runtime), clients })
    }

    /// One history.
    pub fn play(&mut self, asked: Asked) -> anyhow::Result<Report> {
        self.cluster.restart_all()?;
        self.cluster.wait_settled(self.nodes as usize, Duration::from_secs(40))?;
        let mut rng = Rng::with_seed(asked.seed);
        let folder = format!("history-{}", asked.seed);
        let told_before = self.acknowledged_early();
        let (start, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let runtime = self.runtime.as_ref().context("it runs")?;
        let places: Vec<Place> = {
            let mut places = Vec::new();
            for cluster in &self.clients {
                let (cluster, folder) = (cluster.clone(), folder.clone());
                let finding = runtime.spawn(async move { Place::find(&cluster, &folder).await });
                places.push(runtime.block_on(finding)??);
            }
            places
        };
        let working: Vec<_> = places
            .into_iter()
            .enumerate()
            .map(|(number, place)| {
                let stale = asked.stale && number == 0;
                let client = Worker {
                    number: number as u32,
                    place,
                    rng: Rng::with_seed(asked.seed.wrapping_mul(1000) + number as u64),
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
        for _ in 0..asked.faults {
            faults.push(self.strike(&mut rng)?);
            std::thread::sleep(Duration::from_millis(200 + rng.u64(..500)));
        }
        if asked.faults == 0 {
            std::thread::sleep(Duration::from_millis(700));
        }
        stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        let runtime = self.runtime.as_ref().context("it runs")?;
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
        Ok(Report {
            seed: asked.seed,
            faults,
            done: history.len() - unknown,
            unknown,
            acknowledged_early: self.acknowledged_early() - told_before,
            violations: violations.collect(),
        })
    }

    fn acknowledged_early(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().acknowledged_early).sum()
    }

    /// Something fails, and is mended.
    fn strike(&mut self, rng: &mut Rng) -> anyhow::Result<String> {
        let cluster = &mut self.cluster;
        let leads = rng.u64(..2) == 0;
        // Without a leader just now, any will do.
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

impl Drop for Stage {
    fn drop(&mut self) {
        self.clients.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// Where a client works.
struct Place {
    volume: Arc<Volume>,
    dir: Ino,
    value: Ino,
    lock: Arc<OpenFile>,
}

impl Place {
    /// Makes it, or finds it made.
    async fn find(cluster: &Arc<Client>, folder: &str) -> anyhow::Result<Place> {
        let volume = cluster.volume("main").await?;
        let folder = folder.as_bytes();
        let dir = match volume.lookup(volume.root(), folder).await {
            Ok(attr) => attr.ino,
            Err(_) => {
                let new = NewInode::new(FileKind::Directory, 0o755, 0, 0);
                volume.make(volume.root(), folder, new).await?.ino
            }
        };
        // Beside the directory, whose names are all the model's.
        let mut files = Vec::new();
        for kind in ["value", "lock"] {
            let name = [folder, b"-", kind.as_bytes()].concat();
            let new = NewInode { or_existing: true, ..NewInode::new(FileKind::File, 0o644, 0, 0) };
            files.push(volume.make(volume.root(), &name, new).await?.ino);
        }
        let lock = volume.open(files[1]).await?;
        Ok(Place { value: files[0], lock, dir, volume })
    }
}

struct Worker {
    number: u32,
    place: Place,
    rng: Rng,
    start: Instant,
    /// Files met, by the name they had then.
    known: BTreeMap<Name, u64>,
    /// What lookups said last, and when: the deliberate fault.
    stale: Option<BTreeMap<Name, (Instant, Reply)>>,
    /// A value that this client has written may or may not be stored; until the next is, what it reads is its own.
    doubtful: bool,
    /// It has the lock.
    holds: bool,
}

/// One letter each.
fn name(name: Name) -> [u8; 1] {
    [b'a' + name]
}

/// What a refusal says; another error says nothing.
fn refused(error: Error) -> Result<Reply, Error> {
    match error {
        Error::Refused(NsError::NotFound | NsError::Stale) => Ok(Reply::NotFound),
        Error::Refused(NsError::Exists) => Ok(Reply::Exists),
        error => Err(error),
    }
}

impl Worker {
    fn choose(&mut self) -> Op {
        let known = ClientState { names: NAMES, files: &self.known, holds: self.holds };
        match Op::choose(known, |below| self.rng.u64(..below)) {
            Op::Get if self.doubtful => Op::List,
            op => op,
        }
    }

    /// All work, then one alone, who comes to hold the directory, then all.
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
            // For the next history; it is not part of this one.
            let _ = self.place.lock.unlock(&self.lock()).await;
        }
        history
    }

    fn lock(&self) -> Lock {
        Lock { kind: LockKind::Flock, owner: 1, exclusive: true, first: 0, last: u64::MAX, pid: self.number }
    }

    async fn perform(&mut self, op: &Op) -> Result<Reply, Error> {
        let Place { volume, dir, value, lock } = &self.place;
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
                let held = volume.open(*value).await?.read(0, 8).await?;
                let bytes = held.as_ref().try_into().unwrap_or([0; 8]);
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

/// Fails with what is wrong, for people.
pub fn expect_none(report: &Report) -> anyhow::Result<()> {
    let Report { seed, faults, violations, .. } = report;
    ensure!(violations.is_empty(), "seed {seed}, {faults:?}: no order explains {violations:#?}");
    Ok(())
}
