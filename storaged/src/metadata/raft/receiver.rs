//! Messages of the other members, for this node's Raft.

use super::lease::LeaderLease;
use super::log_store::LogStore;
use super::types::{Raft, SnapshotData, StoredMembership, position};
use super::wire::{self, Addressee, Message, Reply};
use crate::metadata::blocking;
use crate::metadata::store::{AppliedPosition, Pair};
use bytes::Bytes;
use openraft::error::RaftError;
use openraft::raft::AppendEntriesResponse;
use openraft::{Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use rain_types::NodeId;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A snapshot without a further piece for this time is given up; the leader begins it again.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

/// Takes the messages of other members.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) me: Addressee,
    pub(crate) raft: Raft,
    pub(crate) leader_lease: Arc<Mutex<LeaderLease>>,
    pub(crate) log: LogStore,
}

/// Why a message is refused.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The message is for another node or another cluster.
    #[error("{0}")]
    Foreign(String),
    /// The bytes are not a message.
    #[error("malformed message between members")]
    Malformed,
    /// openraft or the log has stopped.
    #[error("{0}")]
    Stopped(String),
}

impl Receiver {
    /// Decodes a message and checks its addressee.
    fn read(&self, message: Bytes) -> Result<Message, ReceiveError> {
        let (to, message) = wire::decode_message(message).map_err(|_| ReceiveError::Malformed)?;
        if to.cluster != self.me.cluster {
            let (ours, theirs) = (self.me.cluster, to.cluster);
            return Err(ReceiveError::Foreign(format!(
                "this node belongs to cluster {ours}, the message to cluster {theirs}"
            )));
        }
        if to.node != self.me.node {
            let (me, other) = (self.me.node, to.node);
            return Err(ReceiveError::Foreign(format!("this is node {me}, the message is for node {other}")));
        }
        Ok(message)
    }

    /// Answers a message other than a snapshot.
    pub(crate) async fn answer(&self, message: Bytes) -> Result<Bytes, ReceiveError> {
        let stopped = |error: RaftError<NodeId>| ReceiveError::Stopped(error.to_string());
        let reply = match self.read(message)? {
            Message::Append(append) => {
                let vote = append.vote;
                let mut answering = Box::pin(self.raft.append_entries(append));
                // Under the lock until openraft has the message in its queue: an election of this node
                // (`Candidate`) either sees the message or comes before it.
                let begun = std::future::poll_fn(|context| {
                    let mut leader_lease = self.leader_lease.lock();
                    leader_lease.leader_contact(&vote, Instant::now());
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
                    // The matching entries may include entries that this node has appended as the leader
                    // before.
                    self.log.all_durable().await.map_err(ReceiveError::Stopped)?;
                }
                Reply::Append(response)
            }
            Message::Vote(request) => {
                let response = self.raft.vote(request).await.map_err(stopped)?;
                // Before the answer: the candidate may lead as soon as it has the answer.
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

    /// Takes a snapshot: stores its pieces, makes it durable, and installs it.
    pub(crate) async fn install_snapshot(
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
            self.leader_lease.lock().leader_contact(&head.vote, Instant::now());
            let page: Vec<Pair> = postcard::from_bytes(&piece).map_err(|_| ReceiveError::Malformed)?;
            let putting = blocking::run(move || {
                let mut incoming = incoming;
                incoming.put(&page).map(|()| incoming)
            });
            incoming = putting.await.ok_or_else(cut_off)?.map_err(|error| stopped(&error))?;
        }
        let applied = AppliedPosition {
            index: position(head.last.index),
            term: head.last.leader_id.term,
            node: head.last.leader_id.node_id.0,
            time: head.time,
        };
        let membership = wire::encode_stored_membership(&head.membership);
        let finishing = blocking::run(move || {
            let mut incoming = incoming;
            incoming.finish(applied, &membership).map(|()| incoming)
        });
        let incoming = finishing.await.ok_or_else(cut_off)?.map_err(|error| stopped(&error))?;
        let meta = SnapshotMeta {
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
