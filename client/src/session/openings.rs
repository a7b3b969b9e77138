//! Opens and creates under way in this client. A session reports its open files to the leader, and a removed
//! file lives on while a session reports it. The rule that makes these reports safe is stated at the worker
//! that frees removed files, in `storaged`.
//!
//! Invariant: [`Openings::settled`] is asked before the list of open files is made, and an [`Opening`] ends
//! only after its file is in that list (`only_what_began_before_the_last_answer_unsettles`).

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    under_way: BTreeSet<u64>,
    /// Opens with a lower number began before the last report was answered.
    answered: u64,
}

/// The opens and creates under way of one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Openings(Arc<Mutex<Numbers>>);

impl Openings {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock()
    }

    /// Begins an open or create. It ends when the result is dropped.
    pub(crate) fn begin(&self) -> Opening {
        let mut numbers = self.numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.under_way.insert(number);
        Opening { all: self.clone(), number }
    }

    /// Whether every open that began before the last report was answered is over.
    pub(crate) fn settled(&self) -> bool {
        let numbers = self.numbers();
        numbers.under_way.first().is_none_or(|first| *first >= numbers.answered)
    }

    /// Records that a report was answered.
    pub(crate) fn answered(&self) {
        let mut numbers = self.numbers();
        numbers.answered = numbers.next;
    }
}

/// An open or create under way.
#[derive(Debug)]
pub(crate) struct Opening {
    all: Openings,
    number: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.all.numbers().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_began_before_the_last_answer_unsettles() {
        let openings = Openings::default();
        let early = openings.begin();
        assert!(openings.settled(), "nothing was answered yet");
        openings.answered();
        assert!(!openings.settled());
        let late = openings.begin();
        drop(early);
        assert!(openings.settled());
        openings.answered();
        assert!(!openings.settled());
        drop(late);
        assert!(openings.settled());
    }
}
