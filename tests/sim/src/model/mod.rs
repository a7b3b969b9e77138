//! Models of a directory with a few names, of a value in a file, of a log, and of a lock. Each does one operation at a
//! time.

mod names;
#[cfg(test)]
mod tests;
mod values;

pub use names::NamesModel;
pub use values::{LockModel, LogModel, ValueModel};

use crate::history::Event;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// A name in the directory.
pub type Name = u8;

/// How many records of a log are shown of a reply: the last ones.
const LAST_RECORDS: usize = 6;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// The short form of a number that stands for contents: its last digits.
fn short(value: u64) -> String {
    format!("{:05x}", value & 0xfffff)
}

fn letter(name: Name) -> char {
    char::from(b'a' + name)
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Create(name) => write!(f, "Create {}", letter(*name)),
            Op::Unlink(name) => write!(f, "Unlink {}", letter(*name)),
            Op::Rename(from, to) => write!(f, "Rename {} to {}", letter(*from), letter(*to)),
            Op::Link(file, name) => write!(f, "Link file {file} as {}", letter(*name)),
            Op::Lookup(name) => write!(f, "Lookup {}", letter(*name)),
            Op::Put(value) => write!(f, "Put {}", short(*value)),
            Op::Append(record) => write!(f, "Append {}", short(*record)),
            Op::SetMode(mode) => write!(f, "SetMode {mode:o}"),
            Op::List | Op::Get | Op::ReadLog | Op::LogLength | Op::Mode | Op::TryLock | Op::Unlock => {
                write!(f, "{self:?}")
            }
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Reply::File(file) => write!(f, "file {file}"),
            Reply::Names(names) => {
                let names: Vec<_> =
                    names.iter().map(|(name, file)| format!("{}={file}", letter(*name))).collect();
                write!(f, "[{}]", names.join(" "))
            }
            // A length or permission bits, or contents.
            Reply::Value(value) if *value < 1 << 16 => write!(f, "{value} (octal {value:o})"),
            Reply::Value(value) => write!(f, "{}", short(*value)),
            Reply::Records(records) => {
                let last = records.len().saturating_sub(LAST_RECORDS);
                let shown: Vec<_> = records[last..].iter().map(|record| short(*record)).collect();
                write!(f, "{} records, the last {}", records.len(), shown.join(" "))
            }
            Reply::At(_) | Reply::Done | Reply::NotFound | Reply::Exists | Reply::Held => {
                write!(f, "{self:?}")
            }
        }
    }
}

/// Whether an operation with its reply leaves everything as it is.
fn changes_nothing(event: &Done) -> bool {
    let refused = matches!(event.reply, Some(Reply::NotFound | Reply::Exists | Reply::Held));
    event.op.only_looks() || refused
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 5] = [Part::Names, Part::Value, Part::Log, Part::Mode, Part::Lock];
}

/// A set of parts: a bit for each, from the lowest on in the order of [`Part::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(u32);

impl Default for Parts {
    fn default() -> Parts {
        Parts(u32::MAX)
    }
}

impl Parts {
    /// Whether a part belongs to the set.
    pub fn has(self, part: Part) -> bool {
        self.0 & 1 << part as u32 != 0
    }

    /// All parts that are not in the set.
    pub fn others(self) -> Parts {
        Parts(!self.0)
    }
}

impl FromStr for Parts {
    type Err = anyhow::Error;

    /// Reads the names of parts, with commas between them: `log,value`.
    fn from_str(text: &str) -> anyhow::Result<Parts> {
        let mut parts = Parts(0);
        for name in text.split(',') {
            let named = |part: &Part| format!("{part:?}").eq_ignore_ascii_case(name);
            let part = Part::ALL.into_iter().find(named);
            let part = part.with_context(|| format!("{name} is no part; these are: {:?}", Part::ALL))?;
            parts.0 |= 1 << part as u32;
        }
        Ok(parts)
    }
}
