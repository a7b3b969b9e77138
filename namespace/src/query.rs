//! The queries: everything that can be asked of the namespace, as a value, and the answers. Answering reads
//! one consistent state and changes nothing. The encoding is the commands' (postcard, variants appended).

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
    /// A name in a directory (`.` and `..` too). Answer: `Attr`.
    Lookup {
        /// Where.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// An inode. Answer: `Attr`.
    GetAttr {
        /// Which.
        ino: Ino,
    },
    /// What a reader needs first: attributes, inline data, and the extents from an offset on. Answer: `Layout`.
    Layout {
        /// Which file.
        ino: Ino,
        /// First byte wanted; an extent that covers it is included.
        from: u64,
        /// At most so many extents (the namespace's own limit is 4096).
        limit: u32,
    },
    /// A symlink's target. Answer: `Bytes`.
    ReadLink {
        /// Which.
        ino: Ino,
    },
    /// Names of a directory in byte order, without `.` and `..`. Answer: `Directory`.
    ReadDirectory {
        /// Which.
        dir: Ino,
        /// After this name; none: from the start.
        after: Option<Name>,
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// One extended attribute. Answer: `Bytes`.
    GetXattr {
        /// Of which.
        ino: Ino,
        /// Name.
        name: Name,
    },
    /// The names of the extended attributes. Answer: `Names`.
    ListXattr {
        /// Of which.
        ino: Ino,
    },
    /// A volume by name. Answer: `Volumes` with one.
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
        /// After this place in the list ([`crate::repair::position`]); none: from the start.
        after: Option<(u8, BlockId)>,
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// Blocks that await deletion. Answer: `Garbage`.
    Garbage {
        /// After this one.
        after: Option<BlockId>,
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// What is known of these blocks; those that no extent uses are left out. Answer: `Blocks`.
    Blocks {
        /// Which, at most 4096.
        ids: Vec<BlockId>,
    },
    /// Whether a session is open. Answer: `Sessions` with one or none.
    Session {
        /// Which.
        session: SessionId,
    },
    /// Counts over the whole namespace. Answer: `Totals`.
    Totals,
    /// A volume by number. Answer: `Volumes` with one.
    VolumeById {
        /// Number.
        id: VolumeId,
    },
    /// Files without a name, by number. Answer: `UnlinkedFiles`.
    UnlinkedFiles {
        /// After this one.
        after: Option<Ino>,
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// Whether a lock that a session queued for has been granted. Answer: `Ticket`.
    Ticket {
        /// On which inode.
        ino: Ino,
        /// Whose.
        session: SessionId,
        /// As it was queued.
        ticket: u64,
    },
    /// What stands in the way of a lock. Answer: `Conflict`.
    Conflict {
        /// On which inode.
        ino: Ino,
        /// Whose it would be.
        session: SessionId,
        /// What would be asked for.
        lock: Lock,
    },
    /// An inode, to open it: refused where it is sealed. Answer: `Attr`.
    Open {
        /// Which.
        ino: Ino,
    },
    /// A question of a session: refused with `Delegated` where it is about names that are another's. Without this frame the state is
    /// answered from as it is.
    As {
        /// Who asks; 0 for nobody's session.
        session: SessionId,
        /// What.
        query: Box<Query>,
    },
    /// Who has a directory. An answer may be waited for until nobody has. Answer: `Delegation`.
    Delegation {
        /// Which.
        dir: Ino,
    },
    /// Which directories a session has. An answer may be waited for until one is wanted back. Answer: `Delegations`.
    Delegations {
        /// Whose.
        session: SessionId,
    },
    /// All directories that are wanted back, in order of their numbers. Answer: `Recalled`.
    Recalled {
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// Blocks in closed groups, which are to move, by volume, group and number. Answer: `Blocks`.
    Strays {
        /// After this one, as it was in this volume and group; none: from the start.
        after: Option<(VolumeId, GroupId, BlockId)>,
        /// At most so many (the namespace's own limit is 4096).
        limit: u32,
    },
    /// In how many placement groups a node is, of the closed ones those that still have blocks. Answer: `Groups`.
    GroupsWith {
        /// Which.
        node: NodeId,
    },
}

/// A name in a directory with what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Name.
    pub name: Name,
    /// What it names.
    pub attr: Attr,
}

/// A block with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEntry {
    /// Number.
    pub id: BlockId,
    /// What is known.
    pub record: BlockRecord,
}

/// Counts over the whole namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Blocks that extents use.
    pub blocks: u64,
    /// Blocks with a missing share.
    pub blocks_missing: u64,
    /// Missing shares.
    pub shares_missing: u64,
    /// Blocks with no margin: exactly k shares there, or fewer.
    pub blocks_without_margin: u64,
    /// Blocks that await deletion.
    pub garbage: u64,
    /// Changes so far of which nodes there are and of what is asked of them: with it a client knows when to ask for nodes and volumes again.
    pub places: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// An inode.
    Attr(Attr),
    /// Where a file's data is.
    Layout {
        /// The file.
        attr: Attr,
        /// Its inline data, below the extents.
        inline: Vec<u8>,
        /// Extents in order of offset.
        extents: Vec<Extent>,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// A target or value.
    Bytes(Vec<u8>),
    /// Names in byte order.
    Directory {
        /// Entries.
        entries: Vec<DirectoryEntry>,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// Names of attributes.
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
    /// Files without a name, by number, and whether they are sealed.
    UnlinkedFiles(Vec<(Ino, bool)>),
    /// How it stands with a queued lock.
    Ticket {
        /// It is not there yet.
        waiting: bool,
        /// The inode as it is now.
        attr: Attr,
    },
    /// A lock that is in the way, and whose.
    Conflict(Option<(SessionId, Lock)>),
    /// Who has a directory.
    Delegation(Option<SessionId>),
    /// Directories of a session, and whether they are wanted back.
    Delegations(Vec<(Ino, bool)>),
    /// Directories that are wanted back, and from whom.
    Recalled(Vec<(Ino, SessionId)>),
    /// So many placement groups.
    Groups(u64),
}

/// A query's result, as it is sent.
pub type Answered = Result<Answer, NsError>;
