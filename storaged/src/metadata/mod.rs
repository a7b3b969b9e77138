//! The namespace, kept: durable on a majority, in order, and fast enough to be everybody's.
//!
//! ```text
//!   propose -> proposer -> raft (log of a majority, durable) -> machine.apply over store -> outcome
//!   ask     -> store (one consistent state), if this node is certainly the leader -> machine.answer
//! ```
//!
//! - [`log`]: numbered records on disk. [`store`]: the ordered store under the namespace. [`proposer`]: gathers requests into
//!   entries. [`machine`]: what is driven, normally [`Namespace`]. [`raft`]: the driver of openraft, and the decisions around it.
//! - A directory belongs to one process; a lock file says so.
//!
//! Invariants: an acknowledged request survives a crash of any minority at any point, and of all at once
//! (`acknowledged_requests_survive_a_power_loss`, `acknowledged_requests_survive_kill_9`); every node applies the same entries and
//! has the same store (`a_replay_gives_the_same_bytes_as_never_crashing`).

mod base_file;
mod blocking;
pub mod log;
pub mod machine;
mod memtable;
pub mod proposer;
pub mod raft;
pub mod store;

pub use log::{CommandLog, LogError};
pub use machine::{Machine, Namespace};
pub use proposer::{ProposeError, ProposerOptions};
pub use raft::lease::Times;
pub use raft::network::{AppendStream, Delivery, ReceiveError, Transport, TransportError};
pub use store::{Mark, MetaStore, StoreError, StoreOptions, StoreStats};

use crate::disk::{DiskMedia, Media};
use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use proposer::Proposer;
use raft::lease::LeaderLease;
use raft::log_store::{LogStore, OpenError};
use raft::machine::{Applying, StateMachine};
use raft::network::{Network, Receiver};
use raft::types::{Membership, Place, Raft, Vote, position_of};
use raft::voters::Step;
use raft::wire::Addressee;
use rain_namespace::command::{Applied, Request};
use rain_namespace::error::NsError;
use rain_namespace::kv::KvRead;
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::NodeRecord;
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

const LOCK: &str = "LOCK";

/// Records of the log that followers may still want stay within these bytes.
const LOG_KEEP_BYTES: u64 = 32 << 20;

/// A learner that lacks so many entries is not ready to vote.
const READY_WITHIN: u64 = 1000;

/// A read that a majority does not confirm within this has failed.
const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(1000);

/// Readers that wait for a majority's word.
const READERS_MAX: usize = 4096;

/// Why a namespace cannot be opened or closed.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// A file of the directory.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// As the system said it.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process keeps the namespace in {dir}", dir = dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory is another node's, or of another cluster.
    #[error("{0}")]
    Foreign(String),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries between the store and the log are gone.
    #[error("{0}")]
    Gap(String),
    /// Raft does not start, or refuses.
    #[error("the namespace's consensus: {0}")]
    Raft(String),
}

impl MetadataError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MetadataError {
        move |source| MetadataError::Io { doing, path: path.to_owned(), source }
    }

    fn raft(error: &dyn std::fmt::Display) -> MetadataError {
        MetadataError::Raft(error.to_string())
    }
}

impl From<OpenError> for MetadataError {
    fn from(error: OpenError) -> MetadataError {
        match error {
            OpenError::Log(error) => MetadataError::Log(error),
            OpenError::State { path, source } => MetadataError::Io { doing: "opening", path, source },
            OpenError::Gap { .. } => MetadataError::Gap(error.to_string()),
            OpenError::Foreign { .. } => MetadataError::Foreign(error.to_string()),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum AskError {
    /// Another node leads, or none is known.
    #[error("this node does not lead the namespace")]
    NotLeader,
    /// A majority does not confirm that this node leads.
    #[error("no majority of the namespace's voters answers")]
    NoMajority,
    /// The store cannot be read.
    #[error("{0}")]
    Store(String),
}

/// Limits of a keeper.
#[derive(Debug, Clone)]
pub struct MetadataOptions {
    /// Of the store.
    pub store: StoreOptions,
    /// Of the proposer.
    pub proposer: ProposerOptions,
    /// Of the protocol.
    pub times: Times,
    /// Size of a log segment, bytes. Two or three exist: one in use, the next, and one not yet purged.
    pub segment_bytes: u64,
    /// Bytes of records that stay for followers that lag.
    pub keep_bytes: u64,
}

impl Default for MetadataOptions {
    fn default() -> MetadataOptions {
        MetadataOptions {
            store: StoreOptions::default(),
            proposer: ProposerOptions::default(),
            times: Times::default(),
            segment_bytes: 16 << 20,
            keep_bytes: LOG_KEEP_BYTES,
        }
    }
}

/// Which keeper this is.
#[derive(Debug, Clone)]
pub struct Member {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which node.
    pub node: NodeId,
    /// Where the others reach it.
    pub address: String,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Grows with every election.
    pub term: u64,
    /// The leader; none while one is being found.
    pub leader: Option<NodeId>,
    /// Where it was when it was taken in; the namespace's record may be newer.
    pub address: String,
    /// It is this node.
    pub mine: bool,
    /// Since when, if it is this node.
    pub since: Option<Instant>,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who only follows.
    pub learners: Vec<NodeId>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The last entry in what was checked.
    pub position: u64,
    /// blake3 over all pairs: nodes at one position must have the same.
    pub digest: [u8; 32],
    /// What is wrong; empty: sound.
    pub violations: Vec<String>,
}

/// Figures since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataStats {
    /// Of the store.
    pub store: StoreStats,
    /// Entries proposed here.
    pub entries: u64,
    /// Requests in them.
    pub requests: u64,
    /// fdatasyncs of the log.
    pub syncs: u64,
    /// Position of the first entry in the log.
    pub log_first: u64,
    /// Of the last entry in the log.
    pub log_last: u64,
    /// Bytes of disk that the log takes.
    pub log_bytes: u64,
    /// Of the leader: how far each member's log is known to match, by position.
    pub matched: Vec<(NodeId, u64)>,
    /// Why nothing is taken any more, if so.
    pub stopped: Option<String>,
}

/// The namespace on this node's disk.
pub struct MetadataService {
    member: Member,
    options: MetadataOptions,
    raft: Raft,
    network: Network,
    receiver: Receiver,
    leader_lease: Arc<Mutex<LeaderLease>>,
    log: LogStore,
    applying: Arc<Applying>,
    proposer: Proposer,
    readers: mpsc::Sender<oneshot::Sender<Result<(), AskError>>>,
    leadership: watch::Receiver<Leadership>,
    lock: File,
}

impl std::fmt::Debug for MetadataService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataService").field("member", &self.member).finish_non_exhaustive()
    }
}

impl MetadataService {
    /// Opens the namespace in a directory, or begins an empty one that waits to be founded or to be taken into a cluster.
    pub async fn open(
        dir: &Path,
        member: Member,
        options: MetadataOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<MetadataService, MetadataError> {
        MetadataService::open_with(dir, member, options, transport, Arc::new(Namespace), Arc::new(DiskMedia))
            .await
    }

    /// As [`MetadataService::open`], over another machine and other files: for tests and simulation.
    pub async fn open_with(
        dir: &Path,
        member: Member,
        options: MetadataOptions,
        transport: Arc<dyn Transport>,
        machine: Arc<dyn Machine>,
        media: Arc<dyn Media>,
    ) -> Result<MetadataService, MetadataError> {
        std::fs::create_dir_all(dir).map_err(MetadataError::io("creating", dir))?;
        let lock = lock(dir)?;
        let store = Arc::new(MetaStore::open(media.clone(), dir, options.store.clone())?);
        let who = (member.cluster, member.node);
        let log = LogStore::open(media, dir, options.segment_bytes, who, store.clone())?;
        let leader_lease = Arc::new(Mutex::new(LeaderLease::new(member.node, options.times, Instant::now())));
        let (applied, stopped) = (watch::Sender::new(store.applied().index), std::sync::OnceLock::new());
        let grants = watch::Sender::new(0);
        let applying = Arc::new(Applying { store, machine, log: log.clone(), applied, grants, stopped });
        let heartbeat = options.times.heartbeat;
        let (cluster, standing_of, log_of) = (member.cluster, leader_lease.clone(), log.clone());
        let network = Network { cluster, transport, leader_lease: standing_of, heartbeat, log: log_of };
        let config = Arc::new(raft_config(&options.times)?);
        let machine = StateMachine(applying.clone());
        let raft = Raft::new(member.node, config, network.clone(), log.clone(), machine).await;
        let raft = raft.map_err(|error| MetadataError::raft(&error))?;
        // Who votes alone asks nobody.
        let me = member.node;
        let alone = raft.with_raft_state(move |state| {
            state.membership_state.effective().membership().voter_ids().eq([me])
        });
        if alone.await.map_err(|error| MetadataError::raft(&error))? {
            let elected = raft.trigger().elect().await;
            elected.map_err(|error| MetadataError::raft(&error))?;
        }
        let proposer = Proposer::start(raft.clone(), log.clone(), applying.clone(), options.proposer.clone());
        let me = Addressee { cluster: member.cluster, node: member.node };
        let receiver =
            Receiver { me, raft: raft.clone(), leader_lease: leader_lease.clone(), log: log.clone() };
        let (readers, waiting) = mpsc::channel(READERS_MAX);
        tokio::spawn(confirm_reads(raft.clone(), applying.clone(), waiting));
        let leadership = follow_leadership(member.node, &raft, leader_lease.clone());
        Ok(MetadataService {
            member,
            options,
            raft,
            network,
            receiver,
            leader_lease,
            log,
            applying,
            proposer,
            readers,
            leadership,
            lock,
        })
    }

    /// Begins a new cluster with this node alone; others are taken in later. Does nothing where there is one.
    pub async fn bootstrap(&self) -> Result<(), MetadataError> {
        if self.raft.is_initialized().await.map_err(|error| MetadataError::raft(&error))? {
            return Ok(());
        }
        let place = Place { address: self.member.address.clone() };
        let members = std::collections::BTreeMap::from([(self.member.node, place)]);
        self.raft.initialize(members).await.map_err(|error| MetadataError::raft(&error))
    }

    /// Which keeper it is.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Has a request logged by a majority, made durable and applied. Only then there is an outcome.
    pub async fn propose(&self, request: Request) -> Result<Applied, ProposeError> {
        let mut applied = self.propose_all(vec![request]).await?;
        Ok(applied.pop().expect("an outcome for the request"))
    }

    /// As [`MetadataService::propose`], of several: in this order, with nothing of others between them, and all of them or none.
    pub async fn propose_all(&self, requests: Vec<Request>) -> Result<Vec<Applied>, ProposeError> {
        let leads = || {
            let now = Instant::now();
            let leadership = self.leadership.borrow();
            if !leadership.mine {
                return Err(ProposeError::NotLeader);
            }
            // One that has just begun has not heard from the others yet.
            let since = leadership.since.max(self.leads_until());
            let heard = since.is_some_and(|since| since + self.options.times.silence > now);
            if heard { Ok(()) } else { Err(ProposeError::NoMajority) }
        };
        self.proposer.propose(requests, &leads).await
    }

    /// Answers from one consistent state that has every outcome told so far, on any node: linearizable. Only the leader can.
    pub async fn ask(&self, query: &Query) -> Result<Answered, AskError> {
        if !self.leadership.borrow().mine {
            return Err(AskError::NotLeader);
        }
        let read = || self.try_query(query).map_err(|error| AskError::Store(error.to_string()));
        let answered = read()?;
        if self.may_answer_alone() {
            return Ok(answered);
        }
        let (confirmed, confirmation) = oneshot::channel();
        self.readers.try_send(confirmed).map_err(|_| AskError::NoMajority)?;
        confirmation.await.unwrap_or(Err(AskError::NotLeader))?;
        read()
    }

    /// Whether what was read before this call was the newest: no other leader can have been there.
    fn may_answer_alone(&self) -> bool {
        let Some((vote, until)) = self.lease() else { return false };
        // A new leader knows what its predecessors committed only behind its own first entry.
        let mark = self.applying.store.applied();
        let ready = (mark.term, mark.node) == (vote.leader_id.term, vote.leader_id.node_id.0);
        ready && Instant::now() < until
    }

    fn lease(&self) -> Option<(Vote, Instant)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let until = self.leader_lease.lock().leads_until(&metrics.vote, membership, Instant::now())?;
        Some((metrics.vote, until))
    }

    /// Until when this node is certainly the leader; none: it does not lead.
    pub fn leads_until(&self) -> Option<Instant> {
        self.lease().map(|(_, until)| until)
    }

    /// Whether a majority has confirmed lately that this node leads.
    pub fn is_confirmed(&self) -> bool {
        self.leads_until().is_some_and(|until| Instant::now() < until)
    }

    /// How old what this node knows may be at most: since when it has not heard of a leader, or nothing where it leads.
    pub fn age(&self) -> Duration {
        let now = Instant::now();
        if self.may_answer_alone() {
            return Duration::ZERO;
        }
        let until = self.leads_until();
        self.leader_lease.lock().age(until, now).unwrap_or(Duration::MAX)
    }

    /// Answers from this node's own state, which may lack the newest outcomes. May read the disk: for
    /// answers of many records call it where blocking is allowed. Where the store cannot be read it says
    /// `Malformed` with the reason, never "not found"; [`MetadataService::try_query`] tells the two apart.
    pub fn query(&self, query: &Query) -> Answered {
        self.try_query(query).unwrap_or_else(|error| Err(NsError::Malformed(error.to_string())))
    }

    /// Returns the eligible nodes as this node's own state has them; empty where the store cannot be read.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        match self.query(&Query::Nodes) {
            Ok(Answer::Nodes(nodes)) => nodes,
            _ => Vec::new(),
        }
    }

    /// As [`MetadataService::query`], with the store's failures told as such.
    pub fn try_query(&self, query: &Query) -> Result<Answered, StoreError> {
        self.applying.store.read(|kv| self.applying.machine.answer(kv, query))
    }

    /// Reads one consistent state of this node directly; see [`MetaStore::read`].
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        self.applying.store.read(read)
    }

    /// The position of the last entry applied here.
    pub fn applied_index(&self) -> u64 {
        self.applying.store.applied().index
    }

    /// The applied position as it grows.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.applying.applied.subscribe()
    }

    /// Changes whenever a lock that somebody waits for may have been granted.
    pub fn grants(&self) -> watch::Receiver<u64> {
        self.applying.grants.subscribe()
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// A message of another keeper, and the answer to it.
    pub async fn message(&self, message: Bytes) -> Result<Bytes, ReceiveError> {
        self.receiver.answer(message).await
    }

    /// A snapshot of the leader: its head and its pieces, the last one empty.
    pub async fn snapshot(&self, head: Bytes, pieces: mpsc::Receiver<Bytes>) -> Result<Bytes, ReceiveError> {
        self.receiver.take(head, pieces).await
    }

    /// Asks the others for their votes, unless this node has promised a leader not to.
    fn stand(&self) -> bool {
        let trigger = self.raft.trigger();
        let mut electing = Box::pin(trigger.elect());
        let leader_lease = self.leader_lease.lock();
        if !leader_lease.may_stand(Instant::now()) {
            return false;
        }
        // Under the lock up to where openraft has it in its queue, as a leader's messages are.
        let waker = futures::task::noop_waker();
        let sent = electing.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        drop(leader_lease);
        matches!(sent, std::task::Poll::Ready(Ok(())))
    }

    /// Stands for leader when that is due; `view` is who answers, by the ring. To be called often.
    pub async fn run_election(&self, election: &mut raft::election::Election, view: Option<&[NodeId]>) {
        let metrics = self.raft.server_metrics();
        let (membership, leader) = {
            let metrics = metrics.borrow();
            (metrics.membership_config.membership().clone(), metrics.current_leader)
        };
        let voters = membership.get_joint_config();
        if leader == Some(self.member.node) {
            // Should it lose its place, it keeps out of the way of whoever takes it.
            self.leader_lease.lock().leads_now(Instant::now());
        }
        let (me, now, heard) = (self.member.node, Instant::now(), Some(self.leader_lease.lock().led()));
        let facts = raft::election::Facts { me, now, voters, leader, heard, view };
        if !election.decide(&self.options.times, &facts) {
            return;
        }
        if !self.would_win(&membership, view).await {
            election.refused();
        } else if self.stand() {
            tracing::info!(?leader, "no leader of the namespace answers: leader_lease for it");
        }
    }

    /// Whether a majority would vote for this node, were it asked now.
    async fn would_win(&self, membership: &Membership, view: Option<&[NodeId]>) -> bool {
        let last = self.log.durable();
        let answers = |node: &NodeId| view.is_none_or(|view| view.contains(node));
        let others = membership.voter_ids().filter(|node| *node != self.member.node && answers(node));
        let mut asked: futures::stream::FuturesUnordered<_> = others
            .filter_map(|node| Some((node, membership.get_node(&node)?)))
            .map(|(node, place)| async move { (node, self.network.would_vote(node, place, last).await) })
            .collect();
        let mut would = BTreeSet::from([self.member.node]);
        loop {
            let is_majority =
                |voters: &BTreeSet<NodeId>| voters.intersection(&would).count() * 2 > voters.len();
            if membership.get_joint_config().iter().all(is_majority) {
                return true;
            }
            let Some((node, would_vote)) = futures::StreamExt::next(&mut asked).await else { return false };
            if would_vote {
                would.insert(node);
            }
        }
    }

    /// Takes the next step towards the voters that should be; true if there was one. Only the leader can.
    pub async fn settle_membership(
        &self,
        nodes: &[NodeRecord],
        losses: u8,
        away: &BTreeSet<NodeId>,
    ) -> Result<bool, MetadataError> {
        let membership = self.raft.server_metrics().borrow().membership_config.membership().clone();
        let ready = self.ready_learners(&membership, away);
        let facts = raft::voters::Facts { nodes, losses, away, ready: &ready };
        let Some(step) = raft::voters::step(&facts, &membership) else { return Ok(false) };
        tracing::info!(?step, "the namespace's membership changes");
        let changed = match step {
            Step::AddLearner(id, place) => self.raft.add_learner(id, place, false).await,
            Step::SetVoters(voters) => self.raft.change_membership(voters, true).await,
            Step::Remove(id) => {
                let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
                self.raft.change_membership(gone, false).await
            }
        };
        match changed {
            Ok(_) => Ok(true),
            // The next leader goes on.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Ok(false),
            Err(error) => Err(MetadataError::raft(&error)),
        }
    }

    fn ready_learners(&self, membership: &Membership, away: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let last = metrics.last_log_index.unwrap_or(0);
        let Some(replication) = &metrics.replication else { return BTreeSet::new() };
        membership
            .learner_ids()
            .filter(|id| !away.contains(id))
            .filter(|id| {
                replication.get(id).is_some_and(|matched| position_of(matched.as_ref()) + READY_WITHIN > last)
            })
            .collect()
    }

    /// Lets go of records that the store has and followers hardly want. To be called now and then.
    pub async fn compact(&self) -> Result<(), MetadataError> {
        let first = self.log.counters().first.load(Ordering::Relaxed);
        let point = self.log.purge_point(self.options.keep_bytes).min(self.applying.store.durable());
        if point <= first {
            return Ok(());
        }
        self.raft.trigger().snapshot().await.map_err(|error| MetadataError::raft(&error))?;
        let upto = raft::types::index_at(point.saturating_sub(1));
        match upto {
            Some(upto) => {
                self.raft.trigger().purge_log(upto).await.map_err(|error| MetadataError::raft(&error))
            }
            None => Ok(()),
        }
    }

    /// Figures.
    pub fn stats(&self) -> MetadataStats {
        let counters = self.log.counters();
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let metrics = self.raft.metrics();
        let matched = metrics.borrow().replication.as_ref().map(|replication| {
            replication.iter().map(|(id, matched)| (*id, position_of(matched.as_ref()))).collect()
        });
        MetadataStats {
            store: self.applying.store.stats(),
            entries: get(&self.proposer.counters().entries),
            requests: get(&self.proposer.counters().requests),
            syncs: get(&counters.syncs),
            log_first: get(&counters.first),
            log_last: get(&counters.last),
            log_bytes: get(&counters.disk_bytes),
            matched: matched.unwrap_or_default(),
            stopped: self.stopped(),
        }
    }

    /// Checks every invariant of the namespace as it is here now. Blocks, and reads all of it; nobody waits for it.
    pub fn check(&self) -> Result<Checked, StoreError> {
        self.applying.store.flush()?;
        let snapshot = self.applying.store.snapshot()?;
        let violations = snapshot.read(rain_namespace::check::check)?;
        let mut hasher = blake3::Hasher::new();
        snapshot.read(|kv| {
            kv.scan(&[], &[0xff; 64], &mut |key, value| {
                for part in [key, value] {
                    hasher.update(&(part.len() as u32).to_le_bytes()).update(part);
                }
                std::ops::ControlFlow::Continue(())
            });
        })?;
        Ok(Checked {
            position: snapshot.mark().index,
            digest: *hasher.finalize().as_bytes(),
            violations: violations.iter().map(|violation| format!("{violation:?}")).collect(),
        })
    }

    /// Why nothing is taken any more, if so.
    pub fn stopped(&self) -> Option<String> {
        self.log.stopped().or_else(|| self.applying.stopped.get().cloned())
    }

    /// Finishes the requests it has, makes the store durable and stops. May be called again. Without
    /// it nothing is lost, but the next start applies the log's end again.
    pub async fn close(&self) {
        self.retire().await;
        self.log.settle().await;
        let store = self.applying.store.clone();
        let closed = blocking::run(move || store.close()).await;
        if let Some(Err(error)) = closed {
            tracing::error!(%error, "closing the namespace store; the log still has what is missing in it");
        }
    }

    /// Finishes what it has, then leads and votes no more, so that others elect at once; what it knows can still be read. A leader that
    /// is about to end must not go on telling the others that it is there.
    pub async fn retire(&self) {
        self.proposer.close().await;
        // Else an entry that waits for room in memory would wait for room on the disk.
        self.applying.store.stop_waiting();
        self.log.stop_waiting();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "stopping the namespace's consensus");
        }
    }
}

impl Drop for MetadataService {
    fn drop(&mut self) {
        // Tasks of openraft may have parts of it for a while.
        self.log.shut();
        if let Err(error) = self.applying.store.close() {
            tracing::error!(%error, "closing the namespace store; the log still has what is missing in it");
        }
        // Not left to closing the file: a process that is just being started by this one has the descriptor until its exec.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "unlocking the namespace's directory");
        }
    }
}

fn raft_config(times: &Times) -> Result<openraft::Config, MetadataError> {
    let millis = |time: Duration| time.as_millis() as u64;
    openraft::Config {
        cluster_name: "rain".into(),
        heartbeat_interval: millis(times.heartbeat),
        // When to stand is decided by `campaign`; the larger one is the voters' lease.
        enable_elect: false,
        election_timeout_min: millis(times.lease) - 1,
        election_timeout_max: millis(times.lease),
        snapshot_policy: SnapshotPolicy::Never,
        // `compact` decides what goes.
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 1024,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|error| MetadataError::raft(&error))
}

fn lock(dir: &Path) -> Result<File, MetadataError> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(MetadataError::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MetadataError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(MetadataError::io("locking", &path)(error)),
    }
}

/// Tells who leads, whenever that changes.
fn follow_leadership(
    me: NodeId,
    raft: &Raft,
    leader_lease: Arc<Mutex<LeaderLease>>,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (tell, told) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        let mut told_before: Option<(u64, Instant)> = None;
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                let membership = metrics.membership_config.membership();
                let leader = metrics.current_leader;
                let place = leader.and_then(|leader| membership.get_node(&leader));
                let mine = metrics.state == ServerState::Leader && leader == Some(me);
                let term = metrics.vote.leader_id.term;
                let before = told_before.filter(|(before, _)| mine && *before == term);
                told_before = mine.then(|| before.unwrap_or_else(|| (term, Instant::now())));
                Leadership {
                    since: told_before.map(|(_, since)| since),
                    term,
                    leader,
                    address: place.map(|place| place.address.clone()).unwrap_or_default(),
                    mine,
                    voters: membership.voter_ids().collect(),
                    learners: membership.learner_ids().collect(),
                }
            };
            let learners = now.learners.iter().copied().collect();
            leader_lease.lock().set_learners(learners);
            tell.send_if_modified(|told| {
                let changed = *told != now;
                *told = now;
                changed
            });
            if tell.is_closed() {
                return;
            }
            if metrics.changed().await.is_err() {
                // Consensus has ended here.
                tell.send_modify(|told| {
                    *told = Leadership { leader: None, mine: false, since: None, ..told.clone() }
                });
                return;
            }
        }
    });
    told
}

/// Has a majority confirm that this node leads, for all readers that wait, one round after the other.
async fn confirm_reads(
    raft: Raft,
    applying: Arc<Applying>,
    mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), AskError>>>,
) {
    while let Some(first) = waiting.recv().await {
        let mut readers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            readers.push(next);
        }
        let round = async {
            let (read, _) = raft.get_read_log_id().await.map_err(|error| match error {
                RaftError::APIError(openraft::error::CheckIsLeaderError::ForwardToLeader(_)) => {
                    AskError::NotLeader
                }
                _ => AskError::NoMajority,
            })?;
            let mut applied = applying.applied.subscribe();
            let wanted = position_of(read.as_ref());
            applied.wait_for(|applied| *applied >= wanted).await.map_err(|_| AskError::NotLeader)?;
            Ok(())
        };
        let result = tokio::time::timeout(READ_INDEX_TIMEOUT, round).await;
        let result = result.unwrap_or(Err(AskError::NoMajority));
        for reader in readers {
            // Who asked may be gone.
            let _ = reader.send(result.clone());
        }
    }
}
