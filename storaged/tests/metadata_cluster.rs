//! Several members in one process, over wires that are cut and disks that lose power: what is acknowledged
//! stays, and no read is old.
//!
//! Every name is made once and never removed, so each is a register that goes from absent to present: a
//! history of it is linearizable exactly if no read finds it absent that began after a make was acknowledged
//! or after a read had found it. `METADATA_SEEDS=FROM..TO` runs others than the usual seeds.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod metadata_support;

use metadata_support::{CLUSTER, Dice, SimMedia, contents, make, seeds, setup};
use rain_namespace::command::Outcome;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_types::{Ino, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storaged::metadata::raft::Election;
use storaged::metadata::{
    AppendStream, AskError, Delivery, Member, MetadataOptions, MetadataService, Namespace, StoreOptions,
    Times, Transport, TransportError,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Which members run, and which wires are cut.
#[derive(Debug, Clone, Default)]
struct Wires(Arc<Mutex<WiresState>>);

#[derive(Debug, Default)]
struct WiresState {
    members: BTreeMap<NodeId, (Arc<MetadataService>, tokio::runtime::Handle)>,
    /// On which side of a partition each node is.
    side: BTreeMap<NodeId, u32>,
}

impl Wires {
    fn reach(&self, from: NodeId, to: NodeId) -> Option<(Arc<MetadataService>, tokio::runtime::Handle)> {
        let state = self.0.lock().unwrap();
        let side = |node: NodeId| state.side.get(&node).copied().unwrap_or(0);
        if side(from) != side(to) {
            return None;
        }
        state.members.get(&to).cloned()
    }

    /// Who answers a node: what the ring would say.
    fn view(&self, from: NodeId) -> Vec<NodeId> {
        let all: Vec<NodeId> = self.0.lock().unwrap().members.keys().copied().collect();
        all.into_iter().filter(|node| self.reach(from, *node).is_some()).collect()
    }
}

#[derive(Debug, Clone)]
struct Port {
    from: NodeId,
    wires: Wires,
}

impl Port {
    async fn carry(self, to: NodeId, message: bytes::Bytes) -> Result<bytes::Bytes, TransportError> {
        let gone = || TransportError("gone".into());
        let Some((metadata, runtime)) = self.wires.reach(self.from, to) else {
            // Silence, not a refusal.
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(gone());
        };
        let answer = runtime.spawn(async move { metadata.message(message).await });
        let answer = answer.await.map_err(|_| gone())?.map_err(|error| TransportError(error.to_string()))?;
        // The answer may be lost, too.
        self.wires.reach(self.from, to).ok_or_else(gone)?;
        Ok(answer)
    }
}

#[derive(Debug)]
struct PortAppendStream(Port, NodeId);

impl AppendStream for PortAppendStream {
    fn ask<'a>(&'a mut self, message: bytes::Bytes) -> Delivery<'a> {
        Box::pin(self.0.clone().carry(self.1, message))
    }
}

impl Transport for Port {
    fn append_stream(&self, to: NodeId, _address: &str) -> Box<dyn AppendStream> {
        Box::new(PortAppendStream(self.clone(), to))
    }

    fn call<'a>(&'a self, to: NodeId, _address: &'a str, message: bytes::Bytes) -> Delivery<'a> {
        Box::pin(self.clone().carry(to, message))
    }

    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        message: bytes::Bytes,
        pieces: tokio::sync::mpsc::Receiver<bytes::Bytes>,
    ) -> Delivery<'a> {
        let port = self.clone();
        Box::pin(async move {
            let gone = || TransportError("gone".into());
            let (metadata, runtime) = port.wires.reach(port.from, to).ok_or_else(gone)?;
            let taken = runtime.spawn(async move { metadata.snapshot(message, pieces).await });
            taken.await.map_err(|_| gone())?.map_err(|error| TransportError(error.to_string()))
        })
    }
}

struct Peer {
    media: SimMedia,
    runtime: Runtime,
}

/// The cluster.
struct Cluster {
    wires: Wires,
    dirs: BTreeMap<NodeId, TempDir>,
    members: BTreeMap<NodeId, Peer>,
    options: MetadataOptions,
    /// The main thread's.
    runtime: Runtime,
}

fn options() -> MetadataOptions {
    let store = StoreOptions {
        commit_interval: Duration::from_millis(20),
        memtable_keys_max: 2000,
        memtable_bytes_max: 1 << 20,
        cache_bytes: 1 << 20,
    };
    // Debug builds of many nodes share few cores.
    let times =
        Times { heartbeat: Duration::from_millis(60), lease: Duration::from_millis(180), ..Times::default() };
    MetadataOptions {
        store,
        times,
        segment_bytes: 64 << 10,
        keep_bytes: 128 << 10,
        ..MetadataOptions::default()
    }
}

impl Cluster {
    /// A cluster of this many nodes, all voting.
    fn new(nodes: u32, options: MetadataOptions) -> Cluster {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut cluster = Cluster {
            wires: Wires::default(),
            dirs: (1..=nodes).map(|id| (NodeId(id), TempDir::new().unwrap())).collect(),
            members: BTreeMap::new(),
            options,
            runtime,
        };
        for id in 1..=nodes {
            cluster.start(NodeId(id));
        }
        let founder = cluster.metadata(NodeId(1)).unwrap();
        cluster.members[&NodeId(1)].runtime.block_on(founder.bootstrap()).unwrap();
        cluster.leader(Duration::from_secs(10));
        for request in setup() {
            cluster.runtime.block_on(founder.propose(request)).unwrap().unwrap();
        }
        for id in 4..=nodes {
            let node = rain_namespace::command::NodeSpec {
                address: format!("n{id}:1"),
                weight: 1,
                ..Default::default()
            };
            let command = rain_namespace::command::Command::RegisterNode { id: NodeId(id), node };
            let request = metadata_support::request(command);
            cluster.runtime.block_on(founder.propose(request)).unwrap().unwrap();
        }
        cluster.settle(nodes as usize);
        cluster
    }

    fn metadata(&self, id: NodeId) -> Option<Arc<MetadataService>> {
        self.wires.0.lock().unwrap().members.get(&id).map(|(metadata, _)| metadata.clone())
    }

    fn start(&mut self, id: NodeId) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let media = SimMedia::default();
        let member = Member { cluster: CLUSTER, node: id, address: format!("n{id}:1") };
        let port = Arc::new(Port { from: id, wires: self.wires.clone() });
        let opened = runtime.block_on(MetadataService::open_with(
            self.dirs[&id].path(),
            member,
            self.options.clone(),
            port,
            Arc::new(Namespace),
            Arc::new(media.clone()),
        ));
        let metadata = Arc::new(opened.unwrap_or_else(|error| panic!("node {id}: {error}")));
        let (wires, leader_lease) = (self.wires.clone(), Arc::downgrade(&metadata));
        runtime.spawn(async move {
            let mut election = Election::default();
            while let Some(metadata) = leader_lease.upgrade() {
                metadata.run_election(&mut election, Some(&wires.view(id))).await;
                drop(metadata);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let handle = runtime.handle().clone();
        self.wires.0.lock().unwrap().members.insert(id, (metadata, handle));
        self.members.insert(id, Peer { media, runtime });
    }

    /// The power goes: what was not synced is lost in part.
    fn lose_power(&mut self, id: NodeId, dice: &mut Dice) {
        let member = self.members.remove(&id).unwrap();
        member.media.switch_off();
        let metadata = self.wires.0.lock().unwrap().members.remove(&id);
        member.runtime.shutdown_timeout(Duration::from_secs(20));
        let (metadata, _) = metadata.unwrap();
        let begun = Instant::now();
        let mut metadata = metadata;
        // Messages under way hold it for a moment.
        let metadata = loop {
            match Arc::try_unwrap(metadata) {
                Ok(metadata) => break metadata,
                Err(held) => metadata = held,
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "somebody holds the metadata");
            std::thread::sleep(Duration::from_millis(2));
        };
        drop(metadata);
        member.media.lose_power(dice);
    }

    /// Who leads, once somebody does.
    fn leader(&self, within: Duration) -> NodeId {
        let begun = Instant::now();
        loop {
            for id in self.members.keys() {
                if self.metadata(*id).is_some_and(|metadata| metadata.is_confirmed()) {
                    return *id;
                }
            }
            assert!(begun.elapsed() < within, "nobody leads");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Until all nodes vote.
    fn settle(&self, voters: usize) {
        let begun = Instant::now();
        loop {
            let leader = self.metadata(self.leader(Duration::from_secs(20))).unwrap();
            let Ok(Answer::Nodes(nodes)) = leader.query(&Query::Nodes) else { panic!() };
            let losses = (voters as u8 - 1) / 2;
            let nobody = BTreeSet::new();
            let step = leader.settle_membership(&nodes, losses, &nobody);
            let stepped = self.runtime.block_on(step).unwrap_or(true);
            let votes = leader.leadership().borrow().voters.len();
            if !stepped && votes == voters {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{votes} vote");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn root(&self) -> Ino {
        let leader = self.metadata(self.leader(Duration::from_secs(10))).unwrap();
        match leader.query(&Query::Volume { name: "v".into() }) {
            Ok(Answer::Volumes(volumes)) => volumes[0].root,
            other => panic!("{other:?}"),
        }
    }

    /// Until all nodes have applied the same.
    fn agree(&self) {
        let begun = Instant::now();
        loop {
            let leader = self.metadata(self.leader(Duration::from_secs(20))).unwrap().applied_index();
            let all: BTreeSet<u64> =
                self.members.keys().map(|id| self.metadata(*id).unwrap().applied_index()).collect();
            if all.len() == 1 && all.contains(&leader) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "they do not agree: {all:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let states: Vec<_> =
            self.members.keys().map(|id| self.metadata(*id).unwrap().read(contents).unwrap()).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the stores differ");
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    name: u64,
    begun: Instant,
    ended: Instant,
    /// A make that was acknowledged, or a read; and whether it found the name.
    present: bool,
    made: bool,
}

/// Which reads were old, if any.
fn old_reads(history: &[Seen]) -> Vec<Seen> {
    let mut known: BTreeMap<u64, Instant> = BTreeMap::new();
    for seen in history.iter().filter(|seen| seen.present) {
        let first = known.entry(seen.name).or_insert(seen.ended);
        *first = seen.ended.min(*first);
    }
    let old = |seen: &&Seen| !seen.present && known.get(&seen.name).is_some_and(|known| seen.begun > *known);
    history.iter().filter(old).copied().collect()
}

/// Makes names and asks for them at whatever node says that it leads.
async fn client(
    wires: Wires,
    root: Ino,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    seed: u64,
) -> Vec<Seen> {
    let (mut history, mut dice) = (Vec::new(), Dice::new(seed));
    while !stop.load(Ordering::Relaxed) {
        let all: Vec<Arc<MetadataService>> =
            wires.0.lock().unwrap().members.values().map(|(metadata, _)| metadata.clone()).collect();
        let mut idle = true;
        for metadata in all {
            let begun = Instant::now();
            if dice.roll(3) == 0 {
                if !metadata.leadership().borrow().mine {
                    continue;
                }
                let name = next.fetch_add(1, Ordering::SeqCst);
                let made = metadata.propose(make(root, &format!("f{name}"))).await;
                if let Ok(outcome) = made {
                    assert!(matches!(outcome, Ok(Outcome::Attr(_)) | Err(NsError::Exists)), "{outcome:?}");
                    history.push(Seen { name, begun, ended: Instant::now(), present: true, made: true });
                    idle = false;
                }
            } else {
                let newest = next.load(Ordering::SeqCst);
                let name = newest.saturating_sub(1 + dice.roll(6));
                let query = Query::Lookup { parent: root, name: format!("f{name}").into_bytes() };
                match metadata.ask(&query).await {
                    Ok(found) => {
                        let present = found.is_ok();
                        history.push(Seen { name, begun, ended: Instant::now(), present, made: false });
                        idle = false;
                    }
                    Err(AskError::NotLeader | AskError::NoMajority) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if idle {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    history
}

fn some_fault(cluster: &mut Cluster, dice: &mut Dice) {
    let ids: Vec<NodeId> = cluster.dirs.keys().copied().collect();
    let leader = ids
        .iter()
        .copied()
        .find(|id| cluster.metadata(*id).is_some_and(|metadata| metadata.leadership().borrow().mine));
    match dice.roll(4) {
        // A partition, with the leader on either side.
        0 | 1 => {
            let side = ids.iter().map(|id| (*id, dice.roll(2) as u32)).collect();
            cluster.wires.0.lock().unwrap().side = side;
            std::thread::sleep(Duration::from_millis(100 + dice.roll(900)));
            cluster.wires.0.lock().unwrap().side.clear();
        }
        // The leader loses power, or somebody.
        _ => {
            let chosen = ids[dice.roll(ids.len() as u64) as usize];
            let victim = leader.filter(|_| dice.roll(2) == 0).unwrap_or(chosen);
            cluster.lose_power(victim, dice);
            std::thread::sleep(Duration::from_millis(dice.roll(700)));
            cluster.start(victim);
        }
    }
    std::thread::sleep(Duration::from_millis(dice.roll(500)));
}

#[test]
fn no_read_is_old_and_nothing_acknowledged_is_lost_whatever_fails() {
    let mut total = 0;
    for seed in seeds(3) {
        let mut dice = Dice::new(seed);
        let mut cluster = Cluster::new(if seed % 2 == 0 { 3 } else { 5 }, options());
        let root = cluster.root();
        let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let client =
                    client(cluster.wires.clone(), root, next.clone(), stop.clone(), seed * 10 + number);
                cluster.runtime.spawn(client)
            })
            .collect();
        for _ in 0..6 {
            some_fault(&mut cluster, &mut dice);
        }
        stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in clients {
            history.extend(cluster.runtime.block_on(client).unwrap());
        }
        let old = old_reads(&history);
        assert!(old.is_empty(), "seed {seed}: {} old reads, {:?}", old.len(), &old[..old.len().min(3)]);
        let root = cluster.root();
        let leader = cluster.metadata(cluster.leader(Duration::from_secs(20))).unwrap();
        for seen in history.iter().filter(|seen| seen.present) {
            let query = Query::Lookup { parent: root, name: format!("f{}", seen.name).into_bytes() };
            let found = cluster.runtime.block_on(leader.ask(&query)).unwrap();
            assert!(found.is_ok(), "seed {seed}: f{} is lost (made: {})", seen.name, seen.made);
        }
        drop(leader);
        cluster.agree();
        total += history.iter().filter(|seen| seen.made).count();
    }
    assert!(total > 200, "the test wants work to lose: {total}");
}

#[test]
fn the_checker_catches_an_old_read() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let seen =
        |name, begun, ended, present| Seen { name, begun: at(begun), ended: at(ended), present, made: false };
    let fine = [seen(1, 0, 5, false), seen(1, 1, 9, true), seen(1, 8, 12, false), seen(1, 13, 14, true)];
    assert!(old_reads(&fine).is_empty(), "those that overlap may be either");
    let old = [seen(1, 0, 5, true), seen(1, 6, 7, false)];
    assert_eq!(old_reads(&old).len(), 1);
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_old() {
    let cluster = Cluster::new(3, options());
    let root = cluster.root();
    let old = cluster.leader(Duration::from_secs(10));
    let cut_off = cluster.metadata(old).unwrap();
    cluster.wires.0.lock().unwrap().side.insert(old, 1);
    let query = Query::Lookup { parent: root, name: b"new".to_vec() };
    // The others make a name as soon as one of them leads; from then on the old leader must not say that it
    // is not there.
    let begun = Instant::now();
    let new = loop {
        let others = cluster.members.keys().filter(|id| **id != old);
        let leads = others.filter_map(|id| cluster.metadata(*id)).find(|metadata| metadata.is_confirmed());
        if let Some(leads) = leads {
            break leads;
        }
        // As long as nobody else leads it may answer, for as long as its lease goes.
        let _ = cluster.runtime.block_on(cut_off.ask(&query));
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody takes over");
    };
    cluster.runtime.block_on(new.propose(make(root, "new"))).unwrap().unwrap();
    assert!(cluster.runtime.block_on(cut_off.ask(&query)).is_err(), "an old answer");
    assert!(!cut_off.is_confirmed());
    assert!(cut_off.query(&query).is_err(), "what it has is old, and it says how old");
    assert!(cut_off.age() > Duration::from_millis(100));
    cluster.wires.0.lock().unwrap().side.clear();
    drop((cut_off, new));
    cluster.agree();
}

#[test]
fn a_node_that_lags_far_behind_takes_the_whole_namespace() {
    let short = MetadataOptions { segment_bytes: 16 << 10, keep_bytes: 32 << 10, ..options() };
    let mut cluster = Cluster::new(3, short);
    let root = cluster.root();
    let mut dice = Dice::new(1);
    let leader = cluster.leader(Duration::from_secs(10));
    let victim = cluster.members.keys().copied().find(|id| *id != leader).unwrap();
    cluster.lose_power(victim, &mut dice);
    let metadata = cluster.metadata(leader).unwrap();
    for round in 0..40 {
        let all = (0..60).map(|number| metadata.propose(make(root, &format!("r{round}-{number}"))));
        for made in cluster.runtime.block_on(futures::future::join_all(all)) {
            made.unwrap().unwrap();
        }
        std::thread::sleep(Duration::from_millis(25));
        cluster.runtime.block_on(metadata.compact()).unwrap();
    }
    let begun = Instant::now();
    while metadata.stats().log_first <= 20 {
        cluster.runtime.block_on(metadata.compact()).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the log is not made shorter: {:?}",
            metadata.stats()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(metadata);
    cluster.start(victim);
    cluster.agree();
    // And it goes on from there, through a power loss of its own.
    cluster.lose_power(victim, &mut dice);
    cluster.start(victim);
    cluster.agree();
}
