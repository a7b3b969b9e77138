//! Gathers requests into entries, has them made durable, then applied, and only then answers.
//!
//! ```text
//!   propose (any task) -> bounded queue -> log thread: gather, stamp, append + fdatasync -> apply thread -> outcomes
//! ```
//!
//! While one entry is applied the next is being synced: two in flight, and the longer a sync takes, the more requests
//! the next entry carries (group commit).
//!
//! 1. An outcome is told after its entry is durable and applied, never before.
//! 2. Entries' times never go backwards, across restarts too (`time_never_goes_backwards`).
//! 3. The queue is bounded by number and bytes; who finds no place by the deadline is told `Busy`.
//! 4. A full disk refuses requests and passes; anything else that fails in the log or the store stops the keeper: all later
//!    proposals are refused with the reason, and the outcome of those in flight is said to be unknown.

use super::log::{CommandLog, LogError};
use super::machine::Machine;
use super::store::MetaStore;
use rain_namespace::command::{Applied, Entry, Request};
use rain_namespace::record::Time;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Why a proposal has no outcome.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// No place in the queue by the deadline. The request was not taken.
    #[error("the namespace is busy: no place in its queue for {waited:?}")]
    Busy {
        /// How long it was tried.
        waited: Duration,
    },
    /// No room on the disk. The request was not taken.
    #[error("{reason}")]
    NoSpace {
        /// Which file, and what the system said.
        reason: String,
    },
    /// The request is larger than an entry may be. It was not taken.
    #[error("a request of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The keeper stopped. A request in flight may or may not be there after a restart.
    #[error("the namespace has stopped: {reason}; restart the node when that is mended")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The keeper was closed. The request was not taken.
    #[error("the namespace is closed")]
    Closed,
}

/// Limits of a proposer.
#[derive(Debug, Clone)]
pub struct ProposerOptions {
    /// Requests of one entry.
    pub entry_requests_max: usize,
    /// Bytes of one entry, as far as it has more than one request.
    pub entry_bytes_max: usize,
    /// Bytes of one request.
    pub request_bytes_max: usize,
    /// Requests that wait.
    pub queue_requests_max: usize,
    /// Their bytes.
    pub queue_bytes_max: usize,
    /// How long a proposal waits for a place.
    pub busy_after: Duration,
    /// Entries kept in the log below the store's durable index.
    pub keep_entries: u64,
}

impl Default for ProposerOptions {
    fn default() -> ProposerOptions {
        ProposerOptions {
            entry_requests_max: 1000,
            entry_bytes_max: 4 << 20,
            request_bytes_max: 8 << 20,
            queue_requests_max: 4096,
            queue_bytes_max: 32 << 20,
            busy_after: Duration::from_secs(5),
            keep_entries: 64,
        }
    }
}

struct Pending {
    request: Request,
    bytes: usize,
    reply: oneshot::Sender<Result<Applied, ProposeError>>,
    _place: OwnedSemaphorePermit,
}

/// An entry that is durable and waits to be applied.
struct Durable {
    index: u64,
    entry: Entry,
    replies: Vec<oneshot::Sender<Result<Applied, ProposeError>>>,
}

/// What the threads share with those who propose and ask.
#[derive(Debug)]
struct Common {
    store: Arc<MetaStore>,
    machine: Arc<dyn Machine>,
    options: ProposerOptions,
    stopped: OnceLock<String>,
    applied: watch::Sender<u64>,
    counters: Counters,
}

/// What has happened since the start; read by `Keeper::stats`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) entries: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) log_first: AtomicU64,
    pub(super) log_last: AtomicU64,
    pub(super) log_bytes: AtomicU64,
}

impl Counters {
    fn note(&self, log: &CommandLog) {
        self.syncs.store(log.syncs(), Ordering::Relaxed);
        self.log_first.store(log.first_index(), Ordering::Relaxed);
        self.log_last.store(log.next_index() - 1, Ordering::Relaxed);
        self.log_bytes.store(log.disk_bytes(), Ordering::Relaxed);
    }
}

impl Common {
    fn stop(&self, reason: String) -> ProposeError {
        if self.stopped.set(reason).is_ok() {
            tracing::error!(reason = self.reason(), "the namespace stops");
        }
        self.stopped_error()
    }

    fn reason(&self) -> &str {
        self.stopped.get().map_or("unknown", String::as_str)
    }

    fn stopped_error(&self) -> ProposeError {
        ProposeError::Stopped { reason: self.reason().to_owned() }
    }
}

/// The queue and its two threads.
#[derive(Debug)]
pub struct Proposer {
    common: Arc<Common>,
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    room: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Bytes that one permit of the queue's room stands for: the semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 1 << 10;

impl Proposer {
    /// Starts the threads over a log and a store that are in step (`log.next_index() == applied + 1`).
    pub fn start(
        log: CommandLog,
        store: Arc<MetaStore>,
        machine: Arc<dyn Machine>,
        options: ProposerOptions,
    ) -> std::io::Result<Proposer> {
        let (index, time) = store.applied();
        assert_eq!(log.next_index(), index + 1, "the log was replayed before it is written");
        let counters = Counters::default();
        counters.note(&log);
        let (queue, requests) = mpsc::channel(options.queue_requests_max);
        let room = Arc::new(Semaphore::new(
            options.queue_bytes_max.max(options.request_bytes_max) / PERMIT_BYTES + 1,
        ));
        let applied = watch::Sender::new(index);
        let common =
            Arc::new(Common { store, machine, options, stopped: OnceLock::new(), applied, counters });
        // No place in between: the log thread holds its entry until the one before is taken to be applied.
        let (to_apply, durable) = std::sync::mpsc::sync_channel(0);
        let appender = Appender { common: common.clone(), log, requests, to_apply, held: None, time };
        let applier = common.clone();
        let threads = vec![
            std::thread::Builder::new().name("keeper-log".into()).spawn(move || appender.run())?,
            std::thread::Builder::new()
                .name("keeper-apply".into())
                .spawn(move || apply_all(&applier, &durable))?,
        ];
        Ok(Proposer { common, queue: Mutex::new(Some(queue)), room, threads: Mutex::new(threads) })
    }

    /// Has a request logged and applied; its outcome when both are done. A caller that goes away does not take its request
    /// back.
    pub async fn propose(&self, request: Request) -> Result<Applied, ProposeError> {
        let options = &self.common.options;
        if self.common.stopped.get().is_some() {
            return Err(self.common.stopped_error());
        }
        if let Some(reason) = self.common.store.full() {
            return Err(ProposeError::NoSpace { reason });
        }
        let queue =
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ProposeError::Closed)?;
        let bytes = self.common.machine.request_bytes(&request);
        if bytes > options.request_bytes_max {
            return Err(ProposeError::TooLarge { bytes, limit: options.request_bytes_max });
        }
        let permits = bytes.div_ceil(PERMIT_BYTES) as u32;
        let (reply, outcome) = oneshot::channel();
        let enter = async {
            let room = self.room.clone().acquire_many_owned(permits).await;
            let place = room.map_err(|_| ProposeError::Closed)?;
            let pending = Pending { request, bytes, reply, _place: place };
            queue.send(pending).await.map_err(|_| self.gone())
        };
        match tokio::time::timeout(options.busy_after, enter).await {
            Err(_) => return Err(ProposeError::Busy { waited: options.busy_after }),
            Ok(entered) => entered?,
        }
        drop(queue);
        // A reply that is dropped: its thread is gone.
        outcome.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> ProposeError {
        if self.common.stopped.get().is_some() { self.common.stopped_error() } else { ProposeError::Closed }
    }

    /// The last applied index, as it grows.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.common.applied.subscribe()
    }

    /// Why the keeper stopped, if it did.
    pub fn stopped(&self) -> Option<String> {
        self.common.stopped.get().cloned()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.common.counters
    }

    /// Takes no more requests, finishes those it has, ends the threads.
    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                self.common.stop("a thread of the keeper panicked".into());
            }
        }
    }
}

impl Drop for Proposer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The log thread.
struct Appender {
    common: Arc<Common>,
    log: CommandLog,
    requests: mpsc::Receiver<Pending>,
    to_apply: std::sync::mpsc::SyncSender<Durable>,
    /// Was taken from the queue and did not fit the last entry.
    held: Option<Pending>,
    /// Of the last entry.
    time: Time,
}

impl Appender {
    fn run(mut self) {
        while let Some(first) = self.held.take().or_else(|| self.requests.blocking_recv()) {
            let gathered = self.gather(first);
            self.append(gathered);
            self.purge();
            self.common.counters.note(&self.log);
        }
    }

    /// All that waits, up to an entry's limits.
    fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let options = &self.common.options;
        let mut bytes = first.bytes;
        let mut gathered = vec![first];
        while gathered.len() < options.entry_requests_max {
            let Ok(next) = self.requests.try_recv() else { break };
            if bytes + next.bytes > options.entry_bytes_max {
                self.held = Some(next);
                break;
            }
            bytes += next.bytes;
            gathered.push(next);
        }
        gathered
    }

    fn append(&mut self, gathered: Vec<Pending>) {
        let common = &self.common;
        let mut entry = Entry { time: self.stamp(), requests: Vec::with_capacity(gathered.len()) };
        let mut replies = Vec::with_capacity(gathered.len());
        for pending in gathered {
            entry.requests.push(pending.request);
            replies.push(pending.reply);
        }
        let refuse = |replies: Vec<oneshot::Sender<_>>, error: ProposeError| {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        };
        if common.stopped.get().is_some() {
            return refuse(replies, common.stopped_error());
        }
        let index = self.log.next_index();
        let payload = common.machine.encode(&entry);
        match self.log.append(&[(index, &payload)]) {
            Ok(()) => {}
            Err(error @ (LogError::NoSpace { .. } | LogError::TooLarge { .. })) => {
                tracing::warn!(%error, requests = replies.len(), "requests are refused");
                return refuse(replies, ProposeError::NoSpace { reason: error.to_string() });
            }
            Err(error) => return refuse(replies, common.stop(error.to_string())),
        }
        self.time = entry.time;
        common.counters.entries.fetch_add(1, Ordering::Relaxed);
        common.counters.requests.fetch_add(replies.len() as u64, Ordering::Relaxed);
        if let Err(unsent) = self.to_apply.send(Durable { index, entry, replies }) {
            refuse(unsent.0.replies, common.stop("the apply thread is gone".into()));
        }
    }

    /// Now, but never before the last entry.
    fn stamp(&self) -> Time {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time { secs: now.as_secs() as i64, nanos: now.subsec_nanos() }.max(self.time)
    }

    fn purge(&mut self) {
        let below = (self.common.store.durable() + 1).saturating_sub(self.common.options.keep_entries);
        if let Err(error) = self.log.purge_below(below) {
            self.common.stop(error.to_string());
        }
    }
}

/// The apply thread.
fn apply_all(common: &Common, durable: &std::sync::mpsc::Receiver<Durable>) {
    while let Ok(Durable { index, entry, replies }) = durable.recv() {
        let outcomes = if common.stopped.get().is_some() {
            Err(common.stopped_error())
        } else {
            apply_one(&common.store, &*common.machine, index, &entry).map_err(|reason| common.stop(reason))
        };
        match outcomes {
            Ok(outcomes) => {
                common.applied.send_replace(index);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Who asked may be gone.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Applies one entry; an entry that cannot be applied stops the keeper here and on every replay.
pub(super) fn apply_one(
    store: &MetaStore,
    machine: &dyn Machine,
    index: u64,
    entry: &Entry,
) -> Result<Vec<Applied>, String> {
    let outcomes = store
        .apply(index, entry.time, |kv| machine.apply(kv, entry))
        .map_err(|error| format!("applying entry {index}: {error}"))?;
    if outcomes.len() != entry.requests.len() {
        return Err(format!(
            "applying entry {index}: {} results for {} requests",
            outcomes.len(),
            entry.requests.len()
        ));
    }
    Ok(outcomes)
}
