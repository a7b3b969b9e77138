//! The commands: every change of the namespace, as a value.
//!
//! A client encodes a command once. The same bytes go over the wire, into the log, and through its replay.
//!
//! Invariants:
//! 1. Variants are only appended, never reordered (`tests/golden.rs` holds the bytes).
//! 2. The store, the command and the [`crate::record::Time`] of its entry decide the outcome. `apply` reads
//!    no clock, no random number, and no hash map in its order (`the_namespace_does_what_a_plain_tree_does`).

use crate::lock::Lock;
pub use crate::outcome::{Applied, Outcome};
use crate::record::{Attr, FileKind, Time};
use rain_types::{BlockId, CodeSpec, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// A name in a directory: 1 to 255 bytes except `/` and 0, and neither `.` nor `..`.
pub type Name = Vec<u8>;

/// One entry of the log: the requests that a proposer gathered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The proposer's clock at that time.
    pub time: Time,
    /// Requests in the order in which they apply.
    pub requests: Vec<Request>,
}

/// A command with the request id by which it applies exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Session and number of the request; `None` for internal commands, which may be repeated.
    pub id: Option<RequestId>,
    /// The client has the results of all its requests below this number, so their records can be dropped.
    pub done_below: u64,
    /// Time of the change by the client's clock; `None`: the entry's time. A change that was acknowledged
    /// early keeps the time that the application saw.
    pub time: Option<Time>,
    /// The command.
    pub command: Command,
}

impl Request {
    /// Returns a request that belongs to no session and may be repeated.
    pub fn internal(command: Command) -> Request {
        Request { id: None, done_below: 0, time: None, command }
    }
}

/// The properties of a node, as the node reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Address, `host:port`.
    pub address: String,
    /// Failure domain; empty: the node is a domain of its own.
    pub domain: String,
    /// Relative capacity for placement, at least 1.
    pub weight: u32,
    /// True for a witness: it votes and stores no shares.
    pub witness: bool,
    /// Random identity of the data folder, made with the folder. Empty in tests that do not check it.
    pub folder: String,
    /// Further addresses of the node on other networks, `host:port`.
    pub others: Vec<String>,
}

/// A change of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers a node as eligible, or updates its address. A node is identified by its data folder and
    /// keeps its number. A known number with another folder is refused, because the promises of the node were
    /// in the old folder. Outcome: `Node`.
    RegisterNode {
        /// Node number; 0: the next number that was never used.
        id: NodeId,
        /// Properties of the node.
        node: NodeSpec,
    },
    /// Creates a volume over the eligible nodes. Outcome: `Volume`.
    CreateVolume {
        /// Name: 1 to 64 of letters, digits, `-`, `_`, `.`; the first is not a dot.
        name: String,
        /// Erasure code.
        code: CodeSpec,
        /// Number of placement groups, 1 to 4096.
        groups: u32,
        /// Owner of the root directory.
        uid: u32,
        /// Group of the root directory.
        gid: u32,
        /// Mode of the root directory.
        mode: u16,
    },
    /// Opens a session for a client. Outcome: `Session`.
    OpenSession {
        /// Description for people.
        label: String,
        /// The client keeps leases ([`crate::lease`]): a new leader waits for it.
        caches: bool,
    },
    /// Ends a session, at the client's request or because it was not renewed in time. Its locks, delegations
    /// and request results are dropped. Its later commands are refused with `SessionEnded`. Outcome: `Done`,
    /// also when it had ended before.
    EndSession {
        /// Session to end.
        session: SessionId,
    },
    /// Creates a file, directory, symlink or special file. Outcome: `Attr`.
    Make {
        /// Parent directory.
        parent: Ino,
        /// Name in the parent.
        name: Name,
        /// Kind of the inode.
        kind: FileKind,
        /// Permission bits. A set-gid parent passes its group on, and a parent with a default ACL the ACL.
        mode: u16,
        /// Permission bits to take away; ignored where the parent has a default ACL.
        umask: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number.
        rdev: u32,
        /// Target of a symlink, 1 to 4095 bytes; empty for other kinds.
        target: Vec<u8>,
        /// For files: return an existing file of this name instead of `Exists`.
        or_existing: bool,
        /// Inode number, reserved and not used before; `None`: the next number.
        ino: Option<Ino>,
    },
    /// Gives a file another name. Outcome: `Attr` of the file.
    Link {
        /// File; a directory is refused.
        ino: Ino,
        /// Parent directory.
        parent: Ino,
        /// Name in the parent.
        name: Name,
    },
    /// Removes a name. A file that loses its last name stays until `Free`, because clients may have it open.
    /// Outcome: `Removed`.
    Unlink {
        /// Parent directory.
        parent: Ino,
        /// Name in the parent.
        name: Name,
    },
    /// Removes an empty directory. Outcome: `Removed`.
    RemoveDirectory {
        /// Parent directory.
        parent: Ino,
        /// Name in the parent.
        name: Name,
    },
    /// Moves a name. Outcome: `Removed` with the replaced inode; 0 when no inode was replaced.
    Rename {
        /// Old parent directory.
        parent: Ino,
        /// Old name.
        name: Name,
        /// New parent directory.
        new_parent: Ino,
        /// New name.
        new_name: Name,
        /// Treatment of an existing new name.
        mode: RenameMode,
        /// Leave a whiteout under the old name (RENAME_WHITEOUT); not together with `Exchange`.
        whiteout: Option<Whiteout>,
    },
    /// Changes attributes. A new size cuts the file (extents are trimmed) or extends it by a hole. Outcome:
    /// `Attr`.
    SetAttr {
        /// Inode.
        ino: Ino,
        /// Attributes to change.
        change: AttrChange,
    },
    /// Sets an extended attribute. An ACL ([`crate::acl`]) is checked, and an access ACL changes the mode.
    /// Outcome: `Done`.
    SetXattr {
        /// Inode.
        ino: Ino,
        /// Name of the attribute, 1 to 255 bytes.
        name: Name,
        /// Value, up to 64 KiB.
        value: Vec<u8>,
        /// Whether the attribute must or must not exist.
        mode: XattrMode,
        /// With an access ACL: clear the set-group-id bit.
        clear_set_gid: bool,
    },
    /// Removes an extended attribute. Outcome: `Done`.
    RemoveXattr {
        /// Inode.
        ino: Ino,
        /// Name of the attribute.
        name: Name,
    },
    /// Commits new data of a file: blocks whose shares are durable, and their extents. Older extents that
    /// overlap are trimmed. Outcome: `Attr`.
    Commit {
        /// File; a file without a name is allowed.
        ino: Ino,
        /// New blocks.
        blocks: Vec<NewBlock>,
        /// Extents of the new blocks; they do not overlap each other.
        extents: Vec<NewExtent>,
        /// Pieces of inline data: only for a file without extents, and not past byte 4096 (else `NotInline`).
        inline: Vec<InlinePiece>,
        /// Minimum size of the file afterwards.
        size_at_least: u64,
        /// Time of the change of the contents by the caller's clock; `None`: the entry's time.
        mtime: Option<Time>,
    },
    /// Turns a range of a file into a hole; the size stays. Outcome: `Attr`.
    Punch {
        /// File.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Frees unlinked files that no client has open. Outcome: `Done`.
    Free {
        /// Files; those that have a name are skipped.
        inos: Vec<Ino>,
    },
    /// Reports lost or damaged shares. Blocks that do not exist or are in another group are skipped. Outcome:
    /// `Done`.
    MarkMissing {
        /// The missing shares.
        shares: Vec<SharesOf>,
    },
    /// Reports shares that were made again and are durable. Blocks that do not exist or are in another group
    /// are skipped. Outcome: `Done`.
    MarkPresent {
        /// The present shares.
        shares: Vec<SharesOf>,
    },
    /// Reports deleted shares of garbage; the record of a block without remaining shares is dropped. Outcome:
    /// `Done`.
    Reclaimed {
        /// Blocks with the bits of the deleted shares.
        shares: Vec<(BlockId, u64)>,
    },
    /// Removes a node from the eligible nodes. Refused while an open group of a volume contains it, or a
    /// closed group that still has blocks. Outcome: `Done`.
    RemoveNode {
        /// Node to remove.
        id: NodeId,
    },
    /// Requests a lock on a file for the request's session. Outcome: `Lock`.
    Lock {
        /// Inode.
        ino: Ino,
        /// Lock to acquire.
        lock: Lock,
        /// Queue for the lock under this number of the session if it is not free; `None`: do not queue.
        ticket: Option<u64>,
    },
    /// Releases locks of the request's session. Outcome: `Done`, also when it has none.
    Unlock {
        /// Inode.
        ino: Ino,
        /// Owner and range to release; `exclusive` is ignored.
        lock: Lock,
    },
    /// Cancels the wait for a lock. Outcome: `Lock` with `Granted` if the lock was granted in the meantime,
    /// else `Held`.
    CancelLockWait {
        /// Inode.
        ino: Ino,
        /// Number under which the lock was queued.
        ticket: u64,
    },
    /// Seals unlinked files: sessions that have not opened them yet cannot open them. Outcome: `Done`.
    Seal {
        /// Files; those that have a name are skipped.
        inos: Vec<Ino>,
    },
    /// Delegates the names of a directory to the request's session ([`crate::delegation`]). Outcome: `Attr`
    /// of the directory.
    Delegate {
        /// Directory.
        dir: Ino,
    },
    /// Asks the delegate of a directory to return it. Outcome: `Done`, also when the directory is not
    /// delegated.
    Recall {
        /// Directory.
        dir: Ino,
    },
    /// Returns directories that are delegated to the request's session. Outcome: `Done`; other directories
    /// are skipped.
    ReturnDelegations {
        /// Directories.
        dirs: Vec<Ino>,
    },
    /// Ends a delegation that the session does not return. Outcome: `Done`, also when the session does not
    /// have the directory.
    RevokeDelegation {
        /// Directory.
        dir: Ino,
        /// Session that has the directory.
        session: SessionId,
    },
    /// Reserves inode numbers for the sender. Outcome: `Reserved`.
    ReserveInos {
        /// Number of inode numbers, 1 to 65,536.
        count: u32,
    },
    /// Starts or stops draining a node. Outcome: `Done`.
    SetDraining {
        /// Node.
        id: NodeId,
        /// True to drain the node, false to keep it.
        draining: bool,
    },
    /// Opens the groups that the volume needs on the current nodes ([`crate::placement::plan_following`]).
    /// Outcome: `Done`.
    Regroup {
        /// Volume.
        volume: VolumeId,
    },
    /// Moves blocks to the open groups of their slots; the shares on differing nodes are durable there. A
    /// block is skipped when it does not exist, is not in the named group, or its slot has got another open
    /// group. Outcome: `Done`.
    MoveBlocks {
        /// Blocks, at most 4096.
        blocks: Vec<MovedBlock>,
    },
    /// Creates a file without a name (O_TMPFILE), which `Link` may give its first name. Until then it is an
    /// unlinked file: `Free` ends it. Outcome: `Attr`.
    MakeUnnamed {
        /// Directory in whose volume the file is, and from which it inherits as from a parent.
        dir: Ino,
        /// Permission bits.
        mode: u16,
        /// Permission bits to take away; ignored where the directory has a default ACL.
        umask: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Makes a range of a file show the data of a range of a file of the same volume, without a copy: both then use
    /// the same blocks. Holes become holes. Ends early at the source's end, and after 4096 extents: the caller asks
    /// for the rest. Refused with `HasInline` where the source range begins within inline data. Outcome: `Cloned`.
    CloneRange {
        /// Source file.
        from: Ino,
        /// First byte of the source range.
        offset: u64,
        /// Length in bytes, at least 1. In one file the ranges do not overlap.
        len: u64,
        /// File whose range changes.
        to: Ino,
        /// First byte of that range.
        to_offset: u64,
        /// Time of the change of the contents by the caller's clock; `None`: the entry's time.
        mtime: Option<Time>,
    },
    /// Executes a command if an extended attribute has a value; else `GuardFailed`. So the attribute can be changed
    /// from one value to the next, and work as a fence. Outcome: the command's.
    Guarded {
        /// Inode of the attribute.
        ino: Ino,
        /// Name of the attribute.
        name: Name,
        /// The value that it must have; `None`: it must not exist.
        value: Option<Vec<u8>>,
        /// A command that changes names or attributes: `Make`, `Link`, `Unlink`, `RemoveDirectory`, `Rename`,
        /// `SetAttr`, `SetXattr`, `RemoveXattr`.
        command: Box<Command>,
    },
    /// Executes a command if names point to the inodes that the caller knows them by; else `NameChanged`. Outcome: the
    /// command's.
    IfNamed {
        /// The names.
        names: Vec<Known>,
        /// A command as in `Guarded`.
        command: Box<Command>,
    },
}

impl Command {
    /// Returns the place of a new inode's number; `None` when the command makes no inode under a name.
    pub fn new_ino(&mut self) -> Option<&mut Option<Ino>> {
        match self {
            Command::Guarded { command, .. } | Command::IfNamed { command, .. } => command.new_ino(),
            Command::Make { ino, .. } => Some(ino),
            Command::Rename { whiteout: Some(whiteout), .. } => Some(&mut whiteout.ino),
            _ => None,
        }
    }

    /// Returns the reserved number of the inode that the command makes.
    pub fn reserved_ino(&self) -> Option<Ino> {
        match self {
            Command::Guarded { command, .. } | Command::IfNamed { command, .. } => command.reserved_ino(),
            Command::Make { ino, .. } => *ino,
            Command::Rename { whiteout, .. } => whiteout.as_ref()?.ino,
            _ => None,
        }
    }

    /// Returns whether a condition may stand before the command.
    pub fn may_be_guarded(&self) -> bool {
        matches!(
            self,
            Command::Make { .. }
                | Command::Link { .. }
                | Command::Unlink { .. }
                | Command::RemoveDirectory { .. }
                | Command::Rename { .. }
                | Command::SetAttr { .. }
                | Command::SetXattr { .. }
                | Command::RemoveXattr { .. }
        )
    }

    /// Returns whether the command can end a client's wait: for a lock, for a directory, or for a recall.
    pub fn may_grant(&self) -> bool {
        matches!(
            self,
            Command::Lock { .. }
                | Command::Unlock { .. }
                | Command::CancelLockWait { .. }
                | Command::EndSession { .. }
                | Command::Free { .. }
                | Command::Recall { .. }
                | Command::ReturnDelegations { .. }
                | Command::RevokeDelegation { .. }
        )
    }
}

/// A name, and what the caller knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Parent directory.
    pub parent: Ino,
    /// Name in the parent.
    pub name: Name,
    /// The inode that it points to; `None`: it does not exist.
    pub ino: Option<Ino>,
}

/// Treatment of an existing new name by `Rename`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it, as rename(2) does.
    Replace,
    /// Refuse with `Exists` (RENAME_NOREPLACE).
    NoReplace,
    /// Swap the two names (RENAME_EXCHANGE).
    Exchange,
}

/// The character device 0:0 without permissions that a rename leaves under the old name. Union filesystems
/// hide a name of a lower layer by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whiteout {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Inode number, reserved and not used before; `None`: the next number.
    pub ino: Option<Ino>,
}

/// Whether `SetXattr` may create or replace an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace it.
    Any,
    /// Create it; `Exists` if it exists (XATTR_CREATE).
    Create,
    /// Replace it; `NoAttribute` if it does not exist (XATTR_REPLACE).
    Replace,
}

/// A new value of a time attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeChange {
    /// The entry's time.
    Now,
    /// The given time.
    At(Time),
}

/// The attributes that `SetAttr` changes; `None` leaves an attribute as it is. `ctime` becomes the entry's
/// time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner. A change of owner or group clears the set-id bits of a file, unless `mode` is set, too.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a file.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<TimeChange>,
    /// Time of last modification. A change of size sets it to the entry's time unless it is given.
    pub mtime: Option<TimeChange>,
}

impl AttrChange {
    /// Changes everything but the length in the attributes of an inode, at a time.
    pub fn apply_to(&self, attr: &mut Attr, time: Time) {
        if self.uid.is_some() || self.gid.is_some() {
            attr.uid = self.uid.unwrap_or(attr.uid);
            attr.gid = self.gid.unwrap_or(attr.gid);
            if attr.kind == FileKind::File {
                // As chown(2): set-user-id is cleared, and set-group-id unless it stands for mandatory
                // locking.
                attr.mode &= if attr.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
            }
        }
        if let Some(mode) = self.mode {
            attr.mode = mode & 0o7777;
        }
        let at = |change: TimeChange| match change {
            TimeChange::Now => time,
            TimeChange::At(time) => time,
        };
        attr.atime = self.atime.map_or(attr.atime, at);
        attr.mtime = self.mtime.map_or(attr.mtime, at);
        attr.ctime = time;
    }
}

/// Shares of a block in a placement group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesOf {
    /// Block.
    pub block: BlockId,
    /// Group of the block, as far as the reporter knows.
    pub group: GroupId,
    /// Shares: bit i for share i.
    pub bits: u64,
}

/// A block that rebalance has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedBlock {
    /// Block.
    pub id: BlockId,
    /// Old group.
    pub from: GroupId,
    /// New group: the open group of the same slot.
    pub to: GroupId,
}

/// A block that a commit adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBlock {
    /// Block id; its session is the committing one.
    pub id: BlockId,
    /// Placement group in the file's volume.
    pub group: GroupId,
    /// Length in bytes, 1 to 1 MiB.
    pub len: u32,
    /// Shares that could not be stored: bit i for share i.
    pub missing: u64,
}

/// A part of a new block and its position in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewExtent {
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub len: u32,
    /// Block, as an index into the commit's `blocks`.
    pub block: u32,
    /// First byte in the block.
    pub block_offset: u32,
}

/// A piece of inline data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinePiece {
    /// First byte in the file.
    pub offset: u32,
    /// New bytes.
    pub data: Vec<u8>,
}
