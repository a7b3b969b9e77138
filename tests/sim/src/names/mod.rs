//! The namespace under Raft, simulated by seed: the daemon's own keepers (consensus, log, store, proposer, reads under a lease) on one
//! thread, in virtual time, on disks that lose what was not synced, over wires that delay, lose and are cut.
//!
//! What must hold: every reply that four clients got has an order that explains it (names, a value, a lock); at the end all nodes have
//! the same, and it is sound.
//!
//! A run is decided by its seed: the same seed gives the same replies at the same moments ([`Run::print`]), as long as tokio's own
//! dice are seeded, too (`--cfg tokio_unstable`, which `cargo xtask sim namespace` sets).

mod client;
mod cluster;
mod wires;

pub use cluster::Run;

use crate::history::linearize;
use crate::model::{Mutex as LockModel, Names, Part, Register};
use anyhow::{Context, bail, ensure};
use client::{Client, make, send};
use cluster::{START, World};
use rain_namespace::command::{Command, Outcome, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::FileKind;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const CLIENTS: u32 = 4;

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
