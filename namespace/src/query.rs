//! The queries: every question about the namespace, as a value, and the answers. A query reads one consistent
//! state and changes nothing. The encoding is that of the commands: postcard, variants only appended
//! (`tests/golden.rs`).

pub use crate::answer::answer;
use crate::command::Name;
use crate::error::NsError;
use crate::lock::Lock;
use crate::record::{Attr, BlockRecord, Extent, GarbageRecord, NodeRecord, SessionRecord, VolumeRecord};
use rain_types::{BlockId, GroupId, Ino, NodeId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// A name in a directory (also `.` and `..`). Answer: `Attr`.
    Lookup {
        /// Parent directory.
        parent: Ino,
        /// Name in the parent.
        name: Name,
    },
    /// The attributes of an inode. Answer: `Attr`.
    GetAttr {
        /// Inode.
        ino: Ino,
    },
    /// The attributes, the inline data and the extents of a file, for a reader. Answer: `Layout`.
    Layout {
        /// File.
        ino: Ino,
        /// First byte of interest; an extent that covers it is included.
        from: u64,
        /// Largest number of extents (the service's own limit is 4096).
        limit: u32,
    },
    /// The target of a symlink. Answer: `Bytes`.
    ReadLink {
        /// Symlink.
        ino: Ino,
    },
    /// The names in a directory in byte order, without `.` and `..`. Answer: `Directory`.
    ReadDirectory {
        /// Directory.
        dir: Ino,
        /// Start after this name; `None`: from the first.
        after: Option<Name>,
        /// Largest number of names (the service's own limit is 4096).
        limit: u32,
    },
    /// An extended attribute. Answer: `Bytes`.
    GetXattr {
        /// Inode.
        ino: Ino,
        /// Name of the attribute.
        name: Name,
    },
    /// The names of all extended attributes. Answer: `Names`.
    ListXattr {
        /// Inode.
        ino: Ino,
    },
    /// A volume by name. Answer: `Volumes` with one element.
    Volume {
        /// Name.
        name: String,
    },
    /// All volumes. Answer: `Volumes`.
    Volumes,
    /// All eligible nodes, by number. Answer: `Nodes`.
    Nodes,
    /// All open sessions. Answer: `Sessions`.
    Sessions,
    /// Blocks with missing shares, least margin first. Answer: `Blocks`.
    Missing {
        /// Start after this position in the list ([`crate::repair::position`]); `None`: from the first.
        after: Option<(u8, BlockId)>,
        /// Largest number of blocks (the service's own limit is 4096).
        limit: u32,
    },
    /// Blocks that await deletion. Answer: `Garbage`.
    Garbage {
        /// Start after this block; `None`: from the first.
        after: Option<BlockId>,
        /// Largest number of blocks (the service's own limit is 4096).
        limit: u32,
    },
    /// The records of blocks; blocks that no extent uses are left out. Answer: `Blocks`.
    Blocks {
        /// Blocks, at most 4096.
        ids: Vec<BlockId>,
    },
    /// A session, if it is open. Answer: `Sessions` with one element or none.
    Session {
        /// Session.
        session: SessionId,
    },
    /// Counts over the whole namespace. Answer: `Totals`.
    Totals,
    /// A volume by number. Answer: `Volumes` with one element.
    VolumeById {
        /// Volume number.
        id: VolumeId,
    },
    /// Unlinked files by number. Answer: `UnlinkedFiles`.
    UnlinkedFiles {
        /// Start after this file; `None`: from the first.
        after: Option<Ino>,
        /// Largest number of files (the service's own limit is 4096).
        limit: u32,
    },
    /// Whether a queued lock has been granted. Answer: `Ticket`.
    Ticket {
        /// Inode.
        ino: Ino,
        /// Session that queued for the lock.
        session: SessionId,
        /// Number under which the lock was queued.
        ticket: u64,
    },
    /// A held lock that conflicts with a lock. Answer: `Conflict`.
    Conflict {
        /// Inode.
        ino: Ino,
        /// Session that would ask for the lock.
        session: SessionId,
        /// Lock to test.
        lock: Lock,
    },
    /// An inode that the client is about to open; refused with `Stale` when it is sealed. Answer: `Attr`.
    Open {
        /// Inode.
        ino: Ino,
    },
    /// A question on behalf of a session. Refused with `Delegated` when it concerns the names of a directory
    /// that is delegated to another session. Without this frame the state is read as it is.
    As {
        /// Session that asks; 0 for none.
        session: SessionId,
        /// Question.
        query: Box<Query>,
    },
    /// The session to which a directory is delegated. The client may wait for an answer until no session has
    /// it. Answer: `Delegation`.
    Delegation {
        /// Directory.
        dir: Ino,
    },
    /// The directories that are delegated to a session. The client may wait for an answer until one is
    /// recalled. Answer: `Delegations`.
    Delegations {
        /// Session.
        session: SessionId,
    },
    /// All recalled directories by number. Answer: `Recalled`.
    Recalled {
        /// Largest number of directories (the service's own limit is 4096).
        limit: u32,
    },
    /// Blocks in closed groups, which rebalance has to move, by volume, group and number. Answer: `Blocks`.
    Strays {
        /// Start after this block at this volume and group; `None`: from the first.
        after: Option<(VolumeId, GroupId, BlockId)>,
        /// Largest number of blocks (the service's own limit is 4096).
        limit: u32,
    },
    /// The number of placement groups that contain a node: open groups, and closed ones that still have
    /// blocks. Answer: `Groups`.
    GroupsWith {
        /// Node.
        node: NodeId,
    },
}

/// A name in a directory, with the attributes of its inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Name in the directory.
    pub name: Name,
    /// Attributes of the inode.
    pub attr: Attr,
}

/// A block and its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEntry {
    /// Block id.
    pub id: BlockId,
    /// Record of the block.
    pub record: BlockRecord,
}

/// Counts over the whole namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Blocks that extents use.
    pub blocks: u64,
    /// Blocks with a missing share.
    pub blocks_missing: u64,
    /// Number of missing shares.
    pub shares_missing: u64,
    /// Blocks with missing shares and exactly k shares available, or fewer.
    pub blocks_without_margin: u64,
    /// Blocks that await deletion.
    pub garbage: u64,
    /// Version of the cluster's layout: the number of changes of nodes and placement groups so far. Clients
    /// fetch nodes and volumes again when it changes.
    pub places: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The attributes of an inode.
    Attr(Attr),
    /// The location of a file's data.
    Layout {
        /// Attributes of the file.
        attr: Attr,
        /// Inline data, which shows where no extent is.
        inline: Vec<u8>,
        /// Extents in the order of their offsets.
        extents: Vec<Extent>,
        /// Whether more extents follow.
        more: bool,
    },
    /// The target of a symlink, or the value of an extended attribute.
    Bytes(Vec<u8>),
    /// Names in byte order.
    Directory {
        /// Names with attributes.
        entries: Vec<DirectoryEntry>,
        /// Whether more names follow.
        more: bool,
    },
    /// Names of extended attributes.
    Names(Vec<Name>),
    /// Volumes by number.
    Volumes(Vec<VolumeRecord>),
    /// Nodes by number.
    Nodes(Vec<NodeRecord>),
    /// Sessions by number.
    Sessions(Vec<SessionRecord>),
    /// Blocks.
    Blocks(Vec<BlockEntry>),
    /// Blocks that await deletion.
    Garbage(Vec<(BlockId, GarbageRecord)>),
    /// Counts.
    Totals(Totals),
    /// Unlinked files by number, each with whether it is sealed.
    UnlinkedFiles(Vec<(Ino, bool)>),
    /// State of a queued lock.
    Ticket {
        /// Whether the lock is still queued.
        waiting: bool,
        /// Attributes of the inode.
        attr: Attr,
    },
    /// A conflicting lock and its session; `None` when the lock is free.
    Conflict(Option<(SessionId, Lock)>),
    /// The session to which the directory is delegated, if any.
    Delegation(Option<SessionId>),
    /// Delegated directories of a session, each with whether it is recalled.
    Delegations(Vec<(Ino, bool)>),
    /// Recalled directories, each with the session that has it.
    Recalled(Vec<(Ino, SessionId)>),
    /// Number of placement groups.
    Groups(u64),
}

/// The result of a query, as it is sent.
pub type Answered = Result<Answer, NsError>;
