//! The namespace under Raft, simulated by seed.
//!
//! The nodes run the daemon's own metadata service: consensus, log, store, proposer, and reads under a leader
//! lease. All of them run on one thread, in virtual time. Their disks lose what was not synced. Their network
//! delays messages, loses them, and is cut.
//!
//! Two rules must hold:
//! - One order of the operations explains every reply that the four clients got (names, a value, a lock).
//! - At the end all nodes have the same state, and the namespace's check finds nothing wrong with it.
//!
//! The seed decides a run: the same seed gives the same replies at the same moments
//! ([`NamespaceRun::fingerprint`]). This takes a seed for tokio's own random choices too, which needs
//! `--cfg tokio_unstable`; `cargo xtask sim namespace` sets it.

mod client;
mod cluster;
mod network;

pub use cluster::NamespaceRun;

use crate::history::linearize;
use crate::model::{LockModel, NamesModel, Part, ValueModel};
use anyhow::{Context, bail, ensure};
use client::{Client, make, send};
use cluster::{START, SimCluster};
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

/// Clients that work at the same time: enough for contention on every name, and few enough to search all
/// orders.
const CLIENTS: u32 = 4;

/// Runs the simulation with a seed.
///
/// Fails when a rule of this module does not hold, or when the cluster makes no progress although nothing
/// fails.
pub fn run(seed: u64) -> anyhow::Result<NamespaceRun> {
    run_on(seed, false)
}

/// Runs the simulation on disks that report the log as durable too early.
///
/// Many such runs must fail; otherwise the simulation would not notice a lost write.
pub fn run_on_lying_disks(seed: u64) -> anyhow::Result<NamespaceRun> {
    run_on(seed, true)
}

fn run_on(seed: u64, lying: bool) -> anyhow::Result<NamespaceRun> {
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

/// Returns the time until another node leads after the leader's disk has hung in the middle of a write.
///
/// Fails when no other node leads within 60 s, or when the new leader does not accept changes.
pub fn leaders_disk_hangs(seed: u64) -> anyhow::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let mut cluster = SimCluster::new(seed).await?;
        let old = cluster.leader().await?;
        cluster.nodes[&old].disk.set_delay(600_000..600_001);
        let metadata = cluster.network.metadata(old).context("the leader")?;
        let command = Command::OpenSession { label: "waits".into(), caches: false };
        let request = Request::internal(command);
        let proposing = tokio::spawn(async move { metadata.propose(request).await });
        let begun = Instant::now();
        while !cluster
            .network
            .all()
            .iter()
            .any(|metadata| metadata.member().node != old && metadata.is_confirmed())
        {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "no other node leads after 60 s: {}",
                cluster.beliefs()
            );
            sleep(Duration::from_millis(10)).await;
        }
        let took = begun.elapsed();
        let mut rng = cluster.rng.fork();
        let again = Request::internal(Command::OpenSession { label: "on".into(), caches: false });
        ensure!(
            send(&cluster.network, &mut rng, again).await.is_some_and(|applied| applied.is_ok()),
            "the new leader accepts no change"
        );
        proposing.abort();
        Ok(took)
    })
}

async fn simulate(seed: u64, lying: bool) -> anyhow::Result<NamespaceRun> {
    let start = Instant::now();
    START.with(|began| began.set(Some(start)));
    let mut cluster = SimCluster::new(seed).await?;
    let internal = Request::internal;
    let mut rng = cluster.rng.fork();
    let volume = cluster.network.metadata(cluster.leader().await?).context("the leader")?;
    let Ok(Answer::Volumes(volumes)) = volume.query(&Query::Volume { name: "v".into() }) else {
        bail!("the volume does not exist")
    };
    drop(volume);
    let root = volumes[0].root;
    let mut inos = Vec::new();
    for (name, kind) in [("dir", FileKind::Directory), ("value", FileKind::File), ("lock", FileKind::File)] {
        let made = send(&cluster.network, &mut rng, internal(make(root, name.into(), kind))).await;
        let Some(Ok(Outcome::Attr(attr))) = made else { bail!("{name} was not created: {made:?}") };
        inos.push(attr.ino);
    }
    let stop = Rc::new(Cell::new(false));
    let mut working = Vec::new();
    for number in 0..CLIENTS {
        let opened = send(
            &cluster.network,
            &mut rng,
            internal(Command::OpenSession { label: "sim".into(), caches: false }),
        )
        .await;
        let Some(Ok(Outcome::Session(session))) = opened else { bail!("no session was opened: {opened:?}") };
        let client = Client {
            number,
            rng: cluster.rng.fork(),
            network: cluster.network.clone(),
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
        cluster.nodes.values().for_each(|node| node.disk.lie(Path::new("log")));
    }
    for _ in 0..cluster.rng.u32(2..7) {
        cluster.some_fault().await?;
    }
    stop.set(true);
    let mut history = Vec::new();
    for client in working {
        history.extend(client.await?);
    }
    cluster.settle().await?;
    let digest = cluster.agree().await?;
    for part in [Part::Names, Part::Value, Part::Lock] {
        let events: Vec<_> = history.iter().filter(|event| event.op.part() == part).cloned().collect();
        let checked = match part {
            Part::Names => linearize(NamesModel::default(), &events),
            Part::Value => linearize(ValueModel::default(), &events),
            Part::Lock => linearize(LockModel::default(), &events),
            _ => continue,
        };
        if let Err(violation) = checked {
            bail!("{part:?}: {violation}");
        }
    }
    let mut hasher = DefaultHasher::new();
    for event in &history {
        (event.client, &event.op, &event.reply, event.begun, event.ended).hash(&mut hasher);
    }
    digest.hash(&mut hasher);
    let mut run = cluster.run.clone();
    run.done = history.iter().filter(|event| event.reply.is_some()).count();
    run.time = start.elapsed();
    run.fingerprint = hasher.finish();
    Ok(run)
}
