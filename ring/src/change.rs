//! The changes of the shared data that members submit, the reasons for which they are refused, and the
//! notices of their effects. These are plain values; [`crate::shared`] applies the changes.
//!
//! Left out: the state. Limits on one value are here, limits on their number are there.

use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use thiserror::Error;

/// Largest length of an item's value or of a message, bytes: a quarter of the largest token.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Largest length of a name, bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The bytes of a value or message. `Debug` prints only the length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// A change that a member submits; the token orders all changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Change {
    /// Deliver a message to every member, in one order.
    Message(Bytes),
    /// Create an item.
    Create {
        /// Name of the item.
        key: String,
        /// First value.
        value: Bytes,
    },
    /// Replace the value of an item.
    Write {
        /// Name of the item.
        key: String,
        /// New value.
        value: Bytes,
    },
    /// Replace some bytes of an item, within its length.
    Patch {
        /// Name of the item.
        key: String,
        /// First byte to replace.
        offset: u32,
        /// New bytes.
        bytes: Bytes,
    },
    /// Delete an item.
    Delete {
        /// Name of the item.
        key: String,
    },
    /// Create a lock without an owner.
    CreateLock {
        /// Name of the lock.
        name: String,
    },
    /// Destroy a lock, together with its owner's hold and its waiters.
    DestroyLock {
        /// Name of the lock.
        name: String,
    },
    /// Acquire a lock, or queue for it.
    Lock {
        /// Name of the lock.
        name: String,
    },
    /// Release a lock, or leave its queue.
    Unlock {
        /// Name of the lock.
        name: String,
    },
    /// Make several changes, all or none.
    Transaction(Vec<Change>),
}

impl Change {
    /// Returns the approximate size of the change on the token, bytes.
    pub fn bytes(&self) -> usize {
        16 + match self {
            Change::Message(bytes) => bytes.0.len(),
            Change::Create { key, value } | Change::Write { key, value } => key.len() + value.0.len(),
            Change::Patch { key, bytes, .. } => key.len() + bytes.0.len(),
            Change::Delete { key } => key.len(),
            Change::CreateLock { name }
            | Change::DestroyLock { name }
            | Change::Lock { name }
            | Change::Unlock { name } => name.len(),
            Change::Transaction(changes) => changes.iter().map(Change::bytes).sum(),
        }
    }
}

/// The reason why a change was refused. Every member refuses the same changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error, Serialize, Deserialize)]
pub enum Refused {
    /// The item does not exist.
    #[error("there is no shared item {0:?}")]
    NoItem(String),
    /// The item exists.
    #[error("there is a shared item {0:?} already")]
    ItemExists(String),
    /// The lock does not exist.
    #[error("there is no lock {0:?}")]
    NoLock(String),
    /// The lock exists.
    #[error("there is a lock {0:?} already")]
    LockExists(String),
    /// The node unlocks a lock that it neither holds nor waits for.
    #[error("lock {0:?} is neither held nor awaited by this node")]
    NotHolder(String),
    /// The node asks for a lock that it holds or waits for.
    #[error("lock {0:?} is held or awaited by this node already")]
    LockedTwice(String),
    /// A limit would be exceeded.
    #[error("{what} would be {value}, the limit is {limit}")]
    TooMuch {
        /// Limited quantity.
        what: String,
        /// Value that the change would give.
        value: u64,
        /// Largest allowed value.
        limit: u64,
    },
    /// The bytes lie outside the item.
    #[error("bytes {from} to {to} of item {key:?}, which has {len}")]
    OutOfRange {
        /// Name of the item.
        key: String,
        /// First byte.
        from: u64,
        /// Byte after the last.
        to: u64,
        /// Length of the item, bytes.
        len: u64,
    },
}

/// A notice for the users of the shared data. Every member gives the same notices in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// A multicast message.
    Message {
        /// Sender.
        from: NodeId,
        /// Message.
        bytes: Bytes,
    },
    /// An item was created.
    Created(String),
    /// An item's value has changed.
    Written(String),
    /// An item was deleted.
    Deleted(String),
    /// A lock has a new owner. Actions under the lock carry the fence, so that actions with an older fence
    /// can be refused.
    Locked {
        /// Name of the lock.
        name: String,
        /// New owner.
        owner: Member,
        /// Log index of the entry that granted the lock; it grows with every owner.
        fence: u64,
    },
    /// A lock has no owner.
    Unlocked(String),
    /// A primary ring with these members was founded; all earlier entries are applied.
    View(Vec<Member>),
    /// A change of this node was made or refused.
    Done {
        /// Id of the change.
        id: u64,
        /// Result of the change.
        result: Result<(), Refused>,
    },
}
