//! Feeds the ring with the facts of the rest of the daemon: the other nodes and their addresses, the eligible
//! nodes, this node's load.

use crate::addresses::Addresses;
use crate::config::{Config, DetectionWord, PathsWord};
use crate::metadata::{Member, MetadataService};
use crate::ring::load::{self, Cpu};
use crate::ring::{Ring, RingOptions};
use crate::share::ShareStore;
use crate::share_gate::ShareGate;
use rain_ring::paths::Strategy;
use rain_ring::{Detection, Eligible, Input, Settings};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Interval at which the namespace's list of nodes is read: short against the seconds that a join takes.
const FEED_EVERY: Duration = Duration::from_millis(100);

/// Returns the settings of a ring with `nodes` nodes and `links` addresses of each, as the configuration
/// asks.
fn settings(config: &Config, nodes: usize, links: usize) -> Settings {
    let default = Settings::for_nodes(nodes);
    // A pass tries every address at least twice before it fails; the time before starving grows with it.
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

/// Starts the ring of a node that knows its cluster. `is_founding`: the node has just begun the cluster.
/// Blocks on the disk.
pub(crate) fn start(
    config: &Config,
    own_address: &str,
    member: &Member,
    bound: SocketAddr,
    is_founding: bool,
) -> anyhow::Result<Ring> {
    let listen = if config.ring_listen.is_empty() { vec![bound] } else { config.ring_listen.clone() };
    Ring::start(RingOptions {
        node: member.node,
        cluster: member.cluster,
        file: config.data.join("ring-state"),
        settings: settings(config, 1, listen.len()),
        listen,
        advertise: config.ring_addresses(own_address),
        birth: is_founding.then(|| Eligible { version: 1, nodes: BTreeSet::from([member.node]) }),
    })
}

/// The parts whose facts the ring gets.
pub(crate) struct RingFeed {
    pub(crate) config: Arc<Config>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) metadata: Arc<MetadataService>,
    pub(crate) addresses: Arc<Addresses>,
    /// `None` on a witness.
    pub(crate) store: Option<Arc<ShareStore>>,
    pub(crate) gate: Arc<ShareGate>,
}

impl RingFeed {
    /// Runs as long as the node.
    pub(crate) async fn run(self) {
        let mut known: BTreeMap<NodeId, Vec<String>> = self.ring.known.clone();
        let (mut cpu, mut sampled) = (Cpu::default(), None::<tokio::time::Instant>);
        let mut count = 0;
        loop {
            self.follow_nodes(&mut known);
            self.ring.set_peers(resolve(&known).await, known.clone());
            if known.len() + 1 != count {
                count = known.len() + 1;
                let links = self.config.ring_listen.len().max(1);
                self.ring.tell(Input::Settings(settings(&self.config, count, links)));
            }
            if sampled.is_none_or(|at| at.elapsed() >= load::EVERY) {
                sampled = Some(tokio::time::Instant::now());
                let usage = self.store.as_ref().map(|store| store.usage());
                let (used, free) = usage.map_or((0, 1), |usage| (usage.used_bytes, usage.free_bytes));
                let under_way = self.gate.under_way();
                self.ring.set_load(load::index(
                    self.config.load_weights,
                    cpu.sample(),
                    under_way,
                    used,
                    free,
                ));
            }
            tokio::time::sleep(FEED_EVERY).await;
        }
    }

    /// Brings the addresses of the other nodes up to date; the leader also gives the ring the eligible nodes.
    fn follow_nodes(&self, known: &mut BTreeMap<NodeId, Vec<String>>) {
        // Read before the nodes: they are at least as new as this version.
        let version = self.metadata.applied_index();
        let records = self.metadata.nodes();
        if self.metadata.leadership().borrow().mine && !records.is_empty() {
            let nodes = records.iter().map(|record| record.id).collect();
            self.ring.tell(Input::Eligible(Eligible { version, nodes }));
        }
        let reached = || records.iter().filter(|record| !record.address.is_empty());
        self.addresses
            .record(reached().map(|record| (record.id, record.addresses().cloned().collect())).collect());
        if !records.is_empty() {
            known.retain(|node, _| reached().any(|record| record.id == *node));
        }
        for (node, address) in self.addresses.all() {
            known.entry(node).or_insert_with(|| vec![address.clone()])[0].clone_from(&address);
        }
        // A member's report of itself on the token is better than a record: it may have several addresses.
        let status = self.ring.status().borrow().clone();
        if let Some(view) = &status.view {
            for (member, report) in view.members.iter().zip(&status.reports) {
                if !report.about.addresses.is_empty() {
                    known.insert(member.node, report.about.addresses.clone());
                }
            }
        }
        known.remove(&self.metadata.member().node);
    }
}

/// Resolves the addresses of each node, in order. A node with an address that does not resolve is left out
/// until the next round.
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
