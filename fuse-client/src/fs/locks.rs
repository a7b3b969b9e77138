//! Locks: flock(2), fcntl(2), lockf(3) and OFD locks, over all mounts.
//!
//! What the kernel does not say through fuser 0.18, and how it is found:
//! - *Which kind it is* (a flag that fuser hides). Only a lock of the whole file can be of flock(2), and the thread that asks is still in
//!   its system call, which `/proc` names. Where that cannot be read the lock is taken for both kinds: safe, and stricter than need be.
//! - *That the caller was interrupted* (fuser answers INTERRUPT itself, in vain). While a lock is waited for, `/proc` is asked for the
//!   caller's pending signals; then the answer is EINTR, on which the kernel starts the call again after the signal or ends it.
//! - *That an OFD lock's file was closed*. At RELEASE all locks taken through that handle go: those of fcntl(2) went before, at the
//!   FLUSH of its process.

use super::Shared;
use crate::handles::Opened;
use fuser::Errno;
use rain_client::{Error, LockGrant};
use rain_namespace::lock::{Lock, LockKind};
use rain_types::Ino;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// The kernel's "to the end".
const END: u64 = i64::MAX as u64;

/// Looks at a thread that has not gone to sleep in its system call yet.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What a program asks for, as the kernel says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) owner: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(super) typ: i32,
    /// The process, for `F_GETLK`.
    pub(super) pid: u32,
    /// The thread that asks; 0: not in this mount's view.
    pub(super) thread: u32,
}

impl Asked {
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

    async fn kind(&self) -> LockKind {
        if self.start > 0 || self.end < END {
            return LockKind::Record;
        }
        for _ in 0..LOOKS {
            match fs::read_to_string(format!("/proc/{}/syscall", self.thread)) {
                Ok(line) if line.starts_with("running") => tokio::time::sleep(BETWEEN_LOOKS).await,
                Ok(line) => return kind_of_call(&line),
                Err(_) => break,
            }
        }
        LockKind::Either
    }

    fn is_interrupted(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.thread)).is_ok_and(|status| has_signal(&status))
    }
}

/// From a line of `/proc/*/syscall`. Programs of another architecture have other numbers.
fn kind_of_call(line: &str) -> LockKind {
    match line.split_whitespace().next().and_then(|number| number.parse().ok()) {
        Some(libc::SYS_flock) => LockKind::Flock,
        Some(libc::SYS_fcntl) => LockKind::Record,
        _ => LockKind::Either,
    }
}

/// Whether `/proc/*/status` tells of a signal that is pending and not blocked.
fn has_signal(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

impl Shared {
    pub(super) async fn set_lock(
        self: &Arc<Self>,
        ino: Ino,
        opened: &Opened,
        asked: Asked,
        wait: bool,
    ) -> Result<(), Errno> {
        let lock = asked.lock(asked.kind().await);
        if asked.typ == libc::F_UNLCK {
            return opened.file.unlock(&lock).await.map_err(|error| self.lock_errno("unlocking", &error));
        }
        let locked = if wait {
            opened.file.lock(&lock, || asked.is_interrupted()).await
        } else {
            opened.file.try_lock(&lock).await
        };
        match locked.map_err(|error| self.lock_errno("locking", &error))? {
            Some(granted) => {
                opened.lockers().insert((lock.kind, lock.owner));
                self.see_anew(ino, granted).await;
                Ok(())
            }
            None if wait => Err(Errno::EINTR),
            None => Err(Errno::EAGAIN),
        }
    }

    /// With the lock, the kernel must not show what was there before it.
    async fn see_anew(self: &Arc<Self>, ino: Ino, granted: LockGrant) {
        if granted.unchanged {
            self.drop_kernel_attributes(ino);
        } else {
            self.drop_kernel_pages(ino).await;
        }
    }

    pub(super) async fn get_lock(&self, opened: &Opened, asked: Asked) -> Result<Option<Lock>, Errno> {
        let found = opened.file.conflict(&asked.lock(LockKind::Record)).await;
        let found = found.map_err(|error| self.errno("asking for a lock", &error))?;
        // A process elsewhere has no number here.
        Ok(found.map(|(lock, ours)| Lock { pid: if ours { lock.pid } else { 0 }, ..lock }))
    }

    /// A process closes a file: its locks of fcntl(2) go, after what it wrote is stored.
    pub(super) async fn close_by(&self, opened: &Opened) -> Result<(), Errno> {
        let flushed = opened.file.close().await;
        let flushed = flushed.map_err(|error| self.inode_errno("storing written data", &error));
        flushed.and(opened.file.release_closed().await.map_err(|error| self.lock_errno("unlocking", &error)))
    }

    /// No process has the handle any more.
    pub(super) fn release_locks(self: &Arc<Self>, opened: Arc<Opened>) {
        let lockers = std::mem::take(&mut *opened.lockers());
        let mut any = false;
        for (kind, owner) in lockers {
            any |= opened.file.release_on_close(kind, owner);
        }
        if any {
            self.runtime.spawn(async move {
                if let Err(error) = opened.file.release_closed().await {
                    tracing::debug!(%error, "unlocking a closed file; it is tried again");
                }
            });
        }
    }

    /// No lock can be given where nothing can be changed, which is not the same as a read-only file.
    fn lock_errno(&self, doing: &'static str, error: &Error) -> Errno {
        match self.errno(doing, error) {
            _ if matches!(error, Error::NoMajority { .. }) => Errno::ENOLCK,
            errno => errno,
        }
    }
}

/// The kernel's form of a lock's end.
pub(super) fn kernel_end(lock: &Lock) -> u64 {
    lock.last.min(END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_tells_the_kind() {
        assert_eq!(kind_of_call(&format!("{} 0x3 0x2 0x7ffe", libc::SYS_flock)), LockKind::Flock);
        assert_eq!(kind_of_call(&format!("{} 0x3", libc::SYS_fcntl)), LockKind::Record);
        assert_eq!(kind_of_call("-1 0x7ffd 0x7f"), LockKind::Either);
        assert_eq!(kind_of_call("running\n"), LockKind::Either);
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
        let asked = Asked { owner: 1, start: 3, end: END, typ: libc::F_WRLCK, pid: 7, thread: 8 };
        let lock = asked.lock(LockKind::Record);
        assert_eq!((lock.first, lock.last, lock.exclusive), (3, u64::MAX, true));
        assert_eq!(kernel_end(&lock), END);
        assert_eq!(asked.lock(LockKind::Record).last, u64::MAX);
        assert_eq!(Asked { end: 9, ..asked }.lock(LockKind::Record).last, 9);
    }
}
