//! The state of write-back: the delegated directories, the queue of commands, and the signals between its
//! users.

use super::interest::Interest;
use crate::error::Error;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::command::{Command, Outcome};
use rain_namespace::delegation::DelegationSet;
use rain_namespace::record::Time;
use rain_types::{Ino, SessionId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot, watch};

/// Longest time since the last contact with the leader for which delegations are used. It must be shorter
/// than the silence after which the leader revokes them (3 s, `storaged::worker::delegations`).
pub(super) const LAST_CONTACT_MAX: Duration = Duration::from_secs(2);

/// Commands in the queue. At some thousand a second that is a few seconds of work for the leader.
pub(super) const COMMANDS_MAX: usize = 8192;

/// Estimated bytes of the commands in the queue.
pub(super) const BYTES_MAX: usize = 64 << 20;

/// Closed files that are stored in the background. The close of one more file stores the file itself.
const CLOSING_MAX: usize = 1024;

/// Closed files whose blocks are being stored at a time.
const STORING_MAX: usize = 16;

/// A command that is applied here and not answered by the leader.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) command: Command,
    pub(super) time: Time,
    /// Session fence: the command applies in this session or not at all.
    pub(super) fence: Option<SessionId>,
    /// The caller that waits for the outcome.
    pub(super) reply: Option<oneshot::Sender<Result<Outcome, Error>>>,
    /// The outcome was acknowledged to the program already.
    pub(super) acknowledged: bool,
    /// The inodes that the command changes, or makes.
    pub(super) changes: Vec<Ino>,
    /// The command's estimated length.
    pub(super) bytes: usize,
    /// How often the leader has refused it for a reason that may pass.
    pub(super) tries: u8,
}

/// The estimated length of a command, bytes.
pub(super) fn bytes_of(command: &Command) -> usize {
    const BASE: usize = 384;
    BASE + match command {
        Command::Commit { inline, blocks, extents, .. } => {
            32 * (blocks.len() + extents.len()) + inline.iter().map(|piece| piece.data.len()).sum::<usize>()
        }
        Command::SetXattr { value, .. } => value.len(),
        Command::Make { target, .. } => target.len(),
        _ => 0,
    }
}

/// Everything under the queue's lock.
#[derive(Debug)]
pub(super) struct State {
    /// The session that the delegations belong to.
    pub(super) session: SessionId,
    pub(super) delegations: DelegationSet,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Commands queued since the start.
    pub(super) pushed: u64,
    /// Commands answered since the start. The queue holds the commands between `answered` and `pushed`.
    pub(super) answered: u64,
    /// For each inode with queued changes: the queue position after which the leader knows all of them. An entry
    /// outlives its changes, so that an answer from before them is recognized.
    pub(super) pending: HashMap<Ino, u64>,
    /// The directories that may become worth asking for.
    pub(super) interest: HashMap<Ino, Interest>,
    /// Delegated directories that are being returned.
    pub(super) returning: BTreeSet<Ino>,
    /// Inode numbers reserved for new files.
    pub(super) inos: Range<u64>,
    /// When the leader last confirmed the delegations.
    pub(super) last_contact: Instant,
    /// When a command was last queued.
    pub(super) last_used: Instant,
    /// The error of a change that was acknowledged and then refused, until a `drain` tells it.
    pub(super) lost: Option<Error>,
    /// Set while the leader refuses all commands for want of space: no change of a name is acknowledged
    /// meanwhile.
    pub(super) full: Option<Error>,
}

/// The queue of one volume, shared with its tasks.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when there are commands to send.
    pub(super) work: Notify,
    /// Signalled when the first directory is delegated.
    pub(super) delegated: Notify,
    /// Counts changes of the state that a caller may wait for.
    changed: watch::Sender<u64>,
    /// Callers that wait for the queue; while there is one, the sender does not gather.
    pub(super) hurried: AtomicUsize,
    closing: Arc<Semaphore>,
    storing: Semaphore,
}

/// A caller that waits for queued commands. The sender does not gather while one exists.
pub(crate) struct Hurry<'a>(&'a Queue);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Relaxed);
    }
}

impl Queue {
    pub(super) fn new() -> Queue {
        let now = Instant::now();
        let state = State {
            session: SessionId(0),
            delegations: DelegationSet::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            pushed: 0,
            answered: 0,
            pending: HashMap::new(),
            interest: HashMap::new(),
            returning: BTreeSet::new(),
            inos: 0..0,
            last_contact: now,
            last_used: now,
            lost: None,
            full: None,
        };
        Queue {
            state: Mutex::new(state),
            work: Notify::new(),
            delegated: Notify::new(),
            changed: watch::Sender::new(0),
            hurried: AtomicUsize::new(0),
            closing: Arc::new(Semaphore::new(CLOSING_MAX)),
            storing: Semaphore::new(STORING_MAX),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes from here on wake the receiver.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes everybody who waits for a change.
    pub(super) fn notify_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn hurry(&self) -> Hurry<'_> {
        self.hurried.fetch_add(1, Relaxed);
        self.work.notify_one();
        Hurry(self)
    }

    pub(super) async fn turn_to_store(&self) -> Option<SemaphorePermit<'_>> {
        self.storing.acquire().await.ok()
    }

    pub(super) fn slot_to_close(&self) -> Option<OwnedSemaphorePermit> {
        self.closing.clone().try_acquire_owned().ok()
    }
}

impl State {
    /// Makes this the session of the state. Delegations belong to their session, so those of another one are
    /// dropped.
    pub(super) fn enter_session(&mut self, session: SessionId) {
        if self.session != session {
            if !self.delegations.is_empty() {
                tracing::warn!(ended = %self.session, "the delegated directories went with their session");
            }
            self.delegations.clear();
            self.inos = 0..0;
            self.session = session;
        }
    }

    /// Whether the last contact is recent enough to use the delegations.
    pub(super) fn is_fresh(&self) -> bool {
        self.last_contact.elapsed() < LAST_CONTACT_MAX
    }

    /// For how long from now the delegations may be used without another contact.
    pub(super) fn usable_for(&self) -> Duration {
        LAST_CONTACT_MAX.saturating_sub(self.last_contact.elapsed())
    }

    /// Whether the queue takes no more commands.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= COMMANDS_MAX || self.queue_bytes >= BYTES_MAX
    }

    /// The queue position up to which the queue must be answered before the leader is asked about these
    /// inodes.
    pub(super) fn due(&self, inos: &[Ino]) -> Option<u64> {
        inos.iter().filter_map(|ino| self.pending.get(ino)).max().copied().filter(|due| *due > self.answered)
    }

    /// Whether an inode has changes after a position of the queue.
    pub(super) fn is_changed_after(&self, ino: Ino, position: u64) -> bool {
        self.pending.get(&ino).is_some_and(|changed| *changed > position)
    }

    pub(super) fn note_pending(&mut self, inos: impl IntoIterator<Item = Ino>, position: u64) {
        self.pending.extend(inos.into_iter().map(|ino| (ino, position)));
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.pushed += 1;
        self.note_pending(queued.changes.iter().copied(), self.pushed);
        self.queue_bytes += queued.bytes;
        self.queue.push_back(queued);
        self.last_used = Instant::now();
    }
}
