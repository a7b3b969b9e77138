//! Committed entries, applied: openraft's state machine over [`MetaStore`]. Every node applies the same entries in the same order and
//! has the same store.
//!
//! - Not durable at every entry: the base is committed about once a second, and after a restart openraft applies again what the base
//!   lacks. A snapshot is the durable base itself, so building one costs nothing.
//! - Time never goes backwards: an entry of a leader whose clock is behind is applied at the time of the one before
//!   (`time_never_goes_backwards`).

use super::super::blocking;
use super::super::machine::Machine;
use super::super::store::{Mark, MetaStore, StoreError};
use super::log_store::LogStore;
use super::types::{
    Entry, EntryLogId, Membership, SnapshotData, StorageError, StoredMembership, Types, index_at, position,
};
use super::wire;
use openraft::storage::RaftStateMachine;
use openraft::{
    CommittedLeaderId, EntryPayload, ErrorSubject, ErrorVerb, LogId, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageIOError,
};
use rain_namespace::command::Applied;
use rain_types::NodeId;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// What the machine shares with the keeper.
#[derive(Debug)]
pub(crate) struct Applying {
    pub(crate) store: Arc<MetaStore>,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) log: LogStore,
    /// The position applied last.
    pub(crate) applied: watch::Sender<u64>,
    /// Grows when locks may have been granted.
    pub(crate) grants: watch::Sender<u64>,
    /// Why nothing more is applied.
    pub(crate) stopped: OnceLock<String>,
}

impl Applying {
    fn stop(&self, reason: String) -> StorageError {
        tracing::error!(reason, "the namespace stops");
        let error = StorageIOError::new(
            ErrorSubject::StateMachine,
            ErrorVerb::Write,
            openraft::AnyError::error(reason.clone()),
        );
        let _ = self.stopped.set(reason);
        error.into()
    }

    fn apply_one(&self, entry: &Entry) -> Result<Vec<Applied>, String> {
        let store = &self.store;
        let before = store.applied();
        let index = position(entry.log_id.index);
        let leader = entry.log_id.leader_id;
        let mut mark = Mark { index, term: leader.term, node: leader.node_id.0, time: before.time };
        let saying = |error: StoreError| format!("applying entry {index}: {error}");
        match &entry.payload {
            EntryPayload::Blank => store.apply(mark, |_| Vec::new()).map_err(saying),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                store.apply_membership(mark, wire::encode_stored_membership(&stored)).map_err(saying)?;
                Ok(Vec::new())
            }
            EntryPayload::Normal(payload) => {
                let mut asked =
                    self.machine.decode(&payload.0).map_err(|why| format!("entry {index}: {why}"))?;
                asked.time = asked.time.max(before.time);
                mark.time = asked.time;
                let outcomes = store.apply(mark, |kv| self.machine.apply(kv, &asked)).map_err(saying)?;
                if asked.requests.iter().any(|request| request.command.may_grant()) {
                    self.grants.send_modify(|grants| *grants += 1);
                }
                if outcomes.len() != asked.requests.len() {
                    let (have, wanted) = (outcomes.len(), asked.requests.len());
                    return Err(format!("applying entry {index}: {have} results for {wanted} requests"));
                }
                Ok(outcomes)
            }
        }
    }
}

/// The id of the last entry of a state.
pub(crate) fn log_id(mark: Mark) -> Option<EntryLogId> {
    let index = index_at(mark.index)?;
    Some(LogId::new(CommittedLeaderId::new(mark.term, NodeId(mark.node)), index))
}

fn membership(bytes: &[u8]) -> Result<StoredMembership, String> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    wire::decode_stored_membership(bytes).map_err(|error| format!("the membership in the store: {error}"))
}

/// The state machine. Clones are one.
#[derive(Debug, Clone)]
pub(crate) struct StateMachine(pub(crate) Arc<Applying>);

impl StateMachine {
    /// The durable base, to be sent; none while there is nothing in it.
    #[expect(clippy::result_large_err, reason = "openraft's error")]
    fn held(&self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let saying = |error: StoreError| self.0.stop(format!("taking a snapshot: {error}"));
        let snapshot = self.0.store.snapshot().map_err(saying)?;
        let Some(last) = log_id(snapshot.mark()) else { return Ok(None) };
        let last_membership = membership(snapshot.membership()).map_err(|why| self.0.stop(why))?;
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership, snapshot_id: last.to_string() };
        Ok(Some(Snapshot { meta, snapshot: Box::new(SnapshotData::Held(snapshot)) }))
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        if let Some(held) = self.held()? {
            return Ok(held);
        }
        let store = self.0.store.clone();
        let flushed = blocking::run(move || store.flush()).await;
        match flushed {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(self.0.stop(format!("taking a snapshot: {error}"))),
            None => return Err(self.0.stop("taking a snapshot was cut off".into())),
        }
        let nothing = SnapshotMeta {
            last_log_id: None,
            last_membership: StoredMembership::new(None, Membership::default()),
            snapshot_id: String::new(),
        };
        match self.held()? {
            Some(held) => Ok(held),
            None => {
                let snapshot = self.0.store.snapshot().map_err(|error| self.0.stop(error.to_string()))?;
                Ok(Snapshot { meta: nothing, snapshot: Box::new(SnapshotData::Held(snapshot)) })
            }
        }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<EntryLogId>, StoredMembership), StorageError> {
        let bytes = self.0.store.membership();
        let membership = membership(&bytes).map_err(|why| self.0.stop(why))?;
        Ok((log_id(self.0.store.applied()), membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Applied>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            let applying = &self.0;
            // What a leader has not written itself yet is not committed, whatever openraft believes.
            let durable = applying.log.until_durable(position(entry.log_id.index)).await;
            durable.map_err(|reason| applying.stop(reason))?;
            let applied = if applying.store.is_full() {
                // Memory is full until the flusher is done: not on a thread that others need.
                let (applying, entry) = (applying.clone(), entry.clone());
                let waited = blocking::run(move || applying.apply_one(&entry)).await;
                waited.unwrap_or_else(|| Err("applying was cut off".into()))
            } else {
                applying.apply_one(&entry)
            };
            outcomes.push(applied.map_err(|reason| applying.stop(reason))?);
            applying.applied.send_replace(position(entry.log_id.index));
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        let incoming = self.0.store.incoming().map_err(|error| self.0.stop(error.to_string()))?;
        Ok(Box::new(SnapshotData::Received(incoming)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, super::types::Place>,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let SnapshotData::Received(incoming) = *snapshot else {
            return Err(self.0.stop("a snapshot of this node itself cannot be installed".into()));
        };
        let store = self.0.store.clone();
        let installed = blocking::run(move || store.install(incoming)).await;
        match installed {
            Some(Ok(mark)) if log_id(mark) == meta.last_log_id => {
                tracing::info!(applied = mark.index, "took the namespace from the leader, whole");
                self.0.applied.send_replace(mark.index);
                Ok(())
            }
            Some(Ok(mark)) => {
                Err(self.0.stop(format!("a received snapshot ends at {mark:?}, not where it said")))
            }
            Some(Err(error)) => Err(self.0.stop(error.to_string())),
            None => Err(self.0.stop("taking a snapshot was cut off".into())),
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        self.held()
    }
}
