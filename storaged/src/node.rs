//! A node's life: take the folder, open the stores, serve, join the cluster, work, stop.
//!
//! Stopping (SIGTERM, SIGINT, the end of standard input where that was asked for) first says so to health
//! checks, lets requests under way finish for a bounded time, then closes the stores cleanly. A node that is
//! killed instead loses nothing: the stores are made for that.

use crate::config::Config;
use crate::identity::Identity;
use crate::keeper::{Keeper, KeeperOptions};
use crate::ring::{self, Ring};
use crate::service::files::StoreService;
use crate::service::namespace::{Leases, NamespaceService};
use crate::service::node::NodeService;
use crate::service::shares::SharesService;
use crate::share::{ShareStore, StoreOptions};
use crate::worker::{self, WorkerCounters};
use anyhow::Context;
use rain_client::{Cluster, Error, Options, Volume, grpc_endpoint};
use rain_namespace::command::{Command, Request};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_proto::v1::namespace_server::NamespaceServer;
use rain_proto::v1::node_client::NodeClient;
use rain_proto::v1::node_server::NodeServer;
use rain_proto::v1::shares_server::SharesServer;
use rain_proto::v1::store_server::StoreServer;
use rain_types::{ClusterId, NodeId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Requests under way may take so long to finish once the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Between two tries to join.
const JOIN_EVERY: Duration = Duration::from_millis(200);

/// The ring is told so long that this node leaves.
const FAREWELL: Duration = Duration::from_millis(300);

/// Memory for data of `Store` calls that is not stored yet, and for blocks read for them.
const OWN_CLIENT_DIRTY: u64 = 48 << 20;
const OWN_CLIENT_CACHE: u64 = 24 << 20;

/// What a node's services and workers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: ShareStore,
    pub(crate) keeper: Option<Arc<Keeper>>,
    pub(crate) shares_on: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) repair: Arc<WorkerCounters>,
    pub(crate) reclaim: Arc<WorkerCounters>,
    /// Requests for shares under way.
    pub(crate) requests: AtomicU64,
    ring: OnceLock<Ring>,
    cluster: OnceLock<ClusterId>,
    keeper_place: RwLock<Option<(NodeId, String)>>,
    /// Where this node itself listens: its own client begins there.
    own_address: String,
    client: tokio::sync::Mutex<Option<Arc<Cluster>>>,
    volumes: Mutex<HashMap<String, Arc<Volume>>>,
}

impl Shared {
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// The token ring, once this node knows its cluster.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.ring.get()
    }

    /// The node that keeps the namespace and where it is, as far as it is known.
    pub(crate) fn keeper_place(&self) -> Option<(NodeId, String)> {
        self.keeper_place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_keeper_place(&self, node: NodeId, address: &str) {
        let mut place = self.keeper_place.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some((node, address.to_owned()));
    }

    /// This node's own client of the cluster, connected when it is first needed.
    pub(crate) async fn client(&self) -> Result<Arc<Cluster>, Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let options = Options {
            label: format!("node {}, for itself", self.config.node_id),
            dirty_bytes_max: OWN_CLIENT_DIRTY,
            cache_bytes_max: OWN_CLIENT_CACHE,
            ..Options::default()
        };
        let connected = Cluster::connect(std::slice::from_ref(&self.own_address), options).await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// A volume, for the `Store` service.
    pub(crate) async fn volume(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let known = self.volumes.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(volume) = known {
            return Ok(volume);
        }
        let volume = self.client().await?.volume(name).await?;
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.insert(name.to_owned(), volume.clone());
        Ok(volume)
    }
}

/// Runs a node until it is told to stop. `ready` is called with the address once it serves and has joined.
pub async fn run(config: Config, ready: impl FnOnce(SocketAddr) + Send + 'static) -> anyhow::Result<()> {
    let mut identity = Identity::take(&config.data, config.node_id)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: is another program using the port? Choose another --listen",
            config.listen
        )
    })?;
    let bound = listener.local_addr().context("asking for the bound address")?;
    let advertise = config.advertise.clone().unwrap_or_else(|| bound.to_string());
    let (store, keeper) = open_stores(&config).await?;
    let cluster = OnceLock::new();
    if let Some(keeper) = &keeper {
        identity.join(keeper.cluster_id())?;
    }
    if let Some(id) = identity.cluster() {
        cluster.get_or_init(|| id);
    }
    let shared = Arc::new(Shared {
        store,
        keeper: keeper.clone(),
        shares_on: AtomicBool::new(true),
        started: Instant::now(),
        repair: Arc::default(),
        reclaim: Arc::default(),
        requests: AtomicU64::new(0),
        ring: OnceLock::new(),
        cluster,
        keeper_place: RwLock::default(),
        own_address: bound.to_string(),
        client: tokio::sync::Mutex::default(),
        volumes: Mutex::default(),
        config,
    });
    if keeper.is_some() {
        shared.set_keeper_place(shared.config.node_id, &advertise);
    }
    let leases = Arc::new(Leases::new(shared.config.session_ttl));
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, shared.clone(), leases.clone(), stopped));
    let (ring, mut ring_failed) = mpsc::channel(1);
    let place = Place { bound, advertise, failed: ring };
    let work = tokio::spawn(live(shared.clone(), leases, identity, place, move || ready(bound)));
    let failed = tokio::select! {
        () = wait_for_stop(shared.config.exit_with_parent) => None,
        failed = ring_failed.recv() => failed,
    };
    tracing::info!("stopping");
    if let Some(ring) = shared.ring() {
        ring.leave(FAREWELL).await;
    }
    let _ = stop.send(true);
    work.abort();
    let client = shared.client.lock().await.take();
    if let Some(client) = client
        && tokio::time::timeout(DRAIN, client.close()).await.is_err()
    {
        tracing::warn!("this node's own session was not ended in time; its lease will end it");
    }
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(Ok(served)) => served.context("serving")?,
        Ok(Err(error)) => tracing::error!(%error, "the server ended badly"),
        Err(_) => tracing::warn!("some requests did not end within {DRAIN:?}"),
    }
    let closing = tokio::task::spawn_blocking(move || {
        if let Some(keeper) = &shared.keeper {
            keeper.close();
        }
        shared.store.shut_down()
    });
    closing.await.context("closing the stores")?.context("closing the share store")?;
    tracing::info!("stopped");
    failed.map_or(Ok(()), Err)
}

async fn open_stores(config: &Config) -> anyhow::Result<(ShareStore, Option<Arc<Keeper>>)> {
    let (data, keeps) = (config.data.clone(), config.keeper);
    let options = StoreOptions { capacity_bytes: config.capacity, ..StoreOptions::default() };
    let opening = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let store = ShareStore::open(&data.join("shares"), options).context("opening the share store")?;
        let keeper = if keeps {
            let keeper = Keeper::open(&data.join("namespace"), KeeperOptions::default());
            Some(Arc::new(keeper.context("opening the namespace")?))
        } else {
            None
        };
        Ok((store, keeper))
    });
    opening.await.context("opening the stores")?
}

async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    leases: Arc<Leases>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SharesServer<SharesService>>().await;
    health.set_serving::<StoreServer<StoreService>>().await;
    if shared.keeper.is_some() {
        health.set_serving::<NamespaceServer<NamespaceService>>().await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rain_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("preparing reflection")?;
    let namespace = NamespaceService { keeper: shared.keeper.clone(), leases };
    let max = rain_proto::MESSAGE_BYTES_MAX;
    let shares = SharesServer::new(SharesService::new(shared.clone()));
    let files = StoreServer::new(StoreService { shared: shared.clone(), puts: AtomicU64::new(0) });
    let incoming = TcpListenerStream::new(listener);
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
        .add_service(files.max_decoding_message_size(max).max_encoding_message_size(max))
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
            health.set_not_serving::<SharesServer<SharesService>>().await;
            health.set_not_serving::<StoreServer<StoreService>>().await;
        })
        .await
        .context("serving")
}

/// Where this node is, and whom to tell that its ring cannot be started.
struct Place {
    bound: SocketAddr,
    advertise: String,
    failed: mpsc::Sender<anyhow::Error>,
}

/// Starts the ring as soon as the node knows its cluster; that may be before the keeper of the namespace answers.
async fn start_ring(shared: &Arc<Shared>, place: &Place) {
    let Some(cluster) = shared.cluster().filter(|_| shared.ring().is_none()) else { return };
    let (starting, bound, advertise) = (shared.clone(), place.bound, place.advertise.clone());
    let started =
        tokio::task::spawn_blocking(move || ring::follow::start(&starting, cluster, bound, &advertise));
    match started.await.context("starting the ring").and_then(|started| started) {
        Ok(ring) => {
            if shared.ring.set(ring).is_ok() {
                tokio::spawn(ring::follow::run(shared.clone()));
            }
        }
        Err(error) => {
            let _ = place.failed.send(error.context("the token ring")).await;
        }
    }
}

/// Joins the cluster, tells that it is ready, then keeps the workers of the node that keeps the namespace.
async fn live(
    shared: Arc<Shared>,
    leases: Arc<Leases>,
    mut identity: Identity,
    place: Place,
    ready: impl FnOnce() + Send,
) {
    if shared.keeper.is_none() {
        start_ring(&shared, &place).await;
    }
    let mut said = String::new();
    loop {
        match join(&shared, &mut identity, &place.advertise).await {
            Ok(()) => break,
            Err(error) => {
                let text = format!("{error:#}");
                if text != said {
                    tracing::warn!("joining the cluster: {text}; trying on");
                    said = text;
                }
            }
        }
        tokio::time::sleep(JOIN_EVERY).await;
    }
    start_ring(&shared, &place).await;
    ready();
    let Some(keeper) = shared.keeper.clone() else {
        follow_keeper(shared).await;
        return;
    };
    let cluster = loop {
        match shared.client().await {
            Ok(cluster) => break cluster,
            Err(error) => tracing::warn!(%error, "the workers' client; trying on"),
        }
        tokio::time::sleep(JOIN_EVERY).await;
    };
    let (ended, to_sweep) = mpsc::channel(256);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(worker::leases::run(keeper, leases, ended));
    tasks.spawn(worker::repair::run(cluster.clone(), shared.repair.clone()));
    tasks.spawn(worker::reclaim::run(cluster.clone(), shared.reclaim.clone()));
    tasks.spawn(worker::sweep::run(cluster.clone(), to_sweep));
    tasks.spawn(follow_nodes(cluster));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a worker broke an invariant and stopped; restart this node");
        }
    }
}

/// The workers' client learns of new nodes and new addresses.
async fn follow_nodes(cluster: Arc<Cluster>) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if let Err(error) = cluster.refresh_nodes().await {
            tracing::debug!(%error, "asking for the nodes");
        }
    }
}

/// The keeper may come back at another address: asks the peers now and then.
async fn follow_keeper(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let Some((node, address)) = shared.keeper_place() else { continue };
        if matches!(describe(&address).await, Ok(described) if described.keeper_node == node.0) {
            continue;
        }
        if let Ok((node, address)) = find_keeper(&shared.config.peers).await {
            shared.set_keeper_place(node, &address);
        }
    }
}

async fn join(shared: &Shared, identity: &mut Identity, advertise: &str) -> anyhow::Result<()> {
    let config = &shared.config;
    let command = Command::RegisterNode {
        id: config.node_id,
        address: advertise.to_owned(),
        domain: config.domain.clone(),
        weight: config.weight,
    };
    let request = Request { id: None, done_below: 0, command };
    if let Some(keeper) = &shared.keeper {
        keeper.propose(request).await.context("registering this node")?.context("registering this node")?;
        return Ok(());
    }
    let (node, address) = find_keeper(&config.peers).await?;
    let described = describe(&address).await?;
    let cluster: ClusterId = described.cluster.parse().context("the keeper's cluster id")?;
    identity.join(cluster)?;
    shared.cluster.get_or_init(|| cluster);
    let channel = grpc_endpoint(&address)?.connect_lazy();
    let answer = NamespaceClient::new(channel)
        .propose(v1::ProposeRequest { request: wire::encode(&request).into() })
        .await
        .with_context(|| format!("registering at {address}"))?;
    let applied: rain_namespace::command::Applied =
        wire::decode(&answer.get_ref().applied).context("the keeper's answer")?;
    applied.context("registering this node")?;
    shared.set_keeper_place(node, &address);
    Ok(())
}

async fn find_keeper(peers: &[String]) -> anyhow::Result<(NodeId, String)> {
    let mut last = anyhow::anyhow!("no peers are given");
    for peer in peers {
        match describe(peer).await {
            Ok(described) if !described.keeper_address.is_empty() => {
                return Ok((NodeId(described.keeper_node), described.keeper_address));
            }
            Ok(_) => last = anyhow::anyhow!("{peer} does not know yet who keeps the namespace"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn describe(address: &str) -> anyhow::Result<v1::DescribeResponse> {
    let channel = grpc_endpoint(address).with_context(|| format!("address {address:?}"))?.connect_lazy();
    let mut client = NodeClient::new(channel);
    let asked = tokio::time::timeout(Duration::from_secs(1), client.describe(v1::DescribeRequest {})).await;
    let answer = asked.with_context(|| format!("{address} does not answer"))?;
    let answer = answer.map_err(|status| anyhow::anyhow!("{address}: {}", status.message()))?;
    Ok(answer.into_inner())
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
