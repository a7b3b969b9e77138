//! Commands behind the caller: a volume's directories that this client holds, and the queue of what it has decided in them and the
//! namespace has not been told yet.
//!
//! ```text
//!   change -> plan --- here --------> act, queue, done          queue -> sender -> leader, in order, many at a time
//!                  \-- confirm -----> act, queue, wait for the outcome
//!                  \-- elsewhere ---> wait for what is queued about the same inodes, ask the leader
//! ```
//!
//! What may be decided here is [`rain_namespace::holding`]'s; this is its driver. [`held`] takes directories and
//! gives them back, [`sender`] empties the queue.
//!
//! Invariants:
//! 1. Commands are applied in the order in which they were acted on; each once, as its number says, whatever breaks.
//! 2. Nothing held is used when the leader may have taken it back: that needs [`HEARD_WITHIN`] without a word from it.
//! 3. Whoever asks for durability ([`Volume::settle`], and a flush) returns after everything acted on before is applied.
//! 4. A directory is given back after everything closed in it is stored and everything queued is applied.
//! 5. The queue is bounded; who finds it full waits.
//! 6. What was told and then refused (only possible when a directory was taken back from this client, which was away) is logged, and is
//!    an error of the next `settle`.

mod delegations;
mod sender;

use crate::cluster::{Client, unexpected};
use crate::error::Error;
use crate::stats::count;
use crate::volume::Volume;
use delegations::Dir;
use rain_namespace::command::{Applied, Command, Outcome};
use rain_namespace::delegation::{Decision, DelegationSet, Listed, LocalAnswer};
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, DirectoryEntry, Query};
use rain_namespace::record::{Time, VolumeRecord};
use rain_types::{Ino, SessionId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

/// What is held is used for so long after a word from the leader. Shorter than the silence after which it takes directories back.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// Commands that wait.
const QUEUE_MAX: usize = 8192;

/// Their bytes, about.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Closed files on their way behind their callers; the next ones wait.
const CLOSING_MAX: usize = 1024;

/// Those of them whose blocks are being stored.
const STORING_MAX: usize = 16;

/// Names of one answer, as the namespace's own limit.
const LISTED_MAX: u32 = 4096;

/// So many inodes are asked for one by one.
const FEW: usize = 8;

/// Whoever waits looks so often whether it has waited for too long.
const TICK: Duration = Duration::from_millis(100);

/// A command that was acted on and not answered.
#[derive(Debug)]
struct Queued {
    command: Command,
    time: Time,
    /// Only in this session.
    bound: Option<SessionId>,
    /// Whoever waits for the outcome.
    reply: Option<oneshot::Sender<Result<Outcome, Error>>>,
    /// Its outcome was told.
    told: bool,
    /// About how much it is to send.
    bytes: usize,
    tries: u8,
}

/// About how many bytes a command is.
fn bytes_of(command: &Command) -> usize {
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

#[derive(Debug)]
struct State {
    /// Whose directories these are.
    session: SessionId,
    delegations: DelegationSet,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Commands acted on so far, and how many of them are answered.
    pushed: u64,
    answered: u64,
    /// How far the queue has to be answered before the leader knows of an inode what is known here.
    pending: HashMap<Ino, u64>,
    dirs: HashMap<Ino, Dir>,
    /// Held directories that are being given back.
    returning: BTreeSet<Ino>,
    /// Reserved numbers.
    numbers: Range<u64>,
    /// When the leader last had what is held here for held.
    heard: Instant,
    /// When something was last acted on.
    used: Instant,
    /// Of commands that were told and refused.
    lost: Option<Error>,
    /// Why the leader takes nothing at this moment, though it is there: nothing more is told until it does.
    full: Option<Error>,
}

/// Of a volume.
#[derive(Debug)]
pub(crate) struct Writeback {
    state: Mutex<State>,
    /// There is something to send.
    work: Notify,
    /// Something is held.
    holds: Notify,
    /// Changes with everything that somebody may wait for.
    changed: watch::Sender<u64>,
    /// How many wait for the queue to be answered: it is not to gather more then.
    hurried: AtomicUsize,
    closing: Arc<Semaphore>,
    storing: Semaphore,
}

/// Somebody waits for what is queued.
pub(crate) struct Hurry<'a>(&'a Writeback);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Relaxed);
    }
}

/// How a command is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How {
    /// In this session or not at all.
    pub(crate) bound: Option<SessionId>,
    /// When it happened, where it is decided here.
    pub(crate) time: Option<Time>,
    /// Only what the leader says is an outcome.
    pub(crate) durably: bool,
    /// Nobody is kept waiting by that.
    pub(crate) leisurely: bool,
}

/// What to do next about a command.
enum Step {
    Told(Outcome),
    Refused(NsError),
    Failed(Error),
    Reply(oneshot::Receiver<Result<Outcome, Error>>),
    /// Something must come or go first.
    Later,
    /// The queue must be answered up to here first.
    Drain(u64),
    ReturnDelegations(Vec<Ino>),
    Take(Ino),
    Number,
    Ask(Vec<Query>),
}

impl Writeback {
    /// The volume has other groups now.
    pub(crate) fn volume_is(&self, volume: &VolumeRecord) {
        self.state().delegations.update_volume(volume);
    }

    pub(crate) fn new() -> Writeback {
        let now = Instant::now();
        let state = State {
            session: SessionId(0),
            delegations: DelegationSet::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            pushed: 0,
            answered: 0,
            pending: HashMap::new(),
            dirs: HashMap::new(),
            returning: BTreeSet::new(),
            numbers: 0..0,
            heard: now,
            used: now,
            lost: None,
            full: None,
        };
        Writeback {
            state: Mutex::new(state),
            work: Notify::new(),
            holds: Notify::new(),
            changed: watch::Sender::new(0),
            hurried: AtomicUsize::new(0),
            closing: Arc::new(Semaphore::new(CLOSING_MAX)),
            storing: Semaphore::new(STORING_MAX),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether nobody else can know of an inode.
    pub(crate) fn is_unpublished(&self, ino: Ino) -> bool {
        self.state().delegations.is_unpublished(ino)
    }

    /// The inode of a name in a directory, where that is known here and nobody else knows of it.
    fn unpublished_at(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let query = Query::Lookup { parent, name: name.to_vec() };
        let state = self.state();
        match state.delegations.answer(&query) {
            LocalAnswer::Complete(Ok(Answer::Attr(attr))) if state.delegations.is_unpublished(attr.ino) => {
                Some(attr.ino)
            }
            _ => None,
        }
    }

    /// The file that a rename moves over another name, where nobody else knows of it.
    pub(crate) fn unpublished_over(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Option<Ino> {
        let over = Query::Lookup { parent: to.0, name: to.1.to_vec() };
        let state = self.state();
        let is_free =
            matches!(state.delegations.answer(&over), LocalAnswer::Complete(Err(NsError::NotFound)));
        drop(state);
        self.unpublished_at(from.0, from.1).filter(|_| !is_free)
    }

    /// Nobody here has a file open any more.
    pub(crate) fn closed(&self, ino: Ino) {
        self.state().delegations.last_close(ino);
    }

    /// What is queued is sent at once, as long as this is kept.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        self.hurried.fetch_add(1, Relaxed);
        self.work.notify_one();
        Hurry(self)
    }

    /// A turn to store blocks of a closed file.
    pub(crate) async fn turn_to_store(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.storing.acquire().await.ok()
    }

    /// A place among the closed files that are on their way.
    pub(crate) fn place_to_close(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        self.closing.clone().try_acquire_owned().ok()
    }
}

impl State {
    /// Directories belong to their session: with another one nothing is held.
    fn of_session(&mut self, session: SessionId) {
        if self.session != session {
            if !self.delegations.is_empty() {
                tracing::warn!(ended = %self.session, "the directories held went with their session");
            }
            self.delegations.clear();
            self.numbers = 0..0;
            self.session = session;
        }
    }

    fn is_fresh(&self) -> bool {
        self.heard.elapsed() < HEARD_WITHIN
    }

    /// How far the queue must be answered before the leader can be asked about these.
    fn due(&self, inos: &[Ino]) -> Option<u64> {
        inos.iter().filter_map(|ino| self.pending.get(ino)).max().copied().filter(|due| *due > self.answered)
    }

    fn note_pending(&mut self, inos: impl IntoIterator<Item = Ino>, position: u64) {
        self.pending.extend(inos.into_iter().map(|ino| (ino, position)));
    }

    fn push(&mut self, queued: Queued) {
        self.pushed += 1;
        self.queue_bytes += queued.bytes;
        self.queue.push_back(queued);
        self.used = Instant::now();
    }

    /// Acts on a command that is decided here, or else says what is in its way.
    fn step(&mut self, command: &mut Command, how: &How, drained: bool, may_take: bool) -> Step {
        let about = DelegationSet::affected_inodes(command);
        if let Some(ended) = how.bound.filter(|bound| *bound != self.session) {
            return Step::Refused(NsError::SessionEnded(ended));
        }
        if about.iter().any(|ino| self.is_being_taken(*ino)) {
            return Step::Later;
        }
        let plan = self.delegations.decide(command);
        match plan {
            Decision::Return(dirs) => {
                // From a directory that is held to one that is worth to be.
                let other = if may_take { self.worth_taking(command) } else { None };
                return other.map_or(Step::ReturnDelegations(dirs), Step::Take);
            }
            Decision::Remote => {
                if let Some(due) = self.due(&about).filter(|_| !drained) {
                    return Step::Drain(due);
                }
                let dir = if may_take { self.worth_taking(command) } else { None };
                return dir.map_or_else(|| Step::Ask(self.delegations.lookups_before(command)), Step::Take);
            }
            Decision::Local | Decision::Confirm => {}
        }
        // Names in a directory that is being given back are the next holder's; what is written to files before that goes with it.
        let names =
            !matches!(command, Command::Commit { .. } | Command::Punch { .. } | Command::SetAttr { .. });
        if let (Some(full), true) = (&self.full, names) {
            return Step::Failed(full.clone());
        }
        let is_full = self.queue.len() >= QUEUE_MAX || self.queue_bytes >= QUEUE_BYTES_MAX;
        let goes = |ino: &Ino| {
            self.delegations.delegated_ancestor(*ino).is_some_and(|home| self.returning.contains(&home))
        };
        if !self.is_fresh() || names && about.iter().any(goes) || is_full {
            return Step::Later;
        }
        if let Command::Make { ino: ino @ None, .. } = command {
            let Some(number) = self.numbers.next() else { return Step::Number };
            *ino = Some(Ino(number));
        }
        let time = how.time.unwrap_or_else(now);
        let time =
            about.first().and_then(|ino| self.delegations.ctime(*ino)).map_or(time, |last| time.max(last));
        let changes = self.delegations.changed_external_inodes(command);
        let acted: Applied = self.delegations.apply_locally(time, command);
        let outcome = match acted {
            Ok(outcome) => outcome,
            Err(refused) => return Step::Refused(refused),
        };
        let made = match &outcome {
            Outcome::Attr(attr) => Some(attr.ino),
            _ => None,
        };
        let told = plan == Decision::Local && !how.durably;
        let (reply, answer) = if told { (None, None) } else { Some(oneshot::channel()).unzip() };
        let (command, bytes) = (command.clone(), bytes_of(command));
        self.push(Queued { command, time, bound: how.bound, reply, told, bytes, tries: 0 });
        self.note_pending(about.into_iter().chain(changes).chain(made), self.pushed);
        match answer {
            Some(answer) => Step::Reply(answer),
            None => Step::Told(outcome),
        }
    }
}

impl Volume {
    fn is_used(&self) -> bool {
        let options = self.cluster.options();
        options.write_back && !options.observe
    }

    /// Has a command done; where it is decided here, it is done once it was acted on.
    pub(crate) async fn change(&self, command: Command) -> Result<Outcome, Error> {
        self.change_as(command, How::default()).await
    }

    /// Has a command done, as it is to be.
    pub(crate) async fn change_as(&self, mut command: Command, how: How) -> Result<Outcome, Error> {
        if !self.is_used() {
            return self.cluster.propose_in(how.bound, command).await;
        }
        let begun = Instant::now();
        let (mut drained, mut may_take) = (false, true);
        loop {
            let mut changed = self.writeback.changed.subscribe();
            let session = self.cluster.session();
            self.cluster.can_change("changing the namespace")?;
            let step = {
                let mut state = self.writeback.state();
                state.of_session(session);
                state.step(&mut command, &how, drained, may_take)
            };
            match step {
                Step::Told(outcome) => {
                    count(&self.cluster.counters.acknowledged_early);
                    self.writeback.work.notify_one();
                    return Ok(outcome);
                }
                Step::Reply(answer) => {
                    let _hurry = (!how.leisurely).then(|| self.writeback.hurry());
                    self.writeback.work.notify_one();
                    return self.wait_for(answer, begun).await;
                }
                Step::Refused(refused) => return Err(Error::Refused(refused)),
                Step::Failed(error) => return Err(error),
                Step::Later => self.wait_a_little(&mut changed, begun).await?,
                Step::Drain(due) => {
                    self.answered(due, begun).await?;
                    drained = true;
                }
                Step::ReturnDelegations(dirs) => self.give_back(dirs).await,
                Step::Number => self.reserve_numbers().await?,
                Step::Take(dir) => {
                    may_take = false;
                    self.take(dir).await;
                }
                Step::Ask(suspects) => {
                    let named = self.held_among(suspects).await;
                    if !named.is_empty() {
                        self.give_back(named).await;
                        continue;
                    }
                    let Some(busy) = self.writeback.enter(&command) else { continue };
                    let outcome = self.cluster.propose_in(how.bound, command).await;
                    busy.done(outcome.as_ref().ok());
                    return outcome;
                }
            }
        }
    }

    /// Which of the directories that these ask for are held here.
    async fn held_among(&self, suspects: Vec<Query>) -> Vec<Ino> {
        let mut named = Vec::new();
        for query in suspects {
            if let Ok(Answer::Attr(attr)) = self.cluster.query(&query).await
                && self.writeback.state().delegations.delegated().any(|held| held == attr.ino)
            {
                named.push(attr.ino);
            }
        }
        named
    }

    /// Asks, with everything that this client has done before.
    pub(crate) async fn ask(&self, query: &Query) -> Result<Answer, Error> {
        if !self.is_used() {
            return self.cluster.query(query).await;
        }
        let begun = Instant::now();
        let mut query = query.clone();
        loop {
            let mut changed = self.writeback.changed.subscribe();
            let session = self.cluster.session();
            let due = {
                let mut state = self.writeback.state();
                state.of_session(session);
                match state.delegations.answer(&query) {
                    // Without a leader what was known last is the answer, as everywhere.
                    LocalAnswer::Complete(answered)
                        if state.is_fresh() || self.cluster.without_leader().is_some() =>
                    {
                        return answered.map_err(Error::Refused);
                    }
                    LocalAnswer::Complete(_) => None,
                    LocalAnswer::Partial(other) => {
                        query = other;
                        Some(state.due(&Vec::from_iter(DelegationSet::queried_inode(&query))))
                    }
                    LocalAnswer::Unknown => {
                        Some(state.due(&Vec::from_iter(DelegationSet::queried_inode(&query))))
                    }
                }
            };
            match due {
                None => self.wait_a_little(&mut changed, begun).await?,
                Some(due) => {
                    if let Some(due) = due {
                        match self.answered(due, begun).await {
                            // What a node has is the answer then, as far as it goes.
                            Ok(()) | Err(Error::NoMajority { .. } | Error::NoSpace { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    return self.cluster.query(&query).await;
                }
            }
        }
    }

    /// The names of a directory in order, after one, and whether there are more: those that are known here, whatever the leader has been told
    /// of them, else as it says.
    pub(crate) async fn list(
        &self,
        dir: Ino,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<(Vec<DirectoryEntry>, bool), Error> {
        let query = Query::ReadDirectory { dir, after: after.map(<[u8]>::to_vec), limit };
        let known = {
            let state = self.writeback.state();
            let usable = state.is_fresh() || self.cluster.without_leader().is_some();
            let limit = limit.clamp(1, LISTED_MAX) as usize;
            if usable { state.delegations.list(dir, after, limit) } else { None }
        };
        let Some((listed, more)) = known else {
            return match self.ask(&query).await? {
                Answer::Directory { entries, more } => Ok((entries, more)),
                _ => Err(unexpected("a directory")),
            };
        };
        let unknown = listed.iter().filter(|listed| listed.attr.is_none()).count();
        let mut attrs = HashMap::new();
        if unknown > FEW {
            // What was there before is there in the leader's list, under whatever name.
            if let Answer::Directory { entries, .. } = self.cluster.query(&query).await? {
                attrs.extend(entries.into_iter().map(|entry| (entry.attr.ino, entry.attr)));
            }
        }
        let mut entries = Vec::with_capacity(listed.len());
        for Listed { name, ino, attr } in listed {
            let attr = match attr.or_else(|| attrs.get(&ino).cloned()) {
                Some(attr) => attr,
                None => match self.cluster.query(&Query::GetAttr { ino }).await {
                    Ok(Answer::Attr(attr)) => attr,
                    // It has gone since.
                    Ok(_) | Err(Error::Refused(NsError::NotFound)) => continue,
                    Err(error) => return Err(error),
                },
            };
            entries.push(DirectoryEntry { name, attr });
        }
        Ok((entries, more))
    }

    /// Returns when everything that was acted on before is applied, or with what went wrong of it.
    pub async fn settle(&self) -> Result<(), Error> {
        let pushed = self.writeback.state().pushed;
        self.answered(pushed, Instant::now()).await?;
        self.writeback.state().lost.take().map_or(Ok(()), Err)
    }

    /// Waits until the queue is answered up to a position.
    async fn answered(&self, due: u64, begun: Instant) -> Result<(), Error> {
        let mut changed = self.writeback.changed.subscribe();
        let _hurry = self.writeback.hurry();
        loop {
            {
                let state = self.writeback.state();
                match &state.full {
                    _ if state.answered >= due => break,
                    Some(full) => return Err(full.clone()),
                    None => {}
                }
            }
            self.wait_a_little(&mut changed, begun).await?;
        }
        Ok(())
    }

    async fn wait_for(
        &self,
        mut answer: oneshot::Receiver<Result<Outcome, Error>>,
        begun: Instant,
    ) -> Result<Outcome, Error> {
        loop {
            match tokio::time::timeout(TICK, &mut answer).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(Error::Protocol("the client is being closed".into())),
                // It stays in the queue, whatever its asker is told.
                Err(_) => self.may_wait(begun).map_err(|error| match error {
                    Error::NoMajority { what, .. } => Error::NoMajority { what, may_be_done: true },
                    error => error,
                })?,
            }
        }
    }

    /// Waits until something has changed, or a moment; an error where it was waited for too long.
    async fn wait_a_little(&self, changed: &mut watch::Receiver<u64>, begun: Instant) -> Result<(), Error> {
        let _ = tokio::time::timeout(TICK, changed.changed()).await;
        self.may_wait(begun)
    }

    fn may_wait(&self, begun: Instant) -> Result<(), Error> {
        self.cluster.can_change("changing the namespace")?;
        let after = self.cluster.options().slow_after;
        if begun.elapsed() > after {
            return Err(Error::TimedOut { what: "changing the namespace".into(), after });
        }
        Ok(())
    }

    /// Starts what a volume needs behind its callers.
    pub(crate) fn start_behind(self: &Arc<Self>, cluster: &Client) {
        if self.is_used() {
            for task in [
                tokio::spawn(sender::send_for_ever(self.writeback.clone(), Arc::downgrade(self))),
                tokio::spawn(delegations::watch_for_ever(self.writeback.clone(), Arc::downgrade(self))),
            ] {
                cluster.own(task.abort_handle());
            }
        }
    }
}

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
