//! The cluster as a client sees it: the namespace's leader, which nodes there are, and the session.
//!
//! A command carries the session and a number of its own, so that sending it again after a broken connection
//! applies it once. A session that was ended behind the client's back (a long pause) is replaced; what
//! depends on the old one, blocks not yet committed, is stored anew by `flush`.

use crate::block::{Blocks, ShareState};
use crate::error::Error;
use crate::options::Options;
use crate::rpc::leader::{self, Leader, refused_call};
use crate::rpc::node::{Answers, Node, NodeHealth, grpc_endpoint, is_broken};
use crate::session::openings::Openings;
use crate::stats::{ClientStats, Counters, count};
use crate::volume::Volume;
use rain_namespace::command::{Applied, Command, Outcome, Request};
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::{NodeRecord, Time, VolumeRecord};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_client::NamespaceClient;
use rain_types::{BlockId, ClusterId, CodeSpec, Ino, NodeId, RequestId, SessionId, ShareIndex, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::transport::Channel;

/// A node without a leader that does not say within this what it has is passed over.
const OLD_TIMEOUT: Duration = Duration::from_millis(800);

/// After the first such answer.
const OLD_GRACE: Duration = Duration::from_millis(15);

/// Placement groups of a new volume: many more than nodes, so that load and rebuild spread evenly.
const GROUPS_OF_A_VOLUME: u32 = 64;

/// A session says what it has open at least so often: a removed file takes its room until two such words.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Whoever waits for a directory looks so often whether it has waited for too long.
const RECALL_TURN: Duration = Duration::from_millis(500);

/// A node that is reached another way says so within this.
const OTHER_WAY_WITHIN: Duration = Duration::from_millis(300);

/// Open files that are told one by one; with more, none is taken for closed.
const OPEN_TOLD_MAX: usize = 1 << 16;

#[derive(Debug)]
struct Session {
    id: SessionId,
    next_request: u64,
    next_block: u64,
    next_ticket: u64,
    /// Requests sent and not answered: everything below the first is done.
    under_way: BTreeSet<u64>,
}

impl Session {
    fn new(id: SessionId) -> Session {
        Session { id, next_request: 1, next_block: 1, next_ticket: 1, under_way: BTreeSet::new() }
    }
}

/// A connected client. Share it by `Arc`; `close` it to end its session at once.
#[derive(Debug)]
pub struct Client {
    id: ClusterId,
    options: Options,
    leader: Arc<Leader>,
    pub(crate) view_hint: crate::rpc::view::ViewHint,
    /// How old what a node without a leader answered last was, milliseconds.
    age_ms: AtomicU64,
    nodes: RwLock<BTreeMap<NodeId, Arc<Node>>>,
    session: Mutex<Session>,
    pub(crate) openings: Openings,
    /// When the session was last certainly alive: no later than the leader heard of it.
    renewed: Mutex<Instant>,
    /// Serialises replacing an ended session.
    reopening: tokio::sync::Mutex<()>,
    ttl_ms: AtomicU64,
    /// How often places have changed, as last heard: what this client knows is of then.
    places: AtomicU64,
    tasks: Mutex<Vec<AbortHandle>>,
    volumes: Mutex<Vec<Weak<Volume>>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) blocks: Blocks,
}

impl Client {
    /// Finds the cluster from any of these addresses (`host:port`) and opens a session.
    pub async fn connect(addresses: &[String], options: Options) -> Result<Arc<Client>, Error> {
        let (described, place) = if options.observe {
            leader::find_any(addresses, options.dead_after).await?
        } else {
            let (described, place) = leader::find(addresses, options.dead_after).await?;
            (described, Some(place))
        };
        let id: ClusterId =
            described.cluster.parse().map_err(|error| Error::Protocol(format!("cluster id: {error}")))?;
        let leader = Leader::new(id, addresses.to_vec(), place, options.dead_after);
        let counters = Arc::new(Counters::default());
        let cluster = Arc::new(Client {
            id,
            leader: leader.clone(),
            view_hint: crate::rpc::view::ViewHint::default(),
            age_ms: AtomicU64::new(0),
            nodes: RwLock::default(),
            session: Mutex::new(Session::new(SessionId(0))),
            openings: Openings::default(),
            renewed: Mutex::new(Instant::now()),
            reopening: tokio::sync::Mutex::new(()),
            ttl_ms: AtomicU64::new(described.session_ttl_ms.max(1000)),
            places: AtomicU64::new(0),
            tasks: Mutex::default(),
            volumes: Mutex::default(),
            blocks: Blocks::new(options.clone(), counters.clone()),
            counters,
            options,
        });
        lock(&cluster.tasks).push(tokio::spawn(leader.look()).abort_handle());
        if !cluster.options.observe {
            cluster.reopen_session(SessionId(0)).await?;
        }
        cluster.refresh_nodes().await?;
        let renewer = tokio::spawn(renew_for_ever(Arc::downgrade(&cluster)));
        lock(&cluster.tasks).push(renewer.abort_handle());
        for watcher in 0..crate::rpc::view::WATCHERS {
            let watching = tokio::spawn(crate::rpc::view::watch(Arc::downgrade(&cluster), watcher));
            lock(&cluster.tasks).push(watching.abort_handle());
        }
        Ok(cluster)
    }

    /// Which cluster this is.
    pub fn cluster_id(&self) -> ClusterId {
        self.id
    }

    /// The bounds it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The volume with this name.
    pub async fn volume(self: &Arc<Self>, name: &str) -> Result<Arc<Volume>, Error> {
        let Answer::Volumes(found) = self.query(&Query::Volume { name: name.to_owned() }).await? else {
            return Err(unexpected("a volume"));
        };
        let record = found.into_iter().next().ok_or(NsError::NotFound)?;
        self.refresh_nodes().await?;
        let volume = Volume::attach(self.clone(), record)?;
        let mut volumes = lock(&self.volumes);
        volumes.retain(|volume| volume.strong_count() > 0);
        volumes.push(Arc::downgrade(&volume));
        Ok(volume)
    }

    /// All volumes by number.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        match self.query(&Query::Volumes).await? {
            Answer::Volumes(volumes) => Ok(volumes),
            _ => Err(unexpected("volumes")),
        }
    }

    /// Makes a volume over the eligible nodes.
    pub async fn create_volume(
        &self,
        name: &str,
        code: CodeSpec,
        uid: u32,
        gid: u32,
        mode: u16,
    ) -> Result<VolumeId, Error> {
        rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
            .map_err(|error| NsError::Invalid(error.to_string()))?;
        let groups = GROUPS_OF_A_VOLUME;
        let command = Command::CreateVolume { name: name.to_owned(), code, groups, uid, gid, mode };
        match self.propose(command).await? {
            Outcome::Volume(id) => Ok(id),
            _ => Err(unexpected("a volume's number")),
        }
    }

    /// The eligible nodes by number.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        match self.query(&Query::Nodes).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(unexpected("nodes")),
        }
    }

    /// Takes in which nodes there are now and where.
    pub async fn refresh_nodes(&self) -> Result<(), Error> {
        let mut records = self.nodes().await?;
        records.retain(|record| !record.address.is_empty());
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|id, _| records.iter().any(|record| record.id == *id));
        for record in records {
            let addresses: Vec<String> = record.addresses().cloned().collect();
            if nodes.get(&record.id).is_none_or(|node| node.addresses() != addresses) {
                let node = Node::new(record.id, addresses)
                    .map_err(|error| Error::Protocol(format!("address {:?}: {error}", record.address)))?;
                nodes.insert(record.id, node);
            }
        }
        self.leader.set_addresses(nodes.values().flat_map(|node| node.addresses().to_vec()).collect());
        self.blocks.set_nodes(nodes.clone());
        Ok(())
    }

    /// Whether each node answers, as far as this client's calls have met it.
    pub fn health(&self) -> Vec<(NodeId, NodeHealth)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.values().map(|node| (node.id, node.health())).collect()
    }

    /// The nodes that the ring's view does not have, as far as this client has been told.
    pub fn out_of_view(&self) -> Vec<NodeId> {
        self.all_nodes().iter().filter(|node| !node.is_in_view()).map(|node| node.id).collect()
    }

    pub(crate) fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The token ring as a node sees it. Asks it directly, with a short deadline.
    pub async fn ring_status(&self, id: NodeId) -> Result<v1::RingResponse, Error> {
        let node = self.node(id)?;
        let ask = || async { node.control().ring(v1::RingRequest {}).await };
        over_any_way(&node, "asking for the ring", ask).await
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<Arc<Node>, Error> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&id).cloned().ok_or(Error::Refused(NsError::NotFound))
    }

    /// How a node does. Asks it directly, with a short deadline.
    pub async fn node_status(&self, id: NodeId) -> Result<v1::NodeStatusResponse, Error> {
        let node = self.node(id)?;
        let ask = || async { node.control().status(v1::NodeStatusRequest {}).await };
        let status = over_any_way(&node, "asking for a node's status", ask).await?;
        if status.node != id.0 {
            let who = if status.node == 0 {
                "a node of no cluster".to_owned()
            } else {
                format!("node {}", status.node)
            };
            return Err(Error::Protocol(format!("{who} answers at node {id}'s address {}", node.address())));
        }
        Ok(status)
    }

    /// Switches a node's shares off or on, for drills. Gives what it was before.
    pub async fn switch_shares(&self, id: NodeId, on: bool) -> Result<bool, Error> {
        let node = self.node(id)?;
        let mut control = node.control();
        let call = control.switch_shares(v1::SwitchSharesRequest { on });
        Ok(direct(id, "switching a node's shares", call).await?.was_on)
    }

    /// Whether a node has a share, and whole.
    pub async fn node_has_share(
        &self,
        node: NodeId,
        block: BlockId,
        index: ShareIndex,
    ) -> Result<ShareState, Error> {
        self.blocks.share_state(&self.node(node)?, block, index).await
    }

    /// Who leads the namespace, as far as this client has been told.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        self.leader.place().map(|place| (place.node, place.address))
    }

    pub(crate) fn told_leader(&self, leader: &v1::Leader) {
        self.leader.told(leader);
    }

    /// Whether changes are taken, as far as this client knows; why not.
    pub(crate) fn can_change(&self, what: &str) -> Result<(), Error> {
        self.leader.is_there(what)
    }

    /// How long this client has been without a leader, and how old what it is told may be: nothing while all is well.
    pub fn without_leader(&self) -> Option<(Duration, Duration)> {
        let since = self.leader.lost_since()?;
        Some((since.elapsed(), Duration::from_millis(self.age_ms.load(Relaxed))))
    }

    /// What this client has met so far.
    pub fn stats(&self) -> ClientStats {
        self.counters.snapshot()
    }

    /// The session now.
    pub fn session(&self) -> SessionId {
        lock(&self.session).id
    }

    /// Whether the session may have been ended, by this client's own clock.
    pub(crate) fn lease_is_over(&self) -> bool {
        lock(&self.renewed).elapsed() > Duration::from_millis(self.ttl_ms.load(Relaxed))
    }

    /// A number for a place in a queue that this session has not used.
    pub(crate) fn new_ticket(&self) -> u64 {
        let mut session = lock(&self.session);
        session.next_ticket += 1;
        session.next_ticket - 1
    }

    /// A block id that nobody has used.
    pub(crate) fn new_block(&self) -> BlockId {
        let mut session = lock(&self.session);
        session.next_block += 1;
        BlockId { session: session.id, seq: session.next_block - 1 }
    }

    /// Asks the namespace. Without a majority the nodes that answer say what they have, which may be old
    /// ([`Client::without_leader`]).
    pub async fn query(&self, query: &Query) -> Result<Answer, Error> {
        let begun = Instant::now();
        loop {
            // About names the session matters: they may be another's for now.
            let framed = match query {
                Query::Lookup { .. } | Query::ReadDirectory { .. } => {
                    wire::encode(&Query::As { session: self.session(), query: Box::new(query.clone()) })
                }
                _ => wire::encode(query),
            };
            let response = match self.query_leader(framed.into(), Duration::ZERO).await {
                Err(error @ Error::NoMajority { .. }) if self.options.allow_stale => {
                    self.query_any(wire::encode(query).into()).await.ok_or(error)?
                }
                asked => asked?,
            };
            let answered: Answered = wire::decode(&response.answered)?;
            match answered {
                Err(NsError::Delegated { dir, .. }) => self.recall(dir, begun).await?,
                answered => return answered.map_err(Error::Refused),
            }
        }
    }

    /// Has a directory given back by whoever holds it.
    pub(crate) async fn recall(&self, dir: Ino, begun: Instant) -> Result<(), Error> {
        let bound = self.options.slow_after;
        self.propose_internal(Command::Recall { dir }).await?;
        loop {
            let left = bound.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let what = format!("waiting for directory {dir}, which another client holds,");
                return Err(Error::TimedOut { what, after: bound });
            }
            let query = Query::Delegation { dir };
            if let Answer::Delegation(None) = self.query_waiting(&query, RECALL_TURN.min(left)).await? {
                return Ok(());
            }
        }
    }

    /// Asks the leader, and nobody else, about what may be waited for; the answer may wait so long for it.
    pub(crate) async fn query_waiting(&self, query: &Query, wait: Duration) -> Result<Answer, Error> {
        let response = self.query_leader(wire::encode(query).into(), wait).await?;
        let answered: Answered = wire::decode(&response.answered)?;
        answered.map_err(Error::Refused)
    }

    async fn query_leader(&self, query: bytes::Bytes, wait: Duration) -> Result<v1::QueryResponse, Error> {
        count(&self.counters.queries);
        self.call_leader("asking the namespace", |channel| {
            let wait_ms = wait.as_millis() as u32;
            let request = v1::QueryRequest { query: query.clone(), allow_stale: false, wait_ms };
            let mut client = namespace_client(channel);
            async move { client.query(request).await }
        })
        .await
    }

    /// Asks all nodes for what they have, and takes the newest of the first answers.
    async fn query_any(&self, query: bytes::Bytes) -> Option<v1::QueryResponse> {
        let mut channels: Vec<Channel> = self.all_nodes().iter().map(|node| node.channel()).collect();
        if channels.is_empty() {
            let addresses = self.leader.addresses();
            channels = addresses
                .iter()
                .filter_map(|address| Some(grpc_endpoint(address).ok()?.connect_lazy()))
                .collect();
        }
        let asked = channels.into_iter().map(|channel| {
            let request = v1::QueryRequest { query: query.clone(), allow_stale: true, wait_ms: 0 };
            let mut client = namespace_client(channel);
            async move { tokio::time::timeout(OLD_TIMEOUT, client.query(request)).await.ok()?.ok() }
        });
        let mut asked: futures::stream::FuturesUnordered<_> = asked.collect();
        let mut best: Option<v1::QueryResponse> = None;
        let mut until = None;
        loop {
            let next = futures::StreamExt::next(&mut asked);
            let answer = match until {
                None => next.await,
                // The others have a moment to be newer.
                Some(until) => tokio::time::timeout_at(until, next).await.unwrap_or(None),
            };
            let Some(answer) = answer else { break };
            let Some(answer) = answer.map(tonic::Response::into_inner) else { continue };
            until.get_or_insert_with(|| tokio::time::Instant::now() + OLD_GRACE);
            if best.as_ref().is_none_or(|best| answer.age_ms < best.age_ms) {
                best = Some(answer);
            }
        }
        if let Some(best) = &best {
            self.age_ms.store(best.age_ms, Relaxed);
        }
        best
    }

    /// Applies a command, once, however often it has to be sent.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        self.propose_in(None, command).await
    }

    /// As [`Client::propose`]; where a session is named, in that one or not at all.
    pub(crate) async fn propose_in(
        &self,
        bound: Option<SessionId>,
        command: Command,
    ) -> Result<Outcome, Error> {
        let begun = Instant::now();
        loop {
            match self.propose_once(bound, &command).await? {
                // Blocks belong to their session: only the flush, which has their data, can go on.
                Err(NsError::SessionEnded(ended)) => {
                    self.reopen_session(ended).await?;
                    if bound.is_some() || matches!(command, Command::Commit { .. }) {
                        return Err(Error::Refused(NsError::SessionEnded(ended)));
                    }
                }
                Err(NsError::Delegated { dir, .. }) => self.recall(dir, begun).await?,
                applied => return applied.map_err(Error::Refused),
            }
        }
    }

    /// As [`Client::propose_in`], without going on where the session has ended or a directory is another's.
    pub(crate) async fn propose_once(
        &self,
        bound: Option<SessionId>,
        command: &Command,
    ) -> Result<Applied, Error> {
        let numbered = self.number([(command.clone(), None)]);
        if let Some(ended) = bound.filter(|bound| *bound != numbered.session) {
            return Ok(Err(NsError::SessionEnded(ended)));
        }
        let mut applied = self.send_numbered(&numbered).await?;
        applied.pop().ok_or_else(|| unexpected("an outcome"))
    }

    /// Gives commands, each with the time that it is to have, their numbers in the session that is open now. However often they are sent,
    /// each applies once.
    pub(crate) fn number(&self, commands: impl IntoIterator<Item = (Command, Option<Time>)>) -> Numbered<'_> {
        let mut session = lock(&self.session);
        let mut numbered = Numbered { session: session.id, requests: Vec::new(), _under_way: Vec::new() };
        for (command, time) in commands {
            let seq = session.next_request;
            session.next_request += 1;
            session.under_way.insert(seq);
            let done_below = session.under_way.first().copied().unwrap_or(seq);
            let id = RequestId { session: session.id, seq };
            let request = Request { id: Some(id), done_below, time, command };
            numbered.requests.push(wire::encode(&request).into());
            numbered._under_way.push(UnderWay { cluster: self, id });
        }
        numbered
    }

    /// Sends commands, which are applied in their order; gives the outcome of each.
    pub(crate) async fn send_numbered(&self, numbered: &Numbered<'_>) -> Result<Vec<Applied>, Error> {
        self.send(numbered.requests.clone()).await
    }

    /// Applies a command that may be repeated and needs no session.
    pub async fn propose_internal(&self, command: Command) -> Result<Outcome, Error> {
        let mut applied = self.send(vec![wire::encode(&Request::internal(command)).into()]).await?;
        applied.pop().ok_or_else(|| unexpected("an outcome"))?.map_err(Error::Refused)
    }

    async fn send(&self, requests: Vec<bytes::Bytes>) -> Result<Vec<Applied>, Error> {
        count(&self.counters.commands);
        let response = self
            .call_leader("changing the namespace", |channel| {
                let request = v1::ProposeRequest { requests: requests.clone() };
                let mut client = namespace_client(channel);
                async move { client.propose(request).await }
            })
            .await?;
        if response.applied.len() != requests.len() {
            return Err(unexpected("an outcome for each command"));
        }
        Ok(response.applied.iter().map(|applied| wire::decode(applied)).collect::<Result<_, _>>()?)
    }

    async fn call_leader<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.leader.call(what, self.options.slow_after, call).await
    }

    /// Opens a session in place of this one, unless somebody has done so meanwhile.
    pub(crate) async fn reopen_session(&self, ended: SessionId) -> Result<(), Error> {
        let _one_at_a_time = self.reopening.lock().await;
        if self.session() != ended {
            return Ok(());
        }
        let command = Command::OpenSession { label: self.options.label.clone() };
        let asked = Instant::now();
        let Outcome::Session(id) = self.propose_internal(command).await? else {
            return Err(unexpected("a session"));
        };
        if ended.0 != 0 {
            tracing::warn!(%ended, new = %id, "the session had ended; a new one is open");
        }
        let mut session = lock(&self.session);
        *session = Session::new(id);
        *lock(&self.renewed) = asked;
        Ok(())
    }

    async fn renew(&self) -> Result<(), Error> {
        let id = self.session();
        let asked = Instant::now();
        // In this order: what was opened before is settled is in the list.
        let settled = self.openings.settled();
        let volumes: Vec<_> = lock(&self.volumes).iter().filter_map(Weak::upgrade).collect();
        let mut open: Vec<u64> =
            volumes.iter().flat_map(|volume| volume.open_files()).map(|ino| ino.0).collect();
        let more_open = open.len() > OPEN_TOLD_MAX;
        open.truncate(OPEN_TOLD_MAX);
        let response = self
            .call_leader("renewing the session", |channel| {
                let mut client = namespace_client(channel);
                let request = v1::RenewRequest { session: id.0, open: open.clone(), more_open, settled };
                async move { client.renew(request).await }
            })
            .await?;
        self.openings.answered();
        if !response.open {
            return self.reopen_session(id).await;
        }
        if self.session() == id {
            *lock(&self.renewed) = asked;
        }
        if response.places != self.places.load(Relaxed) {
            self.refresh_nodes().await?;
            for volume in volumes {
                volume.refresh_places().await?;
            }
            self.places.store(response.places, Relaxed);
        }
        Ok(())
    }

    /// Flushes every volume's files and ends the session. Later calls fail or open a new one.
    pub async fn close(&self) {
        let volumes: Vec<_> = lock(&self.volumes).iter().filter_map(Weak::upgrade).collect();
        for volume in volumes {
            if let Err(error) = volume.flush_all().await {
                tracing::error!(%error, volume = volume.record().name, "closing: some data could not be stored");
            }
        }
        self.blocks.report_now(self).await;
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        let session = self.session();
        if session == SessionId(0) {
            return;
        }
        if let Err(error) = self.propose_internal(Command::EndSession { session }).await {
            tracing::warn!(%error, %session, "closing: the session will end by its time");
        }
    }

    /// Keeps a task until the cluster is closed or dropped.
    pub(crate) fn own(&self, task: AbortHandle) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

/// Commands with their numbers in a session.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    /// Which.
    pub(crate) session: SessionId,
    requests: Vec<bytes::Bytes>,
    _under_way: Vec<UnderWay<'a>>,
}

/// A request's number, until its result is here (or nobody waits for it any more).
#[derive(Debug)]
struct UnderWay<'a> {
    cluster: &'a Client,
    id: RequestId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut session = lock(&self.cluster.session);
        if session.id == self.id.session {
            session.under_way.remove(&self.id.seq);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn namespace_client(channel: Channel) -> NamespaceClient<Channel> {
    NamespaceClient::new(channel)
        .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
}

pub(crate) fn unexpected(wanted: &str) -> Error {
    Error::Protocol(format!("the answer is not {wanted}"))
}

/// As [`direct`], with a second try where the node is reached another way.
async fn over_any_way<T, F>(node: &Node, what: &str, call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    match direct(node.id, what, call()).await {
        Err(Error::Unreachable { .. })
            if node.answers_within(OTHER_WAY_WITHIN).await == Answers::OtherWay =>
        {
            direct(node.id, what, call()).await
        }
        answered => answered,
    }
}

/// A call to one node alone, with a short deadline and no second try.
async fn direct<T>(
    node: NodeId,
    what: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(Duration::from_secs(1), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if !is_broken(&status) => Err(refused_call(what, &status)),
        _ => Err(Error::Unreachable { what: what.into(), missing: vec![node] }),
    }
}

async fn renew_for_ever(cluster: Weak<Client>) {
    loop {
        let Some(strong) = cluster.upgrade() else { return };
        let pause = Duration::from_millis(strong.ttl_ms.load(Relaxed) / 4);
        if strong.session() != SessionId(0)
            && let Err(error) = strong.renew().await
        {
            tracing::debug!(%error, "renewing the session");
        }
        strong.blocks.report_now(&strong).await;
        drop(strong);
        tokio::time::sleep(pause.min(RENEW_EVERY)).await;
    }
}
