//! Whether a history is linearizable: whether there is an order of its operations, each at one moment between its beginning and its end,
//! in which a model that does one at a time gives the same replies.
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of states that were reached before (2017): an operation may come next if no
//! other that is left has ended before it began.
//!
//! An operation without a reply (its client gave up) may have been done at any time after its beginning, or never.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<O, R> {
    /// Who.
    pub client: u32,
    /// What was asked.
    pub op: O,
    /// What came back; none: nothing.
    pub reply: Option<R>,
    /// When it was asked, nanoseconds.
    pub begun: u64,
    /// When it was answered. Without a reply it does not matter.
    pub ended: u64,
}

/// What does one operation at a time.
pub trait Model: Clone + Eq + Hash {
    /// Operations.
    type Op: Debug + Clone;
    /// Replies.
    type Reply: Debug + Clone;
    /// The state after an operation, if it gives this reply there; any state it may lead to where the reply is not known.
    fn step(&self, event: &Event<Self::Op, Self::Reply>) -> Option<Self>;
}

/// No order explains a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// How many operations have an order.
    pub explained: usize,
    /// Those one of which had to come next, and none could.
    pub stuck: Vec<String>,
}

/// What was done so far in the search.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reached<M> {
    /// All below are done.
    below: usize,
    /// And these.
    beyond: Vec<usize>,
    state: M,
}

impl<M: Clone> Reached<M> {
    fn has(&self, at: usize) -> bool {
        at < self.below || self.beyond.binary_search(&at).is_ok()
    }

    fn with(&self, at: usize, state: M) -> Reached<M> {
        let mut next = Reached { below: self.below, beyond: self.beyond.clone(), state };
        if let Err(place) = next.beyond.binary_search(&at) {
            next.beyond.insert(place, at);
        }
        let run = next.beyond.iter().enumerate().take_while(|(step, at)| **at == next.below + step).count();
        next.beyond.drain(..run);
        next.below += run;
        next
    }
}

/// Looks for an order. States reached are kept in memory, so a history should have few operations at a time without reply.
pub fn linearize<M: Model>(start: M, history: &[Event<M::Op, M::Reply>]) -> Result<(), Violation> {
    let mut events: Vec<_> = history.to_vec();
    events.sort_by_key(|event| event.begun);
    // The first ending of those from an operation on, to know where to stop looking.
    let end = |event: &Event<M::Op, M::Reply>| if event.reply.is_some() { event.ended } else { u64::MAX };
    let candidates = |reached: &Reached<M>| -> Vec<usize> {
        let mut open = Vec::new();
        let mut earliest = u64::MAX;
        for (at, event) in events.iter().enumerate().skip(reached.below) {
            if event.begun > earliest {
                break;
            }
            if !reached.has(at) {
                earliest = earliest.min(end(event));
                open.push(at);
            }
        }
        open.retain(|at| events[*at].begun <= earliest);
        open
    };
    let is_over = |reached: &Reached<M>| {
        (reached.below..events.len()).all(|at| reached.has(at) || events[at].reply.is_none())
    };
    let first = Reached { below: 0, beyond: Vec::new(), state: start };
    let mut seen = HashSet::from([first.clone()]);
    let mut stack = vec![first.clone()];
    let mut deepest = (0, first);
    while let Some(reached) = stack.pop() {
        if is_over(&reached) {
            return Ok(());
        }
        let done = reached.below + reached.beyond.len();
        // Known replies last, to be tried first: what nobody has seen is done only where it is needed.
        let mut next = candidates(&reached);
        next.sort_by_key(|at| (events[*at].reply.is_some(), std::cmp::Reverse(end(&events[*at]))));
        for at in next {
            if let Some(state) = reached.state.step(&events[at]) {
                let further = reached.with(at, state);
                if seen.insert(further.clone()) {
                    stack.push(further);
                }
            }
        }
        if done >= deepest.0 {
            deepest = (done, reached);
        }
    }
    let (explained, reached) = deepest;
    let stuck = candidates(&reached).into_iter().map(|at| format!("{:?}", events[at])).collect();
    Err(Violation { explained, stuck })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Op, Register, Reply};

    fn event(client: u32, begun: u64, ended: u64, op: Op, reply: Option<Reply>) -> Event<Op, Reply> {
        Event { client, op, reply, begun, ended }
    }

    fn put(client: u32, begun: u64, ended: u64, value: u64) -> Event<Op, Reply> {
        event(client, begun, ended, Op::Put(value), Some(Reply::Done))
    }

    fn get(client: u32, begun: u64, ended: u64, value: u64) -> Event<Op, Reply> {
        event(client, begun, ended, Op::Get, Some(Reply::Value(value)))
    }

    #[test]
    fn operations_that_overlap_may_be_in_either_order() {
        let overlapping = [put(1, 0, 10, 1), put(2, 0, 10, 2), get(3, 11, 12, 1)];
        assert_eq!(linearize(Register::default(), &overlapping), Ok(()));
        let both_seen = [put(1, 0, 10, 1), get(3, 1, 2, 0), get(3, 3, 4, 1), get(4, 5, 6, 1)];
        assert_eq!(linearize(Register::default(), &both_seen), Ok(()));
    }

    #[test]
    fn an_old_value_is_caught() {
        let old = [put(1, 0, 10, 1), get(2, 11, 12, 0)];
        let violation = linearize(Register::default(), &old).unwrap_err();
        assert_eq!(violation.explained, 1);
        assert!(violation.stuck[0].contains("Get"), "{violation:?}");
        // Once somebody has seen the new one nobody may see the old one.
        let back = [put(1, 0, 100, 1), get(2, 10, 20, 1), get(3, 30, 40, 0)];
        assert!(linearize(Register::default(), &back).is_err());
    }

    #[test]
    fn what_got_no_reply_may_have_been_done_late_or_never() {
        let lost = || event(1, 0, 5, Op::Put(7), None);
        assert_eq!(linearize(Register::default(), &[lost(), get(2, 50, 51, 7)]), Ok(()));
        assert_eq!(linearize(Register::default(), &[lost(), get(2, 50, 51, 0)]), Ok(()));
        let twice = [lost(), get(2, 50, 51, 7), put(2, 60, 61, 8), get(2, 70, 71, 7)];
        assert!(linearize(Register::default(), &twice).is_err(), "it is done once");
    }

    #[test]
    fn a_long_history_of_many_at_a_time_is_searched_in_time() {
        // 8 writers always at work, and every value read in its turn.
        let mut history = Vec::new();
        for turn in 0..2000 {
            let at = turn * 10;
            history.extend([put(turn as u32 % 8, at, at + 75, turn + 1), get(9, at + 76, at + 79, turn + 1)]);
        }
        assert_eq!(linearize(Register::default(), &history), Ok(()));
    }
}
