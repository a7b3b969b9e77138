//! Messages to the other members. A [`Transport`] delivers the bytes: gRPC in a daemon, a table of members in
//! a test.

use super::lease::LeaderLease;
use super::log_store::LogStore;
use super::types::{EntryLogId, MemberAddress, SnapshotData, Types, Vote};
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
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Pause between two messages to a member that does not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(40);

/// Pause between two messages with entries to a learner: its acknowledgement commits nothing, so it gets
/// fewer and larger messages.
const LEARNER_PACE: Duration = Duration::from_millis(20);

/// A leader whose disk has made no progress for this time sends nothing: it cannot commit, and the others are
/// to elect a leader whose disk works.
const DISK_HANGS: Duration = Duration::from_millis(600);

/// Bytes of one piece of a snapshot.
const PIECE_BYTES: usize = 1 << 20;

/// A snapshot whose receiver takes no piece for this time is given up; openraft begins it again.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

/// A message was not delivered, or has no answer.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// A stream to another member for one message after the other: a leader's entries.
pub trait AppendStream: Debug + Send + Sync + 'static {
    /// Sends a message and returns the answer. The caller sets the deadline and drops the stream after a
    /// missed one.
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a>;
}

/// A message on its way; resolves to the answer.
pub type Delivery<'a> = BoxFuture<'a, Result<Bytes, TransportError>>;

/// Delivers bytes between members.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Returns a stream for a leader's entries. Does not wait: the stream connects with its first message.
    fn append_stream(&self, to: NodeId, address: &str) -> Box<dyn AppendStream>;

    /// Sends a message and returns the answer. The caller sets the deadline.
    fn call<'a>(&'a self, to: NodeId, address: &'a str, message: Bytes) -> Delivery<'a>;

    /// Sends the head of a snapshot and its pieces; returns the answer once all are taken.
    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        head: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a>;
}

type Rpc<T> = Result<T, RPCError<NodeId, MemberAddress, RaftError<NodeId>>>;

/// The way to all other members.
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

    async fn new_client(&mut self, target: NodeId, node: &MemberAddress) -> Peer {
        Peer { network: self.clone(), to: target, address: node.address.clone(), stream: None, last: None }
    }
}

impl Network {
    /// Asks a member whether it would vote for a candidate whose log ends at `last`. A member without an
    /// answer within three heartbeats would not. On a busy machine an answer takes long; the caller does not
    /// wait for more than a majority.
    pub(crate) async fn would_vote(
        &self,
        node: NodeId,
        address: &MemberAddress,
        last: Option<EntryLogId>,
    ) -> bool {
        let addressee = Addressee { cluster: self.cluster, node };
        let bytes = wire::encode_message(addressee, &Message::PreVote(last));
        let asked = self.transport.call(node, &address.address, bytes);
        let Ok(Ok(answer)) = tokio::time::timeout(self.heartbeat * 3, asked).await else { return false };
        matches!(wire::decode_reply(answer), Ok(Reply::PreVote(true)))
    }
}

/// The way to one member.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    to: NodeId,
    address: String,
    /// For entries, once there were some; taken out while it owes an answer.
    stream: Option<Box<dyn AppendStream>>,
    /// Vote and time of the last message acknowledged over the stream.
    last: Option<(Vote, Instant)>,
}

fn unreachable(error: TransportError) -> RPCError<NodeId, MemberAddress, RaftError<NodeId>> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn nonsense() -> NetworkError {
    NetworkError::new(&TransportError("the answer has another type than the question".into()))
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

    /// As `ask`, over the stream. A stream that fails, or whose answer is missed because the future is
    /// dropped, is not used again.
    async fn ask_on_stream(&mut self, message: &Message) -> Rpc<Reply> {
        let bytes = wire::encode_message(self.addressee(), message);
        let stream = self.stream.take();
        let mut stream =
            stream.unwrap_or_else(|| self.network.transport.append_stream(self.to, &self.address));
        let answer = stream.ask(bytes).await.map_err(unreachable)?;
        self.stream = Some(stream);
        wire::decode_reply(answer).map_err(|_| RPCError::Network(nonsense()))
    }

    /// Returns true for a message without entries just after another message: openraft sends one for every
    /// commit, and the next entry or heartbeat does as well.
    fn is_fresh(&self, rpc: &AppendEntriesRequest<Types>) -> bool {
        let half = self.network.heartbeat / 2;
        rpc.entries.is_empty() && self.last.is_some_and(|(vote, at)| vote == rpc.vote && at.elapsed() < half)
    }

    /// Delays a message to a learner, so that it gets fewer and larger messages.
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
            return Err(unreachable(TransportError("this node's own disk makes no progress".into())));
        }
        // An entry counts as committed only when it is durable here, too (`log_store`).
        let mut rpc = rpc;
        rpc.leader_commit = rpc.leader_commit.min(self.network.log.durable());
        let (vote, sent) = (rpc.vote, Instant::now());
        // A message without entries may be from the read index: several of them may be on their way side by
        // side.
        let on_stream = !rpc.entries.is_empty() || self.stream.is_some();
        let message = Message::Append(rpc);
        let reply = if on_stream { self.ask_on_stream(&message).await } else { self.ask(&message).await };
        let Reply::Append(response) = reply? else {
            return Err(RPCError::Network(nonsense()));
        };
        match &response {
            AppendEntriesResponse::HigherVote(higher) => self.network.leader_lease.lock().saw(higher),
            // A member whose log does not match has accepted the leader's vote all the same.
            _ => self.network.leader_lease.lock().acknowledged(&vote, self.to, sent),
        }
        self.last = (on_stream && response.is_success()).then_some((vote, sent));
        Ok(response)
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<NodeId>,
        RPCError<NodeId, MemberAddress, RaftError<NodeId, InstallSnapshotError>>,
    > {
        // openraft calls `full_snapshot` instead.
        Err(RPCError::Network(NetworkError::new(&TransportError("a snapshot is sent as a whole".into()))))
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
        let SnapshotData::Durable(base) = *snapshot.snapshot else {
            return Err(failed("a received snapshot cannot be sent on".into()));
        };
        let Some(last) = snapshot.meta.last_log_id else {
            return Err(failed("there is nothing to send".into()));
        };
        let time = base.applied().time;
        let head = SnapshotHead { vote, last, time, membership: snapshot.meta.last_membership };
        let bytes = wire::encode_message(self.addressee(), &Message::Snapshot(head));
        tracing::info!(to = %self.to, index = last.index, "sending a snapshot of the namespace");
        let (send, pieces) = mpsc::channel(4);
        let pumping = tokio::spawn(pump(base, send));
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
            _ => Err(failed("the answer to a snapshot has another type".into())),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(AGAIN_AFTER))
    }
}

/// Reads a snapshot page by page and sends the pages; an empty piece ends it.
async fn pump(base: StoreSnapshot, send: mpsc::Sender<Bytes>) {
    let base = Arc::new(base);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (reading, from) = (base.clone(), after.clone());
        let read = blocking::run(move || reading.page(from.as_deref(), PIECE_BYTES)).await;
        let page = match read {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                // Without the last piece the receiver discards the snapshot.
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
