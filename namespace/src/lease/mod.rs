//! Leases on inodes and names: what a session may keep of them without asking, and what has to be given up before
//! another session's change applies.
//!
//! A session with a *read lease* on an inode may answer from what it has cached of it: its attributes and its
//! data. A session with a *write lease* may also keep written data back. Any number of sessions read, or one
//! session writes. A read lease on a *name* in a directory covers the inode that it names. They are relatives of
//! the tokens of distributed lock managers, of CephFS's capabilities and of NFS's delegations.
//!
//! The leader keeps one [`LeaseTable`] for its term, in memory:
//!
//! ```text
//!   question -> readable? --no--> the writer stores its data --> grant_read -> answer
//!   change   -> begin_change -> is_clear? --no--> holders drop what they have --> apply -> end_change
//! ```
//!
//! Invariants (`no_session_relies_on_what_another_has_changed`):
//! 1. While a change is under way, no other session gets a lease on what it touches, and none has one when the
//!    change applies. So nobody can answer with the state before the change once the change is acknowledged.
//! 2. A write lease excludes every other session's lease.
//! 3. A lease ends when its session has given it up, when its time is over, or when the session has been
//!    silent for [`SILENCE`]. The session counts from before it asked, and with less ([`CONTACT_MAX`]), so that
//!    it stops relying on a lease before the table stops respecting it.
//! 4. The table of a new leader knows no leases of the term before. It treats each session that may have some
//!    as the holder of all, until that session has registered or has been silent for [`SILENCE`]. A session that
//!    registers [`Claim`]s what it has still leased. No acknowledged change touches it: the leaders before have
//!    asked the session first.
//!
//! Left out: clocks (times are given, as durations since the table's beginning), waiting, messages.

mod held;
mod table;
mod touch;

pub use self::table::{ClaimsRefused, LeaseTable};
pub use self::touch::{Changed, asked_about, changed_by, inodes_of, moved_to, told_by, touched_by};

use crate::command::Name;
use rain_types::Ino;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The lifetime of a read lease that was granted with an answer about attributes or a name.
pub const READ_FOR: Duration = Duration::from_secs(60);

/// The lifetime of such a lease while the table is more than half full.
pub const READ_FOR_MIN: Duration = Duration::from_secs(1);

/// The longest time since its last contact with the leader for which a session relies on its leases.
pub const CONTACT_MAX: Duration = Duration::from_secs(2);

/// The silence of a session after which its leases end.
pub const SILENCE: Duration = Duration::from_secs(3);

/// A holder that is in contact and does not give a read lease up for this long is overruled.
pub const READ_OVERDUE: Duration = Duration::from_secs(3);

/// As [`READ_OVERDUE`] for a write lease, whose data has to be stored first.
pub const WRITE_OVERDUE: Duration = Duration::from_secs(10);

/// Most claims of one registration.
pub const CLAIMS_MAX: usize = 8192;

/// A read lease of an earlier leader that a session relies on, and that a new leader is to respect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the lease is on.
    pub subject: Subject,
    /// The lease does not end by time.
    pub for_good: bool,
}

/// What a lease allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Answer from what is cached.
    Read,
    /// Also keep written data back.
    Write,
}

/// What a lease is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// An inode: its attributes, its extended attributes, its data.
    Inode(Ino),
    /// A name in this directory: the inode that it names.
    Name(Ino, Name),
}

/// What a change touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// This subject.
    One(Subject),
    /// All names in this directory.
    Names(Ino),
}

/// A lease that the leader wants back from its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the lease is on.
    pub subject: Subject,
    /// The session is to give up what it was granted up to this number.
    pub up_to: u64,
    /// The session may keep a read lease: only its written data is wanted.
    pub keep_read: bool,
}
