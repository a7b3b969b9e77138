//! Locks: the lock records of the inodes, and the index of locks by session. [`crate::lock`] has the rules
//! for one inode.
//!
//! Invariant ([`crate::check`]): the index names exactly the inodes on which a session holds or waits for a
//! lock.

use super::DONE;
use super::table::Table;
use crate::command::{Applied, Outcome};
use crate::error::NsError;
use crate::key;
use crate::lock::{Lock, LockKind, LockRecord, LockState, SessionLock};
use crate::record::FileKind;
use rain_types::{Ino, SessionId};
use std::collections::BTreeSet;

/// Largest number of owners that the search for a deadlock visits. A longer cycle is not found; its waiters
/// wait until one gives up.
const CHAIN_MAX: usize = 256;

impl Table<'_> {
    fn locks(&self, ino: Ino) -> LockRecord {
        self.read(&key::locks(ino)).unwrap_or_default()
    }

    /// Writes the locks of an inode, and updates the session's index.
    fn put_locks(&mut self, ino: Ino, locks: &LockRecord, session: SessionId) {
        if locks.is_empty() {
            self.kv.delete(&key::locks(ino));
        } else {
            self.write(&key::locks(ino), locks);
        }
        if locks.has(session) {
            self.kv.put(&key::locked_by(session, ino), &[]);
        } else {
            self.kv.delete(&key::locked_by(session, ino));
        }
    }

    fn locked_by(&self, session: SessionId) -> Vec<Ino> {
        let keys = self.keys(&key::all_locked_by(session), usize::MAX);
        keys.iter().filter_map(|key| key::last_number(key).map(Ino)).collect()
    }

    pub(super) fn lock(&mut self, ino: Ino, session: SessionId, lock: &Lock, ticket: Option<u64>) -> Applied {
        let attr = self.attr(ino)?;
        if attr.kind == FileKind::Directory {
            return Err(NsError::IsDirectory);
        }
        if lock.first > lock.last {
            return Err(NsError::Invalid(format!("a lock of bytes {} to {}", lock.first, lock.last)));
        }
        let mut locks = self.locks(ino);
        if locks.is_full() {
            return Err(NsError::TooManyLocks);
        }
        if ticket.is_some() && lock.kind != LockKind::Flock {
            self.check_deadlock(&locks, &SessionLock { session, lock: *lock })?;
        }
        let state = locks.request(session, lock, ticket);
        self.put_locks(ino, &locks, session);
        Ok(Outcome::Lock { session, state, attr })
    }

    pub(super) fn unlock(&mut self, ino: Ino, session: SessionId, lock: &Lock) -> Applied {
        let mut locks = self.locks(ino);
        locks.release(session, lock);
        self.put_locks(ino, &locks, session);
        DONE
    }

    pub(super) fn cancel_lock_wait(&mut self, ino: Ino, session: SessionId, ticket: u64) -> Applied {
        let attr = self.attr(ino)?;
        let mut locks = self.locks(ino);
        let state = if locks.cancel_wait(session, ticket) { LockState::Held } else { LockState::Granted };
        self.put_locks(ino, &locks, session);
        Ok(Outcome::Lock { session, state, attr })
    }

    /// Removes all locks of a session.
    pub(super) fn drop_locks(&mut self, session: SessionId) {
        for ino in self.locked_by(session) {
            let mut locks = self.locks(ino);
            locks.drop_session(session);
            self.put_locks(ino, &locks, session);
        }
    }

    /// Removes all locks of an inode.
    pub(super) fn end_locks(&mut self, ino: Ino) {
        let locks = self.locks(ino);
        let waiting = locks.waiting.iter().map(|one| one.wanted.session);
        for session in locks.held.iter().map(|held| held.session).chain(waiting) {
            self.kv.delete(&key::locked_by(session, ino));
        }
        self.kv.delete(&key::locks(ino));
    }

    /// Fails with `Deadlock` when an owner that the lock would wait for waits, directly or over other owners,
    /// for the asker.
    fn check_deadlock(&self, locks: &LockRecord, wanted: &SessionLock) -> Result<(), NsError> {
        let owner = |lock: &SessionLock| (lock.session, lock.lock.owner);
        let mut next: Vec<_> = locks.blockers(wanted, usize::MAX).map(owner).collect();
        let mut seen = BTreeSet::new();
        while let Some((session, number)) = next.pop() {
            if (session, number) == owner(wanted) {
                return Err(NsError::Deadlock);
            }
            if !seen.insert((session, number)) || seen.len() > CHAIN_MAX {
                continue;
            }
            for ino in self.locked_by(session).into_iter().take(CHAIN_MAX) {
                let locks = self.locks(ino);
                for (at, one) in locks.waiting.iter().enumerate() {
                    if owner(&one.wanted) == (session, number) {
                        next.extend(locks.blockers(&one.wanted, at).map(owner));
                    }
                }
            }
        }
        Ok(())
    }
}
