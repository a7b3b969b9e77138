//! RAIN's types for openraft: a node is a [`NodeId`], an entry carries an encoded entry of the namespace, a
//! snapshot is a view of the durable base.

use super::super::store::{Incoming, StoreSnapshot};
use bytes::Bytes;
use openraft::LogId;
use rain_namespace::command::Applied;
use rain_types::NodeId;
use std::fmt;

openraft::declare_raft_types!(
    /// RAIN's types for openraft.
    pub Types:
        D = Payload,
        R = Vec<Applied>,
        NodeId = NodeId,
        Node = MemberAddress,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotData,
        AsyncRuntime = openraft::TokioRuntime,
);

/// An encoded entry of the namespace.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The address of a member when it was added. The namespace's own record may be newer, but this one exists
/// before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberAddress {
    /// `host:port`.
    pub address: String,
}

/// A snapshot on its way.
#[derive(Debug)]
pub enum SnapshotData {
    /// To be sent: the durable base at some moment.
    Durable(StoreSnapshot),
    /// Being received, or received; it becomes durable when it is finished.
    Received(Incoming),
}

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type EntryLogId = LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Membership = openraft::Membership<NodeId, MemberAddress>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, MemberAddress>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type Raft = openraft::Raft<Types>;

/// Returns the position in the log and the store (from 1) of an entry with this index (from 0).
pub(crate) fn position(index: u64) -> u64 {
    index + 1
}

/// Returns the position of an entry; 0 for none.
pub(crate) fn position_of(id: Option<&EntryLogId>) -> u64 {
    id.map_or(0, |id| position(id.index))
}

/// Returns the index of the entry at a position; `None` for position 0.
pub(crate) fn index_at(position: u64) -> Option<u64> {
    position.checked_sub(1)
}
