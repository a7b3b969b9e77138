//! Gathers requests into entries, has them replicated, and answers when they are applied.
//!
//! ```text
//!   propose (any task) -> bounded queue -> gather, stamp -> Raft (two entries in flight) -> outcomes
//! ```
//!
//! The longer an entry takes, the more requests the next one carries (group commit).
//!
//! 1. An outcome is told after its entry is durable on a majority and applied here, never before.
//! 2. The queue is bounded by number and bytes; who finds no place by the deadline is told `Busy`.
//! 3. A full disk refuses requests and passes; anything else that fails in the log or the store stops the keeper: all later
//!    proposals are refused with the reason, and the outcome of those in flight is said to be unknown.
//! 4. Nobody waits for ever: a node that leads no more, or that no majority answers, says so to all who wait.

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

/// Entries in flight.
const IN_FLIGHT: usize = 2;

/// How often it is looked whether an outcome can still come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After so many looks at a log that waits for room, who waits for it is told.
const STUCK_LOOKS: u32 = 8;

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
    #[error("requests of {bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another node leads, or none. Whether the request will be applied is unknown; sent again with its id it is applied once.
    #[error("this node does not lead the namespace")]
    NotLeader,
    /// No majority of the voters answers. The same holds.
    #[error("no majority of the namespace's voters answers")]
    NoMajority,
    /// The disk became full under it. The same holds.
    #[error("the namespace waits: {reason}")]
    Stuck {
        /// Which file, and what the system said.
        reason: String,
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
    /// Requests of one entry, as far as they are of more than one caller.
    pub entry_requests_max: usize,
    /// Bytes of one entry, as far as it has more than one request.
    pub entry_bytes_max: usize,
    /// Bytes of one caller's requests.
    pub request_bytes_max: usize,
    /// Requests that wait.
    pub queue_requests_max: usize,
    /// Their bytes.
    pub queue_bytes_max: usize,
    /// How long a proposal waits for a place.
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

/// Requests of one caller, in one entry.
struct Pending {
    requests: Vec<Request>,
    bytes: usize,
    reply: oneshot::Sender<Outcomes>,
    _place: OwnedSemaphorePermit,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) entries: AtomicU64,
    pub(super) requests: AtomicU64,
}

/// The queue and the task behind it.
#[derive(Debug)]
pub(super) struct Proposer {
    options: ProposerOptions,
    log: LogStore,
    applying: Arc<Applying>,
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Bytes that one permit of the queue's room stands for: the semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 1 << 10;

/// Of the log's records around an entry.
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
        let counters = Arc::new(Counters::default());
        let gatherer = Gatherer {
            options: options.clone(),
            raft,
            applying: applying.clone(),
            counters: counters.clone(),
            requests,
            held: None,
        };
        let task = tokio::spawn(gatherer.run());
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

    /// Has requests replicated and applied, all in one entry, in this order; their outcomes when that is done. A caller that goes away
    /// does not take its requests back. `leads`: whether a majority has confirmed lately that this node leads.
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
            let place = room.map_err(|_| ProposeError::Closed)?;
            let pending = Pending { requests, bytes, reply, _place: place };
            queue.send(pending).await.map_err(|_| ProposeError::Closed)
        };
        match tokio::time::timeout(options.busy_after, enter).await {
            Err(_) => return Err(ProposeError::Busy { waited: options.busy_after }),
            Ok(entered) => entered?,
        }
        drop(queue);
        let mut stuck = 0;
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut outcome).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(self.stopped().unwrap_or(ProposeError::Closed)),
                Err(_) => {
                    if let Some(stopped) = self.stopped() {
                        return Err(stopped);
                    }
                    leads()?;
                    stuck += 1;
                    if let Some(reason) = self.log.waits_for_room().filter(|_| stuck >= STUCK_LOOKS) {
                        return Err(ProposeError::Stuck { reason });
                    }
                }
            }
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes no more requests and finishes those it has.
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

/// The task.
struct Gatherer {
    options: ProposerOptions,
    raft: Raft,
    applying: Arc<Applying>,
    counters: Arc<Counters>,
    requests: mpsc::Receiver<Pending>,
    /// Was taken from the queue and did not fit the last entry.
    held: Option<Pending>,
}

impl Gatherer {
    async fn run(mut self) {
        let places = Arc::new(Semaphore::new(IN_FLIGHT));
        loop {
            let first = match self.held.take() {
                Some(held) => held,
                None => match self.requests.recv().await {
                    Some(first) => first,
                    None => break,
                },
            };
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let gathered = self.gather(first);
            self.send(gathered, place).await;
        }
        // All that is in flight.
        let _ = places.acquire_many(IN_FLIGHT as u32).await;
    }

    /// All that waits, up to an entry's limits.
    fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let (mut bytes, mut count) = (first.bytes, first.requests.len());
        let mut gathered = vec![first];
        while count < self.options.entry_requests_max {
            let Ok(next) = self.requests.try_recv() else { break };
            if bytes + next.bytes > self.options.entry_bytes_max {
                self.held = Some(next);
                break;
            }
            bytes += next.bytes;
            count += next.requests.len();
            gathered.push(next);
        }
        gathered
    }

    async fn send(&self, gathered: Vec<Pending>, place: OwnedSemaphorePermit) {
        let mut entry = Entry { time: (self.options.now)(), requests: Vec::with_capacity(gathered.len()) };
        let mut replies = Vec::with_capacity(gathered.len());
        for pending in gathered {
            replies.push((pending.reply, pending.requests.len(), pending._place));
            entry.requests.extend(pending.requests);
        }
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        self.counters.requests.fetch_add(entry.requests.len() as u64, Ordering::Relaxed);
        let payload = Payload(self.applying.machine.encode(&entry).into());
        let sent = self.raft.client_write_ff(payload).await;
        let applying = self.applying.clone();
        tokio::spawn(async move {
            let _place = place;
            let result = match sent {
                Ok(result) => result.await.ok(),
                Err(_) => None,
            };
            let refusal = match result {
                Some(Ok(written)) => {
                    let mut applied = written.data.into_iter();
                    for (reply, count, _) in replies {
                        // Who asked may be gone.
                        let _ = reply.send(Ok(applied.by_ref().take(count).collect()));
                    }
                    return;
                }
                Some(Err(ClientWriteError::ForwardToLeader(_))) => ProposeError::NotLeader,
                Some(Err(error)) => ProposeError::Stopped { reason: error.to_string() },
                None => match applying.stopped.get() {
                    Some(reason) => ProposeError::Stopped { reason: reason.clone() },
                    // Raft was shut down, or its log has failed: who waits looks there.
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
