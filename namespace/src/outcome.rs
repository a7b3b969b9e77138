//! The results of commands, as they are recorded and sent. The encoding is that of the commands.

use crate::error::NsError;
use crate::lock::LockState;
use crate::record::Attr;
use rain_types::{Ino, NodeId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// The result of a successful command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Success without a value.
    Done,
    /// The inode after the command.
    Attr(Attr),
    /// A name was removed.
    Removed {
        /// Inode that the name pointed to.
        ino: Ino,
        /// True when the inode is a file without any name left.
        last_name_gone: bool,
    },
    /// Number of the new session.
    Session(SessionId),
    /// Number of the new volume.
    Volume(VolumeId),
    /// Number of the node.
    Node(NodeId),
    /// State of a lock.
    Lock {
        /// Session of the lock.
        session: SessionId,
        /// State of the lock.
        state: LockState,
        /// The inode after the command; it includes everything that was written under earlier locks.
        attr: Attr,
    },
    /// Reserved inode numbers, which no other session will use.
    Reserved {
        /// First number.
        first: Ino,
        /// Number of inode numbers.
        count: u32,
    },
    /// A name was moved.
    Renamed {
        /// Inode that the name pointed to.
        moved: Ino,
        /// The other inode that the new name pointed to before: replaced, or exchanged.
        other: Option<Ino>,
        /// True when `other` is a file without any name left.
        last_name_gone: bool,
    },
    /// A range was cloned.
    Cloned {
        /// The changed file after the command.
        attr: Attr,
        /// Number of bytes of the range that were cloned; 0 at the source's end.
        len: u64,
    },
}

/// The result of a command, as it is recorded and sent.
pub type Applied = Result<Outcome, NsError>;
