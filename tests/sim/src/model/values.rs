//! The models of a value in a file, of a log, and of a lock.

use super::{Done, Op, Reply, changes_nothing};
use crate::history::Model;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A value in a file, one that a lock guards, or a file's permission bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ValueModel(pub u64);

impl Model for ValueModel {
    type Op = Op;
    type Reply = Reply;

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }

    fn step(&self, event: &Done) -> Option<ValueModel> {
        match (&event.op, &event.reply) {
            (Op::Put(value) | Op::SetMode(value) | Op::GuardedPut(value), None | Some(Reply::Done)) => {
                Some(ValueModel(*value))
            }
            (Op::GuardedPut(_) | Op::GuardedGet, Some(Reply::Held)) => Some(self.clone()),
            (Op::Get | Op::Mode | Op::GuardedGet, Some(Reply::Value(value))) => {
                (*value == self.0).then(|| self.clone())
            }
            _ => None,
        }
    }
}

/// A log to which records are appended, of which none is like another.
///
/// The order of the records is known beforehand: it is that of the longest reply that shows them. So a search does not
/// have to try the orders of appends that ran at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogModel {
    /// Records that are in the log.
    length: usize,
    shown: Arc<Shown>,
}

/// The records of the longest reply. Part of no state's hash, as all states of a search have the same.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    records: Vec<u64>,
    all: HashSet<u64>,
}

impl Hash for Shown {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl LogModel {
    /// The empty log at the start of a history.
    pub fn of(history: &[Done]) -> LogModel {
        let shown = history.iter().filter_map(|event| match &event.reply {
            Some(Reply::Records(records)) => Some(records),
            _ => None,
        });
        let records = shown.max_by_key(|records| records.len()).cloned().unwrap_or_default();
        let all = records.iter().copied().collect();
        LogModel { length: 0, shown: Arc::new(Shown { records, all }) }
    }
}

impl Model for LogModel {
    type Op = Op;
    type Reply = Reply;

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }

    fn step(&self, event: &Done) -> Option<LogModel> {
        let Shown { records: shown, all } = &*self.shown;
        match (&event.op, &event.reply) {
            (Op::Append(record), reply) => {
                let is_next = match shown.get(self.length) {
                    Some(next) => next == record,
                    None => !all.contains(record),
                };
                let at = Reply::At(self.length as u64);
                // The kernel does not tell a program where its record is.
                let says = reply.as_ref().is_none_or(|reply| matches!(reply, Reply::Done) || *reply == at);
                (is_next && says).then(|| LogModel { length: self.length + 1, ..self.clone() })
            }
            (Op::ReadLog, Some(Reply::Records(records))) => {
                let is_all = records.len() == self.length && shown.starts_with(records);
                is_all.then(|| self.clone())
            }
            (Op::LogLength, Some(Reply::Value(records))) => {
                (*records == self.length as u64).then(|| self.clone())
            }
            _ => None,
        }
    }
}

/// A lock: the client that has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LockModel(Option<u32>);

impl Model for LockModel {
    type Op = Op;
    type Reply = Reply;

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }

    fn step(&self, event: &Done) -> Option<LockModel> {
        let mine = Some(event.client);
        let free = self.0.is_none() || self.0 == mine;
        match (&event.op, &event.reply) {
            (Op::TryLock, None | Some(Reply::Done)) if free => Some(LockModel(mine)),
            // Also by an open file that the same program has closed: its lock is released a moment later.
            (Op::TryLock, None | Some(Reply::Held)) if self.0.is_some() => Some(self.clone()),
            (Op::Unlock, None | Some(Reply::Done)) => {
                Some(if self.0 == mine { LockModel(None) } else { self.clone() })
            }
            _ => None,
        }
    }
}
