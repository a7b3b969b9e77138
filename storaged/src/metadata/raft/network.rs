//! Messages to the other keepers. How bytes get there is a [`Transport`]'s: gRPC in a daemon, a table of keepers in a test.

use super::lease::LeaderLease;
use super::log_store::LogStore;
use super::types::{EntryLogId, Place, Raft, SnapshotData, StoredMembership, Types, Vote};
use super::wire::{self, Addressee, Message, Reply, SnapshotHead};
use crate::metadata::blocking;
use crate::metadata::store::{Pair, StoreSnapshot};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use parking_lot::Mutex;
use rain_types::{ClusterId, NodeId};
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two tries of a node that does not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(40);

/// Between two messages to a node without a vote, as long as there is something to say.
const LEARNER_PACE: Duration = Duration::from_millis(20);

/// A leader whose disk has got nowhere for so long says nothing more: nothing can be committed under it, and the others are to find one
/// whose disk works.
const DISK_HANGS: Duration = Duration::from_millis(600);

/// Bytes of one piece of a snapshot.
const PIECE_BYTES: usize = 1 << 20;

/// Without progress for so long a snapshot is given up; it is begun again.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

/// A message did not get there, or no answer came back.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// A line to another keeper for one message after the other.
pub trait AppendStream: Debug + Send + Sync + 'static {
    /// Sends a message and gives the answer. The caller sets the deadline; after a missed one the line is not used again.
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a>;
}

/// The answer to a message, on its way.
pub type Delivery<'a> = BoxFuture<'a, Result<Bytes, TransportError>>;

/// Carries bytes between keepers.
pub trait Transport: Debug + Send + Sync + 'static {
    /// A line for what a leader says all the time.
    fn append_stream(&self, to: NodeId, address: &str) -> Box<dyn AppendStream>;

    /// Sends a message and gives the answer. The caller sets the deadline.
    fn call<'a>(&'a self, to: NodeId, address: &'a str, message: Bytes) -> Delivery<'a>;

    /// Sends a message and pieces that follow it; the answer comes when all were taken.
    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        message: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a>;
}

type Rpc<T> = Result<T, RPCError<NodeId, Place, RaftError<NodeId>>>;

/// The way to all others.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) cluster: ClusterId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) leader_lease: Arc<Mutex<LeaderLease>>,
    pub(crate) heartbeat: Duration,
    pub(crate) log: LogStore,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Place) -> Peer {
        Peer { network: self.clone(), to: target, address: node.address.clone(), line: None, last: None }
    }
}

impl Network {
    /// Whether a node would vote for one whose log ends here. One that does not answer would not; on a busy machine an answer may take a while,
    /// and who asks does not wait for more than a majority.
    pub(crate) async fn would_vote(&self, node: NodeId, place: &Place, last: Option<EntryLogId>) -> bool {
        let addressee = Addressee { cluster: self.cluster, node };
        let bytes = wire::encode_message(addressee, &Message::PreVote(last));
        let asked = self.transport.call(node, &place.address, bytes);
        let Ok(Ok(answer)) = tokio::time::timeout(self.heartbeat * 3, asked).await else { return false };
        matches!(wire::decode_reply(answer), Ok(Reply::PreVote(true)))
    }
}

/// The way to one of them.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    to: NodeId,
    address: String,
    /// For entries, once there were some; taken out while it is asked.
    line: Option<Box<dyn AppendStream>>,
    /// The vote and time of what was acknowledged last over the line.
    last: Option<(Vote, Instant)>,
}

fn unreachable(error: TransportError) -> RPCError<NodeId, Place, RaftError<NodeId>> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn nonsense() -> NetworkError {
    NetworkError::new(&TransportError("the answer is none".into()))
}

impl Peer {
    fn addressee(&self) -> Addressee {
        Addressee { cluster: self.network.cluster, node: self.to }
    }

    async fn ask(&self, message: &Message) -> Rpc<Reply> {
        let bytes = wire::encode_message(self.addressee(), message);
        let answer = self.network.transport.call(self.to, &self.address, bytes).await.map_err(unreachable)?;
        wire::decode_reply(answer).map_err(|_| RPCError::Network(nonsense()))
    }

    /// As `ask`, over the line. A line whose answer is missed (the future is dropped) or that fails is not used again.
    async fn ask_on_line(&mut self, message: &Message) -> Rpc<Reply> {
        let bytes = wire::encode_message(self.addressee(), message);
        let line = self.line.take();
        let mut line = line.unwrap_or_else(|| self.network.transport.append_stream(self.to, &self.address));
        let answer = line.ask(bytes).await.map_err(unreachable)?;
        self.line = Some(line);
        wire::decode_reply(answer).map_err(|_| RPCError::Network(nonsense()))
    }

    /// Whether nothing would be gained by saying again what was said a moment ago: openraft tells every follower of every commit at
    /// once, which the next entry or heartbeat does as well.
    fn is_fresh(&self, rpc: &AppendEntriesRequest<Types>) -> bool {
        let half = self.network.heartbeat / 2;
        rpc.entries.is_empty() && self.last.is_some_and(|(vote, at)| vote == rpc.vote && at.elapsed() < half)
    }

    /// Who has no vote is told less often, and more at a time.
    async fn pace(&self) {
        if let Some((_, at)) = self.last
            && self.network.leader_lease.lock().is_learner(self.to)
        {
            tokio::time::sleep(LEARNER_PACE.saturating_sub(at.elapsed())).await;
        }
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<NodeId>> {
        if self.is_fresh(&rpc) {
            return Ok(AppendEntriesResponse::Success);
        }
        self.pace().await;
        if self.network.log.waits_for() > DISK_HANGS {
            return Err(unreachable(TransportError("this node's own disk hangs".into())));
        }
        // Committed is what is durable here, too.
        let mut rpc = rpc;
        rpc.leader_commit = rpc.leader_commit.min(self.network.log.durable());
        let (vote, sent) = (rpc.vote, Instant::now());
        // What has no entries may be a reader's question whether this node still leads: those come side by side.
        let on_line = !rpc.entries.is_empty() || self.line.is_some();
        let message = Message::Append(rpc);
        let reply = if on_line { self.ask_on_line(&message).await } else { self.ask(&message).await };
        let Reply::Append(response) = reply? else {
            return Err(RPCError::Network(nonsense()));
        };
        match &response {
            AppendEntriesResponse::HigherVote(higher) => self.network.leader_lease.lock().saw(higher),
            // A node whose log does not match has taken the leader's vote all the same.
            _ => self.network.leader_lease.lock().acknowledged(&vote, self.to, sent),
        }
        self.last = (on_line && response.is_success()).then_some((vote, sent));
        Ok(response)
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<NodeId>,
        RPCError<NodeId, Place, RaftError<NodeId, InstallSnapshotError>>,
    > {
        // openraft does not call it where a snapshot is sent whole.
        Err(RPCError::Network(NetworkError::new(&TransportError("snapshots go whole".into()))))
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, _option: RPCOption) -> Rpc<VoteResponse<NodeId>> {
        let Reply::Vote(response) = self.ask(&Message::Vote(rpc)).await? else {
            return Err(RPCError::Network(nonsense()));
        };
        self.network.leader_lease.lock().saw(&response.vote);
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, Fatal<NodeId>>> {
        let failed = |why: String| StreamingError::Unreachable(Unreachable::new(&TransportError(why)));
        let SnapshotData::Held(held) = *snapshot.snapshot else {
            return Err(failed("a received snapshot cannot be sent on".into()));
        };
        let Some(last) = snapshot.meta.last_log_id else {
            return Err(failed("there is nothing to send".into()));
        };
        let time = held.mark().time;
        let head = SnapshotHead { vote, last, time, membership: snapshot.meta.last_membership };
        let bytes = wire::encode_message(self.addressee(), &Message::Snapshot(head));
        tracing::info!(to = %self.to, index = last.index, "sending the namespace, whole");
        let (send, pieces) = mpsc::channel(4);
        let pumping = tokio::spawn(pump(held, send));
        let sending = self.network.transport.send_snapshot(self.to, &self.address, bytes, pieces);
        let answer = tokio::select! {
            answer = sending => answer.map_err(|error| failed(error.0)),
            closed = cancel => Err(StreamingError::Closed(closed)),
        };
        pumping.abort();
        match wire::decode_reply(answer?) {
            Ok(Reply::Snapshot(vote)) => {
                self.network.leader_lease.lock().saw(&vote);
                Ok(SnapshotResponse::new(vote))
            }
            _ => Err(failed("the answer to a snapshot is none".into())),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(AGAIN_AFTER))
    }
}

/// Reads a snapshot page by page; an empty piece says that all of it was sent.
async fn pump(held: StoreSnapshot, send: mpsc::Sender<Bytes>) {
    let held = Arc::new(held);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (reading, from) = (held.clone(), after.clone());
        let read = blocking::run(move || reading.page(from.as_deref(), PIECE_BYTES)).await;
        let page = match read {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                // Without the last piece the receiver throws all of it away.
                tracing::error!(%error, "reading a snapshot to send");
                return;
            }
            None => return,
        };
        after = page.last().map(|(key, _)| key.clone());
        let piece = if page.is_empty() { Bytes::new() } else { encode_piece(&page) };
        let last = piece.is_empty();
        if !matches!(tokio::time::timeout(PIECE_TIMEOUT, send.send(piece)).await, Ok(Ok(()))) || last {
            return;
        }
    }
}

fn encode_piece(page: &[Pair]) -> Bytes {
    postcard::to_extend(page, Vec::new()).expect("pairs can always be written").into()
}

/// Takes a message of another keeper to this node's Raft.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) me: Addressee,
    pub(crate) raft: Raft,
    pub(crate) leader_lease: Arc<Mutex<LeaderLease>>,
    pub(crate) log: LogStore,
}

/// Why a message is not taken.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// Not ours.
    #[error("{0}")]
    Foreign(String),
    /// Not whole.
    #[error("malformed message between members")]
    Malformed,
    /// Raft has stopped.
    #[error("{0}")]
    Stopped(String),
}

impl Receiver {
    fn read(&self, message: Bytes) -> Result<Message, ReceiveError> {
        let (to, message) = wire::decode_message(message).map_err(|_| ReceiveError::Malformed)?;
        if to.cluster != self.me.cluster {
            let (ours, theirs) = (self.me.cluster, to.cluster);
            return Err(ReceiveError::Foreign(format!(
                "this node is of cluster {ours}, the message is of {theirs}"
            )));
        }
        if to.node != self.me.node {
            let (me, other) = (self.me.node, to.node);
            return Err(ReceiveError::Foreign(format!("this is node {me}, the message is for node {other}")));
        }
        Ok(message)
    }

    /// Answers a message without pieces.
    pub(crate) async fn answer(&self, message: Bytes) -> Result<Bytes, ReceiveError> {
        let stopped = |error: RaftError<NodeId>| ReceiveError::Stopped(error.to_string());
        let reply = match self.read(message)? {
            Message::Append(append) => {
                let vote = append.vote;
                let mut answering = Box::pin(self.raft.append_entries(append));
                // Under the lock up to where openraft has it in its queue: whoever decides to stand sees it, or stands before it.
                let begun = std::future::poll_fn(|context| {
                    let mut leader_lease = self.leader_lease.lock();
                    leader_lease.hears(&vote, Instant::now());
                    Poll::Ready(answering.as_mut().poll(context))
                });
                let response = match begun.await {
                    Poll::Ready(response) => response,
                    Poll::Pending => answering.await,
                };
                let response = response.map_err(stopped)?;
                if let AppendEntriesResponse::HigherVote(higher) = &response {
                    self.leader_lease.lock().saw(higher);
                } else {
                    // Among what matches may be what this node has appended as the leader that it was.
                    self.log.all_durable().await.map_err(ReceiveError::Stopped)?;
                }
                Reply::Append(response)
            }
            Message::Vote(request) => {
                let response = self.raft.vote(request).await.map_err(stopped)?;
                // Before the candidate hears of it: it may be leader the next moment.
                self.leader_lease.lock().saw(&response.vote);
                Reply::Vote(response)
            }
            Message::PreVote(theirs) => {
                let voted = self.raft.with_raft_state(|state| state.vote_last_modified()).await;
                let voted = voted.map_err(|error| ReceiveError::Stopped(error.to_string()))?;
                Reply::PreVote(
                    theirs >= self.log.durable()
                        && self.leader_lease.lock().would_vote(voted, Instant::now()),
                )
            }
            Message::Snapshot(_) => return Err(ReceiveError::Malformed),
        };
        Ok(wire::encode_reply(&reply))
    }

    /// Takes a snapshot.
    pub(crate) async fn take(
        &self,
        message: Bytes,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Bytes, ReceiveError> {
        let Message::Snapshot(head) = self.read(message)? else { return Err(ReceiveError::Malformed) };
        let stopped = |error: &dyn std::fmt::Display| ReceiveError::Stopped(error.to_string());
        let cut_off = || ReceiveError::Stopped("receiving a snapshot was cut off".into());
        let begun = self.raft.begin_receiving_snapshot().await.map_err(|error| stopped(&error))?;
        let SnapshotData::Received(mut incoming) = *begun else { return Err(ReceiveError::Malformed) };
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.recv()).await;
            let piece = piece.ok().flatten().ok_or_else(|| stopped(&"the snapshot was cut off"))?;
            if piece.is_empty() {
                break;
            }
            self.leader_lease.lock().hears(&head.vote, Instant::now());
            let page: Vec<Pair> = postcard::from_bytes(&piece).map_err(|_| ReceiveError::Malformed)?;
            let putting = blocking::run(move || {
                let mut incoming = incoming;
                incoming.put(&page).map(|()| incoming)
            });
            incoming = putting.await.ok_or_else(cut_off)?.map_err(|error| stopped(&error))?;
        }
        let mark = crate::metadata::store::Mark {
            index: super::types::position(head.last.index),
            term: head.last.leader_id.term,
            node: head.last.leader_id.node_id.0,
            time: head.time,
        };
        let membership = wire::encode_stored_membership(&head.membership);
        let finishing = blocking::run(move || {
            let mut incoming = incoming;
            incoming.finish(mark, &membership).map(|()| incoming)
        });
        let incoming = finishing.await.ok_or_else(cut_off)?.map_err(|error| stopped(&error))?;
        let meta = openraft::SnapshotMeta {
            last_log_id: Some(head.last),
            last_membership: StoredMembership::new(
                *head.membership.log_id(),
                head.membership.membership().clone(),
            ),
            snapshot_id: head.last.to_string(),
        };
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotData::Received(incoming)) };
        let response =
            self.raft.install_full_snapshot(head.vote, snapshot).await.map_err(|error| stopped(&error))?;
        self.leader_lease.lock().saw(&response.vote);
        Ok(wire::encode_reply(&Reply::Snapshot(response.vote)))
    }
}
