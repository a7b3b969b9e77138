//! Read index: a majority confirms that this node leads, for all readers that wait, one round after the
//! other. It serves the reads of a leader without its lease ([`super::lease`]).

use super::machine::Applying;
use super::types::{Raft, position_of};
use crate::metadata::error::AskError;
use openraft::error::{CheckIsLeaderError, RaftError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A round without a majority's confirmation fails after this time: five leases, in which a new leader is
/// elected unless there is no majority.
const ROUND_TIMEOUT: Duration = Duration::from_millis(1000);

/// Readers that wait for a round; further readers are refused.
const READERS_MAX: usize = 4096;

type Confirmation = oneshot::Sender<Result<(), AskError>>;

/// The queue of readers.
#[derive(Debug)]
pub(crate) struct ReadIndex {
    readers: mpsc::Sender<Confirmation>,
}

impl ReadIndex {
    /// Starts the task that makes the rounds; it ends with this handle.
    pub(crate) fn start(raft: Raft, applying: Arc<Applying>) -> ReadIndex {
        let (readers, waiting) = mpsc::channel(READERS_MAX);
        tokio::spawn(run(raft, applying, waiting));
        ReadIndex { readers }
    }

    /// Returns Ok when a majority has confirmed, after this call, that this node leads, and when all entries
    /// committed before are applied here.
    pub(crate) async fn confirm(&self) -> Result<(), AskError> {
        let (confirmed, confirmation) = oneshot::channel();
        self.readers.try_send(confirmed).map_err(|_| AskError::NoMajority)?;
        confirmation.await.unwrap_or(Err(AskError::NotLeader))
    }
}

async fn run(raft: Raft, applying: Arc<Applying>, mut waiting: mpsc::Receiver<Confirmation>) {
    while let Some(first) = waiting.recv().await {
        let mut readers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            readers.push(next);
        }
        let result = tokio::time::timeout(ROUND_TIMEOUT, round(&raft, &applying)).await;
        let result = result.unwrap_or(Err(AskError::NoMajority));
        for reader in readers {
            // The reader may be gone.
            let _ = reader.send(result.clone());
        }
    }
}

async fn round(raft: &Raft, applying: &Applying) -> Result<(), AskError> {
    let (read, _) = raft.get_read_log_id().await.map_err(|error| match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)) => AskError::NotLeader,
        _ => AskError::NoMajority,
    })?;
    let mut applied = applying.applied.subscribe();
    let wanted = position_of(read.as_ref());
    applied.wait_for(|applied| *applied >= wanted).await.map_err(|_| AskError::NotLeader)?;
    Ok(())
}
