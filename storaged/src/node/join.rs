//! From the start to a member that is ready: find the cluster, open the metadata service and the ring, start
//! the loops and the workers, register, announce.

use super::parts::Parts;
use super::upkeep;
use crate::bootstrap::{self, Started};
use crate::identity::Identity;
use crate::joined::Joined;
use crate::metadata::{Member, MetadataOptions, MetadataService, ProposeError};
use crate::ring::Ring;
use crate::ring_feed::{self, RingFeed};
use crate::transport::GrpcTransport;
use crate::worker::Workers;
use anyhow::{Context, bail};
use rain_client::grpc_endpoint;
use rain_namespace::command::{Applied, Command, NodeSpec, Request};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_types::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two tries to register.
const REGISTER_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Time for the leader's answer to a proposal of this node.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(3);

/// A node announces that it is ready without a place in the ring after this time.
const RING_WITHIN: Duration = Duration::from_secs(5);

/// Joins the cluster, starts all loops, and calls `ready`. Waits as long as that takes; fails when the node
/// cannot go on.
pub(super) async fn join(
    parts: Arc<Parts>,
    mut identity: Identity,
    bound: SocketAddr,
    ready: impl FnOnce(NodeId, SocketAddr) + Send,
) -> anyhow::Result<()> {
    let started =
        Started { spec: parts.spec.clone(), wish: parts.config.node_id, peers: parts.config.peers.clone() };
    let (cluster, node) = bootstrap::find_cluster(&started, &mut identity).await?;
    parts.joined.set_member(cluster, node);
    let member = Member { cluster, node, address: parts.spec.address.clone() };
    let metadata = open_metadata(&parts, member, identity.is_founding()).await?;
    let ring = start_ring(&parts, bound, identity.is_founding()).await?;
    start_loops(&parts, &metadata, &ring, &started);
    if identity.is_founding() {
        register_peers(&parts, &started).await?;
        identity.founded()?;
    }
    register(&parts).await?;
    wait_for_ring(&ring).await;
    ready(node, bound);
    Ok(())
}

async fn open_metadata(
    parts: &Parts,
    member: Member,
    is_founding: bool,
) -> anyhow::Result<Arc<MetadataService>> {
    let transport = Arc::new(Arc::new(GrpcTransport::new(parts.addresses.clone())));
    let dir = parts.config.data.join("namespace");
    let opened = MetadataService::open(&dir, member, MetadataOptions::default(), transport).await;
    let metadata = Arc::new(opened.context("opening the namespace")?);
    parts.joined.set_metadata(metadata.clone());
    if is_founding {
        metadata.bootstrap().await.context("beginning the namespace")?;
    }
    Ok(metadata)
}

async fn start_ring(parts: &Parts, bound: SocketAddr, is_founding: bool) -> anyhow::Result<Arc<Ring>> {
    let (config, own_address) = (parts.config.clone(), parts.spec.address.clone());
    let member = parts.joined.metadata().context("no metadata service")?.member().clone();
    let starting = tokio::task::spawn_blocking(move || {
        ring_feed::start(&config, &own_address, &member, bound, is_founding)
    });
    let ring = Arc::new(starting.await.context("starting the ring")?.context("the token ring")?);
    parts.joined.set_ring(ring.clone());
    Ok(ring)
}

fn start_loops(parts: &Parts, metadata: &Arc<MetadataService>, ring: &Arc<Ring>, started: &Started) {
    let feed = RingFeed {
        config: parts.config.clone(),
        ring: ring.clone(),
        metadata: metadata.clone(),
        addresses: parts.addresses.clone(),
        store: parts.store.clone(),
        gate: parts.gate.clone(),
    };
    tokio::spawn(feed.run());
    tokio::spawn(upkeep::ask_peers(parts.addresses.clone(), metadata.clone(), started.clone()));
    tokio::spawn(upkeep::elect(ring.clone(), metadata.clone()));
    tokio::spawn(upkeep::compact(metadata.clone()));
    let workers = Workers {
        metadata: metadata.clone(),
        ring: ring.clone(),
        sessions: parts.sessions.clone(),
        open_files: parts.open_files.clone(),
        counters: parts.counters.clone(),
        own_client: parts.own_client.clone(),
    };
    tokio::spawn(workers.run());
}

/// Registers all nodes that the cluster begins with, in the order of their numbers.
async fn register_peers(parts: &Parts, started: &Started) -> anyhow::Result<()> {
    let heard = bootstrap::describe_all(started).await;
    let mut wishes: std::collections::BTreeMap<String, u32> =
        heard.iter().map(|(peer, other)| (peer.clone(), other.wish)).collect();
    wishes.insert(parts.spec.address.clone(), parts.config.node_id.map_or(0, |wish| wish.0));
    let numbers = bootstrap::numbers(&started.peers, &wishes);
    let mut nodes: Vec<(NodeId, NodeSpec)> = Vec::new();
    for (peer, number) in numbers {
        if peer == parts.spec.address {
            nodes.push((number, parts.spec.clone()));
        } else if let Some(other) = heard.get(&peer) {
            let (address, domain, folder) = (peer, other.domain.clone(), other.folder.clone());
            let (weight, witness, others) = (other.weight, other.witness, other.others.clone());
            let spec = NodeSpec { address, domain, weight, witness, folder, others };
            nodes.push((number, spec));
        }
        // A node that has gone away since is added by hand, as any other.
    }
    nodes.sort_by_key(|(number, _)| *number);
    for (id, node) in nodes {
        propose_until_applied(&parts.joined, Command::RegisterNode { id, node }).await?;
    }
    Ok(())
}

/// Waits until this node is in a primary ring, so that nobody takes it for a node that is gone. Gives up
/// after [`RING_WITHIN`], because most of a node's work needs no ring.
async fn wait_for_ring(ring: &Ring) {
    let mut status = ring.status();
    let there =
        status.wait_for(|status| status.in_a_ring() && status.view.as_ref().is_some_and(|view| view.primary));
    if tokio::time::timeout(RING_WITHIN, there).await.is_err() {
        tracing::warn!("in no ring with a majority after {RING_WITHIN:?}; going on without it");
    }
}

/// Registers this node's description, unless the namespace has it.
async fn register(parts: &Parts) -> anyhow::Result<()> {
    let id = parts.joined.node().context("this node has no number")?;
    let recorded = parts.joined.nodes().into_iter().find(|recorded| recorded.id == id);
    let spec = &parts.spec;
    let same = recorded.is_some_and(|recorded| {
        (
            &recorded.address,
            &recorded.others,
            &recorded.domain,
            recorded.weight,
            recorded.witness,
            &recorded.folder,
        ) == (&spec.address, &spec.others, &spec.domain, spec.weight, spec.witness, &spec.folder)
    });
    if same {
        return Ok(());
    }
    propose_until_applied(&parts.joined, Command::RegisterNode { id, node: spec.clone() }).await
}

/// Proposes a command until it is applied, however long it takes to find a leader. Fails when the namespace
/// refuses it.
async fn propose_until_applied(joined: &Joined, command: Command) -> anyhow::Result<()> {
    let request = Request::internal(command);
    let mut said = String::new();
    loop {
        match propose(joined, &request).await {
            Ok(applied) => {
                applied.context("the cluster refuses this node")?;
                return Ok(());
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != said {
                    tracing::info!("registering this node with the cluster: {text}; trying again");
                    said = text;
                }
            }
        }
        tokio::time::sleep(REGISTER_AGAIN_AFTER).await;
    }
}

/// Proposes a request to this node's metadata service, or to the leader if another node leads.
async fn propose(joined: &Joined, request: &Request) -> anyhow::Result<Applied> {
    let metadata = joined.metadata().context("the namespace is not open here")?;
    match metadata.propose(request.clone()).await {
        Ok(applied) => return Ok(applied),
        Err(ProposeError::NotLeader) => {}
        Err(error) => return Err(error.into()),
    }
    let leader = joined.leader().context("the namespace has no leader yet")?;
    if Some(leader.node) == joined.node().map(|node| node.0) {
        bail!("this node is just becoming the leader");
    }
    let mut client = NamespaceClient::new(grpc_endpoint(&leader.address)?.connect_lazy());
    let message = v1::ProposeRequest { requests: vec![wire::encode(request).into()] };
    let asked = tokio::time::timeout(REGISTER_TIMEOUT, client.propose(message)).await;
    let answer = asked.with_context(|| format!("{} does not answer", leader.address))?;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}: {}", leader.address, status.message()))?;
    let applied = answer.get_ref().applied.first().context("the leader's answer is empty")?;
    wire::decode(applied).context("decoding the leader's answer")
}
