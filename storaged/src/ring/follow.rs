//! What the ring's node has to be told by the rest of the daemon: who the others are and where, who is eligible, how loaded
//! this node is.

use super::load::{self, Cpu};
use super::{Ring, RingOptions};
use crate::config::{Config, DetectionWord, PathsWord};
use crate::node::Shared;
use rain_ring::paths::Strategy;
use rain_ring::{Detection, Eligible, Input, Settings};
use rain_types::{ClusterId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How often the namespace's list of nodes is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The times of a ring of so many nodes, as this node was told to judge.
fn settings(config: &Config, nodes: usize, links: usize) -> Settings {
    let default = Settings::for_nodes(nodes);
    // Every address at least twice before a pass has failed; the time before starving grows with it.
    let pass_tries = default.pass_tries.max(2 * links as u32);
    let more = default.ack_timeout * (pass_tries - default.pass_tries);
    Settings {
        detection: match config.detection {
            DetectionWord::Aggressive => Detection::Aggressive,
            DetectionWord::Conservative => Detection::Conservative,
        },
        strategy: match config.ring_paths {
            PathsWord::Sequence => Strategy::Sequence,
            PathsWord::Parallel => Strategy::Parallel,
        },
        pass_tries,
        starving_after: default.starving_after + more,
        ..default
    }
}

/// Starts the ring of a node that knows its cluster; `birth`: it has just begun it. Blocks on the disk.
pub(crate) fn start(
    shared: &Shared,
    cluster: ClusterId,
    node: NodeId,
    bound: SocketAddr,
    birth: bool,
) -> anyhow::Result<Ring> {
    let config = &shared.config;
    let listen = if config.ring_listen.is_empty() { vec![bound] } else { config.ring_listen.clone() };
    let advertise = config.ring_addresses(&shared.spec.address);
    Ring::start(RingOptions {
        node,
        cluster,
        file: config.data.join("ring-state"),
        settings: settings(config, 1, listen.len()),
        listen,
        advertise,
        birth: birth.then(|| Eligible { version: 1, nodes: BTreeSet::from([node]) }),
    })
}

/// Keeps the ring told. Ends with the node.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (Some(ring), Some(metadata)) = (shared.ring(), shared.metadata()) else { return };
    let leadership = metadata.leadership();
    let mut known: BTreeMap<NodeId, Vec<String>> = ring.known.clone();
    let (mut cpu, mut sampled) = (Cpu::default(), None::<tokio::time::Instant>);
    let mut count = 0;
    loop {
        // Read before the nodes: they are at least so new.
        let version = metadata.applied_index();
        let records = shared.nodes();
        if leadership.borrow().mine && !records.is_empty() {
            let nodes = records.iter().map(|record| record.id).collect();
            ring.tell(Input::Eligible(Eligible { version, nodes }));
        }
        let reached = || records.iter().filter(|record| !record.address.is_empty());
        shared
            .addresses
            .record(reached().map(|record| (record.id, record.addresses().cloned().collect())).collect());
        if !records.is_empty() {
            known.retain(|node, _| reached().any(|record| record.id == *node));
        }
        for (node, address) in shared.addresses.all() {
            known.entry(node).or_insert_with(|| vec![address.clone()])[0].clone_from(&address);
        }
        // What a member says of itself is better: it may have several addresses.
        let status = ring.status().borrow().clone();
        if let Some(view) = &status.view {
            for (member, report) in view.members.iter().zip(&status.reports) {
                if !report.about.addresses.is_empty() {
                    known.insert(member.node, report.about.addresses.clone());
                }
            }
        }
        known.remove(&metadata.member().node);
        ring.set_peers(resolve(&known).await, known.clone());
        if known.len() + 1 != count {
            count = known.len() + 1;
            let links = shared.config.ring_listen.len().max(1);
            ring.tell(Input::Settings(settings(&shared.config, count, links)));
        }
        if sampled.is_none_or(|at| at.elapsed() >= load::EVERY) {
            sampled = Some(tokio::time::Instant::now());
            let usage = shared.store.as_ref().map(|store| store.usage());
            let (used, free) = usage.map_or((0, 1), |usage| (usage.used_bytes, usage.free_bytes));
            let under_way = shared.requests.load(Relaxed);
            ring.set_load(load::index(shared.config.load_weights, cpu.sample(), under_way, used, free));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The addresses of each node, in order; a node with one that cannot be resolved is left out for now.
async fn resolve(known: &BTreeMap<NodeId, Vec<String>>) -> BTreeMap<NodeId, Vec<SocketAddr>> {
    let mut resolved = BTreeMap::new();
    for (node, texts) in known {
        let mut addresses = Vec::new();
        for text in texts {
            let found = match text.parse() {
                Ok(address) => Some(address),
                Err(_) => tokio::net::lookup_host(text).await.ok().and_then(|mut found| found.next()),
            };
            addresses.extend(found);
        }
        if addresses.len() == texts.len() {
            resolved.insert(*node, addresses);
        }
    }
    resolved
}
