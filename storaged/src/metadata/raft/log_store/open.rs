//! Opens the log and the state file of a member, or makes them.

use super::super::super::blocking::Queue;
use super::super::super::log::{CommandLog, LogError};
use super::super::super::store::MetaStore;
use super::super::types::position_of;
use super::super::wire::{self, RaftState};
use super::LogStore;
use super::durable::{DurableLog, LogCounters};
use crate::disk::Media;
use crate::disk::slots::{PayloadLength, SlotFile, SlotFormat, Unreadable};
use parking_lot::{Mutex, RwLock};
use rain_types::{ClusterId, NodeId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// The file `raft-state`.
const STATE_FORMAT: SlotFormat = SlotFormat {
    magic: b"RAINRFT1",
    slot_bytes: 4096,
    length: PayloadLength::Prefix,
    unreadable: Unreadable::IsAnError,
};

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{path}: {source}", path = path.display())]
    State { path: PathBuf, source: io::Error },
    #[error(
        "the namespace store has the entries up to {applied}, the log begins behind {purged}: the entries between are missing"
    )]
    Gap { applied: u64, purged: u64 },
    #[error("{path} belongs to node {node} of cluster {cluster}, not to this one", path = path.display())]
    Foreign { path: PathBuf, node: NodeId, cluster: ClusterId },
}

impl LogStore {
    /// Opens the log and the promises of a member in a directory, or makes them. Fails where they belong to
    /// another member, and where entries between the store and the log are missing.
    pub(crate) fn open(
        media: Arc<dyn Media>,
        dir: &Path,
        segment_bytes: u64,
        (cluster, node): (ClusterId, NodeId),
        store: Arc<MetaStore>,
    ) -> Result<LogStore, OpenError> {
        let path = dir.join("raft-state");
        let failed = |source| OpenError::State { path: path.clone(), source };
        let (mut file, state) = SlotFile::open(&*media, &path, STATE_FORMAT).map_err(failed)?;
        let state = match state {
            Some(bytes) => wire::decode_raft_state(&bytes)
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?,
            None => {
                let state = RaftState { cluster, node, vote: None, purged: None };
                file.write(&wire::encode_raft_state(&state)).map_err(failed)?;
                state
            }
        };
        if (state.cluster, state.node) != (cluster, node) {
            return Err(OpenError::Foreign { path, node: state.node, cluster: state.cluster });
        }
        let purged = position_of(state.purged.as_ref());
        let applied = store.applied().index;
        if purged > applied {
            return Err(OpenError::Gap { applied, purged });
        }
        let first = purged + 1;
        // Ends with the last clone of the `LogStore`; openraft's tasks have some.
        let jobs = Queue::new("metadata-log", &media);
        let jobs = jobs.map_err(|source| OpenError::State { path: dir.to_owned(), source })?;
        let mut log = CommandLog::open(media, &dir.join("log"), segment_bytes, first)?;
        if log.next_index() < first {
            // The process stopped between the note of a purge of the whole log and the purge.
            log.reset(first)?;
        }
        if log.first_index() > first {
            return Err(OpenError::Gap { applied, purged: log.first_index() - 1 });
        }
        let inner = Arc::new(DurableLog {
            store: Arc::downgrade(&store),
            counters: LogCounters::default(),
            durable: watch::Sender::new(None),
            appended_to: AtomicU64::new(0),
            waits_since: Mutex::default(),
            state: Mutex::new((file, state)),
            recent: RwLock::default(),
            stopped: OnceLock::new(),
            full: Mutex::default(),
            no_room: Mutex::default(),
            reserving: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            log: Mutex::new(log),
        });
        inner.note(&inner.log.lock());
        inner.moved().map_err(|source| OpenError::State { path: dir.to_owned(), source })?;
        Ok(LogStore { inner, jobs })
    }
}
