//! Checks whether a history of operations is linearizable.
//!
//! A history is linearizable when its operations can be put in an order with two properties. Each operation
//! takes effect at one moment between its beginning and its end. A model that does one operation at a time
//! gives the same replies in this order.
//!
//! The search is Wing and Gong's (1993), with Lowe's memory of states that were reached before (2017). An
//! operation may come next if no other remaining operation ended before it began.
//!
//! An operation without a reply (its client gave up) may take effect at any time after its beginning, or
//! never.

use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::hash::Hash;

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<O, R> {
    /// Number of the client.
    pub client: u32,
    /// The operation.
    pub op: O,
    /// The reply; none when the client gave up.
    pub reply: Option<R>,
    /// Begin of the operation, nanoseconds since the start of the history.
    pub begun: u64,
    /// End of the operation, nanoseconds since the start of the history. Not used without a reply.
    pub ended: u64,
}

/// A specification that does one operation at a time.
pub trait Model: Clone + Debug + Eq + Hash {
    /// Operations.
    type Op: Display + Clone;
    /// Replies.
    type Reply: Display + Clone;
    /// Returns the state after an operation, or none when the operation cannot give this reply in this state.
    /// Where the reply is not known, returns a state that the operation may lead to.
    fn step(&self, event: &Event<Self::Op, Self::Reply>) -> Option<Self>;
    /// Whether an operation with this reply leaves every state as it is. Without it, the rest of a history that an
    /// order explains is explained, too.
    fn changes_nothing(event: &Event<Self::Op, Self::Reply>) -> bool;
}

/// Positions that one search may reach. With more a history is not decided, and counts as one that no order explains.
const REACHED_MAX: usize = 2_000_000;

/// How many of the operations before a violation are shown with it.
const SHOWN_BEFORE: usize = 20;

/// How many operations of one client are shown before its reply that no order explains.
const SHOWN_OWN: usize = 8;

/// A history that no order explains, and the part of it that shows why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Operations in the longest order that was found.
    pub explained: usize,
    /// The state that these lead to.
    pub state: String,
    /// The search was given up: there may be an order.
    pub given_up: bool,
    /// The first reply in time that no order explains, though an order explains all replies before it.
    pub unexplained: String,
    /// A part of the history that no order explains, one operation a line, as they began: all changes of the last
    /// time before that reply, and of the other operations only those without which there is an order.
    pub around: Vec<String>,
    /// All operations that the client of that reply did last before it.
    pub own: Vec<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.given_up {
            writeln!(f, "the search was given up, and there may be an order")?;
        }
        writeln!(f, "no order explains this reply:\n    {}", self.unexplained)?;
        writeln!(f, "the longest order has {} operations and leads to {}", self.explained, self.state)?;
        writeln!(f, "no order explains these; a line is: begin and end in ms, client, operation, reply")?;
        self.around.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, "what the client of that reply did before:")?;
        self.own.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// An operation in one line.
fn shown<O: Display, R: Display>(event: &Event<O, R>) -> String {
    let ms = |nanos: u64| format!("{:9.3}", nanos as f64 / 1e6);
    let Event { client, op, begun, ended, .. } = event;
    match &event.reply {
        Some(reply) => format!("{} to {}  client {client}: {op} -> {reply}", ms(*begun), ms(*ended)),
        None => format!("{} to {}  client {client}: {op} -> no reply", ms(*begun), ms(*ended)),
    }
}

/// A position of the search: the operations done so far, and the state they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reached<M> {
    /// All operations with a lower index are done.
    below: usize,
    /// Further operations that are done, in order.
    beyond: Vec<usize>,
    state: M,
}

impl<M: Clone> Reached<M> {
    fn done(&self) -> usize {
        self.below + self.beyond.len()
    }

    fn has(&self, at: usize) -> bool {
        at < self.below || self.beyond.binary_search(&at).is_ok()
    }

    fn with(&self, at: usize, state: M) -> Reached<M> {
        let mut next = Reached { below: self.below, beyond: self.beyond.clone(), state };
        if let Err(index) = next.beyond.binary_search(&at) {
            next.beyond.insert(index, at);
        }
        let run = next.beyond.iter().enumerate().take_while(|(step, at)| **at == next.below + step).count();
        next.beyond.drain(..run);
        next.below += run;
        next
    }
}

/// Searches an order that explains a history; otherwise shows the part of it that none explains.
///
/// The search keeps every state that it reached in memory, so few operations at a time should be without a
/// reply.
pub fn linearize<M: Model>(start: M, history: &[Event<M::Op, M::Reply>]) -> Result<(), Violation> {
    let mut events: Vec<_> = history.to_vec();
    events.sort_by_key(|event| event.begun);
    match search(start.clone(), &events) {
        Ok(()) => Ok(()),
        Err((deepest, given_up)) => Err(violation(&start, &events, &deepest, given_up)),
    }
}

/// Searches an order for operations that are sorted by their begin. Fails with the deepest position, and whether the
/// search was given up.
fn search<M: Model>(start: M, events: &[Event<M::Op, M::Reply>]) -> Result<(), (Reached<M>, bool)> {
    // An operation may come next only if it began before the earliest end of all remaining ones.
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
        if seen.len() > REACHED_MAX {
            break;
        }
        // Operations with a reply go on the stack last, so they are tried first. One without a reply is done
        // only where the others need it.
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
        let done = reached.done();
        if done >= deepest.0 {
            deepest = (done, reached);
        }
    }
    Err((deepest.1, seen.len() > REACHED_MAX))
}

/// A history as it was known at a time: operations that had not ended have no reply.
fn until<O: Clone, R: Clone>(events: &[Event<O, R>], time: u64) -> Vec<Event<O, R>> {
    let begun = events.iter().filter(|event| event.begun <= time).cloned();
    begun
        .map(|event| match event.ended <= time {
            true => event,
            false => Event { reply: None, ..event },
        })
        .collect()
}

/// Shows why no order explains a history.
fn violation<M: Model>(
    start: &M,
    events: &[Event<M::Op, M::Reply>],
    deepest: &Reached<M>,
    given_up: bool,
) -> Violation {
    let fails = |events: &[Event<M::Op, M::Reply>]| search(start.clone(), events).is_err();
    // What was explained at a time stays so at every earlier one.
    let mut ends: Vec<u64> =
        events.iter().filter(|event| event.reply.is_some()).map(|event| event.ended).collect();
    ends.sort_unstable();
    let last = ends.partition_point(|time| !fails(&until(events, *time)));
    let last = ends[last.min(ends.len() - 1)];
    let is_last = |event: &&Event<M::Op, M::Reply>| event.reply.is_some() && event.ended == last;
    let at = events.iter().position(|event| is_last(&event)).unwrap_or(events.len());
    let unexplained = events.get(at).map(shown).unwrap_or_default();
    let client = events.get(at).map(|event| event.client);
    let own: Vec<_> = events[..at].iter().filter(|event| Some(event.client) == client).map(shown).collect();
    let own = own[own.len().saturating_sub(SHOWN_OWN)..].to_vec();
    // An operation that only looks and had not ended says nothing.
    let mut left = until(events, last);
    left.retain(|event| event.reply.is_some() || !M::changes_nothing(event));
    let mut size = left.len();
    while size > 0 {
        let mut from = 0;
        while from < left.len() {
            let drops = from..left.len().min(from + size);
            let keeps = |(at, event): (usize, &Event<_, _>)| {
                (!drops.contains(&at) || !M::changes_nothing(event)).then(|| event.clone())
            };
            let fewer: Vec<_> = left.iter().enumerate().filter_map(keeps).collect();
            if fewer.len() < left.len() && fails(&fewer) {
                left = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    let first_look = left.iter().position(M::changes_nothing).unwrap_or(left.len());
    let around = left.iter().skip(first_look.saturating_sub(SHOWN_BEFORE)).map(shown).collect();
    let state = format!("{:?}", deepest.state);
    Violation { explained: deepest.done(), state, given_up, unexplained, around, own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Op, Reply, ValueModel};

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
        assert_eq!(linearize(ValueModel::default(), &overlapping), Ok(()));
        let both_seen = [put(1, 0, 10, 1), get(3, 1, 2, 0), get(3, 3, 4, 1), get(4, 5, 6, 1)];
        assert_eq!(linearize(ValueModel::default(), &both_seen), Ok(()));
    }

    #[test]
    fn an_old_value_is_caught() {
        let old = [put(1, 0, 10, 1), get(2, 11, 12, 0)];
        let violation = linearize(ValueModel::default(), &old).unwrap_err();
        assert_eq!(violation.explained, 1);
        assert!(violation.unexplained.contains("client 2: Get"), "{violation}");
        // Once somebody has seen the new one nobody may see the old one.
        let back = [put(1, 0, 100, 1), get(2, 10, 20, 1), get(3, 30, 40, 0)];
        assert!(linearize(ValueModel::default(), &back).is_err());
    }

    #[test]
    fn a_violation_shows_no_more_than_it_needs() {
        let mut history = Vec::new();
        for turn in 0..50 {
            let at = turn * 10;
            history.extend([
                put(1, at, at + 4, turn),
                get(2, at + 5, at + 6, turn),
                get(3, at + 7, at + 8, turn),
            ]);
        }
        // The value of turn 20 is seen in turn 21, and everything after that is right again.
        history[65] = get(3, 217, 218, 20);
        let violation = linearize(ValueModel::default(), &history).unwrap_err();
        assert!(violation.unexplained.contains("client 3: Get"), "{violation}");
        let (put, look): (Vec<_>, Vec<_>) = violation.around.iter().partition(|line| line.contains("Put"));
        assert_eq!((put.len(), look), (SHOWN_BEFORE, vec![&violation.unexplained]), "{violation}");
    }

    #[test]
    fn what_got_no_reply_may_have_been_done_late_or_never() {
        let lost = || event(1, 0, 5, Op::Put(7), None);
        assert_eq!(linearize(ValueModel::default(), &[lost(), get(2, 50, 51, 7)]), Ok(()));
        assert_eq!(linearize(ValueModel::default(), &[lost(), get(2, 50, 51, 0)]), Ok(()));
        let twice = [lost(), get(2, 50, 51, 7), put(2, 60, 61, 8), get(2, 70, 71, 7)];
        assert!(linearize(ValueModel::default(), &twice).is_err(), "an operation takes effect once");
    }

    #[test]
    fn a_long_history_of_many_at_a_time_is_searched_in_time() {
        // 8 writers always at work, and every value read in its turn.
        let mut history = Vec::new();
        for turn in 0..2000 {
            let at = turn * 10;
            history.extend([put(turn as u32 % 8, at, at + 75, turn + 1), get(9, at + 76, at + 79, turn + 1)]);
        }
        assert_eq!(linearize(ValueModel::default(), &history), Ok(()));
    }
}
