//! Opens and creates under way in this client, for what it says it has open: a removed file lives on while somebody says so (the rule
//! that makes this right is with the worker that frees them, in `storaged`).
//!
//! Invariant: what [`Openings::settled`] says is asked before the list of open files is made, and an [`Opening`] ends only after its file
//! is in that list.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    under_way: BTreeSet<u64>,
    /// Those below began before the last report was answered.
    answered: u64,
}

/// Of a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Openings(Arc<Mutex<Numbers>>);

impl Openings {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open or create begins.
    pub(crate) fn begin(&self) -> Opening {
        let mut numbers = self.numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.under_way.insert(number);
        Opening { all: self.clone(), number }
    }

    /// Whether everything that began before the last report was answered is over.
    pub(crate) fn settled(&self) -> bool {
        let numbers = self.numbers();
        numbers.under_way.first().is_none_or(|first| *first >= numbers.answered)
    }

    /// A report was answered.
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
