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
//! Exception: a program that has the directory locked may ask for the attributes itself, and then everything
//! would wait for it. So the answers are given when no operation in the directory has been under way for
//! [`QUIET`] (`who_has_the_directory_locked_gets_its_answer`). A walk that is answered so may use a name that another
//! mount has just changed, until the program lets go of the directory.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long no operation must have been under way in a directory that is still locked, to infer that who has it
/// locked waits for an answer about it. Several times what a program needs from one request to the next.
const QUIET: Duration = Duration::from_millis(10);

/// What is known of one directory. Without operations and doubts, it is not kept.
#[derive(Debug)]
struct Directory {
    /// The number of operations that are under way.
    under_way: usize,
    /// The number of doubts.
    doubts: usize,
    /// When the last operation ended, or the first doubt began.
    quiet_since: Instant,
}

#[derive(Debug, Default)]
struct State {
    directories: Mutex<HashMap<Ino, Directory>>,
    /// A doubt is over, or the last operation in a directory in doubt.
    changed: Notify,
}

impl State {
    /// Changes what is known of a directory.
    fn change(&self, directory: Ino, change: impl FnOnce(&mut Directory)) {
        let mut directories = self.directories.lock();
        let known = directories.entry(directory).or_insert_with(|| Directory {
            under_way: 0,
            doubts: 0,
            quiet_since: Instant::now(),
        });
        change(known);
        if known.under_way == 0 && known.doubts == 0 {
            directories.remove(&directory);
        }
    }
}

/// How long a walk through a directory waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Not,
    /// For a change, but no longer than this.
    AtMost(Duration),
    ForChange,
}

/// The operations in directories that are under way, and the directories in doubt; see the head of this module.
#[derive(Debug, Default)]
pub(super) struct Doubted(Arc<State>);

/// An operation that may have a directory locked. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    state: Arc<State>,
    directory: Ino,
}

/// A doubt about the names in a directory. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Doubt {
    state: Arc<State>,
    directory: Ino,
}

impl Doubted {
    /// An operation in a directory begins.
    pub(super) fn begin(&self, directory: Ino) -> UnderWay {
        self.0.change(directory, |known| known.under_way += 1);
        UnderWay { state: self.0.clone(), directory }
    }

    /// The names in a directory are doubted from now on.
    pub(super) fn doubt(&self, directory: Ino) -> Doubt {
        self.0.change(directory, |known| {
            if known.doubts == 0 {
                known.quiet_since = Instant::now();
            }
            known.doubts += 1;
        });
        Doubt { state: self.0.clone(), directory }
    }

    /// Whether names in the directory are doubted.
    pub(super) fn is_doubted(&self, directory: Ino) -> bool {
        self.0.directories.lock().get(&directory).is_some_and(|known| known.doubts > 0)
    }

    /// Waits until a walk through the directory may be answered, but no longer than `at_most`.
    pub(super) async fn certain(&self, directory: Ino, at_most: Duration) {
        let end = tokio::time::Instant::now() + at_most;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let until = match self.wait(directory) {
                Wait::Not => return,
                Wait::AtMost(quiet) => end.min(tokio::time::Instant::now() + quiet),
                Wait::ForChange => end,
            };
            let _ = tokio::time::timeout_at(until, changed).await;
            if until == end && tokio::time::Instant::now() >= end {
                return;
            }
        }
    }

    fn wait(&self, directory: Ino) -> Wait {
        let directories = self.0.directories.lock();
        let Some(known) = directories.get(&directory).filter(|known| known.doubts > 0) else {
            return Wait::Not;
        };
        if known.under_way > 0 {
            return Wait::ForChange;
        }
        let left = QUIET.saturating_sub(known.quiet_since.elapsed());
        if left.is_zero() { Wait::Not } else { Wait::AtMost(left) }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut is_quiet = false;
        self.state.change(self.directory, |known| {
            known.under_way -= 1;
            known.quiet_since = Instant::now();
            is_quiet = known.under_way == 0 && known.doubts > 0;
        });
        if is_quiet {
            self.state.changed.notify_waiters();
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        self.state.change(self.directory, |known| known.doubts -= 1);
        self.state.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: Ino = Ino(7);
    const LONG: Duration = Duration::from_secs(60);

    /// The time after which a walk is answered; None: not within five times [`QUIET`].
    async fn answered_after(doubted: &Doubted, directory: Ino) -> Option<Duration> {
        let began = Instant::now();
        let certain = doubted.certain(directory, LONG);
        tokio::time::timeout(QUIET * 5, certain).await.ok().map(|()| began.elapsed())
    }

    #[tokio::test]
    async fn a_walk_waits_for_the_end_of_the_doubt() {
        let doubted = Doubted::default();
        let operation = doubted.begin(DIRECTORY);
        assert!(answered_after(&doubted, DIRECTORY).await.is_some(), "there is no doubt");
        let (first, second) = (doubted.doubt(DIRECTORY), doubted.doubt(DIRECTORY));
        assert!(doubted.is_doubted(DIRECTORY) && !doubted.is_doubted(Ino(8)));
        assert!(answered_after(&doubted, DIRECTORY).await.is_none());
        assert!(answered_after(&doubted, Ino(8)).await.is_some());
        drop(first);
        assert!(answered_after(&doubted, DIRECTORY).await.is_none());
        let walk = doubted.certain(DIRECTORY, LONG);
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
        let _operation = doubted.begin(DIRECTORY);
        let _doubt = doubted.doubt(DIRECTORY);
        doubted.certain(DIRECTORY, Duration::from_millis(5)).await;
    }

    #[tokio::test]
    async fn who_has_the_directory_locked_gets_its_answer() {
        let doubted = Doubted::default();
        let operation = doubted.begin(DIRECTORY);
        let _doubt = doubted.doubt(DIRECTORY);
        let walk = doubted.certain(DIRECTORY, LONG);
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
