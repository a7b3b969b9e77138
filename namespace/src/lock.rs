//! The locks of one inode: who holds which bytes, who waits for which. Pure values; `apply` keeps them.
//!
//! Two kinds of locks, as on Linux: those of flock(2) belong to an open file and cover all of it, those of fcntl(2) belong to
//! a process and cover bytes. They do not see each other.
//!
//! Invariants ([`LockRecord::faults`]):
//! 1. Two locks of different owners that overlap are both shared.
//! 2. Nothing that waits could be granted: what is free goes at once to who has waited longest.
//!
//! Fairness: who waits also keeps later waiters away, or a crowd of readers would keep a writer out for ever; but not one that holds
//! a lock here already, for which the other may be waiting. A lock that is only tried for looks at what is held.
//!
//! Left out: deadlocks over several inodes (`apply` looks for them).

use rain_types::SessionId;
use serde::{Deserialize, Serialize};

/// Locks on one inode, and waiters, at most: what one record may hold.
pub const LOCKS_MAX: usize = 4096;

/// Which locks see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// flock(2): of an open file.
    Flock,
    /// fcntl(2): of a process, or of an open file (OFD).
    Record,
    /// Whoever asks cannot tell: sees both.
    Either,
}

impl LockKind {
    /// Whether locks of the two kinds can be in each other's way.
    pub fn sees(self, other: LockKind) -> bool {
        self == other || self == LockKind::Either || other == LockKind::Either
    }
}

/// A lock, as one session asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Of which kind.
    pub kind: LockKind,
    /// Whose, within the session: a number that the kernel gives.
    pub owner: u64,
    /// Nobody else may have it, not even shared.
    pub exclusive: bool,
    /// The first byte.
    pub first: u64,
    /// The last byte (`u64::MAX`: to the end, wherever that is).
    pub last: u64,
    /// For people, and for `F_GETLK` on the same machine.
    pub pid: u32,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// How it stands with a lock that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockState {
    /// It is there.
    Granted,
    /// It is queued for.
    Waiting,
    /// Somebody holds one that is in the way.
    Held,
}

/// A lock with whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLock {
    /// Whose.
    pub session: SessionId,
    /// What.
    pub lock: Lock,
}

impl SessionLock {
    /// Of one owner, in kinds that see each other.
    fn same_owner(&self, other: &SessionLock) -> bool {
        self.session == other.session
            && self.lock.owner == other.lock.owner
            && self.lock.kind.sees(other.lock.kind)
    }

    fn stands_in_the_way_of(&self, wanted: &SessionLock) -> bool {
        !self.same_owner(wanted)
            && self.lock.kind.sees(wanted.lock.kind)
            && (self.lock.exclusive || wanted.lock.exclusive)
            && self.lock.overlaps(&wanted.lock)
    }
}

/// One that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The session's number for it.
    pub ticket: u64,
    /// What it waits for.
    pub wanted: SessionLock,
}

/// All locks of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// In the order in which they were granted.
    pub held: Vec<SessionLock>,
    /// In the order in which they came.
    pub waiting: Vec<Waiting>,
}

impl LockRecord {
    /// Nobody holds or wants anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Whether the record can take no more.
    pub fn is_full(&self) -> bool {
        self.held.len() >= LOCKS_MAX || self.waiting.len() >= LOCKS_MAX
    }

    /// A held lock that is in the way.
    pub fn conflict(&self, session: SessionId, lock: &Lock) -> Option<SessionLock> {
        let wanted = SessionLock { session, lock: *lock };
        self.held.iter().find(|held| held.stands_in_the_way_of(&wanted)).copied()
    }

    /// Whether a session's ticket still waits.
    pub fn is_waiting(&self, session: SessionId, ticket: u64) -> bool {
        self.waiting.iter().any(|one| one.wanted.session == session && one.ticket == ticket)
    }

    /// Whether a session has anything here.
    pub fn has(&self, session: SessionId) -> bool {
        let waits = |one: &Waiting| one.wanted.session == session;
        self.held.iter().any(|held| held.session == session) || self.waiting.iter().any(waits)
    }

    /// Whose locks a lock has to wait for: those that are held, and those that were queued before (all, for a new one).
    pub fn blockers(&self, wanted: &SessionLock, queued_before: usize) -> impl Iterator<Item = &SessionLock> {
        let wanted = *wanted;
        let holds = self.held.iter().any(|held| held.same_owner(&wanted));
        let queue = if holds { &[] } else { &self.waiting[..queued_before.min(self.waiting.len())] };
        let held = self.held.iter();
        held.chain(queue.iter().map(|one| &one.wanted)).filter(move |held| held.stands_in_the_way_of(&wanted))
    }

    /// Asks for a lock. With a ticket it is queued for when it is not free.
    ///
    /// A lock of flock(2) that changes its kind first lets the old one go, as on Linux: two that hold it shared and both want it
    /// exclusive would wait for each other for ever.
    pub fn ask(&mut self, session: SessionId, lock: &Lock, ticket: Option<u64>) -> LockState {
        let wanted = SessionLock { session, lock: *lock };
        let held = self.conflict(session, lock).is_some();
        let queued = ticket.is_some() && self.blockers(&wanted, usize::MAX).next().is_some();
        if !held && !queued {
            self.take(&wanted);
            // A weaker lock in place of a stronger one makes room.
            self.grant_waiting();
            return LockState::Granted;
        }
        if lock.kind == LockKind::Flock {
            self.cut(&wanted);
        }
        let Some(ticket) = ticket else {
            self.grant_waiting();
            return LockState::Held;
        };
        self.waiting.push(Waiting { ticket, wanted });
        self.grant_waiting();
        if self.is_waiting(session, ticket) { LockState::Waiting } else { LockState::Granted }
    }

    /// Lets an owner's bytes go.
    pub fn release(&mut self, session: SessionId, lock: &Lock) {
        self.cut(&SessionLock { session, lock: *lock });
        self.grant_waiting();
    }

    /// A waiter leaves; gives whether it was still waiting.
    pub fn give_up(&mut self, session: SessionId, ticket: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|one| one.wanted.session != session || one.ticket != ticket);
        self.grant_waiting();
        self.waiting.len() < before
    }

    /// A session ends.
    pub fn drop_session(&mut self, session: SessionId) {
        self.held.retain(|held| held.session != session);
        self.waiting.retain(|one| one.wanted.session != session);
        self.grant_waiting();
    }

    /// Takes the owner's locks off the wanted bytes.
    fn cut(&mut self, wanted: &SessionLock) {
        let mut left = Vec::with_capacity(self.held.len() + 1);
        for held in &self.held {
            if !held.same_owner(wanted) || !held.lock.overlaps(&wanted.lock) {
                left.push(*held);
                continue;
            }
            if held.lock.first < wanted.lock.first {
                let lock = Lock { last: wanted.lock.first - 1, ..held.lock };
                left.push(SessionLock { lock, ..*held });
            }
            if held.lock.last > wanted.lock.last {
                let lock = Lock { first: wanted.lock.last + 1, ..held.lock };
                left.push(SessionLock { lock, ..*held });
            }
        }
        self.held = left;
    }

    /// Gives a lock that nothing is in the way of; it joins the owner's locks of the same strength that it touches.
    fn take(&mut self, wanted: &SessionLock) {
        self.cut(wanted);
        let mut whole = *wanted;
        let touches = |held: &SessionLock, whole: &SessionLock| {
            held.session == whole.session
                && (held.lock.owner, held.lock.kind) == (whole.lock.owner, whole.lock.kind)
                && held.lock.exclusive == whole.lock.exclusive
                && held.lock.last >= whole.lock.first.saturating_sub(1)
                && held.lock.first <= whole.lock.last.saturating_add(1)
        };
        while let Some(at) = self.held.iter().position(|held| touches(held, &whole)) {
            let held = self.held.remove(at);
            whole.lock.first = whole.lock.first.min(held.lock.first);
            whole.lock.last = whole.lock.last.max(held.lock.last);
        }
        self.held.push(whole);
    }

    fn grant_waiting(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let wanted = self.waiting[at].wanted;
            if self.blockers(&wanted, at).next().is_some() {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            self.take(&wanted);
            // Its owner holds something now, which may let others of its owner pass, or make room.
            at = 0;
        }
    }

    /// What breaks the invariants.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, one) in self.held.iter().enumerate() {
            if one.lock.first > one.lock.last {
                faults.push(format!("no bytes: {one:?}"));
            }
            for other in &self.held[..at] {
                if other.stands_in_the_way_of(one) {
                    faults.push(format!("{other:?} and {one:?}"));
                }
                if other.same_owner(one) && other.lock.overlaps(&one.lock) {
                    faults.push(format!("twice: {other:?} and {one:?}"));
                }
            }
        }
        for (at, one) in self.waiting.iter().enumerate() {
            if self.blockers(&one.wanted, at).next().is_none() {
                faults.push(format!("waits for nothing: {one:?}"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock(owner: u64, exclusive: bool, first: u64, last: u64) -> Lock {
        Lock { kind: LockKind::Record, owner, exclusive, first, last, pid: owner as u32 }
    }

    fn flock(owner: u64, exclusive: bool) -> Lock {
        Lock { kind: LockKind::Flock, ..lock(owner, exclusive, 0, u64::MAX) }
    }

    const S: SessionId = SessionId(1);
    const OTHER: SessionId = SessionId(2);

    #[test]
    fn the_two_kinds_do_not_see_each_other_and_who_cannot_tell_sees_both() {
        let mut locks = LockRecord::default();
        assert_eq!(locks.ask(S, &flock(1, true), None), LockState::Granted);
        assert_eq!(locks.ask(OTHER, &lock(1, true, 0, u64::MAX), None), LockState::Granted);
        let either = Lock { kind: LockKind::Either, ..flock(9, false) };
        assert_eq!(locks.ask(OTHER, &either, None), LockState::Held);
        locks.release(S, &flock(1, false));
        assert_eq!(locks.ask(OTHER, &either, None), LockState::Held);
        locks.release(OTHER, &lock(1, false, 0, u64::MAX));
        assert_eq!(locks.ask(OTHER, &either, None), LockState::Granted);
    }

    #[test]
    fn a_writer_is_not_kept_out_by_a_stream_of_readers() {
        let mut locks = LockRecord::default();
        assert_eq!(locks.ask(S, &flock(1, false), None), LockState::Granted);
        assert_eq!(locks.ask(S, &flock(2, true), Some(7)), LockState::Waiting);
        assert_eq!(locks.ask(S, &flock(3, false), Some(8)), LockState::Waiting, "behind the writer");
        locks.release(S, &flock(1, false));
        assert!(!locks.is_waiting(S, 7) && locks.is_waiting(S, 8));
        locks.release(S, &flock(2, false));
        assert!(!locks.is_waiting(S, 8));
    }

    #[test]
    fn two_that_share_and_both_want_it_alone_do_not_wait_for_ever() {
        let mut locks = LockRecord::default();
        locks.ask(S, &flock(1, false), None);
        locks.ask(OTHER, &flock(1, false), None);
        assert_eq!(locks.ask(S, &flock(1, true), Some(1)), LockState::Waiting);
        assert_eq!(
            locks.ask(OTHER, &flock(1, true), Some(1)),
            LockState::Granted,
            "the first let its shared lock go while it waits"
        );
        locks.release(OTHER, &flock(1, false));
        assert!(!locks.is_waiting(S, 1));
    }

    #[test]
    fn an_ended_session_makes_room_and_a_waiter_that_left_gets_nothing() {
        let mut locks = LockRecord::default();
        locks.ask(S, &lock(1, true, 0, 9), None);
        assert_eq!(locks.ask(OTHER, &lock(5, true, 5, 20), Some(1)), LockState::Waiting);
        assert_eq!(locks.ask(OTHER, &lock(6, true, 0, 3), Some(2)), LockState::Waiting);
        assert!(locks.give_up(OTHER, 2) && !locks.give_up(OTHER, 2));
        locks.drop_session(S);
        assert!(!locks.has(S) && !locks.is_waiting(OTHER, 1));
        assert_eq!(locks.held.len(), 1);
    }

    /// What somebody does: ask, try, release, give up, end.
    type Step = (u8, u64, u64, bool, u64, u64);

    /// One byte's lock: who, and whether alone.
    type Byte = Vec<((u64, u64), bool)>;

    fn bytes_of(locks: &LockRecord) -> Vec<Byte> {
        let mut bytes = vec![Vec::new(); 24];
        for held in &locks.held {
            for byte in held.lock.first..=held.lock.last.min(23) {
                bytes[byte as usize].push(((held.session.0, held.lock.owner), held.lock.exclusive));
            }
        }
        bytes.iter_mut().for_each(|byte| byte.sort());
        bytes
    }

    proptest! {
        /// Against a model of single bytes: what is tried for is granted exactly when no byte of it is somebody else's, and gives
        /// and takes exactly these bytes.
        #[test]
        fn locks_are_what_a_model_of_bytes_says(
            steps in proptest::collection::vec((0u8..8, 1u64..4, 0u64..3, any::<bool>(), 0u64..20, 0u64..12), 1..80)
        ) {
            let mut locks = LockRecord::default();
            let mut tickets = 0;
            for (what, session, owner, exclusive, first, more) in steps as Vec<Step> {
                let who = SessionId(session);
                let wanted = lock(owner, exclusive, first, (first + more).min(23));
                let range = wanted.first as usize..=wanted.last as usize;
                let mut model = bytes_of(&locks);
                match what {
                    0..=2 => {
                        let free = model[range.clone()].iter().all(|byte| {
                            byte.iter().all(|(of, alone)| *of == (session, owner) || !(*alone || exclusive))
                        });
                        let waited = !locks.waiting.is_empty();
                        let state = locks.ask(who, &wanted, None);
                        prop_assert_eq!(state == LockState::Granted, free);
                        if free {
                            for byte in &mut model[range] {
                                byte.retain(|(of, _)| *of != (session, owner));
                                byte.push(((session, owner), exclusive));
                                byte.sort();
                            }
                        }
                        if !waited {
                            prop_assert_eq!(bytes_of(&locks), model);
                        }
                    }
                    3 | 4 => {
                        tickets += 1;
                        locks.ask(who, &wanted, Some(tickets));
                    }
                    5 => {
                        let waited = !locks.waiting.is_empty();
                        locks.release(who, &wanted);
                        if !waited {
                            for byte in &mut model[range] {
                                byte.retain(|(of, _)| *of != (session, owner));
                            }
                            prop_assert_eq!(bytes_of(&locks), model);
                        }
                    }
                    6 => {
                        locks.give_up(who, tickets);
                    }
                    _ => locks.drop_session(who),
                }
                prop_assert_eq!(locks.faults(), Vec::<String>::new());
            }
            // When all holders go, all waiters get their turn: nobody is forgotten.
            let mut rounds = 0;
            while let Some(held) = locks.held.first().copied() {
                locks.release(held.session, &held.lock);
                rounds += 1;
                prop_assert!(rounds < 1000);
            }
            prop_assert!(locks.is_empty(), "{:?}", locks);
        }
    }
}
