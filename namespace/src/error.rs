//! The reasons for which the namespace refuses a command or a query. Each variant maps to one errno in
//! `rain-fuse` and to one gRPC status in `storaged`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refusal. A command's refusal is its result: it is recorded, and a retried request gets it again.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum NsError {
    /// The entry, inode, volume or node does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// The name exists.
    #[error("the name exists")]
    Exists,
    /// The command needs a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The command is not possible on a directory.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name has more than 255 bytes, or the symlink target more than 4095.
    #[error("the name is too long: {bytes} bytes, at most {limit}")]
    NameTooLong {
        /// Length given.
        bytes: u64,
        /// Length allowed.
        limit: u64,
    },
    /// The arguments make no sense: an empty name, a slash in a name, a move of a directory into itself.
    #[error("invalid argument: {0}")]
    Invalid(String),
    /// The inode was freed or replaced after the caller looked it up.
    #[error("the file is gone (stale inode)")]
    Stale,
    /// Inline write to a file whose data has moved into blocks. The client reads the layout again and writes
    /// blocks.
    #[error("the file's data has moved from its inode to blocks; read its layout again")]
    NotInline,
    /// The extended attribute does not exist.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The value of an extended attribute is over 64 KiB, or all of an inode's together are over 1 MiB.
    #[error("the extended attributes are too large: at most 64 KiB each, 1 MiB in all")]
    AttributesTooLarge,
    /// The inode would get more than 65,000 links.
    #[error("too many links: at most 65000 to one file or directory")]
    TooManyLinks,
    /// The file would be longer than 2^63 - 1 bytes.
    #[error("the file would be longer than 2^63 - 1 bytes")]
    FileTooLarge,
    /// The session has ended and its leases are gone. The client opens a new session and does the work again.
    #[error("session {0} has ended")]
    SessionEnded(rain_types::SessionId),
    /// The cluster has too few nodes for the volume's code.
    #[error("code {code} needs {needed} nodes that take shares, the cluster has {have}")]
    TooFewNodes {
        /// Code of the volume.
        code: String,
        /// Nodes that the code needs: n.
        needed: u32,
        /// Eligible nodes that take shares (no witness, not draining).
        have: u32,
    },
    /// The operation is never allowed, such as a second name for a directory.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// The two names are in different volumes.
    #[error("the two names are in different volumes")]
    CrossVolume,
    /// The bytes are no command, query or record of this version.
    #[error("malformed bytes: {0}")]
    Malformed(String),
    /// The request is a late copy of one whose result the client has. It must not apply again.
    #[error("request {0} was answered before")]
    Answered(u64),
    /// Waiting for the lock would be a deadlock: its holder waits for a lock of the asker.
    #[error("waiting for this lock would cause a deadlock")]
    Deadlock,
    /// The file has too many locks, or too many waiters for locks.
    #[error("too many locks or waiters on this file: at most 4096")]
    TooManyLocks,
    /// The directory's names belong to another session. The client recalls the directory, waits, and asks
    /// again.
    #[error("the directory {dir} is delegated to session {session}")]
    Delegated {
        /// Directory.
        dir: rain_types::Ino,
        /// Session to which it is delegated.
        session: rain_types::SessionId,
    },
    /// The range to clone begins within inline data, which is in no block. The client copies the bytes.
    #[error("the range is stored in the inode, not in blocks; copy its bytes")]
    HasInline,
    /// The extended attribute that guards the command has another value.
    #[error("the guard has changed: another has taken over")]
    GuardFailed,
    /// A name does not point to the inode by which the caller knows it. The caller looks it up again.
    #[error("the name points to another file now; look it up again")]
    NameChanged,
}
