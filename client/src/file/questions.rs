//! Questions to the namespace that are under way, and the changes that this client makes meanwhile. Pure.
//!
//! The leader may answer a question before it applies a change of this client, and the answer may arrive after
//! the outcome of the change. Such an answer is *overtaken*: it shows a file as the file no longer is, though
//! this client's programs have been told of the change. It must not reach them; the question is asked again.
//!
//! Invariants (`an_answer_is_overtaken_exactly_by_changes_since_its_question`):
//! 1. An answer is overtaken if this client has taken in a newer version of the contents since the question.
//! 2. A version is remembered only while a question from before it is under way, so memory is bounded by the
//!    changes that are made during the longest question.

use rain_types::Ino;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// The questions under way, and the versions taken in since the oldest of them.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// The number of the next question.
    next: u64,
    under_way: BTreeSet<u64>,
    /// The newest version of each inode, and the number that the next question had when it was taken in.
    newest: HashMap<Ino, (u64, u64)>,
    /// The entries of `newest` in the order in which they can be forgotten. An inode may be here several
    /// times; only its last time counts.
    order: VecDeque<(u64, Ino)>,
}

impl Questions {
    /// Begins a question. Returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number);
        number
    }

    /// Ends a question.
    pub(super) fn end(&mut self, number: u64) {
        self.under_way.remove(&number);
        let oldest = self.under_way.first().copied().unwrap_or(self.next);
        while let Some((at, ino)) = self.order.front().copied() {
            if at > oldest {
                return;
            }
            self.order.pop_front();
            if self.newest.get(&ino).is_some_and(|(_, last)| *last == at) {
                self.newest.remove(&ino);
            }
        }
    }

    /// Notes that this client has taken in a version of an inode's contents.
    pub(super) fn take_in(&mut self, ino: Ino, version: u64) {
        if self.under_way.is_empty() {
            return;
        }
        let at = self.next;
        let (newest, last) = self.newest.entry(ino).or_insert((version, 0));
        *newest = version.max(*newest);
        if *last != at {
            *last = at;
            self.order.push_back((at, ino));
        }
    }

    /// Whether an answer with this version is overtaken. The question must still be under way.
    pub(super) fn is_overtaken(&self, ino: Ino, version: u64) -> bool {
        self.newest.get(&ino).is_some_and(|(newest, _)| *newest > version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        End(usize),
        TakeIn(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Begin), (0usize..4).prop_map(Step::End), (1u64..4).prop_map(Step::TakeIn),]
    }

    proptest! {
        #[test]
        fn an_answer_is_overtaken_exactly_by_changes_since_its_question(steps in proptest::collection::vec(step(), 1..80)) {
            let mut questions = Questions::default();
            // The versions of the inodes 1 to 3, and each question with the versions at its begin.
            let mut versions = [0u64; 4];
            let mut under_way: Vec<(u64, [u64; 4])> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin => under_way.push((questions.begin(), versions)),
                    Step::End(at) if at < under_way.len() => questions.end(under_way.remove(at).0),
                    Step::End(_) => {}
                    Step::TakeIn(ino) => {
                        versions[ino as usize] += 1;
                        questions.take_in(Ino(ino), versions[ino as usize]);
                    }
                }
                for (_, then) in &under_way {
                    for ino in 1..4u64 {
                        let changed = versions[ino as usize] > then[ino as usize];
                        prop_assert_eq!(questions.is_overtaken(Ino(ino), then[ino as usize]), changed);
                        prop_assert!(!questions.is_overtaken(Ino(ino), versions[ino as usize]));
                    }
                }
                if under_way.is_empty() {
                    prop_assert!(questions.newest.is_empty() && questions.order.is_empty());
                }
            }
        }
    }
}
