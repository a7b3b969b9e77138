//! openraft's state machine over [`MetaStore`]: applies committed entries. Every node applies the same
//! entries in the same order and has the same store.
//!
//! - Applying makes nothing durable: the base is committed about once a second, and after a restart openraft
//!   applies the entries that the base lacks again. A snapshot is the durable base itself, so building one
//!   costs nothing.
//! - Time never goes backwards: an entry of a leader whose clock is behind is applied at the time of the
//!   entry before (`time_never_goes_backwards`).

use super::super::blocking;
use super::super::machine::Machine;
use super::super::store::{AppliedPosition, MetaStore, StoreError};
use super::log_store::LogStore;
use super::types::{
    Entry, EntryLogId, MemberAddress, Membership, SnapshotData, StorageError, StoredMembership, Types,
    index_at, position,
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

/// The parts that the state machine shares with the facade.
#[derive(Debug)]
pub(crate) struct Applying {
    pub(crate) store: Arc<MetaStore>,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) log: LogStore,
    /// Position of the last applied entry.
    pub(crate) applied: watch::Sender<u64>,
    /// Grows whenever locks may have been granted.
    pub(crate) grants: watch::Sender<u64>,
    /// Set once nothing is applied any more: the reason.
    pub(crate) stopped: OnceLock<String>,
}

impl Applying {
    pub(crate) fn new(store: Arc<MetaStore>, machine: Arc<dyn Machine>, log: LogStore) -> Applying {
        let (applied, grants) = (watch::Sender::new(store.applied().index), watch::Sender::new(0));
        Applying { store, machine, log, applied, grants, stopped: OnceLock::new() }
    }

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
        let mut applied =
            AppliedPosition { index, term: leader.term, node: leader.node_id.0, time: before.time };
        let saying = |error: StoreError| format!("applying entry {index}: {error}");
        match &entry.payload {
            EntryPayload::Blank => store.apply(applied, |_| Vec::new()).map_err(saying),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                store.apply_membership(applied, wire::encode_stored_membership(&stored)).map_err(saying)?;
                Ok(Vec::new())
            }
            EntryPayload::Normal(payload) => {
                let mut asked =
                    self.machine.decode(&payload.0).map_err(|why| format!("entry {index}: {why}"))?;
                asked.time = asked.time.max(before.time);
                applied.time = asked.time;
                let outcomes = store.apply(applied, |kv| self.machine.apply(kv, &asked)).map_err(saying)?;
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

/// Returns openraft's id of the last entry of a state; `None` before the first entry.
pub(crate) fn log_id(applied: AppliedPosition) -> Option<EntryLogId> {
    let index = index_at(applied.index)?;
    Some(LogId::new(CommittedLeaderId::new(applied.term, NodeId(applied.node)), index))
}

fn membership(bytes: &[u8]) -> Result<StoredMembership, String> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    wire::decode_stored_membership(bytes).map_err(|error| format!("the membership in the store: {error}"))
}

/// The state machine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StateMachine(pub(crate) Arc<Applying>);

impl StateMachine {
    /// Returns the durable base as a snapshot; `None` while it is empty.
    #[expect(clippy::result_large_err, reason = "openraft's error")]
    fn durable_base(&self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let saying = |error: StoreError| self.0.stop(format!("taking a snapshot: {error}"));
        let snapshot = self.0.store.snapshot().map_err(saying)?;
        let Some(last) = log_id(snapshot.applied()) else { return Ok(None) };
        let last_membership = membership(snapshot.membership()).map_err(|why| self.0.stop(why))?;
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership, snapshot_id: last.to_string() };
        Ok(Some(Snapshot { meta, snapshot: Box::new(SnapshotData::Durable(snapshot)) }))
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        if let Some(snapshot) = self.durable_base()? {
            return Ok(snapshot);
        }
        let store = self.0.store.clone();
        let flushed = blocking::run(move || store.flush()).await;
        match flushed {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(self.0.stop(format!("taking a snapshot: {error}"))),
            None => return Err(self.0.stop("taking a snapshot was interrupted".into())),
        }
        let nothing = SnapshotMeta {
            last_log_id: None,
            last_membership: StoredMembership::new(None, Membership::default()),
            snapshot_id: String::new(),
        };
        match self.durable_base()? {
            Some(snapshot) => Ok(snapshot),
            None => {
                let snapshot = self.0.store.snapshot().map_err(|error| self.0.stop(error.to_string()))?;
                Ok(Snapshot { meta: nothing, snapshot: Box::new(SnapshotData::Durable(snapshot)) })
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
            // An entry that a leader has not made durable itself is not committed, whatever openraft believes
            // (`log_store`).
            let durable = applying.log.until_durable(position(entry.log_id.index)).await;
            durable.map_err(|reason| applying.stop(reason))?;
            let applied = if applying.store.is_full() {
                // Memory is full until the flusher is done: the wait goes to a thread that nobody else needs.
                let (applying, entry) = (applying.clone(), entry.clone());
                let waited = blocking::run(move || applying.apply_one(&entry)).await;
                waited.unwrap_or_else(|| Err("applying an entry was interrupted".into()))
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
        meta: &SnapshotMeta<NodeId, MemberAddress>,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let SnapshotData::Received(incoming) = *snapshot else {
            return Err(self.0.stop("a snapshot of this node itself cannot be installed".into()));
        };
        let store = self.0.store.clone();
        let installed = blocking::run(move || store.install(incoming)).await;
        match installed {
            Some(Ok(applied)) if log_id(applied) == meta.last_log_id => {
                tracing::info!(applied = applied.index, "installed a snapshot of the leader");
                self.0.applied.send_replace(applied.index);
                Ok(())
            }
            Some(Ok(applied)) => {
                Err(self.0.stop(format!("a received snapshot ends at {applied:?}, not where its head says")))
            }
            Some(Err(error)) => Err(self.0.stop(error.to_string())),
            None => Err(self.0.stop("taking a snapshot was interrupted".into())),
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        self.durable_base()
    }
}
