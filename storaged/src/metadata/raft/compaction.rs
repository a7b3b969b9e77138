//! Log compaction: drops records that the store has durably, but for the newest, which followers may still
//! need.

use super::log_store::LogStore;
use super::types::{Raft, index_at};
use crate::metadata::error::MetadataError;
use crate::metadata::store::MetaStore;
use std::sync::atomic::Ordering;

/// Has openraft take a snapshot (the durable base, so it costs nothing) and purge the log up to it. Records
/// of `keep_bytes` stay.
pub(crate) async fn compact(
    raft: &Raft,
    log: &LogStore,
    store: &MetaStore,
    keep_bytes: u64,
) -> Result<(), MetadataError> {
    let first = log.counters().first.load(Ordering::Relaxed);
    let point = log.purge_point(keep_bytes).min(store.durable());
    if point <= first {
        return Ok(());
    }
    raft.trigger().snapshot().await.map_err(|error| MetadataError::raft(&error))?;
    match index_at(point.saturating_sub(1)) {
        Some(upto) => raft.trigger().purge_log(upto).await.map_err(|error| MetadataError::raft(&error)),
        None => Ok(()),
    }
}
