//! Locks on a file, over all clients, and what they promise about its data: whoever has a lock reads what its last holder wrote.
//!
//! - Before a lock is asked for or let go, everything written here is stored. A lock is let go only after that has worked.
//! - With a lock come the file's newest attributes; what is remembered of older contents is forgotten.
//! - Locks belong to the session. Should that end behind this client's back (a long silence), others may have had them since: from
//!   then on the file's reads, writes and flushes fail ([`Error::LockLost`]) until those who had locks have closed it, what was written
//!   and not stored is dropped, and every commit names the session under which the locks were given, so that none comes too late.
//!   Where the session's lease has run out by this client's own clock, the same holds until it is renewed.

use super::{FileState, OpenFile};
use crate::client::unexpected;
use crate::error::Error;
use crate::volume::Volume;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::error::NsError;
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Attr;
use rain_types::{Ino, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Whoever waits for a lock looks so often whether it should give up.
const TURN: Duration = Duration::from_millis(200);

/// Whose a lock is within the session.
type Owner = (LockKind, u64);

/// What this client's programs have locked of a file, or may have.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Under which session.
    session: SessionId,
    /// With whether all of the owner's locks are to go as soon as what was written is stored.
    owners: BTreeMap<Owner, bool>,
    lost: bool,
}

impl Locks {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    fn returning(&self) -> Vec<Owner> {
        self.owners.iter().filter(|(_, returning)| **returning).map(|(owner, _)| *owner).collect()
    }

    fn any_of(&self, lock: &Lock) -> bool {
        self.owners.keys().any(|(kind, owner)| *owner == lock.owner && kind.sees(lock.kind))
    }

    fn remove(&mut self, (gone, number): Owner) {
        self.owners.retain(|(kind, owner), _| *owner != number || !kind.sees(gone));
        if self.owners.is_empty() {
            *self = Locks::default();
        }
    }
}

/// A lock that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockGrant {
    /// The contents are those that this client knew before: cached pages may stay.
    pub unchanged: bool,
}

impl FileState {
    /// The session that the file's commits must be of, if it has locks; an error if those are lost.
    pub(super) fn bound(&self, volume: &Volume) -> Result<Option<SessionId>, Error> {
        let mut inner = self.inner();
        if inner.locks.is_empty() {
            return Ok(None);
        }
        if inner.locks.session != volume.cluster.session() {
            inner.locks.lost = true;
        }
        if inner.locks.lost {
            let dropped = inner.dirty.bytes();
            inner.dirty = Default::default();
            inner.size = inner.attr.size;
            drop(inner);
            volume.budget.remove(dropped);
            return Err(Error::LockLost);
        }
        if volume.cluster.lease_is_over() {
            return Err(Error::LockLost);
        }
        Ok(Some(inner.locks.session))
    }

    /// As [`FileState::bound`], without looking at the clock: for every write.
    pub(super) fn may_have_lost(&self) -> bool {
        !self.inner().locks.is_empty()
    }

    fn granted(&self, owner: Owner, session: SessionId, attr: Attr) -> LockGrant {
        let unchanged = self.opened_again(attr);
        let mut inner = self.inner();
        inner.locks.session = session;
        inner.locks.owners.insert(owner, false);
        LockGrant { unchanged }
    }

    /// An owner has closed the file: its locks go as soon as they can.
    fn leave(&self, owner: impl Fn(&Owner) -> bool) -> bool {
        let mut inner = self.inner();
        let mut any = false;
        for (_, returning) in inner.locks.owners.iter_mut().filter(|(has, _)| owner(has)) {
            *returning = true;
            any = true;
        }
        any
    }

    /// Lets the locks go of those that have left, once what was written is stored.
    pub(crate) async fn let_go(&self, volume: &Volume) -> Result<(), Error> {
        if self.inner().locks.returning().is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.letting_go.lock().await;
        let flushed = self.flush(volume).await;
        // With the session or the file the data is gone for good, and nothing is to be waited for.
        let gone =
            matches!(flushed, Err(Error::LockLost | Error::Refused(NsError::NotFound | NsError::Stale)));
        if flushed.is_err() && !gone {
            return flushed;
        }
        let returning = self.inner().locks.returning();
        for owner in returning {
            self.unlock_all_of(volume, owner).await?;
        }
        flushed
    }

    async fn unlock_all_of(&self, volume: &Volume, owner: Owner) -> Result<(), Error> {
        let (kind, number) = owner;
        let lock = Lock { kind, owner: number, exclusive: false, first: 0, last: u64::MAX, pid: 0 };
        let session = self.inner().locks.session;
        match volume.cluster.propose_in(Some(session), Command::Unlock { ino: self.ino(), lock }).await {
            // With the session, or the file, its locks have gone.
            Ok(_) | Err(Error::Refused(NsError::SessionEnded(_) | NsError::NotFound)) => {}
            Err(error) => return Err(error),
        }
        self.inner().locks.remove(owner);
        Ok(())
    }

    pub(crate) fn is_leaving(&self) -> bool {
        !self.inner().locks.returning().is_empty()
    }

    /// Nobody has the file open any more.
    pub(super) fn leave_all(&self) -> bool {
        self.leave(|_| true)
    }
}

impl OpenFile {
    /// Takes a lock if it is free. None: somebody holds one that is in the way.
    pub async fn try_lock(&self, lock: &Lock) -> Result<Option<LockGrant>, Error> {
        self.before_locking().await?;
        let command = Command::Lock { ino: self.ino(), lock: *lock, ticket: None };
        let (session, state, attr) = self.ask(command).await?;
        Ok((state == LockState::Granted).then(|| self.grant(lock, session, attr)))
    }

    /// Takes a lock, waiting for it. `given_up` is asked several times a second; None: it said yes.
    pub async fn lock(
        &self,
        lock: &Lock,
        mut given_up: impl FnMut() -> bool + Send,
    ) -> Result<Option<LockGrant>, Error> {
        self.before_locking().await?;
        let ticket = self.volume.cluster.new_ticket();
        let mut queued = Queued { file: self, lock: *lock, ticket, over: false };
        let command = Command::Lock { ino: self.ino(), lock: *lock, ticket: Some(ticket) };
        let asked = self.ask(command).await;
        if let Err(Error::Refused(_)) = asked {
            queued.over = true;
        }
        let (session, state, attr) = asked?;
        if state == LockState::Granted {
            queued.over = true;
            return Ok(Some(self.grant(lock, session, attr)));
        }
        loop {
            let query = Query::Ticket { ino: self.ino(), session, ticket };
            match self.volume.cluster.query_waiting(&query, TURN).await {
                Ok(Answer::Ticket { waiting: false, attr }) => {
                    queued.over = true;
                    return Ok(Some(self.grant(lock, session, attr)));
                }
                Ok(Answer::Ticket { waiting: true, .. }) => {}
                Ok(_) => return Err(unexpected("a ticket")),
                Err(Error::Refused(NsError::SessionEnded(_))) => {
                    queued.over = true;
                    return Err(Error::LockLost);
                }
                Err(error @ Error::Refused(_)) => return Err(error),
                // Nobody answers: the lock is waited for, and so is this.
                Err(_) => tokio::time::sleep(TURN).await,
            }
            if given_up() {
                let command = Command::CancelLockWait { ino: self.ino(), ticket };
                let (session, state, attr) = self.ask(command).await?;
                queued.over = true;
                return Ok((state == LockState::Granted).then(|| self.grant(lock, session, attr)));
            }
        }
    }

    /// A lock that is in the way of this one: whose it is, and whether by this client.
    pub async fn conflict(&self, lock: &Lock) -> Result<Option<(Lock, bool)>, Error> {
        let session = self.volume.cluster.session();
        let query = Query::Conflict { ino: self.ino(), session, lock: *lock };
        self.volume.settle().await?;
        // As the lock itself: from who leads, never from memory.
        match self.volume.cluster.query_waiting(&query, Duration::ZERO).await? {
            Answer::Conflict(held) => Ok(held.map(|(by, lock)| (lock, by == session))),
            _ => Err(unexpected("a lock")),
        }
    }

    /// Lets bytes go, after everything written is stored; if that fails the lock stays.
    pub async fn unlock(&self, lock: &Lock) -> Result<(), Error> {
        if !self.file.inner().locks.any_of(lock) {
            return Ok(());
        }
        self.file.flush(&self.volume).await?;
        if (lock.first, lock.last) == (0, u64::MAX) {
            return self.file.unlock_all_of(&self.volume, (lock.kind, lock.owner)).await;
        }
        let session = self.file.inner().locks.session;
        let command = Command::Unlock { ino: self.ino(), lock: *lock };
        self.volume.cluster.propose_in(Some(session), command).await.map(|_| ())
    }

    /// An owner has closed the file: all its locks of this kind go, as soon as what was written is stored. Until
    /// [`OpenFile::let_go`], or somebody who wants a lock, has seen to it, or the next moment of leisure.
    pub fn leave(&self, kind: LockKind, owner: u64) -> bool {
        self.file.leave(|has| has.1 == owner && has.0.sees(kind))
    }

    /// Lets the locks go of those that have left.
    pub async fn let_go(&self) -> Result<(), Error> {
        self.file.let_go(&self.volume).await
    }

    async fn before_locking(&self) -> Result<(), Error> {
        self.file.bound(&self.volume)?;
        // Who closes and locks again at once must not meet its own lock.
        self.file.let_go(&self.volume).await?;
        self.flush().await
    }

    async fn ask(&self, command: Command) -> Result<(SessionId, LockState, Attr), Error> {
        let bound = self.file.bound(&self.volume)?;
        match self.volume.cluster.propose_in(bound, command).await? {
            Outcome::Lock { session, state, attr } => Ok((session, state, attr)),
            _ => Err(unexpected("a lock")),
        }
    }

    fn grant(&self, lock: &Lock, session: SessionId, attr: Attr) -> LockGrant {
        self.file.granted((lock.kind, lock.owner), session, attr)
    }
}

/// A place in the queue for a lock. Whoever leaves it without a result lets it go in the background.
struct Queued<'a> {
    file: &'a OpenFile,
    lock: Lock,
    ticket: u64,
    over: bool,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (volume, ino): (Arc<Volume>, Ino) = (self.file.volume.clone(), self.file.ino());
        let (lock, ticket) = (self.lock, self.ticket);
        self.file.volume.runtime.spawn(async move {
            let gone = volume.cluster.propose(Command::CancelLockWait { ino, ticket }).await;
            if matches!(gone, Ok(Outcome::Lock { state: LockState::Granted, .. })) {
                let _ = volume.cluster.propose(Command::Unlock { ino, lock }).await;
            }
        });
    }
}
