//! The state of a session, and what it shares with the rungs above.

use super::leases::Leases;
use super::numbers::Numbers;
use super::openings::Openings;
use super::seen::SeenPosition;
use crate::error::Error;
use crate::options::Options;
use crate::rpc::discovery;
use crate::rpc::leader::Leader;
use crate::rpc::nodes::Nodes;
use crate::rpc::view::{ViewWatch, WATCHERS};
use crate::stats::{ClientStats, Counters};
use parking_lot::Mutex;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::NodeRecord;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_types::{BlockId, ClusterId, NodeId, SessionId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::transport::Channel;

/// The number of a client that only observes and has no session.
pub(super) const NO_SESSION: SessionId = SessionId(0);

/// Lower bound of the lease that a node announces, milliseconds: a shorter one would only cause renewals.
const TTL_MS_MIN: u64 = 1000;

/// A client's session, shared by everything that the client has open.
#[derive(Debug)]
pub struct Session {
    pub(super) cluster: ClusterId,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) leader: Arc<Leader>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) numbers: Mutex<Numbers>,
    pub(super) openings: Openings,
    pub(super) leases: Leases,
    /// The last moment at which the session was certainly alive: the start of the last successful renewal.
    pub(super) renewed: Mutex<Instant>,
    /// Held while an ended session is replaced.
    pub(super) reopening: tokio::sync::Mutex<()>,
    /// The session's lease, milliseconds.
    pub(super) ttl_ms: AtomicU64,
    /// The namespace's placement version that this client's nodes and groups are of.
    pub(super) placement_version: AtomicU64,
    /// The age of the last stale answer, milliseconds.
    pub(super) stale_age_ms: AtomicU64,
    /// The newest state that this client has had an answer from.
    pub(super) seen: SeenPosition,
    pub(super) tasks: Mutex<Vec<AbortHandle>>,
    pub(super) runtime: Handle,
}

impl Session {
    /// Finds the cluster from any of these addresses (`host:port`) and opens a session, unless the options
    /// say that the client only observes.
    pub(crate) async fn open(addresses: &[String], options: Options) -> Result<Arc<Session>, Error> {
        let (described, found) = if options.observe {
            discovery::find_any(addresses, options.dead_after).await?
        } else {
            let (described, found) = discovery::find(addresses, options.dead_after).await?;
            (described, Some(found))
        };
        let cluster: ClusterId =
            described.cluster.parse().map_err(|error| Error::Protocol(format!("cluster id: {error}")))?;
        let leader = Leader::new(cluster, addresses.to_vec(), found, options.dead_after);
        let session = Arc::new(Session {
            cluster,
            leader: leader.clone(),
            nodes: Nodes::new(cluster),
            numbers: Mutex::new(Numbers::new(NO_SESSION)),
            openings: Openings::default(),
            leases: Leases::default(),
            renewed: Mutex::new(Instant::now()),
            reopening: tokio::sync::Mutex::default(),
            ttl_ms: AtomicU64::new(described.session_ttl_ms.max(TTL_MS_MIN)),
            placement_version: AtomicU64::new(0),
            stale_age_ms: AtomicU64::new(0),
            seen: SeenPosition::default(),
            tasks: Mutex::default(),
            counters: Arc::default(),
            runtime: Handle::current(),
            options,
        });
        session.spawn_owned(leader.clone().look());
        if !session.options.observe {
            session.reopen(NO_SESSION).await?;
        }
        if session.caches() {
            session.begin_leases().await?;
        }
        session.refresh_nodes().await?;
        let view = ViewWatch::new(session.nodes.clone(), leader);
        for watcher in 0..WATCHERS {
            session.spawn_owned(view.clone().run(watcher));
        }
        Ok(session)
    }

    /// The cluster that the session belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster
    }

    /// The bounds that the client was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The session's number; 0 for a client that only observes.
    pub fn id(&self) -> SessionId {
        self.numbers.lock().session()
    }

    /// Counters since the client was opened.
    pub fn stats(&self) -> ClientStats {
        self.counters.snapshot()
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The register of nodes.
    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// What this client may rely on of what it has cached.
    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Whether this client keeps leases.
    pub(crate) fn caches(&self) -> bool {
        self.options.caches && !self.options.observe
    }

    /// Opens and creates under way.
    pub(crate) fn openings(&self) -> &Openings {
        &self.openings
    }

    /// The leader's node and address, as far as this client knows.
    pub(crate) fn leader(&self) -> Option<(NodeId, String)> {
        self.leader.current().map(|leader| (leader.node, leader.address))
    }

    /// Fails with the reason when this client knows that the namespace takes no changes.
    pub(crate) fn check_writable(&self, what: &str) -> Result<(), Error> {
        self.leader.check_available(what)
    }

    /// For how long this client has had no leader, and the age of the stale answers it gets meanwhile. None
    /// while a leader answers.
    pub fn without_leader(&self) -> Option<(Duration, Duration)> {
        let since = self.leader.lost_since()?;
        Some((since.elapsed(), Duration::from_millis(self.stale_age_ms.load(Relaxed))))
    }

    /// Whether the session may have ended: its lease has run out by this client's own clock.
    pub(crate) fn lease_is_over(&self) -> bool {
        self.renewed.lock().elapsed() > Duration::from_millis(self.ttl_ms.load(Relaxed))
    }

    /// A lock ticket that this session has not used.
    pub(crate) fn new_ticket(&self) -> u64 {
        self.numbers.lock().new_ticket()
    }

    /// A block id that nobody has used.
    pub(crate) fn new_block(&self) -> BlockId {
        self.numbers.lock().new_block()
    }

    /// Reads the eligible nodes from the namespace, in the order of their numbers.
    pub(crate) async fn node_records(&self) -> Result<Vec<NodeRecord>, Error> {
        match self.query(&Query::Nodes).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(Error::unexpected("nodes")),
        }
    }

    /// Updates the register of nodes, and the addresses at which the leader is looked for.
    pub(crate) async fn refresh_nodes(&self) -> Result<(), Error> {
        self.take_nodes(&self.node_records().await?)
    }

    /// As [`Session::refresh_nodes`], with the records that the caller has read.
    pub(crate) fn take_nodes(&self, records: &[NodeRecord]) -> Result<(), Error> {
        self.nodes.update(records)?;
        let addresses = self.nodes.all().iter().flat_map(|node| node.addresses().to_vec()).collect();
        self.leader.set_addresses(addresses);
        Ok(())
    }

    /// Calls the leader, see [`Leader::call`].
    pub(super) async fn call_leader<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.leader.call(what, self.options.slow_after, call).await
    }

    /// Asks the leader to end the session. Fails when no leader takes the command; the session then ends by
    /// its lease.
    pub(crate) async fn end(&self) -> Result<(), Error> {
        let session = self.id();
        if session == NO_SESSION {
            return Ok(());
        }
        let command = rain_namespace::command::Command::EndSession { session };
        self.propose_internal(command).await.map(|_| ())
    }

    /// The runtime on which the client was opened, for work that outlives its caller.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Starts a task that ends with the session at the latest.
    pub(crate) fn spawn_owned(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.own(self.runtime.spawn(task).abort_handle());
    }

    /// Aborts a task when the session is closed or dropped.
    pub(crate) fn own(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Aborts the session's tasks.
    pub(crate) fn stop_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}

/// A client of the namespace service.
pub(super) fn namespace_client(channel: Channel) -> NamespaceClient<Channel> {
    NamespaceClient::new(channel)
        .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
}
