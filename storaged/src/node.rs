//! A node's life: take the folder, open the stores, serve, find a place in a cluster, work, stop.
//!
//! Stopping (SIGTERM, SIGINT, the end of standard input where that was asked for) first says so to health
//! checks, lets requests under way finish for a bounded time, then closes the stores cleanly. A node that is
//! killed instead loses nothing: the stores are made for that.

use crate::bootstrap::{self, Started};
use crate::config::Config;
use crate::identity::Identity;
use crate::metadata::raft::election::Election;
use crate::metadata::{Member, MetadataOptions, MetadataService, ProposeError};
use crate::ring::{self, Ring};
use crate::service::files::StoreService;
use crate::service::namespace::{Leases, NamespaceService};
use crate::service::node::NodeService;
use crate::service::raft::RaftService;
use crate::service::shares::SharesService;
use crate::share::{ShareStore, StoreOptions};
use crate::transport::{Addresses, GrpcTransport};
use crate::worker::unlinked_files::Reports;
use crate::worker::{self, WorkerCounters};
use anyhow::{Context, bail};
use parking_lot::Mutex;
use rain_client::{Client, Error, Options, Volume, grpc_endpoint};
use rain_namespace::command::{Applied, Command, NodeSpec, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::NodeRecord;
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_proto::v1::namespace_server::NamespaceServer;
use rain_proto::v1::node_server::NodeServer;
use rain_proto::v1::raft_server::RaftServer;
use rain_proto::v1::shares_server::SharesServer;
use rain_proto::v1::store_server::StoreServer;
use rain_ring::View;
use rain_types::{ClusterId, NodeId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Server;

/// Requests under way may take so long to finish once the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// And the end of this node's own session, with what it has not stored yet.
const OWN_SESSION: Duration = Duration::from_secs(1);

/// Between two tries to join.
const JOIN_EVERY: Duration = Duration::from_millis(100);

/// A proposal of this node to the leader.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(3);

/// The ring is told so long that this node leaves.
const FAREWELL: Duration = Duration::from_millis(300);

/// A node says that it is ready without a place in the ring after this.
const RING_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether the namespace has a leader.
const CAMPAIGN_EVERY: Duration = Duration::from_millis(15);

/// Without word of a leader for so long the peers are asked where they are, and so often.
const HEAR_AFTER: Duration = Duration::from_millis(400);
const HEAR_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether the namespace's log can be made shorter.
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// Memory for data of `Store` calls that is not stored yet, and for blocks read for them.
const OWN_CLIENT_DIRTY: u64 = 48 << 20;
const OWN_CLIENT_CACHE: u64 = 24 << 20;

/// What a node's services and workers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// What this node says of itself.
    pub(crate) spec: NodeSpec,
    /// None: a witness.
    pub(crate) store: Option<Arc<ShareStore>>,
    pub(crate) shares_on: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) repair: Arc<WorkerCounters>,
    pub(crate) moves: Arc<WorkerCounters>,
    pub(crate) reclaim: Arc<WorkerCounters>,
    /// What the sessions have open.
    pub(crate) reports: Arc<Reports>,
    /// Requests for shares under way.
    pub(crate) requests: AtomicU64,
    /// True once this node stops: streams end then.
    pub(crate) stopping: watch::Sender<bool>,
    /// Where the nodes are.
    pub(crate) addresses: Arc<Addresses>,
    metadata: OnceLock<Arc<MetadataService>>,
    ring: OnceLock<Ring>,
    member: OnceLock<(ClusterId, NodeId)>,
    /// Where this node itself listens: its own client begins there.
    own_address: String,
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    volumes: Mutex<HashMap<String, Arc<Volume>>>,
}

impl Shared {
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.member.get().map(|(cluster, _)| *cluster)
    }

    /// This node's number, once it has one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.member.get().map(|(_, node)| *node)
    }

    /// The token ring, once this node knows its cluster.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.ring.get()
    }

    /// The namespace here, once this node knows its cluster.
    pub(crate) fn metadata(&self) -> Option<&Arc<MetadataService>> {
        self.metadata.get()
    }

    pub(crate) fn metadata_or_status(&self) -> Result<&Arc<MetadataService>, Status> {
        self.metadata().ok_or_else(|| Status::failed_precondition("this node is not in a cluster yet"))
    }

    /// Who leads the namespace and where, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<v1::Leader> {
        let metadata = self.metadata()?;
        let leadership = metadata.leadership();
        let leadership = leadership.borrow();
        let leader = leadership.leader?;
        if leadership.mine && !metadata.is_confirmed() {
            // It may have been replaced without having heard of it.
            return None;
        }
        let address = if leadership.mine {
            self.spec.address.clone()
        } else {
            self.addresses.get(leader).unwrap_or_else(|| leadership.address.clone())
        };
        let cluster = metadata.member().cluster.to_string();
        Some(v1::Leader { term: leadership.term, node: leader.0, address, cluster })
    }

    /// The eligible nodes, as far as this node knows.
    pub(crate) fn nodes(&self) -> Vec<NodeRecord> {
        match self.metadata().map(|metadata| metadata.query(&Query::Nodes)) {
            Some(Ok(Answer::Nodes(nodes))) => nodes,
            _ => Vec::new(),
        }
    }

    /// This node's own client of the cluster, connected when it is first needed.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let options = Options {
            label: format!("node {}, for itself", self.node().unwrap_or_default()),
            dirty_bytes_max: OWN_CLIENT_DIRTY,
            cache_bytes_max: OWN_CLIENT_CACHE,
            ..Options::default()
        };
        let connected = Client::connect(std::slice::from_ref(&self.own_address), options).await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// A volume, for the `Store` service.
    pub(crate) async fn volume(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let known = self.volumes.lock().get(name).cloned();
        if let Some(volume) = known {
            return Ok(volume);
        }
        let volume = self.client().await?.volume(name).await?;
        let mut volumes = self.volumes.lock();
        volumes.insert(name.to_owned(), volume.clone());
        Ok(volume)
    }
}

/// Runs a node until it is told to stop. `ready` is called with its number and address once it serves and has joined.
pub async fn run(
    config: Config,
    ready: impl FnOnce(NodeId, SocketAddr) + Send + 'static,
) -> anyhow::Result<()> {
    let identity = Identity::take(&config.data, config.node_id, config.witness)?;
    let mut listeners = vec![listen(config.listen, "listen").await?];
    let bound = listeners[0].local_addr().context("asking for the bound address")?;
    for other in config.ring_listen.iter().skip(1) {
        // One that hears all of this machine's addresses hears this one.
        if !(bound.ip().is_unspecified() && bound.port() == other.port()) {
            listeners.push(listen(*other, "ring-listen").await?);
        }
    }
    if !bound.ip().is_loopback() && !config.insecure {
        tracing::warn!(
            "nothing is encrypted or authenticated yet: whoever reaches {bound} can read and change everything. Use a trusted \
             network (--insecure says that it is one)"
        );
    }
    let address = config.advertise.clone().unwrap_or_else(|| bound.to_string());
    let spec = NodeSpec {
        // Over its other networks it is reached where the ring is.
        others: config.ring_addresses(&address).into_iter().skip(1).collect(),
        address,
        domain: config.domain.clone(),
        weight: config.weight,
        witness: config.witness,
        folder: identity.folder().to_owned(),
    };
    let store = if config.witness { None } else { Some(Arc::new(open_store(&config).await?)) };
    // An address that means all of this machine's is reached as the machine itself.
    let own_ip = if bound.ip().is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
    let shared = Arc::new(Shared {
        spec,
        store,
        shares_on: AtomicBool::new(true),
        started: Instant::now(),
        repair: Arc::default(),
        moves: Arc::default(),
        reclaim: Arc::default(),
        reports: Arc::default(),
        requests: AtomicU64::new(0),
        stopping: watch::Sender::new(false),
        addresses: Arc::default(),
        metadata: OnceLock::new(),
        ring: OnceLock::new(),
        member: OnceLock::new(),
        own_address: SocketAddr::new(own_ip, bound.port()).to_string(),
        client: tokio::sync::Mutex::default(),
        volumes: Mutex::default(),
        config,
    });
    let leases = Arc::new(Leases::new(shared.config.session_ttl));
    let serving = tokio::spawn(serve(listeners, shared.clone(), leases.clone()));
    let (fail, mut failed) = mpsc::channel(1);
    let life = live(shared.clone(), leases, identity, bound, ready);
    let work = tokio::spawn(async move {
        if let Err(error) = life.await {
            let _ = fail.send(error).await;
        }
        // Its end is no failure; who listens must not think so.
        std::future::pending::<()>().await;
    });
    let failed = tokio::select! {
        () = wait_for_stop(shared.config.exit_with_parent) => None,
        failed = failed.recv() => failed,
    };
    tracing::info!("stopping");
    work.abort();
    let client = shared.client.lock().await.take();
    if let Some(client) = client
        && tokio::time::timeout(OWN_SESSION, client.close()).await.is_err()
    {
        tracing::warn!("this node's own session was not ended in time; its lease will end it");
    }
    if let Some(metadata) = shared.metadata() {
        metadata.retire().await;
    }
    if let Some(ring) = shared.ring() {
        ring.leave(FAREWELL).await;
    }
    shared.stopping.send_replace(true);
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(Ok(served)) => served.context("serving")?,
        Ok(Err(error)) => tracing::error!(%error, "the server ended badly"),
        Err(_) => tracing::warn!("some requests did not end within {DRAIN:?}"),
    }
    if let Some(metadata) = shared.metadata() {
        metadata.close().await;
    }
    let closing =
        tokio::task::spawn_blocking(move || shared.store.as_ref().map_or(Ok(()), |store| store.shut_down()));
    closing.await.context("closing the stores")?.context("closing the share store")?;
    tracing::info!("stopped");
    failed.map_or(Ok(()), Err)
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program using the port? Choose another --{flag}")
    })
}

async fn open_store(config: &Config) -> anyhow::Result<ShareStore> {
    let data = config.data.clone();
    let options = StoreOptions { capacity_bytes: config.capacity, ..StoreOptions::default() };
    let opening = tokio::task::spawn_blocking(move || {
        ShareStore::open(&data.join("shares"), options).context("opening the share store")
    });
    opening.await.context("opening the stores")?
}

async fn serve(listeners: Vec<TcpListener>, shared: Arc<Shared>, leases: Arc<Leases>) -> anyhow::Result<()> {
    let mut stopped = shared.stopping.subscribe();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SharesServer<SharesService>>().await;
    health.set_serving::<StoreServer<StoreService>>().await;
    health.set_serving::<NamespaceServer<NamespaceService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rain_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("preparing reflection")?;
    let namespace = NamespaceService { shared: shared.clone(), leases };
    let members = RaftServer::new(RaftService { shared: shared.clone() });
    let max = rain_proto::MESSAGE_BYTES_MAX;
    let shares = SharesServer::new(SharesService::new(shared.clone()));
    let files = StoreServer::new(StoreService { shared: shared.clone(), puts: AtomicU64::new(0) });
    let incoming = futures::stream::select_all(listeners.into_iter().map(TcpListenerStream::new));
    let incoming =
        tokio_stream::StreamExt::map(incoming, |connection: std::io::Result<tokio::net::TcpStream>| {
            connection.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        });
    Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_frame_size(1 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(1024)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(NodeServer::new(NodeService { shared }))
        .add_service(shares.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(
            NamespaceServer::new(namespace).max_decoding_message_size(max).max_encoding_message_size(max),
        )
        .add_service(members.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(files.max_decoding_message_size(max).max_encoding_message_size(max))
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
            health.set_not_serving::<SharesServer<SharesService>>().await;
            health.set_not_serving::<StoreServer<StoreService>>().await;
        })
        .await
        .context("serving")
}

/// Finds this node's place in a cluster, takes it, tells that it is ready, and works for as long as the node runs.
async fn live(
    shared: Arc<Shared>,
    leases: Arc<Leases>,
    mut identity: Identity,
    bound: SocketAddr,
    ready: impl FnOnce(NodeId, SocketAddr) + Send,
) -> anyhow::Result<()> {
    let started = Started {
        spec: shared.spec.clone(),
        wish: shared.config.node_id,
        peers: shared.config.peers.clone(),
    };
    let (cluster, node) = bootstrap::find_cluster(&started, &mut identity).await?;
    shared.member.get_or_init(|| (cluster, node));
    let member = Member { cluster, node, address: shared.spec.address.clone() };
    let transport = Arc::new(Arc::new(GrpcTransport::new(shared.addresses.clone())));
    let dir = shared.config.data.join("namespace");
    let opened = MetadataService::open(&dir, member, MetadataOptions::default(), transport).await;
    let metadata = Arc::new(opened.context("opening the namespace")?);
    shared.metadata.get_or_init(|| metadata.clone());
    if identity.is_founding() {
        metadata.found().await.context("beginning the namespace")?;
    }
    let (starting, birth) = (shared.clone(), identity.is_founding());
    let ring =
        tokio::task::spawn_blocking(move || ring::follow::start(&starting, cluster, node, bound, birth));
    let ring = ring.await.context("starting the ring")?.context("the token ring")?;
    if shared.ring.set(ring).is_ok() {
        tokio::spawn(ring::follow::run(shared.clone()));
    }
    tokio::spawn(hear_peers(shared.clone(), metadata.clone(), started.clone()));
    tokio::spawn(election(shared.clone(), metadata.clone()));
    tokio::spawn(compact(metadata.clone()));
    tokio::spawn(worker::lead(shared.clone(), metadata.clone(), leases));
    if identity.is_founding() {
        take_in_peers(&shared, &started).await?;
        identity.founded()?;
    }
    register(&shared).await?;
    in_ring(&shared).await;
    ready(node, bound);
    Ok(())
}

/// Registers all that the cluster is begun with; in the order of their numbers.
async fn take_in_peers(shared: &Shared, started: &Started) -> anyhow::Result<()> {
    let heard = bootstrap::describe_all(started).await;
    let mut wishes: std::collections::BTreeMap<String, u32> =
        heard.iter().map(|(peer, other)| (peer.clone(), other.wish)).collect();
    wishes.insert(shared.spec.address.clone(), shared.config.node_id.map_or(0, |wish| wish.0));
    let numbers = bootstrap::numbers(&started.peers, &wishes);
    let mut nodes: Vec<(NodeId, NodeSpec)> = Vec::new();
    for (peer, number) in numbers {
        if peer == shared.spec.address {
            nodes.push((number, shared.spec.clone()));
        } else if let Some(other) = heard.get(&peer) {
            let (address, domain, folder) = (peer, other.domain.clone(), other.folder.clone());
            let (weight, witness, others) = (other.weight, other.witness, other.others.clone());
            let spec = NodeSpec { address, domain, weight, witness, folder, others };
            nodes.push((number, spec));
        }
    }
    nodes.sort_by_key(|(number, _)| *number);
    for (id, node) in nodes {
        // A node that went away just now is added by hand, as any other.
        propose_patiently(shared, Command::RegisterNode { id, node }).await?;
    }
    Ok(())
}

/// Waits until this node is in a primary ring, so that nobody takes it for one that is gone; not for ever, because most of what it
/// does needs no ring.
async fn in_ring(shared: &Shared) {
    let Some(ring) = shared.ring() else { return };
    let mut status = ring.status();
    let there =
        status.wait_for(|status| status.in_a_ring() && status.view.as_ref().is_some_and(|view| view.primary));
    if tokio::time::timeout(RING_WITHIN, there).await.is_err() {
        tracing::warn!("no place in the ring of a majority within {RING_WITHIN:?}");
    }
}

/// Tells the cluster what this node says of itself, unless it knows.
async fn register(shared: &Shared) -> anyhow::Result<()> {
    let id = shared.node().context("a number")?;
    let known = shared.nodes().into_iter().find(|known| known.id == id);
    let spec = &shared.spec;
    let same = known.is_some_and(|known| {
        (&known.address, &known.others, &known.domain, known.weight, known.witness, &known.folder)
            == (&spec.address, &spec.others, &spec.domain, spec.weight, spec.witness, &spec.folder)
    });
    if same {
        return Ok(());
    }
    propose_patiently(shared, Command::RegisterNode { id, node: spec.clone() }).await
}

/// Has a command applied, however long it takes to find a leader; a refusal is final.
async fn propose_patiently(shared: &Shared, command: Command) -> anyhow::Result<()> {
    let request = Request::internal(command);
    let mut said = String::new();
    loop {
        match propose(shared, &request).await {
            Ok(applied) => {
                applied.context("the cluster refuses this node")?;
                return Ok(());
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != said {
                    tracing::info!("telling the cluster of this node: {text}; trying on");
                    said = text;
                }
            }
        }
        tokio::time::sleep(JOIN_EVERY).await;
    }
}

async fn propose(shared: &Shared, request: &Request) -> anyhow::Result<Applied> {
    let metadata = shared.metadata().context("no namespace here")?;
    match metadata.propose(request.clone()).await {
        Ok(applied) => return Ok(applied),
        Err(ProposeError::NotLeader) => {}
        Err(error) => return Err(error.into()),
    }
    let leader = shared.leader().context("the namespace has no leader yet")?;
    if Some(leader.node) == shared.node().map(|node| node.0) {
        bail!("this node is just becoming the leader");
    }
    let mut client = NamespaceClient::new(grpc_endpoint(&leader.address)?.connect_lazy());
    let message = v1::ProposeRequest { requests: vec![wire::encode(request).into()] };
    let asked = tokio::time::timeout(REGISTER_TIMEOUT, client.propose(message)).await;
    let answer = asked.with_context(|| format!("{} does not answer", leader.address))?;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}: {}", leader.address, status.message()))?;
    let applied = answer.get_ref().applied.first().context("the leader's answer is empty")?;
    wire::decode(applied).context("the leader's answer")
}

/// Stands for leader when that is due.
async fn election(shared: Arc<Shared>, metadata: Arc<MetadataService>) {
    let Some(ring) = shared.ring() else { return };
    let mut status = ring.status();
    let mut election = Election::default();
    loop {
        let view: Option<Vec<NodeId>> = {
            let status = status.borrow_and_update();
            // The namespace goes over the first link.
            let cut = |node: NodeId| {
                status.links.iter().any(|(path, up, _)| path.peer == node && path.link == 0 && !up)
            };
            let members = |view: &View| view.members.iter().map(|member| member.node).collect::<Vec<_>>();
            status.view.as_ref().map(|view| members(view).into_iter().filter(|node| !cut(*node)).collect())
        };
        metadata.election(&mut election, view.as_deref()).await;
        tokio::time::sleep(CAMPAIGN_EVERY).await;
    }
}

/// While there is no leader, asks the peers who and where they are: all may have moved.
async fn hear_peers(shared: Arc<Shared>, metadata: Arc<MetadataService>, started: Started) {
    let mut leadership = metadata.leadership();
    loop {
        if metadata.age() > HEAR_AFTER {
            let cluster = shared.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
            for (address, other) in bootstrap::describe_all(&started).await {
                if other.cluster == cluster && other.node != 0 {
                    shared.addresses.hear(NodeId(other.node), other.address);
                } else if !other.cluster.is_empty() && other.cluster != cluster {
                    tracing::warn!(
                        "{address} of --peers belongs to cluster {}, this node to {cluster}: check --peers",
                        other.cluster
                    );
                }
            }
        }
        let _ = tokio::time::timeout(HEAR_EVERY, leadership.changed()).await;
    }
}

async fn compact(metadata: Arc<MetadataService>) {
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        if let Err(error) = metadata.compact().await {
            tracing::debug!(%error, "making the namespace's log shorter");
        }
    }
}

/// Waits for a signal, or for the parent's end of standard input.
async fn wait_for_stop(exit_with_parent: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let signalled = async {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be caught; this node stops only by SIGKILL");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    let parent_gone = async {
        if !exit_with_parent {
            return std::future::pending().await;
        }
        // A thread of its own: a read of standard input cannot be cancelled, and must not hold up the runtime's end.
        let (gone, went) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = gone.send(());
        });
        let _ = went.await;
        tracing::info!("standard input ended: the parent is gone");
    };
    tokio::select! {
        () = signalled => {}
        () = parent_gone => {}
    }
}
