//! Directories whose cached names are doubted: the kernel was told to look names in them up again, and has not
//! got to it yet, as an operation under way has the directory locked.
//!
//! The operation may wait for another mount that waits for these very names to be given up. So they count as
//! given up at once, and no program may use them: the kernel has lost the attributes of the directory, and gets
//! none with a lifetime. Every walk through the directory then asks for them (with `default_permissions` the
//! kernel checks that a directory may be searched before it looks into its cache), and the answer waits until the
//! names are given up.
//!
//! Invariant: a walk that began after [`Doubted::doubt`] and the drop of the attributes gets its answer after the
//! doubt is over, or when the names' lifetime is (`a_walk_waits_for_the_end_of_the_doubt`).
//!
//! Exceptions, both for a program that has the directory locked and asks for the attributes itself, for which
//! everything else would wait:
//! 1. A thread is answered at once if an operation of it in the directory has ended within [`SAME_CALL`]: mostly it
//!    asks within the same call (`who_asks_within_a_call_is_answered`).
//! 2. All are answered when no operation in the directory has been under way for [`QUIET`]
//!    (`who_has_the_directory_locked_gets_its_answer`).
//!
//! A walk that is answered so by mistake may use a name that another mount has just changed, until the program lets
//! go of the directory.
//!
//! The operation that has the directory locked may have looked such a name up before, and go on with the inode that
//! it found. [`Doubted::may_be_known`] tells whether that may be so of an inode.

use super::names::GivenName;
use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The longest time from the end of an operation to a question of the same thread that counts as one of the same call.
/// Several times what the kernel needs from one request of a call to the next.
const SAME_CALL: Duration = Duration::from_millis(1);

/// How long no operation must have been under way in a directory that is still locked, to infer that who has it
/// locked waits for an answer about it, but was late for [`SAME_CALL`].
const QUIET: Duration = Duration::from_millis(100);

/// The end of an operation: its directory, its thread, and when.
type Ended = (Ino, u32, Instant);

/// What is known of one directory. Without operations and doubts, it is not kept.
#[derive(Debug)]
struct Directory {
    /// The number of operations that are under way.
    under_way: usize,
    /// The names of each doubt, by its number.
    doubts: BTreeMap<u64, Vec<GivenName>>,
    /// When the last operation ended, or the first doubt began.
    quiet_since: Instant,
}

#[derive(Debug, Default)]
struct State {
    directories: Mutex<HashMap<Ino, Directory>>,
    /// The operations that ended within [`SAME_CALL`], and older ones until the next one ends.
    ended: Mutex<VecDeque<Ended>>,
    /// A doubt is over, or the last operation in a directory in doubt.
    changed: Notify,
    /// The number of the next doubt.
    next: AtomicU64,
    /// How many doubts there are.
    doubts: AtomicUsize,
}

impl State {
    /// Changes what is known of a directory.
    fn change(&self, directory: Ino, change: impl FnOnce(&mut Directory)) {
        let mut directories = self.directories.lock();
        let known = directories.entry(directory).or_insert_with(|| Directory {
            under_way: 0,
            doubts: BTreeMap::new(),
            quiet_since: Instant::now(),
        });
        change(known);
        if known.under_way == 0 && known.doubts.is_empty() {
            directories.remove(&directory);
        }
    }

    /// An operation has ended.
    fn note_end(&self, directory: Ino, thread: u32) {
        let now = Instant::now();
        let mut ended = self.ended.lock();
        while ended.front().is_some_and(|(_, _, at)| now.duration_since(*at) > SAME_CALL) {
            ended.pop_front();
        }
        ended.push_back((directory, thread, now));
    }

    fn has_just_ended(&self, directory: Ino, thread: u32) -> bool {
        let ended = self.ended.lock();
        ended.iter().any(|(of, by, at)| *of == directory && *by == thread && at.elapsed() <= SAME_CALL)
    }
}

/// The operations in directories that are under way, and the directories in doubt; see the head of this module.
#[derive(Debug, Default)]
pub(super) struct Doubted(Arc<State>);

/// An operation that may have a directory locked. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    state: Arc<State>,
    directory: Ino,
    thread: u32,
}

/// A doubt about the names in a directory. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Doubt {
    state: Arc<State>,
    directory: Ino,
    number: u64,
}

impl Doubted {
    /// An operation of a thread in a directory begins.
    pub(super) fn begin(&self, directory: Ino, thread: u32) -> UnderWay {
        self.0.change(directory, |known| known.under_way += 1);
        UnderWay { state: self.0.clone(), directory, thread }
    }

    /// These names in a directory are doubted from now on.
    pub(super) fn doubt(&self, directory: Ino, names: Vec<GivenName>) -> Doubt {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.doubts.fetch_add(1, Ordering::AcqRel);
        self.0.change(directory, |known| {
            if known.doubts.is_empty() {
                known.quiet_since = Instant::now();
            }
            known.doubts.insert(number, names);
        });
        Doubt { state: self.0.clone(), directory, number }
    }

    /// Whether an operation under way may know an inode, which a lookup has found by a name, by another name, which is
    /// doubted.
    pub(super) fn may_be_known(&self, ino: Ino, (parent, name): (Ino, &[u8])) -> bool {
        if self.0.doubts.load(Ordering::Acquire) == 0 {
            return false;
        }
        let directories = self.0.directories.lock();
        let mut doubted = directories.values().flat_map(|known| known.doubts.values().flatten());
        doubted.any(|given| given.may_be(ino) && (given.parent, &*given.name) != (parent, name))
    }

    /// Whether names in the directory are doubted.
    pub(super) fn is_doubted(&self, directory: Ino) -> bool {
        self.0.directories.lock().get(&directory).is_some_and(|known| !known.doubts.is_empty())
    }

    /// Waits until a thread's walk through the directory may be answered, but no longer than `at_most`.
    pub(super) async fn certain(&self, directory: Ino, thread: u32, at_most: Duration) {
        if !self.is_doubted(directory) || self.0.has_just_ended(directory, thread) {
            return;
        }
        let end = Instant::now() + at_most;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let Some(until) = self.waits_until(directory, end) else { return };
            let _ = tokio::time::timeout_at(until.into(), changed).await;
        }
    }

    /// The time until which a walk waits for a change, at most `end`; None: it is answered.
    fn waits_until(&self, directory: Ino, end: Instant) -> Option<Instant> {
        let directories = self.0.directories.lock();
        let known = directories.get(&directory).filter(|known| !known.doubts.is_empty())?;
        let until = if known.under_way > 0 { end } else { end.min(known.quiet_since + QUIET) };
        (Instant::now() < until).then_some(until)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.note_end(self.directory, self.thread);
        let mut is_quiet = false;
        self.state.change(self.directory, |known| {
            known.under_way -= 1;
            known.quiet_since = Instant::now();
            is_quiet = known.under_way == 0 && !known.doubts.is_empty();
        });
        if is_quiet {
            self.state.changed.notify_waiters();
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        self.state.change(self.directory, |known| {
            known.doubts.remove(&self.number);
        });
        self.state.doubts.fetch_sub(1, Ordering::AcqRel);
        self.state.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::test_name;
    use super::*;

    const DIRECTORY: Ino = Ino(7);
    const LONG: Duration = Duration::from_secs(60);

    /// Whether a walk of a thread without operations is answered soon.
    async fn is_answered(doubted: &Doubted, directory: Ino, thread: u32) -> bool {
        let certain = doubted.certain(directory, thread, LONG);
        tokio::time::timeout(QUIET / 4, certain).await.is_ok()
    }

    #[tokio::test]
    async fn a_walk_waits_for_the_end_of_the_doubt() {
        let doubted = Doubted::default();
        let operation = doubted.begin(DIRECTORY, 1);
        assert!(is_answered(&doubted, DIRECTORY, 2).await, "there is no doubt");
        let (first, second) = (doubted.doubt(DIRECTORY, Vec::new()), doubted.doubt(DIRECTORY, Vec::new()));
        assert!(doubted.is_doubted(DIRECTORY) && !doubted.is_doubted(Ino(8)));
        assert!(!is_answered(&doubted, DIRECTORY, 2).await);
        assert!(is_answered(&doubted, Ino(8), 2).await);
        drop(first);
        assert!(!is_answered(&doubted, DIRECTORY, 2).await);
        let walk = doubted.certain(DIRECTORY, 2, LONG);
        let end = async {
            tokio::task::yield_now().await;
            drop(second);
        };
        tokio::time::timeout(LONG / 2, async { tokio::join!(walk, end) }).await.unwrap();
        assert!(!doubted.is_doubted(DIRECTORY));
        drop(operation);
        assert!(doubted.0.directories.lock().is_empty());
    }

    #[tokio::test]
    async fn a_walk_waits_no_longer_than_the_names_live() {
        let doubted = Doubted::default();
        let _operation = doubted.begin(DIRECTORY, 1);
        let _doubt = doubted.doubt(DIRECTORY, Vec::new());
        doubted.certain(DIRECTORY, 2, Duration::from_millis(5)).await;
    }

    #[test]
    fn an_inode_may_be_known_by_a_doubted_name() {
        let doubted = Doubted::default();
        let moved = (DIRECTORY, b"new".as_slice());
        assert!(!doubted.may_be_known(Ino(9), moved));
        let names = vec![test_name(DIRECTORY, b"old", Ino(9)), test_name(DIRECTORY, b"other", Ino(10))];
        let doubt = doubted.doubt(DIRECTORY, names);
        assert!(doubted.may_be_known(Ino(9), moved));
        assert!(!doubted.may_be_known(Ino(9), (DIRECTORY, b"old")), "by no other name");
        assert!(doubted.may_be_known(Ino(9), (Ino(8), b"old")), "of another directory");
        assert!(!doubted.may_be_known(Ino(11), moved));
        drop(doubt);
        assert!(!doubted.may_be_known(Ino(9), moved));
    }

    #[tokio::test]
    async fn who_asks_within_a_call_is_answered() {
        let doubted = Doubted::default();
        let _doubt = doubted.doubt(DIRECTORY, Vec::new());
        let others = doubted.begin(DIRECTORY, 1);
        drop(doubted.begin(DIRECTORY, 2));
        assert!(doubted.0.has_just_ended(DIRECTORY, 2));
        assert!(!doubted.0.has_just_ended(DIRECTORY, 1) && !doubted.0.has_just_ended(Ino(8), 2));
        std::thread::sleep(SAME_CALL * 2);
        assert!(!doubted.0.has_just_ended(DIRECTORY, 2), "its next call waits");
        drop(others);
        assert_eq!(doubted.0.ended.lock().len(), 1, "older ends are forgotten");
    }

    #[tokio::test]
    async fn who_has_the_directory_locked_gets_its_answer() {
        let doubted = Doubted::default();
        let operation = doubted.begin(DIRECTORY, 1);
        let _doubt = doubted.doubt(DIRECTORY, Vec::new());
        let walk = doubted.certain(DIRECTORY, 2, LONG);
        let end = async {
            tokio::time::sleep(QUIET * 2).await;
            drop(operation);
            Instant::now()
        };
        let ended =
            tokio::time::timeout(LONG / 2, async { tokio::join!(walk, end).1 }).await.expect("an answer");
        assert!(ended.elapsed() >= QUIET * 9 / 10, "another operation might have followed");
    }
}
