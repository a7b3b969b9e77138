//! The facade of the metadata service on one node.

use super::blocking;
use super::check::{self, Checked};
use super::error::{AskError, MetadataError};
use super::lock::DirectoryLock;
use super::machine::{Machine, Namespace};
use super::options::{Member, MetadataOptions, MetadataStats};
use super::proposer::{ProposeError, Proposer};
use super::raft::candidate::Candidate;
use super::raft::compaction;
use super::raft::election::Election;
use super::raft::leadership::{Leadership, follow_leadership};
use super::raft::lease::{LeaderLease, Times};
use super::raft::log_store::LogStore;
use super::raft::machine::{Applying, StateMachine};
use super::raft::membership;
use super::raft::network::{Network, Transport};
use super::raft::read_index::ReadIndex;
use super::raft::receiver::{ReceiveError, Receiver};
use super::raft::types::{MemberAddress, Raft, Vote, position_of};
use super::raft::wire::Addressee;
use super::store::{MetaStore, StoreError};
use crate::disk::{DiskMedia, Media};
use bytes::Bytes;
use openraft::{ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use rain_namespace::command::{Applied, Request};
use rain_namespace::error::NsError;
use rain_namespace::kv::KvRead;
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::NodeRecord;
use rain_types::{LeaderTerm, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Entries of one append message. Bounded by bytes, too ([`LogStore`]).
const MESSAGE_ENTRIES_MAX: u64 = 1024;

/// The metadata service on this node's disk.
pub struct MetadataService {
    member: Member,
    options: MetadataOptions,
    raft: Raft,
    candidate: Candidate,
    receiver: Receiver,
    leader_lease: Arc<Mutex<LeaderLease>>,
    log: LogStore,
    applying: Arc<Applying>,
    proposer: Proposer,
    read_index: ReadIndex,
    leadership: watch::Receiver<Leadership>,
    /// Dropped last.
    _lock: DirectoryLock,
}

impl std::fmt::Debug for MetadataService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataService").field("member", &self.member).finish_non_exhaustive()
    }
}

impl MetadataService {
    /// Opens the namespace in a directory, or makes an empty one. A new one does nothing until this node
    /// bootstraps a cluster or a leader adds the node as a member.
    pub async fn open(
        dir: &Path,
        member: Member,
        options: MetadataOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<MetadataService, MetadataError> {
        MetadataService::open_with(dir, member, options, transport, Arc::new(Namespace), Arc::new(DiskMedia))
            .await
    }

    /// As [`MetadataService::open`], with another machine and another media: for tests and simulation.
    pub async fn open_with(
        dir: &Path,
        member: Member,
        options: MetadataOptions,
        transport: Arc<dyn Transport>,
        machine: Arc<dyn Machine>,
        media: Arc<dyn Media>,
    ) -> Result<MetadataService, MetadataError> {
        std::fs::create_dir_all(dir).map_err(MetadataError::io("creating", dir))?;
        let lock = DirectoryLock::take(dir)?;
        let store = Arc::new(MetaStore::open(media.clone(), dir, options.store.clone())?);
        let owner = (member.cluster, member.node);
        let log = LogStore::open(media, dir, options.segment_bytes, owner, store.clone())?;
        let leader_lease = Arc::new(Mutex::new(LeaderLease::new(member.node, options.times, Instant::now())));
        let applying = Arc::new(Applying::new(store, machine, log.clone()));
        let network = Network {
            cluster: member.cluster,
            transport,
            leader_lease: leader_lease.clone(),
            heartbeat: options.times.heartbeat,
            log: log.clone(),
        };
        let config = Arc::new(raft_config(&options.times)?);
        let state_machine = StateMachine(applying.clone());
        let raft = Raft::new(member.node, config, network.clone(), log.clone(), state_machine).await;
        let raft = raft.map_err(|error| MetadataError::raft(&error))?;
        elect_only_voter(&raft, member.node).await?;
        let proposer = Proposer::start(raft.clone(), log.clone(), applying.clone(), options.proposer.clone());
        let receiver = Receiver {
            me: Addressee { cluster: member.cluster, node: member.node },
            raft: raft.clone(),
            leader_lease: leader_lease.clone(),
            log: log.clone(),
        };
        let candidate = Candidate {
            me: member.node,
            times: options.times,
            raft: raft.clone(),
            network,
            leader_lease: leader_lease.clone(),
            log: log.clone(),
        };
        let read_index = ReadIndex::start(raft.clone(), applying.clone());
        let leadership = follow_leadership(member.node, &raft, leader_lease.clone());
        Ok(MetadataService {
            member,
            options,
            raft,
            candidate,
            receiver,
            leader_lease,
            log,
            applying,
            proposer,
            read_index,
            leadership,
            _lock: lock,
        })
    }

    /// Begins a new cluster with this node as its only voter; other members are added later. Does nothing
    /// where the node is a member already.
    pub async fn bootstrap(&self) -> Result<(), MetadataError> {
        if self.raft.is_initialized().await.map_err(|error| MetadataError::raft(&error))? {
            return Ok(());
        }
        let address = MemberAddress { address: self.member.address.clone() };
        let members = BTreeMap::from([(self.member.node, address)]);
        self.raft.initialize(members).await.map_err(|error| MetadataError::raft(&error))
    }

    /// Returns this node as a member.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Has a request logged by a majority, made durable and applied; returns the outcome after that.
    pub async fn propose(&self, request: Request) -> Result<Applied, ProposeError> {
        let mut applied = self.propose_all(vec![request]).await?;
        Ok(applied.pop().expect("an outcome for the request"))
    }

    /// As [`MetadataService::propose`], for several requests: in this order, without others' requests between
    /// them, and all of them or none.
    pub async fn propose_all(&self, requests: Vec<Request>) -> Result<Vec<Applied>, ProposeError> {
        let leads = || {
            let now = Instant::now();
            let leadership = self.leadership.borrow();
            if !leadership.mine {
                return Err(ProposeError::NotLeader);
            }
            // A new leader has no acknowledgements yet: its time counts from the election.
            let confirmed = leadership.since.max(self.leads_until());
            let is_confirmed = confirmed.is_some_and(|since| since + self.options.times.silence > now);
            if is_confirmed { Ok(()) } else { Err(ProposeError::NoMajority) }
        };
        self.proposer.propose(requests, &leads).await
    }

    /// Answers a query linearizably: from one consistent state that has every acknowledged outcome. Only the
    /// leader can.
    pub async fn ask(&self, query: &Query) -> Result<Answered, AskError> {
        if !self.leadership.borrow().mine {
            return Err(AskError::NotLeader);
        }
        let read = || self.try_query(query).map_err(|error| AskError::Store(error.to_string()));
        let answered = read()?;
        if self.may_answer_alone() {
            return Ok(answered);
        }
        self.read_index.confirm().await?;
        read()
    }

    /// Returns true when a read before this call saw the newest state: no other leader can have existed.
    fn may_answer_alone(&self) -> bool {
        let Some((vote, until)) = self.lease() else { return false };
        // A new leader knows all commits of its predecessors only once its own first entry is applied.
        let applied = self.applying.store.applied();
        let ready = (applied.term, applied.node) == (vote.leader_id.term, vote.leader_id.node_id.0);
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

    /// Returns the term in which this node leads, as far as it knows; `None` where it does not lead.
    pub fn leads_in(&self) -> Option<LeaderTerm> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let leader = metrics.vote.leader_id;
        let leads = metrics.state == ServerState::Leader && leader.node_id == self.member.node;
        leads.then_some(LeaderTerm { term: leader.term, node: leader.node_id })
    }

    /// Returns the end of this node's leader lease; `None` where the node does not lead.
    pub fn leads_until(&self) -> Option<Instant> {
        self.lease().map(|(_, until)| until)
    }

    /// Returns true while this node holds the leader lease.
    pub fn is_confirmed(&self) -> bool {
        self.leads_until().is_some_and(|until| Instant::now() < until)
    }

    /// Returns a bound on the age of this node's state: zero on a leader with its lease, else the time since
    /// the last contact with a leader.
    pub fn age(&self) -> Duration {
        let now = Instant::now();
        if self.may_answer_alone() {
            return Duration::ZERO;
        }
        let until = self.leads_until();
        self.leader_lease.lock().age(until, now).unwrap_or(Duration::MAX)
    }

    /// Answers a query from this node's own state, which may lack the newest outcomes. May read the disk:
    /// call it where blocking is allowed if the answer has many records. A store that cannot be read gives
    /// `Malformed` with the reason, never "not found"; [`MetadataService::try_query`] tells the two apart.
    pub fn query(&self, query: &Query) -> Answered {
        self.try_query(query).unwrap_or_else(|error| Err(NsError::Malformed(error.to_string())))
    }

    /// As [`MetadataService::query`], with failures of the store as errors of their own.
    pub fn try_query(&self, query: &Query) -> Result<Answered, StoreError> {
        self.applying.store.read(|kv| self.applying.machine.answer(kv, query))
    }

    /// Returns the eligible nodes as this node's own state has them; empty where the store cannot be read.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        match self.query(&Query::Nodes) {
            Ok(Answer::Nodes(nodes)) => nodes,
            _ => Vec::new(),
        }
    }

    /// Reads one consistent state of this node directly; see [`MetaStore::read`].
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        self.applying.store.read(read)
    }

    /// Returns the position of the last entry applied on this node.
    pub fn applied_index(&self) -> u64 {
        self.applying.store.applied().index
    }

    /// Returns a watch of the applied position.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.applying.applied.subscribe()
    }

    /// Returns a watch that changes whenever a lock with waiters may have been granted.
    pub fn grants(&self) -> watch::Receiver<u64> {
        self.applying.grants.subscribe()
    }

    /// Returns a watch of the leader and the members.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Answers a message of another member.
    pub async fn message(&self, message: Bytes) -> Result<Bytes, ReceiveError> {
        self.receiver.answer(message).await
    }

    /// Takes a snapshot from the leader: its head and its pieces, the last of which is empty.
    pub async fn snapshot(&self, head: Bytes, pieces: mpsc::Receiver<Bytes>) -> Result<Bytes, ReceiveError> {
        self.receiver.install_snapshot(head, pieces).await
    }

    /// Stands for election when that is due. `view`: the nodes that answer, by the ring. To be called every
    /// few milliseconds.
    pub async fn run_election(&self, election: &mut Election, view: Option<&[NodeId]>) {
        self.candidate.run(election, view).await;
    }

    /// Makes the next change towards the right members; returns true if there was one. Only the leader can.
    pub async fn settle_membership(
        &self,
        nodes: &[NodeRecord],
        losses: u8,
        away: &BTreeSet<NodeId>,
    ) -> Result<bool, MetadataError> {
        membership::settle(&self.raft, nodes, losses, away).await
    }

    /// Drops log records that the store has durably and that followers hardly need. To be called every few
    /// seconds.
    pub async fn compact(&self) -> Result<(), MetadataError> {
        compaction::compact(&self.raft, &self.log, &self.applying.store, self.options.keep_bytes).await
    }

    /// Returns figures since the start of the process.
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

    /// Checks every invariant of the namespace on this node. Blocks and reads all of it; nobody waits for it.
    pub fn check(&self) -> Result<Checked, StoreError> {
        check::check(&self.applying.store)
    }

    /// Returns the reason why the service rejects all proposals; `None` while it works.
    pub fn stopped(&self) -> Option<String> {
        self.log.stopped().or_else(|| self.applying.stopped.get().cloned())
    }

    /// Finishes the requests under way, makes the store durable and stops. May be called again. Without it
    /// nothing is lost, but the next start applies the end of the log again.
    pub async fn close(&self) {
        self.retire().await;
        self.log.settle().await;
        let store = self.applying.store.clone();
        let closed = blocking::run(move || store.close()).await;
        if let Some(Err(error)) = closed {
            report_close(&error);
        }
    }

    /// Finishes the requests under way, then neither leads nor votes, so that the others elect a new leader
    /// at once. The state can still be read. A leader that is about to stop must not go on with its
    /// heartbeats.
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
        // openraft's tasks may hold parts of the service for a while: nothing is written from here on.
        self.log.shut();
        if let Err(error) = self.applying.store.close() {
            report_close(&error);
        }
    }
}

fn report_close(error: &StoreError) {
    tracing::error!(%error, "closing the namespace store; the log has the entries that the store lacks");
}

/// The only voter asks nobody for votes: it is elected at the start.
async fn elect_only_voter(raft: &Raft, me: NodeId) -> Result<(), MetadataError> {
    let is_alone = raft
        .with_raft_state(move |state| state.membership_state.effective().membership().voter_ids().eq([me]));
    if is_alone.await.map_err(|error| MetadataError::raft(&error))? {
        raft.trigger().elect().await.map_err(|error| MetadataError::raft(&error))?;
    }
    Ok(())
}

fn raft_config(times: &Times) -> Result<openraft::Config, MetadataError> {
    let millis = |time: Duration| time.as_millis() as u64;
    openraft::Config {
        cluster_name: "rain".into(),
        heartbeat_interval: millis(times.heartbeat),
        // `Election` decides on elections; the larger timeout is the lease that voters keep.
        enable_elect: false,
        election_timeout_min: millis(times.lease) - 1,
        election_timeout_max: millis(times.lease),
        snapshot_policy: SnapshotPolicy::Never,
        // `compaction` decides on purges.
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|error| MetadataError::raft(&error))
}
