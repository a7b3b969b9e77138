//! The leases of sessions on inodes, in the memory of the leader: the driver of
//! [`rain_namespace::lease::LeaseTable`], whose head has the rules.
//!
//! A query of a client goes through [`InodeLeases::answer`], a command through [`InodeLeases::change`]. Both
//! wait until the sessions in the way have given up what they hold; the table bounds that wait. The workers of
//! this node ask the metadata service directly: they cache nothing of inodes.
//!
//! There is a table for each term of this node. It is made once the state has every session that the leaders
//! before have opened.

use crate::metadata::{AskError, MetadataService, ProposeError};
use parking_lot::Mutex;
use rain_namespace::command::{Applied, Command, Outcome, Request};
use rain_namespace::lease::{self, Claim, LeaseTable, READ_FOR_MIN, Subject, Touch, Wanted};
use rain_namespace::query::{Answer, Answered, Query};
use rain_types::{Ino, LeaderTerm, SessionId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A waiting call looks at the table this often, besides after every change of it: leases also end by time.
const TICK: Duration = Duration::from_millis(25);

/// The table forgets what has ended by itself this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Attempts to answer a question from one state with a lease on everything that the answer tells of. A busy
/// directory may change in between each time; then the rest is told without a lease.
const ATTEMPTS: usize = 3;

/// The session of a client without one.
const NO_SESSION: SessionId = SessionId(0);

/// What a question asks for besides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Nothing,
    Read,
    ReadOpen,
    WriteIfFree,
    Write,
}

/// What was granted with an answer.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) term: LeaderTerm,
    /// The lowest number of the grants; 0: none.
    pub(crate) number: u64,
    pub(crate) write: bool,
    /// What the answer tells without a lease.
    pub(crate) unleased: BTreeSet<Subject>,
    /// The lifetime of read leases that end by time.
    pub(crate) read_for: Duration,
}

/// The state of a session's leases, for the session.
#[derive(Debug)]
pub(crate) struct Contact {
    pub(crate) term: LeaderTerm,
    /// The session has not ended.
    pub(crate) open: bool,
    pub(crate) registered: bool,
    pub(crate) wanted: Vec<Wanted>,
    /// The number of the last demand.
    pub(crate) last: u64,
}

/// The result of a registration.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) term: LeaderTerm,
    /// The session has not ended.
    pub(crate) open: bool,
    /// The write leases that the session keeps, with their grants' numbers.
    pub(crate) kept: Vec<(Ino, u64)>,
    /// The number of the last demand.
    pub(crate) last: u64,
    /// The number up to which earlier grants are void.
    pub(crate) granted: u64,
    /// The claims are refused, and nothing else has happened.
    pub(crate) refused: bool,
    /// The number of the last grant of those that were claimed.
    pub(crate) claimed: u64,
}

#[derive(Debug)]
struct State {
    term: Option<LeaderTerm>,
    table: LeaseTable,
    swept: Duration,
}

/// The leases, of the term in which this node leads.
#[derive(Debug)]
pub(crate) struct InodeLeases {
    began: Instant,
    state: Mutex<State>,
    /// Grows whenever a waiting call may go on.
    changed: watch::Sender<u64>,
}

impl InodeLeases {
    pub(crate) fn new() -> Arc<InodeLeases> {
        let state = State { term: None, table: LeaseTable::default(), swept: Duration::ZERO };
        Arc::new(InodeLeases {
            began: Instant::now(),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        })
    }

    /// Makes the table of this node's term, if that has not been done. Returns the term.
    async fn enter(&self, metadata: &MetadataService) -> Result<LeaderTerm, AskError> {
        let term = metadata.leads_in().ok_or(AskError::NotLeader)?;
        if self.state.lock().term == Some(term) {
            return Ok(term);
        }
        // This state has every session that a leader before this one has opened.
        let Ok(Answer::Sessions(open)) = metadata.ask(&Query::Sessions).await? else {
            return Err(AskError::NotLeader);
        };
        let may_hold: BTreeSet<SessionId> =
            open.iter().filter(|session| session.caches).map(|session| session.id).collect();
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        if metadata.leads_in() != Some(term) {
            return Err(AskError::NotLeader);
        }
        if state.term != Some(term) {
            *state = State { term: Some(term), table: LeaseTable::new(may_hold, now), swept: now };
        }
        Ok(term)
    }

    /// Uses the table of a term. Fails once the term is over.
    fn with<R>(
        &self,
        term: LeaderTerm,
        use_it: impl FnOnce(&mut LeaseTable, Duration) -> R,
    ) -> Result<R, AskError> {
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        if state.term != Some(term) {
            return Err(AskError::NotLeader);
        }
        if now > state.swept + SWEEP_EVERY {
            state.table.sweep(now);
            state.swept = now;
        }
        Ok(use_it(&mut state.table, now))
    }

    fn notify_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until `ready` says so. Fails when this node leads no more in this term.
    async fn wait_for(
        &self,
        metadata: &MetadataService,
        term: LeaderTerm,
        mut ready: impl FnMut(&mut LeaseTable, Duration) -> bool,
    ) -> Result<(), AskError> {
        let mut changed = self.changed.subscribe();
        let mut waited = false;
        loop {
            changed.borrow_and_update();
            if self.with(term, &mut ready)? {
                return Ok(());
            }
            if !waited {
                waited = true;
                // Those who wait for demands have some.
                self.notify_changed();
                changed.borrow_and_update();
            }
            if metadata.leads_in() != Some(term) {
                return Err(AskError::NotLeader);
            }
            let _ = tokio::time::timeout(TICK, changed.changed()).await;
        }
    }

    /// Answers a question for a session once no other session keeps back data that belongs to the answer, and
    /// grants what the session wants.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        metadata: &MetadataService,
        query: &Query,
        want: Want,
    ) -> Result<(Answered, Option<Granted>), AskError> {
        let session = match query {
            Query::As { session, .. } => *session,
            _ => NO_SESSION,
        };
        let Some(about) = lease::asked_about(query) else { return Ok((metadata.ask(query).await?, None)) };
        let term = self.enter(metadata).await?;
        let want = if session == NO_SESSION { Want::Nothing } else { want };
        if want != Want::Write {
            self.wait_for(metadata, term, |table, now| table.readable(session, about, now)).await?;
        }
        let read_for = self.with(term, |table, _| table.read_for())?;
        let mut granted = Granted { term, number: 0, write: false, unleased: BTreeSet::new(), read_for };
        match want {
            Want::Nothing => {}
            Want::Write => {
                let _wait = WriteWait::begin(self, term, session, about)?;
                self.wait_for(metadata, term, |table, now| {
                    granted.number = table.grant_write(session, about, now);
                    granted.number > 0
                })
                .await?;
                granted.write = true;
            }
            Want::ReadOpen | Want::WriteIfFree => self.with(term, |table, now| {
                if want == Want::WriteIfFree {
                    granted.number = table.grant_write(session, about, now);
                    granted.write = granted.number > 0;
                }
                if granted.number == 0 {
                    granted.number = table.grant_read(session, &Subject::Inode(about), None, now);
                }
            })?,
            Want::Read => {}
        }
        // What the session has leases on, or gets none on.
        let mut done = BTreeSet::new();
        if want != Want::Nothing && want != Want::Read {
            done.insert(Subject::Inode(about));
            if granted.number == 0 {
                granted.unleased.insert(Subject::Inode(about));
            }
        }
        for attempt in 1.. {
            let position = metadata.applied_index();
            let answered = metadata.ask(query).await?;
            let told = lease::told_by(query, &answered);
            let new: Vec<Subject> = told.into_iter().filter(|subject| !done.contains(subject)).collect();
            if new.is_empty() {
                return Ok((answered, (want != Want::Nothing).then_some(granted)));
            }
            if attempt > ATTEMPTS {
                granted.unleased.extend(new);
                return Ok((answered, (want != Want::Nothing).then_some(granted)));
            }
            if let [.., Subject::Inode(one)] = new[..]
                && new.len() <= 2
            {
                // Whoever keeps data of it back stores it first.
                self.wait_for(metadata, term, |table, now| table.readable(session, one, now)).await?;
            }
            self.with(term, |table, now| {
                for subject in &new {
                    let number = match want {
                        Want::Nothing => 0,
                        _ => table.grant_read(session, subject, Some(read_for), now),
                    };
                    match (number, granted.number) {
                        (0, _) => {
                            granted.unleased.insert(subject.clone());
                        }
                        (number, 0) => granted.number = number,
                        _ => {}
                    }
                }
            })?;
            done.extend(new);
            // Otherwise the state that was read may be older than the leases.
            if metadata.applied_index() == position {
                return Ok((answered, (want != Want::Nothing).then_some(granted)));
            }
        }
        unreachable!("the loop ends after a number of attempts")
    }

    /// Applies the requests of one call once no other session has a lease on what they touch.
    ///
    /// Goes on when the caller goes away, because the requests may apply all the same.
    pub(crate) async fn change(
        self: &Arc<Self>,
        metadata: &Arc<MetadataService>,
        requests: Vec<Request>,
    ) -> Result<Vec<Applied>, ProposeError> {
        let (leases, metadata) = (self.clone(), metadata.clone());
        let changing = tokio::spawn(async move { leases.change_now(&metadata, requests).await });
        changing.await.unwrap_or(Err(ProposeError::Closed))
    }

    async fn change_now(
        self: &Arc<Self>,
        metadata: &Arc<MetadataService>,
        requests: Vec<Request>,
    ) -> Result<Vec<Applied>, ProposeError> {
        let by = requests.iter().find_map(|request| request.id).map_or(NO_SESSION, |id| id.session);
        let not_leader = |error| match error {
            AskError::NotLeader => ProposeError::NotLeader,
            AskError::NoMajority => ProposeError::NoMajority,
            AskError::Store(reason) => ProposeError::Stopped { reason },
        };
        let term = self.enter(metadata).await.map_err(not_leader)?;
        let blind = self.with(term, |table, now| table.begin_blind_change(by, now)).map_err(not_leader)?;
        let mut touches = Vec::new();
        if !blind {
            let read = metadata.read(|kv| {
                for request in &requests {
                    lease::touched_by(kv, &request.command, &mut touches);
                }
            });
            read.map_err(|error| ProposeError::Stopped { reason: error.to_string() })?;
            self.with(term, |table, _| table.begin_change(by, &touches)).map_err(not_leader)?;
        }
        let change = Change { leases: self.clone(), term, by, blind, touches };
        let clear = |table: &mut LeaseTable, now: Duration| table.is_clear(by, &change.touches, now);
        self.wait_for(metadata, term, clear).await.map_err(not_leader)?;
        self.with(term, |table, now| {
            for subject in requests.iter().flat_map(|request| lease::moved_to(&request.command)) {
                table.grant_read(by, &subject, Some(READ_FOR_MIN), now);
            }
        })
        .map_err(not_leader)?;
        let ended: Vec<SessionId> = requests.iter().filter_map(ended_by).collect();
        let applied = metadata.propose_all(requests).await;
        if applied.is_ok() && !ended.is_empty() {
            let _ = self.with(term, |table, _| ended.iter().for_each(|session| table.forget(*session)));
            self.notify_changed();
        }
        match &applied {
            Ok(applied) if !blind => {
                // A name may have come to mean another inode since it was looked up.
                let removed =
                    |outcome: &&Outcome| matches!(outcome, Outcome::Removed { .. } | Outcome::Renamed { .. });
                let outcomes = applied.iter().filter_map(|applied| applied.as_ref().ok());
                let inodes = outcomes.filter(removed).flat_map(lease::inodes_of);
                let touches = inodes.map(|ino| Touch::One(Subject::Inode(ino)));
                let late: Vec<Touch> = touches.filter(|touch| !change.touches.contains(touch)).collect();
                if !late.is_empty() {
                    let clear = |table: &mut LeaseTable, now: Duration| table.is_clear(by, &late, now);
                    self.wait_for(metadata, term, clear).await.map_err(not_leader)?;
                }
            }
            Ok(_) => {}
            // The log has not taken it.
            Err(ProposeError::NoSpace { .. } | ProposeError::TooLarge { .. } | ProposeError::Busy { .. }) => {
            }
            Err(_) => change.end_when_certain(metadata.clone()),
        }
        applied
    }

    /// Keeps the leases of a session, and returns those that are wanted back, after at most `wait`.
    pub(crate) async fn contact(
        &self,
        metadata: &MetadataService,
        session: SessionId,
        after: u64,
        wait: Duration,
    ) -> Result<Contact, AskError> {
        let term = self.enter(metadata).await?;
        let until = Instant::now() + wait;
        let mut registered = true;
        let (mut wanted, mut last) = (Vec::new(), 0);
        self.wait_for(metadata, term, |table, now| {
            registered = table.contact(session, now);
            (wanted, last) = table.wanted(session, after);
            !registered || !wanted.is_empty() || Instant::now() >= until
        })
        .await?;
        let open = is_open(metadata, session).await?;
        Ok(Contact { term, open, registered, wanted, last })
    }

    /// Registers a session; see [`LeaseTable::register`].
    pub(crate) async fn register(
        &self,
        metadata: &MetadataService,
        session: SessionId,
        writes: &[Ino],
        claims: &[Claim],
    ) -> Result<Registered, AskError> {
        let term = self.enter(metadata).await?;
        let mut registered = self.with(term, |table, now| {
            let granted = table.last_grant() + 1;
            let kept = table.register(session, writes, claims, now);
            let last = table.wanted(session, u64::MAX).1;
            let (refused, claimed) = (kept.is_err(), table.last_grant());
            let kept = kept.unwrap_or_default();
            Registered { term, open: true, kept, last, granted, refused, claimed }
        })?;
        self.notify_changed();
        registered.open = is_open(metadata, session).await?;
        if !registered.open {
            self.with(term, |table, _| table.forget(session))?;
        }
        Ok(registered)
    }

    /// A session gives leases up, each up to a grant's number, and keeps a read lease where `true` says so.
    pub(crate) fn release(
        &self,
        term: LeaderTerm,
        session: SessionId,
        leases: &[(Subject, u64, bool)],
    ) -> Result<(), AskError> {
        self.with(term, |table, _| {
            for (subject, up_to, keep_read) in leases {
                table.release(session, subject, *up_to, *keep_read);
            }
        })?;
        self.notify_changed();
        Ok(())
    }
}

fn ended_by(request: &Request) -> Option<SessionId> {
    match request.command {
        Command::EndSession { session } => Some(session),
        _ => None,
    }
}

/// Returns whether a session is open. The answer is linearizable: no other leader can have existed when what was
/// done before was done.
async fn is_open(metadata: &MetadataService, session: SessionId) -> Result<bool, AskError> {
    let asked = metadata.ask(&Query::Session { session }).await?;
    Ok(matches!(asked, Ok(Answer::Sessions(sessions)) if !sessions.is_empty()))
}

/// A wait for a write lease.
struct WriteWait<'a> {
    leases: &'a InodeLeases,
    term: LeaderTerm,
    session: SessionId,
    ino: Ino,
}

impl WriteWait<'_> {
    fn begin(
        leases: &InodeLeases,
        term: LeaderTerm,
        session: SessionId,
        ino: Ino,
    ) -> Result<WriteWait<'_>, AskError> {
        leases.with(term, |table, _| table.begin_wait(session, ino))?;
        Ok(WriteWait { leases, term, session, ino })
    }
}

impl Drop for WriteWait<'_> {
    fn drop(&mut self) {
        let ended = self.leases.with(self.term, |table, _| table.end_wait(self.session, self.ino));
        if ended.is_ok() {
            self.leases.notify_changed();
        }
    }
}

/// A change under way.
struct Change {
    leases: Arc<InodeLeases>,
    term: LeaderTerm,
    by: SessionId,
    blind: bool,
    touches: Vec<Touch>,
}

impl Change {
    /// Ends a change whose outcome is unknown when it has applied or never will: when a later command, which changes
    /// nothing, has gone the same way, or the term is over.
    fn end_when_certain(self, metadata: Arc<MetadataService>) {
        tokio::spawn(async move {
            while metadata.leads_in() == Some(self.term) {
                let nothing = Request::internal(Command::Seal { inos: Vec::new() });
                if metadata.propose(nothing).await.is_ok() {
                    break;
                }
                tokio::time::sleep(TICK).await;
            }
            drop(self);
        });
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let ended = self.leases.with(self.term, |table, _| {
            if self.blind {
                table.end_blind_change(self.by);
            } else {
                table.end_change(self.by, &self.touches);
            }
        });
        if ended.is_ok() && !self.blind {
            self.leases.notify_changed();
        }
    }
}
