//! Models of a directory with a few names, of a value in a file, of a log, and of a lock. Each does one operation at a
//! time.

use crate::history::{Event, Model};
use std::collections::BTreeMap;

/// A name in the directory.
pub type Name = u8;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Creates a file; fails if the name exists.
    Create(Name),
    /// Removes a name.
    Unlink(Name),
    /// Renames, and replaces the file at the new name.
    Rename(Name, Name),
    /// Makes another name for a file.
    Link(u64, Name),
    /// Looks a name up.
    Lookup(Name),
    /// Lists all names.
    List,
    /// Writes the value.
    Put(u64),
    /// Reads the value.
    Get,
    /// Appends a record to the log.
    Append(u64),
    /// Reads the log.
    ReadLog,
    /// Asks for the number of records in the log, by its length.
    LogLength,
    /// Sets the permission bits of the value's file.
    SetMode(u64),
    /// Asks for these.
    Mode,
    /// Takes the lock if it is free.
    TryLock,
    /// Releases the lock.
    Unlock,
}

/// The model that an operation belongs to. Operations of different models do not affect each other, so each
/// part of a history is checked alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`NamesModel`].
    Names,
    /// [`ValueModel`].
    Value,
    /// [`LogModel`].
    Log,
    /// [`ValueModel`], for the permission bits.
    Mode,
    /// [`LockModel`].
    Lock,
}

/// The state of a client, on which the choice of its next operation depends.
#[derive(Debug, Clone, Copy)]
pub struct ClientState<'a> {
    /// Number of names in the directory.
    pub names: u8,
    /// Files that the client has seen, by their names at that time.
    pub files: &'a BTreeMap<Name, u64>,
    /// Whether the client has the lock.
    pub holds: bool,
    /// Whether there are files: a log, and permission bits.
    pub logs: bool,
}

impl Op {
    /// Chooses the next operation of a client. `roll` returns a random number below its argument.
    pub fn choose(known: ClientState<'_>, mut roll: impl FnMut(u64) -> u64) -> Op {
        let (one, two) = (roll(known.names.into()) as Name, roll(known.names.into()) as Name);
        match roll(if known.logs { 28 } else { 16 }) {
            0..=2 => Op::Create(one),
            3 | 4 => Op::Unlink(one),
            5 | 6 => Op::Rename(one, two),
            7 => match known.files.get(&two) {
                Some(file) => Op::Link(*file, one),
                None => Op::Lookup(one),
            },
            8 | 9 => Op::Lookup(one),
            10 => Op::List,
            11 | 12 => Op::Put(roll(1 << 62) + 1),
            13 => Op::Get,
            16..=19 => Op::Append(roll(1 << 62) + 1),
            20 | 21 => Op::ReadLog,
            22 | 23 => Op::LogLength,
            24 => Op::SetMode(roll(0o1000)),
            25.. => Op::Mode,
            _ if known.holds => Op::Unlock,
            _ => Op::TryLock,
        }
    }

    /// The model that the operation belongs to.
    pub fn part(&self) -> Part {
        match self {
            Op::Put(_) | Op::Get => Part::Value,
            Op::Append(_) | Op::ReadLog | Op::LogLength => Part::Log,
            Op::SetMode(_) | Op::Mode => Part::Mode,
            Op::TryLock | Op::Unlock => Part::Lock,
            _ => Part::Names,
        }
    }

    /// Whether the operation changes nothing. Without a reply such an operation can be left out of the
    /// history.
    pub fn only_looks(&self) -> bool {
        matches!(self, Op::Lookup(_) | Op::List | Op::Get | Op::ReadLog | Op::LogLength | Op::Mode)
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The operation was done.
    Done,
    /// A file, by its inode number.
    File(u64),
    /// There is no such name or file.
    NotFound,
    /// The name exists.
    Exists,
    /// All names with their files.
    Names(BTreeMap<Name, u64>),
    /// The value.
    Value(u64),
    /// The position of the record that was appended.
    At(u64),
    /// All records of the log.
    Records(Vec<u64>),
    /// Another client has the lock.
    Held,
}

type Done = Event<Op, Reply>;

/// Numbers from here on stand for files whose creators got no reply, so that their inode numbers are not
/// known. No inode number of a test is as large.
const UNKNOWN: u64 = 1 << 63;

/// A directory: files by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NamesModel(BTreeMap<Name, u64>);

impl NamesModel {
    /// The state in which a name means the file `seen`; none when it means another. A file whose number is
    /// not known becomes the seen one.
    fn is(mut self, name: Name, seen: u64) -> Option<NamesModel> {
        let has = *self.0.get(&name)?;
        if has >= UNKNOWN && seen < UNKNOWN && !self.0.values().any(|file| *file == seen) {
            self.0.values_mut().filter(|file| **file == has).for_each(|file| *file = seen);
            return Some(self);
        }
        (has == seen).then_some(self)
    }

    fn listed(self, seen: &BTreeMap<Name, u64>) -> Option<NamesModel> {
        if !self.0.keys().eq(seen.keys()) {
            return None;
        }
        seen.iter().try_fold(self, |names, (name, file)| names.is(*name, *file))
    }
}

impl Model for NamesModel {
    type Op = Op;
    type Reply = Reply;

    fn step(&self, event: &Done) -> Option<NamesModel> {
        let mut next = self.clone();
        let reply = event.reply.as_ref();
        let says = |wanted: Reply| reply.is_none_or(|reply| *reply == wanted);
        match &event.op {
            Op::Create(name) if self.0.contains_key(name) => says(Reply::Exists).then_some(next),
            Op::Create(name) => {
                let file = match reply {
                    Some(Reply::File(file)) if !self.0.values().any(|there| there == file) => *file,
                    None => UNKNOWN + event.begun,
                    Some(_) => return None,
                };
                next.0.insert(*name, file);
                Some(next)
            }
            Op::Unlink(name) => match next.0.remove(name) {
                Some(_) => says(Reply::Done).then_some(next),
                None => says(Reply::NotFound).then_some(next),
            },
            Op::Rename(from, to) => match next.0.get(from).copied() {
                None => says(Reply::NotFound).then_some(next),
                Some(file) => {
                    // Two names of one file: rename(2) does nothing.
                    if next.0.get(to) != Some(&file) {
                        next.0.remove(from);
                        next.0.insert(*to, file);
                    }
                    says(Reply::Done).then_some(next)
                }
            },
            Op::Link(file, name) => {
                let has_name = self.0.values().any(|there| there == file);
                match reply {
                    _ if self.0.contains_key(name) => says(Reply::Exists).then_some(next),
                    Some(Reply::NotFound) if !has_name => Some(next),
                    Some(Reply::File(linked)) if has_name && linked == file => {
                        next.0.insert(*name, *file);
                        Some(next)
                    }
                    None if has_name => {
                        next.0.insert(*name, *file);
                        Some(next)
                    }
                    _ => None,
                }
            }
            Op::Lookup(name) => match reply? {
                Reply::File(file) => next.is(*name, *file),
                Reply::NotFound => (!self.0.contains_key(name)).then_some(next),
                _ => None,
            },
            Op::List => match reply? {
                Reply::Names(names) => next.listed(names),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A value in a file, or the file's permission bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ValueModel(pub u64);

impl Model for ValueModel {
    type Op = Op;
    type Reply = Reply;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::linearize;

    fn one_after_the_other(steps: &[(u32, Op, Option<Reply>)]) -> Vec<Done> {
        let event = |(at, (client, op, reply)): (usize, &(u32, Op, Option<Reply>))| Event {
            client: *client,
            op: op.clone(),
            reply: reply.clone(),
            begun: at as u64 * 10,
            ended: at as u64 * 10 + 5,
        };
        steps.iter().enumerate().map(event).collect()
    }

    fn names(steps: &[(u32, Op, Option<Reply>)]) -> bool {
        linearize(NamesModel::default(), &one_after_the_other(steps)).is_ok()
    }

    #[test]
    fn names_do_what_a_directory_does() {
        let listed = |names: &[(Name, u64)]| Some(Reply::Names(names.iter().copied().collect()));
        assert!(names(&[
            (1, Op::Create(0), Some(Reply::File(7))),
            (2, Op::Create(0), Some(Reply::Exists)),
            (1, Op::Link(7, 1), Some(Reply::File(7))),
            (1, Op::Rename(0, 1), Some(Reply::Done)),
            (1, Op::List, listed(&[(0, 7), (1, 7)])),
            (1, Op::Create(2), Some(Reply::File(8))),
            (1, Op::Rename(2, 0), Some(Reply::Done)),
            (1, Op::List, listed(&[(0, 8), (1, 7)])),
            (1, Op::Unlink(1), Some(Reply::Done)),
            (1, Op::Link(7, 2), Some(Reply::NotFound)),
            (1, Op::Unlink(1), Some(Reply::NotFound)),
        ]));
        let created = (1, Op::Create(0), Some(Reply::File(7)));
        assert!(!names(&[created.clone(), (2, Op::Lookup(0), Some(Reply::NotFound))]));
        assert!(!names(&[created.clone(), (2, Op::Lookup(0), Some(Reply::File(8)))]));
        assert!(!names(&[created.clone(), (2, Op::Create(0), Some(Reply::File(8)))]));
        assert!(!names(&[created.clone(), (2, Op::List, listed(&[]))]));
        assert!(!names(&[created.clone(), (2, Op::Rename(0, 1), Some(Reply::NotFound))]));
        assert!(!names(&[created, (2, Op::Unlink(0), Some(Reply::NotFound))]));
    }

    #[test]
    fn a_file_whose_maker_heard_nothing_is_any_file_and_then_that_one() {
        let lost = (1, Op::Create(0), None);
        let seen = |file| (2, Op::Lookup(0), Some(Reply::File(file)));
        assert!(names(&[lost.clone(), seen(9), seen(9)]));
        assert!(!names(&[lost, seen(9), seen(8)]));
    }

    #[test]
    fn a_log_has_every_record_once_and_in_order() {
        let logs = |steps: &[(u32, Op, Option<Reply>)]| {
            linearize(LogModel::default(), &one_after_the_other(steps)).is_ok()
        };
        let append = |client, record, at| (client, Op::Append(record), Some(Reply::At(at)));
        let read = |records: &[u64]| (3, Op::ReadLog, Some(Reply::Records(records.to_vec())));
        assert!(logs(&[append(1, 5, 0), append(2, 6, 1), read(&[5, 6])]));
        assert!(!logs(&[append(1, 5, 0), append(2, 6, 0), read(&[6])]), "a lost record");
        assert!(!logs(&[append(1, 5, 0), append(2, 6, 1), read(&[5])]), "old contents");
        let length = |records| (3, Op::LogLength, Some(Reply::Value(records)));
        assert!(logs(&[append(1, 5, 0), length(1), append(2, 6, 1), length(2)]));
        assert!(!logs(&[append(1, 5, 0), append(2, 6, 1), length(1)]), "an old length");
        let lost = (1, Op::Append(5), None);
        assert!(logs(&[lost.clone(), read(&[])]) && logs(&[lost, read(&[5])]));
    }

    #[test]
    fn a_lock_has_one_holder() {
        let locks = |steps: &[(u32, Op, Option<Reply>)]| {
            linearize(LockModel::default(), &one_after_the_other(steps)).is_ok()
        };
        let taken = (1, Op::TryLock, Some(Reply::Done));
        assert!(locks(&[
            taken.clone(),
            (2, Op::TryLock, Some(Reply::Held)),
            (1, Op::Unlock, Some(Reply::Done)),
            (2, Op::TryLock, Some(Reply::Done)),
        ]));
        assert!(!locks(&[taken.clone(), (2, Op::TryLock, Some(Reply::Done))]));
        assert!(!locks(&[taken, (1, Op::Unlock, Some(Reply::Done)), (2, Op::TryLock, Some(Reply::Held))]));
    }
}
