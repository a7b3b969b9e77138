//! What the ring's node has to be told by the rest of the daemon: who the others are and where, who is eligible, how loaded
//! this node is.

use super::load::{self, Cpu};
use super::{Ring, RingOptions};
use crate::config::{Config, DetectionWord, PathsWord};
use crate::node::Shared;
use anyhow::Context;
use rain_client::grpc_endpoint;
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::NodeRecord;
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_ring::paths::Strategy;
use rain_ring::{Detection, Eligible, Input, Settings};
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The keeper looks at its own record so often, the others ask it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Starts the ring of a node that knows its cluster. Blocks on the disk.
pub(crate) fn start(
    shared: &Shared,
    cluster: ClusterId,
    bound: SocketAddr,
    advertise: &str,
) -> anyhow::Result<Ring> {
    let config = &shared.config;
    let listen = if config.ring_listen.is_empty() { vec![bound] } else { config.ring_listen.clone() };
    let advertise = match (&config.ring_advertise[..], &config.ring_listen[..]) {
        ([], []) => vec![advertise.to_owned()],
        ([], listen) => listen.iter().map(SocketAddr::to_string).collect(),
        (given, _) => given.to_vec(),
    };
    let birth = match &shared.keeper {
        Some(keeper) => {
            let version = keeper.applied_index().max(1);
            let nodes = records(keeper.query(&Query::Nodes))?.iter().map(|record| record.id).collect();
            Some(Eligible { version, nodes })
        }
        None => None,
    };
    Ring::start(RingOptions {
        node: config.node_id,
        cluster,
        file: config.data.join("ring-state"),
        settings: settings(config, 1, listen.len()),
        listen,
        advertise,
        birth,
    })
}

fn records(answered: Answered) -> anyhow::Result<Vec<NodeRecord>> {
    match answered.context("asking for the nodes")? {
        Answer::Nodes(nodes) => Ok(nodes),
        _ => anyhow::bail!("the namespace answers something else than nodes"),
    }
}

async fn ask_keeper(shared: &Shared) -> anyhow::Result<Vec<NodeRecord>> {
    let (_, address) = shared.keeper_place().context("nobody knows yet who keeps the namespace")?;
    let mut client = NamespaceClient::new(grpc_endpoint(&address)?.connect_lazy());
    let request = v1::QueryRequest { query: wire::encode(&Query::Nodes).into() };
    let answer = tokio::time::timeout(ASK_TIMEOUT, client.query(request)).await??;
    records(wire::decode(&answer.get_ref().answered)?)
}

/// Keeps the ring told. Ends with the node.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(ring) = shared.ring() else { return };
    let mut known: BTreeMap<NodeId, Vec<String>> = ring.known.clone();
    let mut records: Vec<NodeRecord> = Vec::new();
    let (mut cpu, mut sampled) = (Cpu::default(), None::<tokio::time::Instant>);
    let mut asked = None::<tokio::time::Instant>;
    let mut count = 0;
    loop {
        if let Some(keeper) = &shared.keeper {
            let version = keeper.applied_index();
            if let Ok(found) = self::records(keeper.query(&Query::Nodes)) {
                let nodes = found.iter().map(|record| record.id).collect();
                ring.tell(Input::Eligible(Eligible { version, nodes }));
                records = found;
            }
        } else if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            asked = Some(tokio::time::Instant::now());
            match ask_keeper(&shared).await {
                Ok(found) => records = found,
                Err(error) => tracing::debug!(%error, "who the other nodes are"),
            }
        }
        for record in &records {
            known.entry(record.id).or_insert_with(|| vec![record.address.clone()])[0]
                .clone_from(&record.address);
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
        known.remove(&shared.config.node_id);
        ring.set_peers(resolve(&known).await, known.clone());
        if known.len() + 1 != count {
            count = known.len() + 1;
            let links = shared.config.ring_listen.len().max(1);
            ring.tell(Input::Settings(settings(&shared.config, count, links)));
        }
        if sampled.is_none_or(|at| at.elapsed() >= load::EVERY) {
            sampled = Some(tokio::time::Instant::now());
            let usage = shared.store.usage();
            let under_way = shared.requests.load(Relaxed);
            let weights = shared.config.load_weights;
            ring.set_load(load::index(weights, cpu.sample(), under_way, usage.used_bytes, usage.free_bytes));
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
