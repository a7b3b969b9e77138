//! Calls that are told to look their names up again.
//!
//! The kernel repeats a call that gets ESTALE, once, and looks all its names up anew. A second ESTALE would reach the
//! program. So a thread is told once in a call. No request says to which call it belongs. For this module a call that
//! was told ends with a request that can only be its last, or after [`CALL_MAX`], or [`REST_MAX`] after the name that
//! it was told of has been found.
//!
//! Invariant: between the first ESTALE of a call and its end the thread gets another one only where the kernel has
//! passed over the first: it looks a name that it has up a second time, in vain, before it gives up
//! (`the_kernel_asks_twice_before_it_repeats_a_call`). To tell that from the repeated call, which walks to the
//! directory again, the caller has the kernel drop the directory's attributes with the first ESTALE, so that a walk
//! asks for them.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest time from the first ESTALE of a call to the name in the repeated call.
const CALL_MAX: Duration = Duration::from_secs(1);

/// The longest time from that name to the end of the repeated call, which needs one or two more requests.
const REST_MAX: Duration = Duration::from_millis(10);

/// What a thread is told of. Names as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The lookup of this name.
    Lookup(u64),
    /// The rename of this name.
    Rename(u64),
}

/// What a thread was told.
#[derive(Debug, Clone, Copy)]
struct Told {
    until: Instant,
    /// What the thread was told of.
    of: Of,
    /// The lookup may fail once more.
    twice: bool,
    /// The repeated call has found its first name. A name that it does not find then is not its end.
    found: bool,
}

/// The last request of a thread, if it was a lookup.
#[derive(Debug, Clone, Copy)]
struct Found {
    at: Instant,
    ino: Ino,
    /// The name, as a hash.
    name: u64,
}

/// The most threads whose last request is remembered.
const THREADS_MAX: usize = 1024;

/// The threads that were told, and what threads have found last; see the head of this module.
#[derive(Debug, Default)]
pub(super) struct LookAgain {
    told: Mutex<HashMap<u32, Told>>,
    found: Mutex<HashMap<u32, Found>>,
}

impl LookAgain {
    fn change<T>(&self, thread: u32, change: impl FnOnce(&mut Told) -> T) -> Option<T> {
        let mut told = self.told.lock();
        told.get_mut(&thread).filter(|told| Instant::now() < told.until).map(change)
    }

    /// Whether a thread's call may be told to look its names up again. Then it counts as told. A thread that the kernel
    /// cannot name (0: it is in another PID namespace) is never told.
    pub(super) fn may_tell(&self, thread: u32, of: Of) -> bool {
        if thread == 0 {
            return false;
        }
        let once_more = |told: &mut Told| std::mem::take(&mut told.twice) && told.of == of;
        if let Some(once_more) = self.change(thread, once_more) {
            return once_more;
        }
        let mut told = self.told.lock();
        let now = Instant::now();
        told.retain(|_, before| now < before.until);
        let twice = matches!(of, Of::Lookup(_));
        told.insert(thread, Told { until: now + CALL_MAX, of, twice, found: false });
        true
    }

    /// Whether a thread repeats a call.
    #[cfg(test)]
    fn repeats(&self, thread: u32) -> bool {
        self.change(thread, |_| ()).is_some()
    }

    /// A thread walks through a directory: it is past the lookup that failed.
    pub(super) fn walks(&self, thread: u32) {
        self.found.lock().remove(&thread);
        self.change(thread, |told| told.twice = false);
    }

    /// A thread has found a name, of a directory or not.
    pub(super) fn found(&self, thread: u32, (ino, name): (Ino, u64), is_directory: bool) {
        let mut found = self.found.lock();
        if found.len() >= THREADS_MAX {
            found.retain(|_, found| found.at.elapsed() <= CALL_MAX);
        }
        if found.len() < THREADS_MAX {
            found.insert(thread, Found { at: Instant::now(), ino, name });
        }
        drop(found);
        self.change(thread, |told| {
            told.twice = false;
            let is_it = told.of == Of::Lookup(name);
            told.found |= !is_directory || is_it;
            if is_it {
                told.until = told.until.min(Instant::now() + REST_MAX);
            }
        });
    }

    /// Whether the last request of a thread has found the inode by another name, as the lookups of a rename do.
    pub(super) fn has_found(&self, thread: u32, ino: Ino, name: u64) -> bool {
        let found = self.found.lock().get(&thread).copied();
        found.is_some_and(|found| found.ino == ino && found.name != name && found.at.elapsed() <= CALL_MAX)
    }

    /// A thread has looked up a name that does not exist.
    pub(super) fn missing(&self, thread: u32, name: u64) {
        self.found.lock().remove(&thread);
        let is_last = |told: &mut Told| match told.of {
            Of::Lookup(_) => !told.found,
            Of::Rename(old) => old == name,
        };
        if self.change(thread, is_last) == Some(true) {
            self.ended(thread);
        }
    }

    /// A thread's call has ended.
    pub(super) fn ended(&self, thread: u32) {
        self.told.lock().remove(&thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_once() {
        let again = LookAgain::default();
        assert!(again.may_tell(1, Of::Rename(6)) && again.repeats(1));
        assert!(!again.may_tell(1, Of::Rename(6)) && !again.may_tell(1, Of::Lookup(7)));
        assert!(again.may_tell(2, Of::Rename(6)), "another thread");
        assert!(!again.may_tell(0, Of::Rename(6)), "it could be any");
        again.ended(1);
        assert!(!again.repeats(1) && again.may_tell(1, Of::Lookup(7)), "its next call");
        again.walks(1);
        assert!(!again.may_tell(1, Of::Lookup(7)), "the call is repeated");
        again.told.lock().get_mut(&1).unwrap().until = Instant::now();
        assert!(again.may_tell(1, Of::Lookup(7)));
        again.found(1, (Ino(9), 7), false);
        assert!(again.repeats(1));
        std::thread::sleep(REST_MAX);
        assert!(again.may_tell(1, Of::Lookup(7)), "its next call");
        assert_eq!(again.told.lock().len(), 2);
    }

    #[test]
    fn only_the_last_request_counts_as_of_the_same_call() {
        let again = LookAgain::default();
        again.found(1, (Ino(9), 7), false);
        assert!(again.has_found(1, Ino(9), 8));
        assert!(
            !again.has_found(1, Ino(9), 7)
                && !again.has_found(1, Ino(5), 8)
                && !again.has_found(2, Ino(9), 8)
        );
        again.walks(1);
        assert!(!again.has_found(1, Ino(9), 8));
        again.found(1, (Ino(9), 7), false);
        again.missing(1, 3);
        assert!(!again.has_found(1, Ino(9), 8));
    }

    #[test]
    fn the_kernel_asks_twice_before_it_repeats_a_call() {
        let again = LookAgain::default();
        assert!(again.may_tell(1, Of::Lookup(7)), "it checks a name that it has");
        assert!(again.may_tell(1, Of::Lookup(7)), "it looks the name up");
        assert!(!again.may_tell(1, Of::Lookup(7)), "it repeats the call");
        again.ended(1);
        assert!(again.may_tell(1, Of::Lookup(7)));
        assert!(!again.may_tell(1, Of::Lookup(8)), "another name of the same call");
        assert!(!again.may_tell(1, Of::Lookup(7)));
    }

    #[test]
    fn a_repeated_call_ends_when_its_first_name_is_gone() {
        let again = LookAgain::default();
        assert!(again.may_tell(1, Of::Lookup(7)));
        again.found(1, (Ino(9), 3), true);
        again.missing(1, 8);
        assert!(!again.repeats(1), "the old name of a rename");
        assert!(again.may_tell(1, Of::Lookup(7)));
        again.found(1, (Ino(9), 3), true);
        again.found(1, (Ino(9), 4), false);
        again.missing(1, 8);
        assert!(again.repeats(1), "the new name of a rename: the rename follows");
        again.ended(1);
        assert!(again.may_tell(1, Of::Lookup(7)));
        again.found(1, (Ino(9), 7), true);
        again.missing(1, 8);
        assert!(again.repeats(1), "a directory is renamed");
        again.ended(1);
        assert!(again.may_tell(1, Of::Rename(6)));
        again.missing(1, 8);
        assert!(again.repeats(1), "the new name");
        again.missing(1, 6);
        assert!(!again.repeats(1), "the old name");
    }
}
