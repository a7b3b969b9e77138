//! Gathers requests into entries (group commit), has the entries replicated, and answers when they are
//! applied.
//!
//! ```text
//!   propose (any task) -> bounded queue -> batch, stamp -> Raft (two entries in flight) -> outcomes
//! ```
//!
//! The longer an entry takes, the more requests the next one carries.
//!
//! 1. A caller gets its outcome after the entry is durable on a majority and applied here, never before.
//! 2. The queue is bounded by number and bytes. A request without room by the deadline is refused as `Busy`.
//! 3. While the disk is full, requests are refused; once there is room, they are accepted again. Any other
//!    failure of the log or the store stops the service: all later proposals are refused with the reason, and
//!    the outcome of those in flight is unknown.
//! 4. Nobody waits for ever: all waiting callers get an error when the node loses the lead or its majority.

use super::log::PAYLOAD_BYTES_MAX;
use super::raft::log_store::LogStore;
use super::raft::machine::Applying;
use super::raft::types::{Payload, Raft};
use openraft::error::ClientWriteError;
use parking_lot::Mutex;
use rain_namespace::command::{Applied, Entry, Request};
use rain_namespace::record::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Entries in flight: one is being replicated while the next one is gathered and sent.
const IN_FLIGHT: usize = 2;

/// Interval at which a waiting caller checks that its outcome can still come.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Checks of a log that waits for room before its callers get an error: eight tenths of a second.
const STUCK_CHECKS: u32 = 8;

/// Why a proposal has no outcome.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// No room in the queue by the deadline. The request was not taken.
    #[error("the namespace is busy: no room in its queue for {waited:?}")]
    Busy {
        /// The time waited.
        waited: Duration,
    },
    /// No room on the disk. The request was not taken.
    #[error("{reason}")]
    NoSpace {
        /// The file and the system's error.
        reason: String,
    },
    /// The request is larger than an entry may be. It was not taken.
    #[error("requests of {bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another node leads, or none. It is unknown whether the request will be applied; sent again with its id
    /// it is applied once.
    #[error("this node does not lead the namespace")]
    NotLeader,
    /// No majority of the voters answers. As with `NotLeader`, the outcome is unknown.
    #[error("no majority of the namespace's voters answers")]
    NoMajority,
    /// The disk is full, and the entry waits for room. As with `NotLeader`, the outcome is unknown.
    #[error("the namespace waits: {reason}")]
    Stuck {
        /// The file and the system's error.
        reason: String,
    },
    /// The service has stopped. A request in flight may or may not be applied after a restart.
    #[error("the namespace has stopped: {reason}; mend that and restart the node")]
    Stopped {
        /// The reason.
        reason: String,
    },
    /// The service was closed. The request was not taken.
    #[error("the namespace is closed")]
    Closed,
}

/// Settings of a proposer.
#[derive(Debug, Clone)]
pub struct ProposerOptions {
    /// Requests of one entry, unless a single caller has more.
    pub entry_requests_max: usize,
    /// Bytes of one entry, unless a single caller has more.
    pub entry_bytes_max: usize,
    /// Bytes of the requests of one call; more are refused.
    pub request_bytes_max: usize,
    /// Calls that wait in the queue.
    pub queue_requests_max: usize,
    /// Bytes that wait in the queue.
    pub queue_bytes_max: usize,
    /// Longest wait for room in the queue.
    pub busy_after: Duration,
    /// The clock that stamps entries.
    pub now: fn() -> Time,
}

impl Default for ProposerOptions {
    fn default() -> ProposerOptions {
        ProposerOptions {
            entry_requests_max: 1000,
            entry_bytes_max: 2 << 20,
            request_bytes_max: 6 << 20,
            queue_requests_max: 4096,
            queue_bytes_max: 32 << 20,
            busy_after: Duration::from_secs(5),
            now,
        }
    }
}

type Outcomes = Result<Vec<Applied>, ProposeError>;

/// The requests of one call. They go into one entry.
struct Pending {
    requests: Vec<Request>,
    bytes: usize,
    reply: oneshot::Sender<Outcomes>,
    _room: OwnedSemaphorePermit,
}

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(super) struct ProposerCounters {
    pub(super) entries: AtomicU64,
    pub(super) requests: AtomicU64,
}

/// The queue and the task that empties it.
#[derive(Debug)]
pub(super) struct Proposer {
    options: ProposerOptions,
    log: LogStore,
    applying: Arc<Applying>,
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    room: Arc<Semaphore>,
    counters: Arc<ProposerCounters>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Bytes of one permit of the queue's room: the semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 1 << 10;

/// Bytes that the log adds to an entry, an upper bound.
const RECORD_OVERHEAD: usize = 256;

impl Proposer {
    pub(super) fn start(
        raft: Raft,
        log: LogStore,
        applying: Arc<Applying>,
        options: ProposerOptions,
    ) -> Proposer {
        assert!(options.request_bytes_max < PAYLOAD_BYTES_MAX, "a request fits into a record");
        let (queue, requests) = mpsc::channel(options.queue_requests_max);
        let room = options.queue_bytes_max.max(options.request_bytes_max) / PERMIT_BYTES + 1;
        let counters = Arc::new(ProposerCounters::default());
        let batcher = Batcher {
            options: options.clone(),
            raft,
            applying: applying.clone(),
            counters: counters.clone(),
            requests,
            left_over: None,
        };
        let task = tokio::spawn(batcher.run());
        Proposer {
            options,
            log,
            applying,
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(room)),
            counters,
            task: Mutex::new(Some(task)),
        }
    }

    fn stopped(&self) -> Option<ProposeError> {
        let reason = self.log.stopped().or_else(|| self.applying.stopped.get().cloned());
        reason.map(|reason| ProposeError::Stopped { reason })
    }

    /// Has requests replicated and applied, all in one entry, in this order; returns their outcomes. A caller
    /// that goes away does not take its requests back. `leads` fails unless a majority has confirmed recently
    /// that this node leads.
    pub(super) async fn propose(
        &self,
        requests: Vec<Request>,
        leads: &(dyn Fn() -> Result<(), ProposeError> + Send + Sync),
    ) -> Outcomes {
        let options = &self.options;
        if let Some(stopped) = self.stopped() {
            return Err(stopped);
        }
        if let Some(reason) = self.applying.store.full() {
            return Err(ProposeError::NoSpace { reason });
        }
        let queue = self.queue.lock().clone();
        let queue = queue.ok_or(ProposeError::Closed)?;
        leads()?;
        let bytes = requests.iter().map(|request| self.applying.machine.request_bytes(request)).sum();
        if bytes > options.request_bytes_max {
            return Err(ProposeError::TooLarge { bytes, limit: options.request_bytes_max });
        }
        let most = options.entry_bytes_max.max(bytes) + RECORD_OVERHEAD;
        self.log.room(IN_FLIGHT * most).map_err(|reason| ProposeError::NoSpace { reason })?;
        let permits = bytes.div_ceil(PERMIT_BYTES) as u32;
        let (reply, mut outcome) = oneshot::channel();
        let enter = async {
            let room = self.room.clone().acquire_many_owned(permits).await;
            let room = room.map_err(|_| ProposeError::Closed)?;
            let pending = Pending { requests, bytes, reply, _room: room };
            queue.send(pending).await.map_err(|_| ProposeError::Closed)
        };
        match tokio::time::timeout(options.busy_after, enter).await {
            Err(_) => return Err(ProposeError::Busy { waited: options.busy_after }),
            Ok(entered) => entered?,
        }
        drop(queue);
        let mut stuck = 0;
        loop {
            match tokio::time::timeout(CHECK_EVERY, &mut outcome).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(self.stopped().unwrap_or(ProposeError::Closed)),
                Err(_) => {
                    if let Some(stopped) = self.stopped() {
                        return Err(stopped);
                    }
                    leads()?;
                    stuck += 1;
                    if let Some(reason) = self.log.waits_for_room().filter(|_| stuck >= STUCK_CHECKS) {
                        return Err(ProposeError::Stuck { reason });
                    }
                }
            }
        }
    }

    pub(super) fn counters(&self) -> &ProposerCounters {
        &self.counters
    }

    /// Takes no more requests and finishes those in the queue.
    pub(super) async fn close(&self) {
        self.queue.lock().take();
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && tokio::time::timeout(self.options.busy_after, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

/// The task that makes entries.
struct Batcher {
    options: ProposerOptions,
    raft: Raft,
    applying: Arc<Applying>,
    counters: Arc<ProposerCounters>,
    requests: mpsc::Receiver<Pending>,
    /// A call that was taken from the queue and did not fit into the last entry.
    left_over: Option<Pending>,
}

impl Batcher {
    async fn run(mut self) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        loop {
            let first = match self.left_over.take() {
                Some(left_over) => left_over,
                None => match self.requests.recv().await {
                    Some(first) => first,
                    None => break,
                },
            };
            let Ok(slot) = in_flight.clone().acquire_owned().await else { break };
            let batch = self.batch(first);
            self.send(batch, slot).await;
        }
        // Waits for all entries in flight.
        let _ = in_flight.acquire_many(IN_FLIGHT as u32).await;
    }

    /// Takes all waiting calls, up to an entry's limits.
    fn batch(&mut self, first: Pending) -> Vec<Pending> {
        let (mut bytes, mut count) = (first.bytes, first.requests.len());
        let mut batch = vec![first];
        while count < self.options.entry_requests_max {
            let Ok(next) = self.requests.try_recv() else { break };
            if bytes + next.bytes > self.options.entry_bytes_max {
                self.left_over = Some(next);
                break;
            }
            bytes += next.bytes;
            count += next.requests.len();
            batch.push(next);
        }
        batch
    }

    /// Sends an entry to Raft, and spawns the task that answers its callers.
    async fn send(&self, batch: Vec<Pending>, slot: OwnedSemaphorePermit) {
        let mut entry = Entry { time: (self.options.now)(), requests: Vec::with_capacity(batch.len()) };
        let mut replies = Vec::with_capacity(batch.len());
        for pending in batch {
            replies.push((pending.reply, pending.requests.len(), pending._room));
            entry.requests.extend(pending.requests);
        }
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        self.counters.requests.fetch_add(entry.requests.len() as u64, Ordering::Relaxed);
        let payload = Payload(self.applying.machine.encode(&entry).into());
        let sent = self.raft.client_write_ff(payload).await;
        let applying = self.applying.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let result = match sent {
                Ok(result) => result.await.ok(),
                Err(_) => None,
            };
            let refusal = match result {
                Some(Ok(written)) => {
                    let mut applied = written.data.into_iter();
                    for (reply, count, _) in replies {
                        // The caller may be gone.
                        let _ = reply.send(Ok(applied.by_ref().take(count).collect()));
                    }
                    return;
                }
                Some(Err(ClientWriteError::ForwardToLeader(_))) => ProposeError::NotLeader,
                Some(Err(error)) => ProposeError::Stopped { reason: error.to_string() },
                None => match applying.stopped.get() {
                    Some(reason) => ProposeError::Stopped { reason: reason.clone() },
                    // openraft was shut down, or its log has failed: waiting callers check both.
                    None => return,
                },
            };
            for (reply, ..) in replies {
                let _ = reply.send(Err(refusal.clone()));
            }
        });
    }
}

fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: now.as_secs() as i64, nanos: now.subsec_nanos() }
}
