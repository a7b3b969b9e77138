//! What this client may rely on of what it has cached: its leases, as the leader has granted them
//! ([`rain_namespace::lease`]), and the answers that it keeps under them.
//!
//! Invariants:
//! 1. Nothing is relied on later than [`CONTACT_MAX`] after the last contact with the leader that has granted
//!    it. A contact counts from when it was asked for.
//! 2. An answer that was asked for before its lease was given up grants nothing, however late it comes
//!    ([`State::is_current`], `an_answer_from_before_a_release_grants_nothing`).
//! 3. A lease is given up only after everything that relies on it has been dropped: first here, so that nothing
//!    new relies on it, then by the [`LeaseHolder`]s, then at the leader.
//! 4. A question that is answered from here gets what the leader would answer at this moment, but for changes of
//!    this client that are under way ([`super::own_changes`], `what_is_kept_answers_until_it_is_changed`).
//! 5. What is kept is bounded ([`super::kept`]).
//!
//! Left out: what the rungs above have cached. They know it, as [`LeaseHolder`]s.

use super::kept::Kept;
use super::moment::Moment;
use super::own_changes::{Certain, OwnChanges, Touched};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rain_namespace::command::{Applied, Command};
use rain_namespace::lease::{
    CLAIMS_MAX, CONTACT_MAX, Claim, Mode, Subject, Wanted, asked_about, changed_by, inodes_of, told_by,
};
use rain_namespace::query::{Answered, Query};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::LeaseKind;
use rain_types::{Ino, LeaderTerm, SessionId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Weak;
use std::time::{Duration, Instant};

/// Releases that are remembered one by one. Of older ones only the newest grant's number is.
const RELEASES_MAX: usize = 1 << 16;

/// Questions that wait to be asked anew. What does not fit is asked when its lease has ended.
const DUE_MAX: usize = 1024;

/// Something that has cached what leases allow.
pub(crate) trait LeaseHolder: Debug + Send + Sync {
    /// Stores and drops what relies on these leases.
    fn give_up<'a>(&'a self, wanted: &'a [Wanted]) -> BoxFuture<'a, ()>;

    /// Drops everything that relies on leases which this client has no more ([`Leases::read_for`]), except written
    /// data and the leases for it.
    fn drop_unleased(&self) -> BoxFuture<'_, ()>;

    /// The files with a write lease.
    fn writes(&self) -> Vec<Ino>;

    /// The write leases that are kept, with their grants' numbers. Others are lost.
    fn writes_kept(&self, kept: &HashMap<Ino, u64>);
}

/// The read leases that a registration claims from a new leader.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The number of the registration; 0: it claims nothing.
    number: u64,
    pub(super) claims: Vec<Claim>,
}

/// What a leader has granted with a registration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registration {
    pub(super) session: SessionId,
    pub(super) asked: Moment,
    pub(super) term: LeaderTerm,
    /// Grants up to this number are void.
    pub(super) granted: u64,
    /// The number of the last grant of what was claimed.
    pub(super) claimed: u64,
}

/// What came with an answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Grant {
    term: LeaderTerm,
    /// The number of the grant; 0: nothing was granted.
    pub(crate) number: u64,
    /// It is a write lease.
    write: bool,
    /// When the answer was asked for; none: it came from no leader.
    pub(crate) asked: Option<Instant>,
}

/// A question to the leader, before it is answered.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    leases: &'a Leases,
    number: u64,
    asked: Instant,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.leases.inner.lock().own.answered(self.number);
    }
}

#[derive(Debug, Default)]
struct State {
    /// The term of the leader with which this client is registered; none: with none.
    term: Option<LeaderTerm>,
    /// The session to which the leases were granted.
    session: SessionId,
    contact: Option<Moment>,
    /// Leases that came with answers, and the answers.
    kept: Kept,
    /// The numbers up to which grants were given up.
    released: HashMap<Subject, u64>,
    /// The numbers up to which write leases were given up and read leases kept.
    written: HashMap<Ino, u64>,
    /// The subjects of `released`, oldest first.
    order: VecDeque<Subject>,
    /// As `released`, for every subject that is not there.
    released_below: u64,
    /// Questions whose answers are in use and whose leases end soon.
    due: Vec<Query>,
    /// Leases that nothing here relies on any more, with the numbers of their grants. The leader is to be told.
    given_back: Vec<(Ino, u64)>,
    /// The number of the registration under way that claims what is kept. No lease is added until it ends.
    claiming: Option<u64>,
}

impl State {
    fn valid_until(&self) -> Option<Instant> {
        self.term?;
        Some(self.contact?.at + CONTACT_MAX)
    }

    fn is_valid(&self) -> bool {
        let was_suspended = self.contact.is_some_and(|contact| contact.was_suspended_since());
        self.valid_until().is_some_and(|until| Instant::now() < until) && !was_suspended
    }

    /// Nothing may rely on what was granted on a subject up to a number.
    fn release(&mut self, subject: &Subject, up_to: u64) {
        // What a new leader has granted anew is kept under the number of its last grant.
        let up_to = self.kept.remove(subject).map_or(up_to, |grant| grant.max(up_to));
        let released = self.released.entry(subject.clone());
        if let Entry::Vacant(_) = released {
            self.order.push_back(subject.clone());
        }
        let released = released.or_default();
        *released = up_to.max(*released);
        if self.order.len() > RELEASES_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(up_to) = self.released.remove(&oldest)
        {
            self.released_below = self.released_below.max(up_to);
        }
    }

    fn is_current(&self, grant: &Grant, subject: &Subject) -> bool {
        let released = self.released.get(subject).copied().unwrap_or(self.released_below);
        grant.number > released && self.term == Some(grant.term)
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    own: OwnChanges,
    /// Counts registrations that claim.
    registrations: u64,
}

impl Inner {
    /// Drops the values that own changes may have made wrong.
    fn forget(&mut self, subjects: &[Subject], everything: bool) {
        subjects.iter().for_each(|subject| self.state.kept.forget(subject));
        if everything {
            self.state.kept.forget_all();
        }
    }
}

/// The leases of a session.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    inner: Mutex<Inner>,
    holders: Mutex<Vec<Weak<dyn LeaseHolder>>>,
}

impl Leases {
    /// Adds a holder.
    pub(crate) fn add_holder(&self, holder: Weak<dyn LeaseHolder>) {
        let mut holders = self.holders.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    pub(super) fn holders(&self) -> Vec<std::sync::Arc<dyn LeaseHolder>> {
        self.holders.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether leases may be relied on at this moment.
    pub(crate) fn are_valid(&self) -> bool {
        self.inner.lock().state.is_valid()
    }

    /// For how long from now what is known of a subject may be used without asking.
    pub(crate) fn read_for(&self, subject: &Subject) -> Duration {
        let state = &self.inner.lock().state;
        let Some(valid) = state.valid_until() else { return Duration::ZERO };
        let now = Instant::now();
        state.kept.lease_on(subject).map_or(Duration::ZERO, |until| {
            until.map_or(valid, |until| until.min(valid)).saturating_duration_since(now)
        })
    }

    /// The time of the last contact that leases rest on; none without leases.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        let state = &self.inner.lock().state;
        state.term.and(state.contact).map(|contact| contact.at)
    }

    /// Takes what still stands of a grant on a file for as long as the file is open.
    pub(crate) fn take(&self, grant: &Grant, ino: Ino) -> Option<Mode> {
        let state = &mut self.inner.lock().state;
        let subject = Subject::Inode(ino);
        // Files with write leases have been told to the new leader already.
        let is_late = grant.write && state.claiming.is_some();
        if is_late || !state.is_current(grant, &subject) {
            return None;
        }
        let written = state.written.get(&ino).copied().unwrap_or(state.released_below);
        let mode = if grant.write && grant.number > written { Mode::Write } else { Mode::Read };
        state.kept.begin_use(ino).then_some(mode)
    }

    /// Answers a question from what is kept. None: the leader has to be asked.
    pub(super) fn answer(&self, query: &Query, kind: LeaseKind) -> Option<(Answered, Grant)> {
        let opens = match kind {
            LeaseKind::LeaseRead => false,
            LeaseKind::LeaseReadOpen => true,
            _ => return None,
        };
        let inner = &mut *self.inner.lock();
        if !inner.state.is_valid() {
            return None;
        }
        let now = Instant::now();
        let may_answer = |subject: &Subject| inner.own.may_answer(subject);
        let found = inner.state.kept.answer(query, now, may_answer)?;
        if inner.state.due.len() < DUE_MAX
            && inner.state.kept.is_due(query, found.inode.map(|(ino, _)| ino), now)
        {
            inner.state.due.push(query.clone());
        }
        let number = found.inode.and_then(|(_, for_good)| for_good).unwrap_or(0);
        let grant = Grant { term: inner.state.term?, number, write: false, asked: Some(found.asked) };
        // An open file needs a lease that does not end by time: nobody would drop the kernel's pages then.
        let may_open =
            |(ino, _): (Ino, _)| number > 0 && inner.state.is_current(&grant, &Subject::Inode(ino));
        (!opens || found.inode.is_some_and(may_open)).then_some((found.answered, grant))
    }

    /// Begins a question to the leader.
    pub(super) fn ask(&self) -> Asking<'_> {
        Asking { leases: self, number: self.inner.lock().own.ask(), asked: Instant::now() }
    }

    /// Takes in what came with the answer to a question, and keeps the answer where it may.
    pub(super) fn granted(
        &self,
        asking: &Asking<'_>,
        grant: Option<&v1::LeaseGrant>,
        kind: LeaseKind,
        query: &Query,
        answered: &Answered,
    ) -> Grant {
        let Some(v1::LeaseGrant { term: Some(term), number, write, unleased, read_ms }) = grant else {
            return Grant::default();
        };
        let asked = asking.asked;
        let grant = Grant { term: (*term).into(), number: *number, write: *write, asked: Some(asked) };
        if *number == 0 {
            return grant;
        }
        let (until, now) = (asked + Duration::from_millis((*read_ms).into()), Instant::now());
        let about = (kind != LeaseKind::LeaseRead).then(|| asked_about(query)).flatten();
        let unleased: HashSet<Subject> =
            unleased.iter().filter_map(|subject| wire::decode(subject).ok()).collect();
        let Inner { state, own, .. } = &mut *self.inner.lock();
        if state.claiming.is_some() {
            // The new leader would not know of the lease.
            return Grant { number: 0, write: false, ..grant };
        }
        let mut may_keep = HashSet::new();
        for subject in told_by(query, answered).into_iter().chain(about.map(Subject::Inode)) {
            let is_about = matches!(subject, Subject::Inode(ino) if Some(ino) == about);
            let is_over = !is_about && until <= now;
            if is_over || unleased.contains(&subject) || !state.is_current(&grant, &subject) {
                continue;
            }
            state.kept.lease(&subject, (!is_about).then_some(until), *number, now);
            if own.may_keep(asking.number, &subject) {
                may_keep.insert(subject);
            } else {
                state.kept.forget(&subject);
            }
        }
        state.kept.keep(query, answered, asked, |subject| may_keep.contains(subject));
        grant
    }

    /// Begins changes of this client. Nothing that they may touch is answered from here until they end.
    /// `children`: the inodes of the names that they change; none: as they are kept here, or unknown.
    pub(super) fn begin_own<'a>(
        &self,
        commands: impl Iterator<Item = (&'a Command, Option<&'a [Ino]>)>,
    ) -> Touched {
        let inner = &mut *self.inner.lock();
        let now = Instant::now();
        let is_valid = inner.state.is_valid();
        let mut touched = Touched::default();
        for (command, children) in commands {
            let changed = changed_by(command);
            touched.subjects.extend(changed.subjects);
            match children {
                Some(children) => touched.subjects.extend(children.iter().copied().map(Subject::Inode)),
                None => {
                    for (parent, name) in changed.named {
                        let name = Subject::Name(parent, name);
                        touched.names.push(name.clone());
                        let known =
                            Some(&inner.state.kept).filter(|_| is_valid && inner.own.may_answer(&name));
                        match known.and_then(|kept| kept.name(&name, now)) {
                            Some(ino) => touched.subjects.extend(ino.map(Subject::Inode)),
                            None => touched.any_inode = true,
                        }
                    }
                }
            }
        }
        inner.own.begin(&touched);
        inner.forget(&touched.subjects, false);
        touched
    }

    /// Ends changes of this client with their outcomes. `done_below`: as the leader was told with them.
    pub(super) fn end_own(
        &self,
        session: SessionId,
        done_below: u64,
        touched: &Touched,
        applied: &[Applied],
    ) {
        let inner = &mut *self.inner.lock();
        let outcomes = applied.iter().filter_map(|applied| applied.as_ref().ok());
        let more: Vec<Subject> = outcomes.flat_map(inodes_of).map(Subject::Inode).collect();
        inner.own.end(touched, Some(&more));
        inner.forget(&[&touched.subjects[..], &more].concat(), false);
        let Certain { touched, everything } = inner.own.certain_below(session, done_below);
        inner.forget(&touched.subjects, touched.any_inode || everything);
    }

    /// Notes that changes of this client have got no outcome. They may still apply.
    pub(super) fn leave_own_uncertain(&self, session: SessionId, seq: u64, touched: Touched) {
        self.inner.lock().own.leave_uncertain(session, seq, touched);
    }

    /// Nothing may rely on these leases from here on.
    pub(super) fn begin_release(&self, wanted: &[Wanted]) {
        let Inner { state, own, .. } = &mut *self.inner.lock();
        for Wanted { subject, up_to, keep_read } in wanted {
            match subject {
                _ if !keep_read => {
                    state.release(subject, *up_to);
                    own.name_lost(subject);
                }
                Subject::Inode(ino) => {
                    let written = state.written.entry(*ino).or_default();
                    *written = (*written).max(*up_to);
                    if state.written.len() > RELEASES_MAX {
                        // Rather a lease too few.
                        let given_up = state.written.drain().map(|(_, up_to)| up_to).max();
                        state.released_below = state.released_below.max(given_up.unwrap_or(0));
                    }
                }
                Subject::Name(..) => {}
            }
        }
    }

    /// A file is open no more: its lease is given back a while later, unless the file is opened again.
    pub(crate) fn unused(&self, ino: Ino) {
        self.inner.lock().state.kept.end_use(ino, Instant::now());
    }

    /// Forgets what is known of an inode: it may be right, and has not helped.
    pub(crate) fn forget(&self, ino: Ino) {
        self.inner.lock().state.kept.forget(&Subject::Inode(ino));
    }

    /// The questions to ask anew.
    pub(super) fn take_due(&self) -> Vec<Query> {
        let state = &mut self.inner.lock().state;
        let is_leased = |subject: Subject| state.kept.lease_on(&subject).is_some();
        let mut due = std::mem::take(&mut state.due);
        // What another session has asked for meanwhile is left to it.
        due.retain(|query| match query {
            Query::Lookup { parent, name } => is_leased(Subject::Name(*parent, name.clone())),
            query => asked_about(query).is_some_and(|ino| is_leased(Subject::Inode(ino))),
        });
        due
    }

    /// The leases to give back: nothing relies on them from here on. And those that have to go before their time,
    /// because there are too many: what was told of them may still be used.
    pub(super) fn take_unused(&self) -> (Vec<(Ino, u64)>, Vec<Wanted>) {
        let state = &mut self.inner.lock().state;
        let now = Instant::now();
        state.kept.drop_ended(now);
        let taken = state.kept.take_unused(now);
        for (ino, up_to) in &taken.due {
            state.release(&Subject::Inode(*ino), *up_to);
            state.given_back.push((*ino, *up_to));
        }
        let early = taken.early.into_iter();
        let early =
            early.map(|(ino, up_to)| Wanted { subject: Subject::Inode(ino), up_to, keep_read: false });
        (std::mem::take(&mut state.given_back), early.collect())
    }

    /// The leader has not heard of these leases of a term that were to be given back.
    pub(super) fn not_given_back(&self, term: LeaderTerm, leases: Vec<(Ino, u64)>) {
        let state = &mut self.inner.lock().state;
        if state.term == Some(term) {
            state.given_back.extend(leases);
        }
    }

    /// A contact with the leader was asked for at `asked`, and has come.
    pub(super) fn contact(&self, asked: Moment, term: LeaderTerm) {
        let state = &mut self.inner.lock().state;
        if state.term == Some(term) && state.contact.is_none_or(|contact| contact.at < asked.at) {
            state.contact = Some(asked);
        }
    }

    /// The term of the leader with which this client is registered.
    pub(crate) fn term(&self) -> Option<LeaderTerm> {
        self.inner.lock().state.term
    }

    /// Whether a registration is under way that claims what is kept.
    pub(super) fn are_claimed(&self) -> bool {
        self.inner.lock().state.claiming.is_some()
    }

    /// Begins a registration with a new leader. From here on nothing may rely on a lease but on those that are
    /// claimed: while leases may be relied on, those that are kept. `may_claim`: the session that may claim; none:
    /// nothing is claimed.
    ///
    /// The new leader respects what is claimed, because until this client is registered it takes it for the holder
    /// of all leases.
    pub(super) fn begin_registration(&self, may_claim: Option<SessionId>) -> Claims {
        let Inner { state, own, registrations } = &mut *self.inner.lock();
        if may_claim != Some(state.session) || !state.is_valid() {
            *state = State::default();
            own.names_lost_but(&HashSet::new());
            return Claims::default();
        }
        let claims = state.kept.claim(CLAIMS_MAX, Instant::now());
        let subjects = claims.iter().map(|claim| claim.subject.clone()).collect();
        own.names_lost_but(&subjects);
        state.given_back.clear();
        *registrations += 1;
        state.claiming = Some(*registrations);
        Claims { number: *registrations, claims }
    }

    /// This client is registered with a leader. Earlier grants are void, but for what was claimed and for the write
    /// leases that it keeps. Returns false if the answer has come too late for the claims.
    pub(super) fn registered(
        &self,
        registration: Registration,
        claims: &Claims,
        writes_kept: &HashMap<Ino, u64>,
    ) -> bool {
        let Registration { session, asked, term, granted, claimed } = registration;
        let state = &mut self.inner.lock().state;
        let mut kept = Kept::default();
        if claims.number > 0 {
            // The leaders before may have taken this client for lost before the new one has heard of the claims.
            if state.claiming != Some(claims.number) || !state.is_valid() || asked.was_suspended_since() {
                return false;
            }
            kept = std::mem::take(&mut state.kept);
            kept.granted_anew(claimed);
        }
        let (term, contact) = (Some(term), Some(asked));
        *state = State { term, session, contact, kept, released_below: granted, ..State::default() };
        for (ino, grant) in writes_kept {
            state.kept.lease(&Subject::Inode(*ino), None, *grant, asked.at);
            state.kept.begin_use(*ino);
        }
        true
    }
}

#[cfg(test)]
mod tests;
