//! Locks on a file, over all clients. They promise that the holder of a lock reads what its last holder
//! wrote.
//!
//! - Before a lock is requested or released, everything written here is stored. A lock is released only after
//!   that has worked.
//! - The grant of a lock brings the file's newest attributes. Extents and inline data of older contents are
//!   forgotten.
//! - Locks belong to the session. If the session ends without this client's knowledge (a long silence), other
//!   clients may have had the locks since. From then on the file's reads, writes and flushes fail
//!   ([`Error::LockLost`]) until every owner of a lock has closed the file, and written data that is not
//!   stored is dropped.
//! - Every commit of a locked file carries the session under which the locks were granted, as its fence. So
//!   no commit comes too late.
//! - The same errors hold while the session's lease has run out by this client's own clock, until it is
//!   renewed.

use super::open::OpenFile;
use super::owners::Owner;
use super::state::FileState;
use super::table::FileTable;
use crate::error::Error;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::error::NsError;
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Attr;
use rain_types::SessionId;
use std::time::Duration;

/// Longest wait of one query for a lock. After each the caller is asked whether it gives up.
const WAIT: Duration = Duration::from_millis(200);

impl FileState {
    /// The session fence for the file's commits: the session of its locks, if it has any. Fails with
    /// `LockLost` when they are lost.
    pub(super) fn lock_fence(&self, files: &FileTable) -> Result<Option<SessionId>, Error> {
        let mut inner = self.inner();
        if inner.locks.is_empty() {
            return Ok(None);
        }
        if inner.locks.session != files.session.id() {
            inner.locks.lost = true;
        }
        if inner.locks.lost {
            let dropped = inner.dirty.bytes();
            inner.dirty = Default::default();
            inner.size = inner.attr.size;
            drop(inner);
            files.budget.remove(dropped);
            return Err(Error::LockLost);
        }
        if files.session.lease_is_over() {
            return Err(Error::LockLost);
        }
        Ok(Some(inner.locks.session))
    }

    /// Whether the file has locks, which may be lost. Cheap enough for every write.
    pub(super) fn has_locks(&self) -> bool {
        !self.inner().locks.is_empty()
    }

    fn granted(&self, owner: Owner, session: SessionId, attr: Attr) {
        self.opened_again(attr);
        self.inner().locks.granted(owner, session);
    }

    /// Releases the locks of owners that have closed the file, once everything written is stored.
    pub(crate) async fn release_closed(&self, files: &FileTable) -> Result<(), Error> {
        if self.inner().locks.closed().is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.releasing.lock().await;
        let flushed = self.flush(files).await;
        // With its session or its file the data is gone for good, so the locks need not wait for it.
        let gone =
            matches!(flushed, Err(Error::LockLost | Error::Refused(NsError::NotFound | NsError::Stale)));
        if flushed.is_err() && !gone {
            return flushed;
        }
        let closed = self.inner().locks.closed();
        for owner in closed {
            self.unlock_owner(files, owner).await?;
        }
        flushed
    }

    /// Releases all locks of an owner.
    async fn unlock_owner(&self, files: &FileTable, owner: Owner) -> Result<(), Error> {
        let (kind, number) = owner;
        let lock = Lock { kind, owner: number, exclusive: false, first: 0, last: u64::MAX, pid: 0 };
        let (session, last) = {
            let inner = self.inner();
            (inner.locks.session, inner.locks.last_grant())
        };
        match files.session.propose_fenced(Some(session), Command::Unlock { ino: self.ino(), lock }).await {
            // The locks went with the session or the file.
            Ok(_) | Err(Error::Refused(NsError::SessionEnded(_) | NsError::NotFound)) => {}
            Err(error) => return Err(error),
        }
        self.inner().locks.released(owner, last);
        Ok(())
    }

    /// Whether an owner has closed the file and its locks are not released yet.
    pub(crate) fn has_locks_to_release(&self) -> bool {
        !self.inner().locks.closed().is_empty()
    }
}

impl OpenFile {
    /// Takes a lock if it is free. Returns whether it was. With the lock, contents of before the last holder's
    /// changes are forgotten; see [`OpenFile::own_since`].
    pub async fn try_lock(&self, lock: &Lock) -> Result<bool, Error> {
        self.before_locking().await?;
        let command = Command::Lock { ino: self.ino(), lock: *lock, ticket: None };
        let (session, state, attr) = self.ask(command).await?;
        Ok(self.grant_if(state, lock, session, attr))
    }

    /// As [`OpenFile::try_lock`], but waits for the lock. `given_up` is asked several times a second; once it
    /// returns true, the wait ends without the lock.
    pub async fn lock(&self, lock: &Lock, mut given_up: impl FnMut() -> bool + Send) -> Result<bool, Error> {
        self.before_locking().await?;
        let ticket = self.files.session.new_ticket();
        let mut waiting = Waiting { file: self, lock: *lock, ticket, over: false };
        let command = Command::Lock { ino: self.ino(), lock: *lock, ticket: Some(ticket) };
        let asked = self.ask(command).await;
        if let Err(Error::Refused(_)) = asked {
            waiting.over = true;
        }
        let (session, state, attr) = asked?;
        if state == LockState::Granted {
            waiting.over = true;
            return Ok(self.grant_if(state, lock, session, attr));
        }
        loop {
            let query = Query::Ticket { ino: self.ino(), session, ticket };
            match self.files.session.query_waiting(&query, WAIT).await {
                Ok(Answer::Ticket { waiting: false, attr }) => {
                    waiting.over = true;
                    return Ok(self.grant_if(LockState::Granted, lock, session, attr));
                }
                Ok(Answer::Ticket { waiting: true, .. }) => {}
                Ok(_) => return Err(Error::unexpected("a ticket")),
                Err(Error::Refused(NsError::SessionEnded(_))) => {
                    waiting.over = true;
                    return Err(Error::LockLost);
                }
                Err(error @ Error::Refused(_)) => return Err(error),
                // No leader answers. The wait for the lock includes the wait for a leader.
                Err(_) => tokio::time::sleep(WAIT).await,
            }
            if given_up() {
                let command = Command::CancelLockWait { ino: self.ino(), ticket };
                let (session, state, attr) = self.ask(command).await?;
                waiting.over = true;
                return Ok(self.grant_if(state, lock, session, attr));
            }
        }
    }

    /// A lock that conflicts with this one, and whether this client has it.
    pub async fn conflict(&self, lock: &Lock) -> Result<Option<(Lock, bool)>, Error> {
        let session = self.files.session.id();
        let query = Query::Conflict { ino: self.ino(), session, lock: *lock };
        self.files.writeback.drain().await?;
        // As the lock itself, the answer comes from the leader, never from a stale state.
        match self.files.session.query_waiting(&query, Duration::ZERO).await? {
            Answer::Conflict(held) => Ok(held.map(|(by, lock)| (lock, by == session))),
            _ => Err(Error::unexpected("a lock")),
        }
    }

    /// Releases a lock, after everything written is stored. If that fails the lock stays.
    pub async fn unlock(&self, lock: &Lock) -> Result<(), Error> {
        if !self.file.inner().locks.any_of(lock) {
            return Ok(());
        }
        self.file.flush(&self.files).await?;
        if (lock.first, lock.last) == (0, u64::MAX) {
            return self.file.unlock_owner(&self.files, (lock.kind, lock.owner)).await;
        }
        let session = self.file.inner().locks.session;
        let command = Command::Unlock { ino: self.ino(), lock: *lock };
        self.files.session.propose_fenced(Some(session), command).await.map(|_| ())
    }

    /// Marks all locks of an owner of this kind for release, because the owner has closed the file. Returns
    /// whether there are any.
    ///
    /// [`OpenFile::release_closed`] releases them, or the next request for a lock, or a background flush.
    pub fn release_on_close(&self, kind: LockKind, owner: u64) -> bool {
        self.file.inner().locks.mark_closed(|has| has.1 == owner && has.0.sees(kind))
    }

    /// Releases the locks of owners that have closed the file, once everything written is stored.
    pub async fn release_closed(&self) -> Result<(), Error> {
        self.file.release_closed(&self.files).await
    }

    async fn before_locking(&self) -> Result<(), Error> {
        self.file.lock_fence(&self.files)?;
        // A program that closes the file and locks it again at once must not meet its own old lock.
        self.file.release_closed(&self.files).await?;
        self.flush().await
    }

    /// Applies a lock command.
    async fn ask(&self, command: Command) -> Result<(SessionId, LockState, Attr), Error> {
        let fence = self.file.lock_fence(&self.files)?;
        match self.files.session.propose_fenced(fence, command).await? {
            Outcome::Lock { session, state, attr } => Ok((session, state, attr)),
            _ => Err(Error::unexpected("a lock")),
        }
    }

    fn grant_if(&self, state: LockState, lock: &Lock, session: SessionId, attr: Attr) -> bool {
        let granted = state == LockState::Granted;
        if granted {
            self.file.granted((lock.kind, lock.owner), session, attr);
        }
        granted
    }
}

/// A ticket in the queue for a lock. Dropping it without a result gives the ticket up in the background.
struct Waiting<'a> {
    file: &'a OpenFile,
    lock: Lock,
    ticket: u64,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (session, ino) = (self.file.files.session.clone(), self.file.ino());
        let (lock, ticket) = (self.lock, self.ticket);
        self.file.files.session.runtime().spawn(async move {
            let gone = session.propose(Command::CancelLockWait { ino, ticket }).await;
            if matches!(gone, Ok(Outcome::Lock { state: LockState::Granted, .. })) {
                let _ = session.propose(Command::Unlock { ino, lock }).await;
            }
        });
    }
}
