//! Locks: flock(2), fcntl(2), lockf(3) and OFD locks, over all mounts.
//!
//! fuser 0.18 hides three facts about a lock request. They are found in other ways:
//! - *The kind of the lock* (a flag). Only a lock of the whole file can be of flock(2). Its system call tells
//!   the kind ([`super::calls`]). Where that is not known, the lock is taken as both kinds: safe, and stricter
//!   than need be.
//! - *An interrupt of the caller* (fuser answers INTERRUPT itself, in vain). While a lock is waited for, the
//!   caller's pending signals are read from `/proc`. With one pending the answer is EINTR, on which the
//!   kernel starts the call again after the signal or ends it.
//! - *The close of a file with an OFD lock*. At RELEASE the locks of the owners that last took one through
//!   the handle are released ([`crate::lockers`]). Those of fcntl(2) were released before, at the FLUSH of
//!   their process.
//!
//! The signals, too, are read by hand.

use super::RainFs;
use super::calls::call_of;
use crate::handles::Opened;
use crate::lockers::Locker;
use fuser::{Errno, FileHandle};
use rain_client::Error;
use rain_namespace::lock::{Lock, LockKind};
use rain_types::Ino;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The last byte of a lock that reaches to the end of the file, as the kernel gives it.
const END: u64 = i64::MAX as u64;

/// The time between two looks whether a file with a lock was closed.
const RELEASE_LOOKED_FOR_EVERY: Duration = Duration::from_millis(1);

/// A lock request as the kernel gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockRequest {
    pub(super) owner: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(super) typ: i32,
    /// The process that asks; `F_GETLK` shows it to others.
    pub(super) pid: u32,
    /// The thread that asks; 0: it is not in this mount's PID namespace.
    pub(super) thread: u32,
}

impl LockRequest {
    pub(super) fn lock(&self, kind: LockKind) -> Lock {
        Lock {
            kind,
            owner: self.owner,
            exclusive: self.typ == libc::F_WRLCK,
            first: self.start,
            last: if self.end >= END { u64::MAX } else { self.end },
            pid: self.pid,
        }
    }

    /// The kind of the lock; both kinds if it cannot be found out.
    async fn kind(&self) -> LockKind {
        if self.start > 0 || self.end < END {
            return LockKind::Record;
        }
        kind_of_call(call_of(self.thread).await)
    }

    fn is_interrupted(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.thread)).is_ok_and(|status| has_signal(&status))
    }
}

/// The kind by the number of the system call. Another call, or one that is not known: both kinds.
fn kind_of_call(call: Option<i64>) -> LockKind {
    match call {
        Some(libc::SYS_flock) => LockKind::Flock,
        Some(libc::SYS_fcntl) => LockKind::Record,
        _ => LockKind::Either,
    }
}

/// Whether `/proc/*/status` has a signal that is pending and not blocked.
fn has_signal(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

impl RainFs {
    /// Takes or releases a lock. With `wait` it waits until the lock is granted or the caller is interrupted
    /// (EINTR); without, a lock that another owner has is EAGAIN.
    pub(super) async fn set_lock(
        &self,
        ino: Ino,
        (handle, opened): (FileHandle, &Opened),
        request: LockRequest,
        wait: bool,
    ) -> Result<(), Errno> {
        let lock = request.lock(request.kind().await);
        if request.typ == libc::F_UNLCK {
            return self.unlock(ino, opened, &lock).await;
        }
        let Lock { kind, owner, .. } = lock;
        self.lockers.locking(ino, Locker { kind, owner, handle: handle.0 });
        let locked = if wait {
            opened.file.lock(&lock, || request.is_interrupted()).await
        } else {
            self.try_lock(ino, opened, &lock).await
        };
        match locked.map_err(|error| self.lock_errno("locking", &error))? {
            true => {
                self.coherence.lock_granted(ino, &opened.file).await;
                Ok(())
            }
            false if wait => Err(Errno::EINTR),
            false => Err(Errno::EAGAIN),
        }
    }

    /// Takes a lock if it is free. A lock of this mount whose file is just being closed is waited for: to its program
    /// it is gone.
    async fn try_lock(&self, ino: Ino, opened: &Opened, lock: &Lock) -> Result<bool, Error> {
        let asked = Instant::now();
        // Asked before: the RELEASE may come while the lock is being refused.
        let may_close = self.lockers.may_close(ino, asked, asked);
        if opened.file.try_lock(lock).await? {
            return Ok(true);
        }
        if !may_close {
            return Ok(false);
        }
        while self.lockers.may_close(ino, asked, Instant::now()) {
            tokio::time::sleep(RELEASE_LOOKED_FOR_EVERY).await;
        }
        opened.file.try_lock(lock).await
    }

    async fn unlock(&self, ino: Ino, opened: &Opened, lock: &Lock) -> Result<(), Errno> {
        // Before the unlock: the owner may take a lock again as soon as it is done.
        let all = (lock.first, lock.last) == (0, u64::MAX);
        let gone = if all { self.lockers.unlocking(ino, lock.kind, lock.owner) } else { Vec::new() };
        let unlocked = opened.file.unlock(lock).await;
        if unlocked.is_err() {
            gone.into_iter().for_each(|locker| self.lockers.locking(ino, locker));
        }
        unlocked.map_err(|error| self.lock_errno("unlocking", &error))
    }

    /// A process closes the file through a handle: its fcntl(2) locks are to be released. Returns whether it
    /// has any.
    pub(super) fn process_closes(
        &self,
        ino: Ino,
        (handle, opened): (FileHandle, &Opened),
        owner: u64,
    ) -> bool {
        self.lockers.flushed(ino, handle.0, Instant::now());
        self.lockers.unlocking(ino, LockKind::Record, owner);
        opened.file.release_on_close(LockKind::Record, owner)
    }

    /// A lock that is in the way of the requested one, if there is any.
    pub(super) async fn get_lock(
        &self,
        opened: &Opened,
        request: LockRequest,
    ) -> Result<Option<Lock>, Errno> {
        let found = opened.file.conflict(&request.lock(LockKind::Record)).await;
        let found = found.map_err(|error| self.errno("asking for a lock", &error))?;
        // The process ID of a process on another mount's machine means nothing here.
        Ok(found.map(|(lock, ours)| Lock { pid: if ours { lock.pid } else { 0 }, ..lock }))
    }

    /// A process closes a file: the data that it wrote is stored, then its fcntl(2) locks are released.
    pub(super) async fn close(&self, ino: Ino, (handle, opened): (FileHandle, &Opened)) -> Result<(), Errno> {
        let flushed = opened.file.close().await;
        let flushed = flushed.map_err(|error| self.inode_errno("storing written data", &error));
        let released = opened.file.release_closed().await;
        // The RELEASE comes after the answer.
        self.lockers.flushed(ino, handle.0, Instant::now());
        flushed.and(released.map_err(|error| self.lock_errno("unlocking", &error)))
    }

    /// Releases the locks that went with a handle, which no process has any more. The release goes on in the
    /// background.
    pub(super) fn release_locks(self: &Arc<Self>, ino: Ino, handle: FileHandle, opened: Arc<Opened>) {
        let mut any = false;
        self.lockers.handle_is_gone(ino, handle.0, |locker| {
            any |= opened.file.release_on_close(locker.kind, locker.owner);
        });
        if any {
            self.runtime.spawn(async move {
                if let Err(error) = opened.file.release_closed().await {
                    tracing::debug!(%error, "releasing the locks of a closed file failed; it is tried again");
                }
            });
        }
    }

    /// As [`RainFs::errno`], but ENOLCK without a majority: EROFS, the errno of other changes then, would
    /// look like a read-only file.
    fn lock_errno(&self, doing: &'static str, error: &Error) -> Errno {
        match self.errno(doing, error) {
            _ if matches!(error, Error::NoMajority { .. }) => Errno::ENOLCK,
            errno => errno,
        }
    }
}

/// The last byte of a lock in the kernel's form.
pub(super) fn kernel_end(lock: &Lock) -> u64 {
    lock.last.min(END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_tells_the_kind() {
        assert_eq!(kind_of_call(Some(libc::SYS_flock)), LockKind::Flock);
        assert_eq!(kind_of_call(Some(libc::SYS_fcntl)), LockKind::Record);
        assert_eq!(kind_of_call(Some(-1)), LockKind::Either);
        assert_eq!(kind_of_call(None), LockKind::Either);
    }

    #[test]
    fn a_signal_counts_unless_it_is_blocked() {
        let status = |pending: u64, shared: u64, blocked: u64| {
            format!("Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n")
        };
        assert!(!has_signal(&status(0, 0, 0)) && !has_signal("Name:\tx\n"));
        assert!(has_signal(&status(0x100, 0, 0)), "SIGKILL of this thread");
        assert!(has_signal(&status(0, 0x2, 0)), "SIGINT of the process");
        assert!(!has_signal(&status(0, 0x2, 0x2)));
    }

    #[test]
    fn the_kernels_end_of_a_file_is_no_number() {
        let request = LockRequest { owner: 1, start: 3, end: END, typ: libc::F_WRLCK, pid: 7, thread: 8 };
        let lock = request.lock(LockKind::Record);
        assert_eq!((lock.first, lock.last, lock.exclusive), (3, u64::MAX, true));
        assert_eq!(kernel_end(&lock), END);
        assert_eq!(request.lock(LockKind::Record).last, u64::MAX);
        assert_eq!(LockRequest { end: 9, ..request }.lock(LockKind::Record).last, 9);
    }
}
