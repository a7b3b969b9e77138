//! The namespace, kept: durable, in order, and fast enough to be everybody's.
//!
//! ```text
//!   propose -> proposer -> log (durable) -> machine.apply over store -> outcome
//!   query   -> store (one consistent state) -> machine.answer
//! ```
//!
//! - [`log`]: numbered entries on disk; the seam where Raft comes in. [`store`]: the ordered store under the namespace.
//!   [`proposer`]: gathers requests into entries. [`machine`]: what is driven, normally [`Namespace`].
//! - A directory belongs to one process; a lock file says so.
//!
//! Invariants: an acknowledged request survives a crash at any point (`acknowledged_requests_survive_a_power_loss`,
//! `acknowledged_requests_survive_kill_9`); a replay gives the same store as never having crashed
//! (`replay_gives_the_same_bytes_as_never_crashing`).
//!
//! In this version one node keeps the namespace; nothing here speaks to another.

mod layers;
pub mod log;
pub mod machine;
pub mod media;
pub mod proposer;
pub mod store;

pub use log::{CommandLog, LogError};
pub use machine::{Machine, Namespace};
pub use media::{DiskMedia, Media, MediaFile};
pub use proposer::{ProposeError, Proposer, ProposerOptions};
pub use store::{MetaStore, StoreError, StoreOptions, StoreStats};

use rain_namespace::command::{Applied, Request};
use rain_namespace::error::NsError;
use rain_namespace::kv::KvRead;
use rain_namespace::query::{Answered, Query};
use rain_types::ClusterId;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;
use tokio::sync::watch;

const LOCK: &str = "LOCK";
const CLUSTER_ID: &str = "cluster-id";
const BASE: &str = "base.redb";
const LOG: &str = "log";

/// Why a namespace cannot be opened or closed.
#[derive(Debug, Error)]
pub enum KeeperError {
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
    /// The file with the cluster's id says something else.
    #[error("{path} does not hold a cluster id: {text:?}", path = path.display())]
    ClusterId {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// The file with the cluster's id is gone while the namespace is there.
    #[error("{path} is missing though there is a namespace beside it: bring it back (32 hex digits, every node of the cluster has them)", path = path.display())]
    ClusterIdMissing {
        /// The file.
        path: PathBuf,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries between the store and the log are gone.
    #[error(
        "the namespace store has entries up to {applied}, the log begins at {first}: those between are missing"
    )]
    Gap {
        /// Last entry in the store.
        applied: u64,
        /// First in the log.
        first: u64,
    },
    /// An entry of the log cannot be understood or applied.
    #[error("entry {index} of the namespace log: {reason}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        reason: String,
    },
}

impl KeeperError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeeperError {
        move |source| KeeperError::Io { doing, path: path.to_owned(), source }
    }
}

/// Limits of a keeper.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Of the store.
    pub store: StoreOptions,
    /// Of the proposer.
    pub proposer: ProposerOptions,
    /// Size of a log segment, bytes. Two or three exist: one in use, the next, and one not yet purged.
    pub segment_bytes: u64,
}

impl Default for KeeperOptions {
    fn default() -> KeeperOptions {
        KeeperOptions {
            store: StoreOptions::default(),
            proposer: ProposerOptions::default(),
            segment_bytes: 16 << 20,
        }
    }
}

/// Figures since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeeperStats {
    /// Of the store.
    pub store: StoreStats,
    /// Entries logged.
    pub entries: u64,
    /// Requests in them.
    pub requests: u64,
    /// fdatasyncs of the log.
    pub syncs: u64,
    /// First entry in the log.
    pub log_first: u64,
    /// Last entry in the log.
    pub log_last: u64,
    /// Bytes of disk that the log takes.
    pub log_bytes: u64,
    /// Why nothing is taken any more, if so.
    pub stopped: Option<String>,
}

/// The namespace on this node's disk.
#[derive(Debug)]
pub struct Keeper {
    proposer: Proposer,
    store: Arc<MetaStore>,
    machine: Arc<dyn Machine>,
    cluster: ClusterId,
    lock: File,
}

impl Keeper {
    /// Opens the namespace in a directory, or makes an empty one with a new cluster id. Replays what the store
    /// lacks. Blocks on the disk.
    pub fn open(dir: &Path, options: KeeperOptions) -> Result<Keeper, KeeperError> {
        Keeper::open_with(dir, options, Arc::new(Namespace), Arc::new(DiskMedia))
    }

    /// As [`Keeper::open`], over another machine and other files: for tests and simulation.
    pub fn open_with(
        dir: &Path,
        options: KeeperOptions,
        machine: Arc<dyn Machine>,
        media: Arc<dyn Media>,
    ) -> Result<Keeper, KeeperError> {
        std::fs::create_dir_all(dir).map_err(KeeperError::io("creating", dir))?;
        let lock = lock(dir)?;
        let cluster = cluster_id(dir)?;
        let base = dir.join(BASE);
        let store = Arc::new(MetaStore::open(&*media, &base, options.store)?);
        media.sync_directory(dir).map_err(KeeperError::io("fsync of", dir))?;
        let applied = store.applied().0;
        let mut log = CommandLog::open(media, &dir.join(LOG), options.segment_bytes, applied + 1)?;
        replay(&mut log, &store, &*machine)?;
        let proposer = Proposer::start(log, store.clone(), machine.clone(), options.proposer)
            .map_err(KeeperError::io("starting threads for", dir))?;
        Ok(Keeper { proposer, store, machine, cluster, lock })
    }

    /// Has a request logged, made durable and applied. Only then there is an outcome.
    pub async fn propose(&self, request: Request) -> Result<Applied, ProposeError> {
        self.proposer.propose(request).await
    }

    /// Answers from one consistent state that has every outcome told so far. May read the disk: for
    /// answers of many records call it where blocking is allowed. Where the store cannot be read it says
    /// `Malformed` with the reason, never "not found"; [`Keeper::try_query`] tells the two apart.
    pub fn query(&self, query: &Query) -> Answered {
        self.try_query(query).unwrap_or_else(|error| Err(NsError::Malformed(error.to_string())))
    }

    /// As [`Keeper::query`], with the store's failures told as such.
    pub fn try_query(&self, query: &Query) -> Result<Answered, StoreError> {
        self.store.read(|kv| self.machine.answer(kv, query))
    }

    /// Reads one consistent state directly; see [`MetaStore::read`].
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        self.store.read(read)
    }

    /// The last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.store.applied().0
    }

    /// Which cluster this namespace is of.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster
    }

    /// The applied index as it grows.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.proposer.subscribe()
    }

    /// Figures.
    pub fn stats(&self) -> KeeperStats {
        let counters = self.proposer.counters();
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        KeeperStats {
            store: self.store.stats(),
            entries: get(&counters.entries),
            requests: get(&counters.requests),
            syncs: get(&counters.syncs),
            log_first: get(&counters.log_first),
            log_last: get(&counters.log_last),
            log_bytes: get(&counters.log_bytes),
            stopped: self.proposer.stopped(),
        }
    }

    /// Finishes the requests it has, makes the store durable and stops. Blocks; may be called again. Without
    /// it nothing is lost, but the next start replays the log's end.
    pub fn close(&self) {
        // Else an entry that waits for room in memory would wait for room on the disk.
        self.store.stop_waiting();
        self.proposer.close();
        if let Err(error) = self.store.close() {
            tracing::error!(%error, "closing the namespace store; the log still has what is missing in it");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
        // Not left to closing the file: a process that is just being started by this one has the descriptor until its exec.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "unlocking the namespace's directory");
        }
    }
}

fn lock(dir: &Path) -> Result<File, KeeperError> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(KeeperError::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeeperError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(KeeperError::io("locking", &path)(error)),
    }
}

/// Reads the cluster's id, or makes one when there is no namespace yet.
fn cluster_id(dir: &Path) -> Result<ClusterId, KeeperError> {
    let path = dir.join(CLUSTER_ID);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim_end().parse().map_err(|_| KeeperError::ClusterId { path, text }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join(BASE).exists() {
                return Err(KeeperError::ClusterIdMissing { path });
            }
            let id = new_cluster_id().map_err(KeeperError::io("reading", Path::new("/dev/urandom")))?;
            write_whole(dir, &path, format!("{id}\n").as_bytes())
                .map_err(KeeperError::io("writing", &path))?;
            tracing::info!(cluster = %id, dir = %dir.display(), "a new namespace");
            Ok(id)
        }
        Err(error) => Err(KeeperError::io("reading", &path)(error)),
    }
}

fn new_cluster_id() -> io::Result<ClusterId> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(ClusterId(u128::from_be_bytes(bytes)))
}

/// A file that is there whole or not at all.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// Brings the store to the log's end.
fn replay(log: &mut CommandLog, store: &MetaStore, machine: &dyn Machine) -> Result<(), KeeperError> {
    let (applied, _) = store.applied();
    if log.first_index() > applied + 1 {
        return Err(KeeperError::Gap { applied, first: log.first_index() });
    }
    if log.next_index() <= applied {
        // The base is committed only from what was durable in the log, so this is damage to the log's last append, or a log
        // that was removed. The base has it all; nothing is lost.
        tracing::error!(
            applied,
            log_next = log.next_index(),
            "the namespace log lost acknowledged entries; the store has them and a new log begins. Look for disk errors"
        );
        log.reset(applied + 1)?;
        return Ok(());
    }
    for record in log.read(applied + 1)? {
        let (index, payload) = record?;
        let entry = machine.decode(&payload).map_err(|reason| KeeperError::Entry { index, reason })?;
        proposer::apply_one(store, machine, index, &entry)
            .map_err(|reason| KeeperError::Entry { index, reason })?;
    }
    let now = store.applied().0;
    if now > applied {
        tracing::info!(from = applied + 1, to = now, "replayed the namespace log");
    }
    Ok(())
}
