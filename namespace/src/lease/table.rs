//! The table of leases. The head of [`crate::lease`] has the rules.

use super::held::Held;
use super::{CLAIMS_MAX, Claim, Mode, READ_FOR, READ_FOR_MIN, SILENCE, Subject, Touch, Wanted};
use crate::command::Name;
use rain_types::{Ino, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Leases in a table. With more, no read lease is granted, and answers are not cached.
const LEASES_MAX: usize = 1 << 19;

/// The leases on one subject.
type Holders = Vec<Held>;

/// A session claims leases that it may not have, or too many. It is not registered: it has to drop what they
/// allow, and to register without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimsRefused;

/// The leases of one leader's term.
#[derive(Debug, Default)]
pub struct LeaseTable {
    grants: u64,
    demands: u64,
    inodes: BTreeMap<Ino, Holders>,
    names: BTreeMap<Ino, BTreeMap<Name, Holders>>,
    leases: usize,
    /// The subjects with leases that end by time, by the second in which one of them ends.
    endings: BTreeMap<u64, Vec<Subject>>,
    /// The registered sessions, and when each was last heard of.
    sessions: BTreeMap<SessionId, Duration>,
    /// A session has gone whose leases are still here.
    any_gone: bool,
    /// Sessions of the term before that have not registered, and may have any lease until `unheard_until`.
    unheard: BTreeSet<SessionId>,
    unheard_until: Duration,
    /// What changes under way touch, with the session of each change.
    changes: BTreeMap<Touch, Vec<SessionId>>,
    /// Changes under way whose touches are not known, by session.
    blind: BTreeMap<SessionId, usize>,
    /// The sessions that wait for a write lease, in the order in which they came.
    writers: BTreeMap<Ino, VecDeque<SessionId>>,
    /// The subjects on which a lease of a session is wanted.
    wanted: BTreeMap<SessionId, BTreeSet<Subject>>,
}

impl LeaseTable {
    /// Returns the table of a new leader. `may_hold`: the open sessions that may have leases of the term before.
    pub fn new(may_hold: BTreeSet<SessionId>, now: Duration) -> LeaseTable {
        LeaseTable { unheard: may_hold, unheard_until: now + SILENCE, ..LeaseTable::default() }
    }

    /// Returns the number of leases.
    pub fn len(&self) -> usize {
        self.leases
    }

    /// Returns whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases == 0
    }

    /// Returns the number of the last grant.
    pub fn last_grant(&self) -> u64 {
        self.grants
    }

    /// Notes that a session was heard of. Returns whether it is registered: otherwise it has to register before
    /// it gets leases. Silence ends a registration: what others have done meanwhile the session does not know.
    pub fn contact(&mut self, session: SessionId, now: Duration) -> bool {
        match self.sessions.get_mut(&session) {
            Some(heard) if now < *heard + SILENCE => {
                *heard = now;
                true
            }
            _ => false,
        }
    }

    /// Registers a session that has dropped everything but its written data and what it claims. Returns those of
    /// its write leases that it keeps, with the numbers of their grants. All claims are granted, or none.
    pub fn register(
        &mut self,
        session: SessionId,
        writes: &[Ino],
        claims: &[Claim],
        now: Duration,
    ) -> Result<Vec<(Ino, u64)>, ClaimsRefused> {
        let was_unheard = self.unheard.contains(&session) && now < self.unheard_until;
        // Without claims nobody is refused, also where the table is full of write leases.
        let most = CLAIMS_MAX.min(LEASES_MAX.saturating_sub(self.leases));
        let has_room = claims.is_empty() || claims.len() <= most;
        if !has_room || !claims.iter().all(|claim| self.may_claim(session, claim, was_unheard, now)) {
            return Err(ClaimsRefused);
        }
        self.unheard.remove(&session);
        // So that grants which are still on their way to the session are told from later ones.
        self.grants += 1;
        // A session that is heard of for the first time has none here.
        let is_known = self.any_gone || self.sessions.contains_key(&session);
        let wrote = if is_known { self.drop_leases_of(session, now) } else { BTreeSet::new() };
        self.wanted.remove(&session);
        self.sessions.insert(session, now);
        let mut kept = Vec::new();
        for ino in writes {
            let others = self.inodes.get(ino).is_some_and(|held| !held.is_empty());
            if (was_unheard || wrote.contains(ino)) && !others {
                let subject = Subject::Inode(*ino);
                kept.push((*ino, self.grant(session, &subject, Mode::Write, None)));
            }
        }
        for Claim { subject, for_good } in claims {
            self.grant(session, subject, Mode::Read, (!for_good).then_some(now + READ_FOR));
        }
        Ok(kept)
    }

    /// Drops all leases of a session. Returns the inodes on which it had live write leases.
    fn drop_leases_of(&mut self, session: SessionId, now: Duration) -> BTreeSet<Ino> {
        let mut wrote = BTreeSet::new();
        let sessions = &self.sessions;
        self.inodes.retain(|ino, held| {
            held.retain(|lease| {
                let goes = lease.session == session;
                if goes && lease.mode == Mode::Write && lease.is_live(sessions, now) {
                    wrote.insert(*ino);
                }
                !goes
            });
            !held.is_empty()
        });
        for names in self.names.values_mut() {
            names.values_mut().for_each(|held| held.retain(|lease| lease.session != session));
        }
        self.drop_empty();
        wrote
    }

    /// Whether a session may have a lease that it claims: it has one here, or the leader before may have granted it,
    /// and no other session writes.
    fn may_claim(&self, session: SessionId, claim: &Claim, was_unheard: bool, now: Duration) -> bool {
        let held = holders(&self.inodes, &self.names, &claim.subject).into_iter().flatten();
        let mut has = was_unheard;
        for lease in held.filter(|lease| lease.is_live(&self.sessions, now)) {
            if lease.session == session {
                has = true;
            } else if lease.mode == Mode::Write {
                return false;
            }
        }
        has
    }

    /// Forgets a session that has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.unheard.remove(&session);
        self.any_gone |= self.sessions.remove(&session).is_some();
        self.wanted.remove(&session);
    }

    /// Forgets what has ended by itself. To be called every second or so.
    pub fn sweep(&mut self, now: Duration) {
        let Self { sessions, wanted, .. } = self;
        let heard_of = sessions.len();
        sessions.retain(|_, heard| now < *heard + SILENCE);
        let any_gone = std::mem::take(&mut self.any_gone) || sessions.len() < heard_of;
        wanted.retain(|session, _| sessions.contains_key(session));
        if now >= self.unheard_until {
            self.unheard.clear();
        }
        let later = self.endings.split_off(&now.as_secs());
        let ended = std::mem::replace(&mut self.endings, later);
        if any_gone {
            self.drop_ended(now);
        } else {
            ended.values().flatten().for_each(|subject| self.drop_ended_on(subject, now));
        }
        let Self { inodes, names, wanted, .. } = self;
        for (session, subjects) in wanted {
            subjects.retain(|subject| {
                holders(inodes, names, subject)
                    .is_some_and(|held| held.iter().any(|by| by.session == *session))
            });
        }
    }

    /// Drops what has ended of the leases on a subject.
    fn drop_ended_on(&mut self, subject: &Subject, now: Duration) {
        let Self { inodes, names, sessions, leases, .. } = self;
        let Some(held) = holders_mut(inodes, names, subject) else { return };
        let before = held.len();
        held.retain(|lease| lease.is_live(sessions, now));
        *leases -= before - held.len();
        if held.is_empty() {
            self.remove_subject(subject);
        }
    }

    /// Drops all leases that have ended.
    fn drop_ended(&mut self, now: Duration) {
        let Self { inodes, names, sessions, .. } = self;
        inodes.values_mut().for_each(|held| held.retain(|lease| lease.is_live(sessions, now)));
        for held in names.values_mut().flat_map(BTreeMap::values_mut) {
            held.retain(|lease| lease.is_live(sessions, now));
        }
        self.drop_empty();
    }

    fn drop_empty(&mut self) {
        self.inodes.retain(|_, held| !held.is_empty());
        self.names.retain(|_, names| {
            names.retain(|_, held| !held.is_empty());
            !names.is_empty()
        });
        let names = self.names.values().flat_map(BTreeMap::values);
        self.leases = self.inodes.values().chain(names).map(Vec::len).sum();
    }

    fn awaits_others(&self, asker: SessionId, now: Duration) -> bool {
        now < self.unheard_until && self.unheard.iter().any(|session| *session != asker)
    }

    /// Returns whether the state of an inode may be read for a session: no other session keeps written data
    /// back. The writer is asked for its data.
    pub fn readable(&mut self, asker: SessionId, ino: Ino, now: Duration) -> bool {
        if self.awaits_others(asker, now) {
            return false;
        }
        self.others_are_gone(asker, &Subject::Inode(ino), now, |held, last| {
            let writes = held.mode == Mode::Write;
            if writes {
                held.demand(true, now, last);
            }
            writes
        })
    }

    /// As [`LeaseTable::readable`], but asks nobody for anything.
    fn readable_now(&self, asker: SessionId, ino: Ino, now: Duration) -> bool {
        let held = self.inodes.get(&ino).into_iter().flatten();
        !self.awaits_others(asker, now)
            && held
                .filter(|lease| lease.session != asker && lease.mode == Mode::Write)
                .all(|lease| !lease.is_live(&self.sessions, now))
    }

    /// Returns whether no live lease of another session is in the way. `blocks` decides, and demands the lease.
    fn others_are_gone(
        &mut self,
        asker: SessionId,
        subject: &Subject,
        now: Duration,
        mut blocks: impl FnMut(&mut Held, &mut u64) -> bool,
    ) -> bool {
        let Self { inodes, names, sessions, wanted, leases, demands, .. } = self;
        let Some(held) = holders_mut(inodes, names, subject) else { return true };
        let before = held.len();
        held.retain(|lease| lease.is_live(sessions, now));
        *leases -= before - held.len();
        let mut clear = true;
        for lease in held.iter_mut().filter(|lease| lease.session != asker) {
            if blocks(lease, demands) {
                if lease.wanted.is_some() {
                    wanted.entry(lease.session).or_default().insert(subject.clone());
                }
                clear = false;
            }
        }
        if held.is_empty() {
            self.remove_subject(subject);
        }
        clear
    }

    fn is_changed_by_others(&self, session: SessionId, subject: &Subject) -> bool {
        let by_others = |touch: &Touch| {
            self.changes.get(touch).is_some_and(|by| by.iter().any(|changing| *changing != session))
        };
        self.blind.keys().any(|changing| *changing != session)
            || !self.changes.is_empty()
                && (by_others(&Touch::One(subject.clone()))
                    || matches!(subject, Subject::Name(parent, _) if by_others(&Touch::Names(*parent))))
    }

    /// The sessions that wait for a write lease, without those that are silent.
    fn waiting_writers(&self, ino: Ino, now: Duration) -> impl Iterator<Item = SessionId> {
        let is_heard =
            move |by: &SessionId| self.sessions.get(by).is_some_and(|heard| now < *heard + SILENCE);
        self.writers.get(&ino).into_iter().flatten().copied().filter(is_heard)
    }

    fn is_wanted(&self, session: SessionId, subject: &Subject) -> bool {
        let held = holders(&self.inodes, &self.names, subject).into_iter().flatten();
        held.into_iter().any(|lease| lease.session == session && lease.wanted.is_some())
    }

    /// Returns the lifetime of read leases that are granted at this moment.
    pub fn read_for(&self) -> Duration {
        if self.leases < LEASES_MAX / 2 { READ_FOR } else { READ_FOR_MIN }
    }

    /// Grants a read lease on a subject whose state is about to be read ([`LeaseTable::readable`]). Returns the
    /// grant's number; 0: no lease, the answer must not be cached. Another session may have got a write lease since
    /// the inode was found readable. `lasts`: its lifetime; none: until it is given up.
    pub fn grant_read(
        &mut self,
        session: SessionId,
        subject: &Subject,
        lasts: Option<Duration>,
        now: Duration,
    ) -> u64 {
        let waits = |ino: &Ino| self.waiting_writers(*ino, now).any(|by| by != session);
        if !self.sessions.contains_key(&session)
            || self.is_changed_by_others(session, subject)
            || matches!(subject, Subject::Inode(ino) if waits(ino) || !self.readable_now(session, *ino, now))
            || self.is_wanted(session, subject)
            || self.leases >= LEASES_MAX
        {
            return 0;
        }
        self.grant(session, subject, Mode::Read, lasts.map(|lasts| now + lasts))
    }

    /// A session begins to wait for a write lease. Until the wait ends, other sessions get no read lease, and
    /// those that wait are served in their order.
    pub fn begin_wait(&mut self, session: SessionId, ino: Ino) {
        self.writers.entry(ino).or_default().push_back(session);
    }

    /// Ends a wait for a write lease.
    pub fn end_wait(&mut self, session: SessionId, ino: Ino) {
        if let Some(waiting) = self.writers.get_mut(&ino) {
            if let Some(at) = waiting.iter().position(|by| *by == session) {
                waiting.remove(at);
            }
            if waiting.is_empty() {
                self.writers.remove(&ino);
            }
        }
    }

    /// Grants a write lease on an inode. Returns the grant's number; 0: others are in the way, or were first. A
    /// session that waits ([`LeaseTable::begin_wait`]) and is first has the others asked for their leases.
    pub fn grant_write(&mut self, session: SessionId, ino: Ino, now: Duration) -> u64 {
        if !self.sessions.contains_key(&session) || self.awaits_others(session, now) {
            return 0;
        }
        let subject = Subject::Inode(ino);
        let first = self.waiting_writers(ino, now).next();
        if first.is_some_and(|first| first != session) || self.is_wanted(session, &subject) {
            return 0;
        }
        let clear = self.others_are_gone(session, &subject, now, |held, last| {
            if first.is_some() {
                held.demand(false, now, last);
            }
            true
        });
        if !clear || self.is_changed_by_others(session, &subject) {
            return 0;
        }
        self.grant(session, &subject, Mode::Write, None)
    }

    /// Grants a lease that ends at `until`; none: that ends when it is given up.
    fn grant(&mut self, session: SessionId, subject: &Subject, mode: Mode, until: Option<Duration>) -> u64 {
        self.grants += 1;
        let grant = self.grants;
        let held = match subject {
            Subject::Inode(ino) => self.inodes.entry(*ino).or_default(),
            Subject::Name(parent, name) => {
                let names = self.names.entry(*parent).or_default();
                if !names.contains_key(name) {
                    names.insert(name.clone(), Holders::new());
                }
                names.get_mut(name).expect("just inserted")
            }
        };
        let for_good = until.is_none().then_some(grant);
        let until = until.unwrap_or_default();
        let is_later = match held.iter_mut().find(|lease| lease.session == session) {
            Some(lease) => {
                lease.mode = lease.mode.max(mode);
                lease.for_good = for_good.or(lease.for_good);
                lease.grant = grant;
                let is_later = until.as_secs() > lease.until.as_secs();
                lease.until = lease.until.max(until);
                is_later
            }
            None => {
                held.push(Held { session, mode, grant, for_good, until, wanted: None });
                self.leases += 1;
                for_good.is_none()
            }
        };
        if is_later {
            self.endings.entry(until.as_secs()).or_default().push(subject.clone());
        }
        grant
    }

    /// Begins a change without knowing what it touches, if no other session can have a lease. Until it ends, no
    /// other session gets any. Returns whether it has begun.
    pub fn begin_blind_change(&mut self, by: SessionId, now: Duration) -> bool {
        let alone = !self.awaits_others(by, now) && self.sessions.keys().all(|session| *session == by);
        if alone {
            *self.blind.entry(by).or_default() += 1;
        }
        alone
    }

    /// Ends such a change.
    pub fn end_blind_change(&mut self, by: SessionId) {
        if let Some(count) = self.blind.get_mut(&by) {
            *count -= 1;
            if *count == 0 {
                self.blind.remove(&by);
            }
        }
    }

    /// Begins a change: until it ends, no other session gets a lease on what it touches.
    pub fn begin_change(&mut self, by: SessionId, touches: &[Touch]) {
        for touch in touches {
            self.changes.entry(touch.clone()).or_default().push(by);
        }
    }

    /// Ends a change that was begun with the same arguments.
    pub fn end_change(&mut self, by: SessionId, touches: &[Touch]) {
        for touch in touches {
            if let Some(changing) = self.changes.get_mut(touch) {
                if let Some(at) = changing.iter().position(|session| *session == by) {
                    changing.swap_remove(at);
                }
                if changing.is_empty() {
                    self.changes.remove(touch);
                }
            }
        }
    }

    /// Returns whether a change may apply: no other session has a lease on what it touches. The holders are
    /// asked to give theirs up.
    pub fn is_clear(&mut self, by: SessionId, touches: &[Touch], now: Duration) -> bool {
        if !touches.is_empty() && self.awaits_others(by, now) {
            return false;
        }
        let mut clear = true;
        for touch in touches {
            let subjects: Vec<Subject> = match touch {
                Touch::One(subject) => vec![subject.clone()],
                Touch::Names(dir) => {
                    let names = self.names.get(dir).into_iter().flat_map(BTreeMap::keys);
                    names.map(|name| Subject::Name(*dir, name.clone())).collect()
                }
            };
            for subject in subjects {
                clear &= self.others_are_gone(by, &subject, now, |held, last| {
                    held.demand(false, now, last);
                    true
                });
            }
        }
        clear
    }

    /// Returns the leases that are wanted back from a session: the demands after a number. And the number of the
    /// last demand of all.
    pub fn wanted(&self, session: SessionId, after: u64) -> (Vec<Wanted>, u64) {
        let subjects = self.wanted.get(&session).into_iter().flatten();
        let wanted = subjects.filter_map(|subject| {
            let held = holders(&self.inodes, &self.names, subject)?;
            let lease = held.iter().find(|lease| lease.session == session)?;
            let demand = lease.wanted.as_ref().filter(|demand| demand.number > after)?;
            Some(Wanted { subject: subject.clone(), up_to: lease.grant, keep_read: demand.keep_read })
        });
        (wanted.collect(), self.demands)
    }

    /// A session gives up what it was granted on a subject up to a number. With `keep_read` it keeps a read
    /// lease.
    pub fn release(&mut self, session: SessionId, subject: &Subject, up_to: u64, keep_read: bool) {
        let Self { inodes, names, leases, .. } = self;
        let Some(held) = holders_mut(inodes, names, subject) else { return };
        let Some(at) = held.iter().position(|lease| lease.session == session) else { return };
        let lease = &mut held[at];
        if lease.grant > up_to {
            if lease.for_good.is_some_and(|for_good| for_good <= up_to) && !keep_read {
                // Only what came later, and ends by time, is left.
                (lease.for_good, lease.mode) = (None, Mode::Read);
                let ends_at = lease.until.as_secs();
                self.endings.entry(ends_at).or_default().push(subject.clone());
            }
            return;
        }
        if keep_read {
            lease.mode = Mode::Read;
            if lease.wanted.as_ref().is_some_and(|demand| !demand.keep_read) {
                // More is wanted by now than when the session was asked.
                return;
            }
            lease.wanted = None;
        } else {
            held.swap_remove(at);
            *leases -= 1;
            if held.is_empty() {
                self.remove_subject(subject);
            }
        }
        if let Some(subjects) = self.wanted.get_mut(&session) {
            subjects.remove(subject);
        }
    }

    /// Removes the place of a subject without leases.
    fn remove_subject(&mut self, subject: &Subject) {
        match subject {
            Subject::Inode(ino) => {
                self.inodes.remove(ino);
            }
            Subject::Name(parent, name) => {
                if let Some(of_parent) = self.names.get_mut(parent) {
                    of_parent.remove(name);
                    if of_parent.is_empty() {
                        self.names.remove(parent);
                    }
                }
            }
        }
    }
}

fn holders<'a>(
    inodes: &'a BTreeMap<Ino, Holders>,
    names: &'a BTreeMap<Ino, BTreeMap<Name, Holders>>,
    subject: &Subject,
) -> Option<&'a Holders> {
    match subject {
        Subject::Inode(ino) => inodes.get(ino),
        Subject::Name(parent, name) => names.get(parent)?.get(name),
    }
}

fn holders_mut<'a>(
    inodes: &'a mut BTreeMap<Ino, Holders>,
    names: &'a mut BTreeMap<Ino, BTreeMap<Name, Holders>>,
    subject: &Subject,
) -> Option<&'a mut Holders> {
    match subject {
        Subject::Inode(ino) => inodes.get_mut(ino),
        Subject::Name(parent, name) => names.get_mut(parent)?.get_mut(name),
    }
}
