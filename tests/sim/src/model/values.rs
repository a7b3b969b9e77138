//! The models of a value in a file, of a log, and of a lock.

use super::{Done, Op, Reply, changes_nothing};
use crate::history::Model;

/// A value in a file, or the file's permission bits.
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
            (Op::Put(value) | Op::SetMode(value), None | Some(Reply::Done)) => Some(ValueModel(*value)),
            (Op::Get | Op::Mode, Some(Reply::Value(value))) => (*value == self.0).then(|| self.clone()),
            _ => None,
        }
    }
}

/// A log: its records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogModel(Vec<u64>);

impl Model for LogModel {
    type Op = Op;
    type Reply = Reply;

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }

    fn step(&self, event: &Done) -> Option<LogModel> {
        match (&event.op, &event.reply) {
            (Op::Append(record), reply) => {
                let at = self.0.len() as u64;
                // The kernel does not tell a program where its record is.
                let says = match reply {
                    None | Some(Reply::Done) => true,
                    reply => *reply == Some(Reply::At(at)),
                };
                says.then(|| LogModel(self.0.iter().copied().chain([*record]).collect()))
            }
            (Op::ReadLog, Some(Reply::Records(records))) => (*records == self.0).then(|| self.clone()),
            (Op::LogLength, Some(Reply::Value(records))) => {
                (*records == self.0.len() as u64).then(|| self.clone())
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
            (Op::TryLock, None | Some(Reply::Held)) if !free => Some(self.clone()),
            (Op::Unlock, None | Some(Reply::Done)) => {
                Some(if self.0 == mine { LockModel(None) } else { self.clone() })
            }
            _ => None,
        }
    }
}
