//! Models of what clients work on: a directory with a few names, a value in a file, a log, a lock, files of values in
//! places, and the links of a file. Each does one operation at a time.

mod file;
mod names;
#[cfg(test)]
mod tests;
mod values;

pub use file::{LinksModel, SheetModel};
pub use names::NamesModel;
pub use values::{LockModel, LogModel, ValueModel};

use crate::history::Event;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// A name in the directory.
pub type Name = u8;

/// Places in a file of values.
pub const SHEET_PLACES: u8 = 4;

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
    /// Writes a value to a place of a file.
    Write(Sheet, u8, u64, Way),
    /// Reads the value at a place of a file.
    Read(Sheet, u8, Way),
    /// Cuts or lengthens a file to so many places.
    Cut(Sheet, u8, Way),
    /// Asks for the length of a file, in places.
    Length(Sheet, Way),
    /// Gives the file with links one more name.
    Tie(Name),
    /// Removes one of these names.
    Untie(Name),
    /// Asks for the number of its names: of the open file, or by the name that stays.
    Count(Way),
    /// Writes the guarded value while it has the guarding lock.
    GuardedPut(u64),
    /// Reads the guarded value while it has the guarding lock.
    GuardedGet,
}

/// A file with values in places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sheet {
    /// Written past the kernel's pages by all programs, and read through them.
    Direct,
    /// Written and read through the kernel's pages, by one program of each mount.
    Buffered,
    /// As `Buffered`, and some of the programs use a shared map.
    Mapped,
}

/// How a program gets at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// By a descriptor that is open all along.
    Handle,
    /// By its path.
    Path,
    /// By a shared map.
    Map,
}

/// The files that a client has, besides names, a value and a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// None.
    None,
    /// A log, and permission bits.
    Log,
    /// Besides, those that all programs of a mount use.
    Shared,
    /// Besides, those that one program of each mount uses.
    All,
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
    /// [`SheetModel`], for [`Sheet::Direct`].
    Direct,
    /// [`SheetModel`], for [`Sheet::Buffered`].
    Buffered,
    /// [`SheetModel`], for [`Sheet::Mapped`].
    Mapped,
    /// [`LinksModel`].
    Links,
    /// [`ValueModel`], for the value that a lock guards.
    Guarded,
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
    /// The other files.
    pub has: Files,
}

impl Op {
    /// Chooses the next operation of a client. `roll` returns a random number below its argument.
    pub fn choose(known: ClientState<'_>, mut roll: impl FnMut(u64) -> u64) -> Op {
        let (one, two) = (roll(known.names.into()) as Name, roll(known.names.into()) as Name);
        let kinds = match known.has {
            Files::None => 16,
            Files::Log => 28,
            Files::Shared => 37,
            Files::All => 59,
        };
        match roll(kinds) {
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
            25..=27 => Op::Mode,
            28..=34 => Op::of_sheet(Sheet::Direct, roll),
            35 => Op::GuardedPut(roll(1 << 62) + 1),
            36 => Op::GuardedGet,
            37..=43 => Op::of_sheet(Sheet::Buffered, roll),
            44..=50 => Op::of_sheet(Sheet::Mapped, roll),
            51 | 52 => Op::Tie(one),
            53 | 54 => Op::Untie(one),
            55.. => Op::Count(if roll(2) == 0 { Way::Handle } else { Way::Path }),
            _ if known.holds => Op::Unlock,
            _ => Op::TryLock,
        }
    }

    fn of_sheet(sheet: Sheet, mut roll: impl FnMut(u64) -> u64) -> Op {
        let maps = sheet == Sheet::Mapped;
        let way = match roll(if maps { 4 } else { 2 }) {
            0 => Way::Handle,
            1 => Way::Path,
            _ => Way::Map,
        };
        let place = roll(SHEET_PLACES.into()) as u8;
        match roll(14) {
            0..=4 => Op::Write(sheet, place, roll(1 << 62) + 1, way),
            5 if !maps => Op::Cut(sheet, place, way),
            6..=8 => Op::Length(sheet, way),
            _ => Op::Read(sheet, place, way),
        }
    }

    /// The model that the operation belongs to.
    pub fn part(&self) -> Part {
        match self {
            Op::Put(_) | Op::Get => Part::Value,
            Op::Append(_) | Op::ReadLog | Op::LogLength => Part::Log,
            Op::SetMode(_) | Op::Mode => Part::Mode,
            Op::TryLock | Op::Unlock => Part::Lock,
            Op::Write(sheet, ..) | Op::Read(sheet, ..) | Op::Cut(sheet, ..) | Op::Length(sheet, _) => {
                match sheet {
                    Sheet::Direct => Part::Direct,
                    Sheet::Buffered => Part::Buffered,
                    Sheet::Mapped => Part::Mapped,
                }
            }
            Op::Tie(_) | Op::Untie(_) | Op::Count(_) => Part::Links,
            Op::GuardedPut(_) | Op::GuardedGet => Part::Guarded,
            Op::Create(_) | Op::Unlink(_) | Op::Rename(..) | Op::Link(..) | Op::Lookup(_) | Op::List => {
                Part::Names
            }
        }
    }

    /// Whether the operation changes nothing. Without a reply such an operation can be left out of the
    /// history.
    pub fn only_looks(&self) -> bool {
        let of_names = matches!(self, Op::Lookup(_) | Op::List);
        let of_values = matches!(self, Op::Get | Op::ReadLog | Op::LogLength | Op::Mode | Op::GuardedGet);
        of_names || of_values || matches!(self, Op::Read(..) | Op::Length(..) | Op::Count(_))
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
    /// There is nothing at this place: the file ends before it.
    End,
    /// A part of a value, or a length that the file never has.
    Torn,
}

/// An operation of a history.
pub type Done = Event<Op, Reply>;

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
            Op::Write(_, place, value, way) => write!(f, "Write {} at {place} by {way:?}", short(*value)),
            Op::Read(_, place, way) => write!(f, "Read at {place} by {way:?}"),
            Op::Cut(_, places, way) => write!(f, "Cut to {places} by {way:?}"),
            Op::Length(_, way) => write!(f, "Length by {way:?}"),
            Op::Tie(name) => write!(f, "Tie {}", letter(*name)),
            Op::Untie(name) => write!(f, "Untie {}", letter(*name)),
            Op::GuardedPut(value) => write!(f, "GuardedPut {}", short(*value)),
            Op::List | Op::Get | Op::ReadLog | Op::LogLength | Op::Mode | Op::TryLock | Op::Unlock => {
                write!(f, "{self:?}")
            }
            Op::Count(_) | Op::GuardedGet => write!(f, "{self:?}"),
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
            Reply::End
            | Reply::Torn
            | Reply::At(_)
            | Reply::Done
            | Reply::NotFound
            | Reply::Exists
            | Reply::Held => {
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
    pub const ALL: [Part; 10] = [
        Part::Names,
        Part::Value,
        Part::Log,
        Part::Mode,
        Part::Lock,
        Part::Direct,
        Part::Buffered,
        Part::Mapped,
        Part::Links,
        Part::Guarded,
    ];
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
