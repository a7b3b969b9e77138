//! The locks of one inode: the held locks and the waiters. These are pure values; `apply` stores them.
//!
//! There are two kinds of locks, as on Linux. A lock of flock(2) belongs to an open file and covers all of
//! it. A lock of fcntl(2) belongs to a process and covers a range of bytes. The kinds do not conflict with
//! each other.
//!
//! Invariants ([`LockRecord::faults`]; `locks_are_what_a_model_of_bytes_says`):
//! 1. Two locks of different owners that overlap are both shared.
//! 2. No waiter could be granted its lock: a free range goes at once to the waiter that has waited longest.
//!
//! Fairness: a waiter also blocks later waiters, because otherwise a stream of readers would keep a writer
//! out for ever (`a_writer_is_not_kept_out_by_a_stream_of_readers`). An owner that already holds a lock here
//! passes the waiters, because they may be waiting for that lock. A request without a queue number looks only
//! at the held locks.
//!
//! Left out: deadlocks over several inodes, which `apply` detects.

use rain_types::SessionId;
use serde::{Deserialize, Serialize};

/// Largest number of held locks on one inode, and of waiters, so that one record stays small.
pub const LOCKS_MAX: usize = 4096;

/// The kind of a lock, which determines the locks that it can conflict with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Lock of flock(2): owned by an open file.
    Flock,
    /// Lock of fcntl(2): owned by a process, or by an open file (OFD).
    Record,
    /// Unknown to the asker: conflicts with both kinds.
    Either,
}

impl LockKind {
    /// Returns whether locks of the two kinds can conflict.
    pub fn sees(self, other: LockKind) -> bool {
        self == other || self == LockKind::Either || other == LockKind::Either
    }
}

/// A lock, as a session asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Kind of the lock.
    pub kind: LockKind,
    /// Owner within the session: a number from the kernel.
    pub owner: u64,
    /// True for an exclusive lock, false for a shared one.
    pub exclusive: bool,
    /// First byte.
    pub first: u64,
    /// Last byte; `u64::MAX`: to the end of the file, wherever that is.
    pub last: u64,
    /// Process id, for people and for `F_GETLK` on the same machine.
    pub pid: u32,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The state of a requested lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockState {
    /// The session holds the lock.
    Granted,
    /// The request is queued.
    Waiting,
    /// The request was refused, because a conflicting lock is held.
    Held,
}

/// A lock and the session that holds it or asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLock {
    /// Session of the lock.
    pub session: SessionId,
    /// The lock.
    pub lock: Lock,
}

impl SessionLock {
    /// Returns whether both have one owner and kinds that can conflict.
    fn same_owner(&self, other: &SessionLock) -> bool {
        self.session == other.session
            && self.lock.owner == other.lock.owner
            && self.lock.kind.sees(other.lock.kind)
    }

    fn conflicts_with(&self, wanted: &SessionLock) -> bool {
        !self.same_owner(wanted)
            && self.lock.kind.sees(wanted.lock.kind)
            && (self.lock.exclusive || wanted.lock.exclusive)
            && self.lock.overlaps(&wanted.lock)
    }
}

/// A queued request for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The session's number for the request.
    pub ticket: u64,
    /// Requested lock.
    pub wanted: SessionLock,
}

/// All locks of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// Held locks in the order in which they were granted.
    pub held: Vec<SessionLock>,
    /// Queued requests in the order in which they came.
    pub waiting: Vec<Waiting>,
}

impl LockRecord {
    /// Returns whether the inode has neither held locks nor waiters.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Returns whether the record has reached [`LOCKS_MAX`].
    pub fn is_full(&self) -> bool {
        self.held.len() >= LOCKS_MAX || self.waiting.len() >= LOCKS_MAX
    }

    /// Returns a held lock that conflicts with `lock`, if there is one.
    pub fn conflict(&self, session: SessionId, lock: &Lock) -> Option<SessionLock> {
        let wanted = SessionLock { session, lock: *lock };
        self.held.iter().find(|held| held.conflicts_with(&wanted)).copied()
    }

    /// Returns whether the session's request with this ticket is still queued.
    pub fn is_waiting(&self, session: SessionId, ticket: u64) -> bool {
        self.waiting.iter().any(|one| one.wanted.session == session && one.ticket == ticket)
    }

    /// Returns whether a session holds a lock or waits for one here.
    pub fn has(&self, session: SessionId) -> bool {
        let waits = |one: &Waiting| one.wanted.session == session;
        self.held.iter().any(|held| held.session == session) || self.waiting.iter().any(waits)
    }

    /// Returns the locks that a request has to wait for: conflicting held locks, and conflicting requests
    /// among the first `queued_before` of the queue. A new request passes the length of the queue or more.
    pub fn blockers(&self, wanted: &SessionLock, queued_before: usize) -> impl Iterator<Item = &SessionLock> {
        let wanted = *wanted;
        let holds = self.held.iter().any(|held| held.same_owner(&wanted));
        let queue = if holds { &[] } else { &self.waiting[..queued_before.min(self.waiting.len())] };
        let held = self.held.iter();
        held.chain(queue.iter().map(|one| &one.wanted)).filter(move |held| held.conflicts_with(&wanted))
    }

    /// Requests a lock. With a ticket the request is queued if the lock is not free.
    ///
    /// A lock of flock(2) that changes between shared and exclusive releases the old lock first, as on Linux.
    /// Otherwise two owners of a shared lock that both want it exclusive would wait for each other for ever.
    pub fn request(&mut self, session: SessionId, lock: &Lock, ticket: Option<u64>) -> LockState {
        let wanted = SessionLock { session, lock: *lock };
        let held = self.conflict(session, lock).is_some();
        let queued = ticket.is_some() && self.blockers(&wanted, usize::MAX).next().is_some();
        if !held && !queued {
            self.add(&wanted);
            // A shared lock in place of an exclusive one may let waiters pass.
            self.grant_waiting();
            return LockState::Granted;
        }
        if lock.kind == LockKind::Flock {
            self.remove_range(&wanted);
        }
        let Some(ticket) = ticket else {
            self.grant_waiting();
            return LockState::Held;
        };
        self.waiting.push(Waiting { ticket, wanted });
        self.grant_waiting();
        if self.is_waiting(session, ticket) { LockState::Waiting } else { LockState::Granted }
    }

    /// Releases an owner's locks on a range.
    pub fn release(&mut self, session: SessionId, lock: &Lock) {
        self.remove_range(&SessionLock { session, lock: *lock });
        self.grant_waiting();
    }

    /// Removes a waiter; returns whether it was still queued.
    pub fn cancel_wait(&mut self, session: SessionId, ticket: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|one| one.wanted.session != session || one.ticket != ticket);
        self.grant_waiting();
        self.waiting.len() < before
    }

    /// Removes all locks and waiters of a session that has ended.
    pub fn drop_session(&mut self, session: SessionId) {
        self.held.retain(|held| held.session != session);
        self.waiting.retain(|one| one.wanted.session != session);
        self.grant_waiting();
    }

    /// Removes the owner's locks from the range of `wanted`.
    fn remove_range(&mut self, wanted: &SessionLock) {
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

    /// Adds a lock without conflicts. It is merged with the owner's locks of the same strength that it
    /// touches.
    fn add(&mut self, wanted: &SessionLock) {
        self.remove_range(wanted);
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
            self.add(&wanted);
            // The owner's new lock may let its other requests pass, or may have replaced a stronger lock.
            at = 0;
        }
    }

    /// Returns a description of each violation of the invariants.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, one) in self.held.iter().enumerate() {
            if one.lock.first > one.lock.last {
                faults.push(format!("a lock without bytes: {one:?}"));
            }
            for other in &self.held[..at] {
                if other.conflicts_with(one) {
                    faults.push(format!("conflicting locks: {other:?} and {one:?}"));
                }
                if other.same_owner(one) && other.lock.overlaps(&one.lock) {
                    faults.push(format!("overlapping locks of one owner: {other:?} and {one:?}"));
                }
            }
        }
        for (at, one) in self.waiting.iter().enumerate() {
            if self.blockers(&one.wanted, at).next().is_none() {
                faults.push(format!("a waiter without a conflicting lock: {one:?}"));
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
        assert_eq!(locks.request(S, &flock(1, true), None), LockState::Granted);
        assert_eq!(locks.request(OTHER, &lock(1, true, 0, u64::MAX), None), LockState::Granted);
        let either = Lock { kind: LockKind::Either, ..flock(9, false) };
        assert_eq!(locks.request(OTHER, &either, None), LockState::Held);
        locks.release(S, &flock(1, false));
        assert_eq!(locks.request(OTHER, &either, None), LockState::Held);
        locks.release(OTHER, &lock(1, false, 0, u64::MAX));
        assert_eq!(locks.request(OTHER, &either, None), LockState::Granted);
    }

    #[test]
    fn a_writer_is_not_kept_out_by_a_stream_of_readers() {
        let mut locks = LockRecord::default();
        assert_eq!(locks.request(S, &flock(1, false), None), LockState::Granted);
        assert_eq!(locks.request(S, &flock(2, true), Some(7)), LockState::Waiting);
        assert_eq!(locks.request(S, &flock(3, false), Some(8)), LockState::Waiting, "behind the writer");
        locks.release(S, &flock(1, false));
        assert!(!locks.is_waiting(S, 7) && locks.is_waiting(S, 8));
        locks.release(S, &flock(2, false));
        assert!(!locks.is_waiting(S, 8));
    }

    #[test]
    fn two_that_share_and_both_want_it_alone_do_not_wait_for_ever() {
        let mut locks = LockRecord::default();
        locks.request(S, &flock(1, false), None);
        locks.request(OTHER, &flock(1, false), None);
        assert_eq!(locks.request(S, &flock(1, true), Some(1)), LockState::Waiting);
        assert_eq!(
            locks.request(OTHER, &flock(1, true), Some(1)),
            LockState::Granted,
            "the first let its shared lock go while it waits"
        );
        locks.release(OTHER, &flock(1, false));
        assert!(!locks.is_waiting(S, 1));
    }

    #[test]
    fn an_ended_session_makes_room_and_a_waiter_that_left_gets_nothing() {
        let mut locks = LockRecord::default();
        locks.request(S, &lock(1, true, 0, 9), None);
        assert_eq!(locks.request(OTHER, &lock(5, true, 5, 20), Some(1)), LockState::Waiting);
        assert_eq!(locks.request(OTHER, &lock(6, true, 0, 3), Some(2)), LockState::Waiting);
        assert!(locks.cancel_wait(OTHER, 2) && !locks.cancel_wait(OTHER, 2));
        locks.drop_session(S);
        assert!(!locks.has(S) && !locks.is_waiting(OTHER, 1));
        assert_eq!(locks.held.len(), 1);
    }

    /// A random action: request with and without a ticket, release, cancel, end of a session.
    type Step = (u8, u64, u64, bool, u64, u64);

    /// The locks on one byte: owner, and whether exclusive.
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
        /// Compares the locks with a model of single bytes. A request without a ticket is granted exactly
        /// when no byte of its range conflicts, and it adds and removes exactly these bytes.
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
                        let state = locks.request(who, &wanted, None);
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
                        locks.request(who, &wanted, Some(tickets));
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
                        locks.cancel_wait(who, tickets);
                    }
                    _ => locks.drop_session(who),
                }
                prop_assert_eq!(locks.faults(), Vec::<String>::new());
            }
            // When all holders release, every waiter is granted in turn: none is forgotten.
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
