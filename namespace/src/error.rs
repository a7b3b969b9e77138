//! Why the namespace refuses a command or cannot answer a query. Variants map one to one to an errno in
//! `rain-fuse` and to a gRPC status in `storaged`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refusal. It is part of a command's result, so it is recorded and repeated like any other result.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum NsError {
    /// No such entry, inode, attribute's holder, volume or node.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A name over 255 bytes or a symlink target over 4095.
    #[error("the name is too long: {bytes} bytes, at most {limit}")]
    NameTooLong {
        /// Length given.
        bytes: u64,
        /// Length allowed.
        limit: u64,
    },
    /// The command makes no sense: an empty name, a slash in a name, a move into itself.
    #[error("invalid argument: {0}")]
    Invalid(String),
    /// The inode is gone or was replaced since the caller looked.
    #[error("the file is gone (stale inode)")]
    Stale,
    /// An inline write to a file whose data is in blocks by now; look again and write blocks.
    #[error("the file is no longer inline")]
    NotInline,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// An extended attribute over 64 KiB, or over 1 MiB of them on one inode.
    #[error("the extended attributes are too large")]
    AttributesTooLarge,
    /// More than 65,000 links to one inode.
    #[error("too many links")]
    TooManyLinks,
    /// A file over 2^63 - 1 bytes.
    #[error("the file would be too large")]
    FileTooLarge,
    /// The session was ended, its leases are gone: open a new one and do the work again.
    #[error("session {0} has ended")]
    SessionEnded(rain_types::SessionId),
    /// Not enough nodes for a volume's code.
    #[error("code {code} needs {needed} nodes, the cluster has {have}")]
    TooFewNodes {
        /// The code asked for.
        code: String,
        /// n.
        needed: u32,
        /// Eligible nodes.
        have: u32,
    },
    /// Not allowed for anybody: another name for a directory.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// The two names are in different volumes.
    #[error("the two names are in different volumes")]
    CrossVolume,
    /// Bytes that are no command, query or record of this version.
    #[error("not understood: {0}")]
    Malformed(String),
    /// A copy of a request that was answered, come late: nobody waits for it, and it must not apply again.
    #[error("request {0} was answered before")]
    Answered(u64),
    /// Waiting for the lock would never end: its holder waits for one of ours.
    #[error("waiting for this lock would be a deadlock")]
    Deadlock,
    /// Too many locks on one file, or too many that wait.
    #[error("too many locks on this file")]
    TooManyLocks,
    /// The directory's names are another session's for now: recall it, wait, and ask again.
    #[error("the directory {dir} is delegated to session {session}")]
    Delegated {
        /// Which.
        dir: rain_types::Ino,
        /// Whose it is.
        session: rain_types::SessionId,
    },
}
