//! The owners of locks, each with the handle through which it last asked for one. Pure.
//!
//! A process (fcntl locks) loses its locks when it closes the file through any handle; the kernel says so by
//! FLUSH, and close(2) waits for the answer. An open file (flock and OFD locks) loses its locks with its last
//! descriptor; the kernel says so by RELEASE, which no program waits for. So a RELEASE can be late: the program
//! has closed the file, opened it again, and asks for a lock or has one. The kernel numbers owners by addresses
//! of its memory, so the new open file often has the number of the old one. The late RELEASE must not release
//! the new lock, hence the handles. It then leaves an OFD lock of another range to the new open file, which
//! only locks others out for longer.
//!
//! A program that closes a file expects its flock to be gone when close(2) returns. A FLUSH comes with every close of a
//! descriptor. So after a FLUSH through the handle of a lock, a RELEASE may be under way ([`Lockers::may_close`]).

use parking_lot::Mutex;
use rain_namespace::lock::LockKind;
use rain_types::Ino;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest time from a FLUSH to a RELEASE of the same close(2) that is waited for. Usually it is a millisecond.
const CLOSES_WITHIN: Duration = Duration::from_millis(100);

/// An owner of locks of one kind, and the handle through which it last asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Locker {
    pub(crate) kind: LockKind,
    pub(crate) owner: u64,
    pub(crate) handle: u64,
}

/// What is known of an owner.
#[derive(Debug)]
struct Known {
    locker: Locker,
    /// When a descriptor of the handle was closed, if no lock was asked for through the handle since.
    flushed: Option<Instant>,
}

/// The owners of locks of all files of a mount. A file without locks has no entry.
#[derive(Debug, Default)]
pub(crate) struct Lockers(Mutex<HashMap<Ino, Vec<Known>>>);

impl Lockers {
    /// An owner is about to ask for a lock. To be called before the lock is asked for: a RELEASE that comes
    /// after this leaves the owner's locks alone, one that came before has marked them for release, and the
    /// lock is asked for only after that.
    pub(crate) fn locking(&self, ino: Ino, locker: Locker) {
        let mut files = self.0.lock();
        let lockers = files.entry(ino).or_default();
        lockers
            .iter_mut()
            .filter(|known| known.locker.handle == locker.handle)
            .for_each(|known| known.flushed = None);
        let is_this =
            |known: &&mut Known| (known.locker.kind, known.locker.owner) == (locker.kind, locker.owner);
        match lockers.iter_mut().find(is_this) {
            Some(known) => *known = Known { locker, flushed: None },
            None => lockers.push(Known { locker, flushed: None }),
        }
    }

    /// A descriptor of a handle is being closed.
    pub(crate) fn flushed(&self, ino: Ino, handle: u64, now: Instant) {
        if let Some(lockers) = self.0.lock().get_mut(&ino) {
            let through = lockers.iter_mut().filter(|known| known.locker.handle == handle);
            through.for_each(|known| known.flushed = Some(now));
        }
    }

    /// Whether the RELEASE of a handle with locks may be under way `now`, by a close from before `asked`.
    pub(crate) fn may_close(&self, ino: Ino, asked: Instant, now: Instant) -> bool {
        let is_recent = |known: &Known| {
            known.flushed.is_some_and(|at| at <= asked && now.duration_since(at) < CLOSES_WITHIN)
        };
        self.0.lock().get(&ino).is_some_and(|lockers| lockers.iter().any(is_recent))
    }

    /// All locks of an owner are about to be released, or are marked for it: a later RELEASE has nothing to do
    /// with them. Returns what is forgotten.
    pub(crate) fn unlocking(&self, ino: Ino, kind: LockKind, owner: u64) -> Vec<Locker> {
        take(&mut self.0.lock(), ino, |locker| locker.owner == owner && locker.kind.sees(kind))
    }

    /// A handle is gone. Calls `mark` with each owner that loses its locks with it, in one step with forgetting
    /// the owner: an owner that asks for a lock comes before this or finds its old locks marked.
    pub(crate) fn handle_is_gone(&self, ino: Ino, handle: u64, mark: impl FnMut(Locker)) {
        let mut files = self.0.lock();
        take(&mut files, ino, |locker| locker.handle == handle).into_iter().for_each(mark);
    }
}

fn take(files: &mut HashMap<Ino, Vec<Known>>, ino: Ino, which: impl Fn(&Locker) -> bool) -> Vec<Locker> {
    let Some(lockers) = files.get_mut(&ino) else { return Vec::new() };
    let taken = lockers.extract_if(.., |known| which(&known.locker)).map(|known| known.locker).collect();
    if lockers.is_empty() {
        files.remove(&ino);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(lockers: &Lockers, handle: u64) -> Vec<Locker> {
        let mut gone = Vec::new();
        lockers.handle_is_gone(FILE, handle, |locker| gone.push(locker));
        gone
    }

    const FILE: Ino = Ino(7);

    fn locker(kind: LockKind, owner: u64, handle: u64) -> Locker {
        Locker { kind, owner, handle }
    }

    #[test]
    fn a_late_release_of_a_handle_leaves_a_lock_that_was_taken_through_another() {
        let lockers = Lockers::default();
        lockers.locking(FILE, locker(LockKind::Record, 1, 10));
        lockers.locking(FILE, locker(LockKind::Flock, 2, 10));
        // Owner 1 closes the file, opens it again and takes a lock before handle 10 is released.
        assert_eq!(lockers.unlocking(FILE, LockKind::Record, 1).len(), 1);
        lockers.locking(FILE, locker(LockKind::Record, 1, 11));
        assert_eq!(gone(&lockers, 10), [locker(LockKind::Flock, 2, 10)]);
        assert_eq!(gone(&lockers, 11), [locker(LockKind::Record, 1, 11)]);
        assert!(lockers.0.lock().is_empty());
    }

    #[test]
    fn an_unlock_concerns_the_kinds_that_can_conflict() {
        let lockers = Lockers::default();
        for kind in [LockKind::Record, LockKind::Flock, LockKind::Either] {
            lockers.locking(FILE, locker(kind, 1, 10));
        }
        let unlocked = lockers.unlocking(FILE, LockKind::Record, 1);
        assert_eq!(unlocked, [locker(LockKind::Record, 1, 10), locker(LockKind::Either, 1, 10)]);
        assert!(lockers.unlocking(FILE, LockKind::Record, 1).is_empty());
        assert_eq!(gone(&lockers, 10), [locker(LockKind::Flock, 1, 10)]);
    }

    #[test]
    fn a_handle_may_close_after_a_flush_until_it_is_released_or_locks_again() {
        let (lockers, now) = (Lockers::default(), Instant::now());
        lockers.locking(FILE, locker(LockKind::Flock, 1, 10));
        assert!(!lockers.may_close(FILE, now, now));
        lockers.flushed(FILE, 11, now);
        assert!(!lockers.may_close(FILE, now, now), "another handle");
        lockers.flushed(FILE, 10, now);
        assert!(lockers.may_close(FILE, now, now) && !lockers.may_close(FILE, now, now + CLOSES_WITHIN));
        let later = now + CLOSES_WITHIN / 2;
        lockers.flushed(FILE, 10, later);
        assert!(!lockers.may_close(FILE, now, later), "who asks does not wait for later closes");
        lockers.locking(FILE, locker(LockKind::Flock, 1, 10));
        assert!(!lockers.may_close(FILE, later, later), "it was a copy of the descriptor");
        lockers.flushed(FILE, 10, now);
        assert_eq!(gone(&lockers, 10).len(), 1);
        assert!(!lockers.may_close(FILE, now, now));
    }

    #[test]
    fn an_owner_goes_with_the_handle_that_it_used_last() {
        let lockers = Lockers::default();
        lockers.locking(FILE, locker(LockKind::Flock, 1, 10));
        lockers.locking(FILE, locker(LockKind::Flock, 1, 11));
        assert!(gone(&lockers, 10).is_empty());
        assert_eq!(gone(&lockers, 11).len(), 1);
    }
}
