//! The commands: every change of the namespace, as a value.
//!
//! One encoding serves the wire, the log and, later, Raft: a command is written once, by the client, and
//! the same bytes are replayed. So variants are only ever appended, never reordered
//! (`tests/golden.rs` holds the bytes).
//!
//! Invariant: a command and the [`crate::record::Time`] of its entry decide its outcome. Nothing in
//! `apply` reads a clock, a random number or the order of a hash map.

use crate::error::NsError;
use crate::lock::{Lock, LockState};
use crate::record::{Attr, FileKind, Time};
use rain_types::{BlockId, CodeSpec, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// A name in a directory: 1 to 255 bytes, any but `/` and 0, not `.` or `..`.
pub type Name = Vec<u8>;

/// One entry of the log: what a proposer gathered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The proposer's clock when it gathered them.
    pub time: Time,
    /// In the order they apply.
    pub requests: Vec<Request>,
}

/// A command with what makes it apply once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks, and which of their requests this is; none for what may be repeated (internal commands).
    pub id: Option<RequestId>,
    /// The client has the results of all its requests below this number: their records can go.
    pub done_below: u64,
    /// When it happened, by the asker's clock; none: the entry's time. What was done behind the caller keeps the time that the caller saw.
    pub time: Option<Time>,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A command of no session, which may be repeated.
    pub fn internal(command: Command) -> Request {
        Request { id: None, done_below: 0, time: None, command }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `host:port`.
    pub address: String,
    /// Failure domain, empty for its own.
    pub domain: String,
    /// 1 or more.
    pub weight: u32,
    /// It votes and keeps no shares.
    pub witness: bool,
    /// The mark of its data folder: random, made with the folder. Empty where nobody looks (tests).
    pub folder: String,
    /// Where it is reached, too, over other networks, `host:port`.
    pub others: Vec<String>,
}

/// A change of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A node joins the eligible set, or tells a new address. Known by its data folder, it keeps its number; a number with
    /// another folder is refused: what that node had promised is lost. Outcome: `Node`.
    RegisterNode {
        /// Number; 0: the next that was never used.
        id: NodeId,
        /// What it is.
        node: NodeSpec,
    },
    /// A new volume over the eligible nodes. Outcome: `Volume`.
    CreateVolume {
        /// 1 to 64 of letters, digits, `-`, `_`, `.`; not starting with a dot.
        name: String,
        /// Its code.
        code: CodeSpec,
        /// How many placement groups, 1 to 4096.
        groups: u32,
        /// Owner of the root directory.
        uid: u32,
        /// Group of the root directory.
        gid: u32,
        /// Mode of the root directory.
        mode: u16,
    },
    /// A client begins. Outcome: `Session`.
    OpenSession {
        /// For people.
        label: String,
    },
    /// A client ends, or was silent for too long: its locks go, its request results are dropped, and its later
    /// commands refused with `SessionEnded`. Outcome: `Done`, also when it had ended.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// A new file, directory, symlink or special file. Outcome: `Attr`.
    Make {
        /// Where.
        parent: Ino,
        /// Under what name.
        name: Name,
        /// What.
        kind: FileKind,
        /// Permission bits (umask applied by the caller). A set-gid parent passes its group on.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number.
        rdev: u32,
        /// Target of a symlink, 1 to 4095 bytes; empty otherwise.
        target: Vec<u8>,
        /// A file only: when the name is taken by a file, give that instead of `Exists`.
        or_existing: bool,
        /// Its number, one that was reserved and not used; none: the next.
        ino: Option<Ino>,
    },
    /// Another name for a file. Outcome: `Attr` of the file.
    Link {
        /// The file; not a directory.
        ino: Ino,
        /// Where.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// A name goes. A file without a name is an orphan until `Free`: somebody may have it open. Outcome: `Removed`.
    Unlink {
        /// Where.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// An empty directory goes. Outcome: `Removed`.
    RemoveDirectory {
        /// Where.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// A name moves. Outcome: `Removed` for what was replaced (ino 0: nothing).
    Rename {
        /// From where.
        parent: Ino,
        /// Old name.
        name: Name,
        /// To where.
        new_parent: Ino,
        /// New name.
        new_name: Name,
        /// What to do with an existing new name.
        mode: RenameMode,
    },
    /// Attributes change. A size makes the file shorter (extents trimmed) or longer (a hole). Outcome: `Attr`.
    SetAttr {
        /// Which.
        ino: Ino,
        /// What changes.
        change: AttrChange,
    },
    /// An extended attribute is set. Outcome: `Done`.
    SetXattr {
        /// Of which.
        ino: Ino,
        /// Name, 1 to 255 bytes.
        name: Name,
        /// Value, up to 64 KiB.
        value: Vec<u8>,
        /// Whether it must or must not be there.
        mode: XattrMode,
    },
    /// An extended attribute goes. Outcome: `Done`.
    RemoveXattr {
        /// Of which.
        ino: Ino,
        /// Name.
        name: Name,
    },
    /// New data of a file: blocks whose shares are durable, and where they show. Overlapped older extents
    /// are trimmed. Outcome: `Attr`.
    Commit {
        /// Of which file (an orphan too).
        ino: Ino,
        /// New blocks.
        blocks: Vec<NewBlock>,
        /// Where in the file they show; they do not overlap each other.
        extents: Vec<NewExtent>,
        /// Pieces of inline data: only for a file without extents, none past 4096 (else `NotInline`).
        inline: Vec<InlinePiece>,
        /// The file is at least this long afterwards.
        size_at_least: u64,
        /// When the contents changed, by the caller's clock; none: the entry's time.
        mtime: Option<Time>,
    },
    /// A stretch becomes a hole; the size stays. Outcome: `Attr`.
    Punch {
        /// Of which file.
        ino: Ino,
        /// From where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// UnlinkedFiles that nobody has open are freed. Outcome: `Done`.
    Free {
        /// Which; those that are no orphans are passed over.
        inos: Vec<Ino>,
    },
    /// Shares were found lost or damaged. Blocks that are gone or in another group are passed over. Outcome: `Done`.
    MarkMissing {
        /// Those that are missing.
        shares: Vec<SharesOf>,
    },
    /// Shares were made again and are durable. Blocks that are gone or in another group are passed over. Outcome: `Done`.
    MarkPresent {
        /// Those that are there.
        shares: Vec<SharesOf>,
    },
    /// Shares of garbage were deleted; a block without any left is forgotten. Outcome: `Done`.
    Reclaimed {
        /// Blocks with the bits of the shares that are gone.
        shares: Vec<(BlockId, u64)>,
    },
    /// A node leaves the eligible set; refused while an open group of a volume has it, or a closed one that still has blocks. Outcome: `Done`.
    RemoveNode {
        /// Which.
        id: NodeId,
    },
    /// A lock on a file, for the request's session. Outcome: `Lock`.
    Lock {
        /// On which inode.
        ino: Ino,
        /// What is asked for.
        lock: Lock,
        /// Queue for it under this number of the session when it is not free; none: only say so.
        ticket: Option<u64>,
    },
    /// Locks of the request's session go. Outcome: `Done`, also when there are none.
    Unlock {
        /// On which inode.
        ino: Ino,
        /// Whose, and which bytes; whether it is exclusive does not matter.
        lock: Lock,
    },
    /// The request's session waits for a lock no more. Outcome: `Lock`: `Granted` if it has come meanwhile, else `Held`.
    CancelLockWait {
        /// On which inode.
        ino: Ino,
        /// As it was queued.
        ticket: u64,
    },
    /// UnlinkedFiles are opened no more by those who have not opened them yet. Outcome: `Done`.
    Seal {
        /// Which; those that are no orphans are passed over.
        inos: Vec<Ino>,
    },
    /// The names of a directory become the request's session's alone ([`crate::holding`]). Outcome: `Attr` of the directory.
    Delegate {
        /// Which.
        dir: Ino,
    },
    /// Somebody else wants a directory: who has it is to give it back. Outcome: `Done`, also when nobody has it.
    Recall {
        /// Which.
        dir: Ino,
    },
    /// The request's session gives directories back. Outcome: `Done`; those that it has not are passed over.
    ReturnDelegations {
        /// Which.
        dirs: Vec<Ino>,
    },
    /// A directory is taken from a session that does not give it back. Outcome: `Done`, also when it has it no more.
    RevokeDelegation {
        /// Which.
        dir: Ino,
        /// From whom.
        session: SessionId,
    },
    /// Inode numbers for what the asker will make. Outcome: `Reserved`.
    ReserveInos {
        /// How many, 1 to 65,536.
        count: u32,
    },
    /// A node is to go, or stays after all. Outcome: `Done`.
    SetDraining {
        /// Which.
        id: NodeId,
        /// Whether it is to go.
        draining: bool,
    },
    /// Opens the groups that a volume's nodes ask for by now ([`crate::placement::plan_following`]). Outcome: `Done`.
    Regroup {
        /// Which.
        volume: VolumeId,
    },
    /// Blocks move to the open groups of their slots: the shares whose nodes differ are durable there. Blocks that are gone, or not in the
    /// group named, or whose slot has another open group by now, are passed over. Outcome: `Done`.
    MoveBlocks {
        /// Which, at most 4096.
        blocks: Vec<MovedBlock>,
    },
}

impl Command {
    /// Whether somebody may wait for it: for a lock, for a directory, or for the word that one is wanted back.
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

/// What `Rename` does with an existing new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it, as rename(2).
    Replace,
    /// Refuses with `Exists` (RENAME_NOREPLACE).
    NoReplace,
    /// Swaps the two (RENAME_EXCHANGE).
    Exchange,
}

/// Whether `SetXattr` makes or replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Either.
    Any,
    /// `Exists` if it is there (XATTR_CREATE).
    Create,
    /// `NoAttribute` if it is not (XATTR_REPLACE).
    Replace,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeChange {
    /// The entry's time.
    Now,
    /// This one.
    At(Time),
}

/// What `SetAttr` changes; `ctime` becomes the entry's time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner. A change of owner or group clears set-id bits of a file unless `mode` is given too.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a file.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeChange>,
    /// Modification time. A change of size sets it to the entry's time when it is not given.
    pub mtime: Option<TimeChange>,
}

/// Shares of a block, as it lies in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesOf {
    /// Which block.
    pub block: BlockId,
    /// The group that it was in for whoever speaks.
    pub group: GroupId,
    /// Which shares: bit i for share i.
    pub bits: u64,
}

/// A block that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedBlock {
    /// Which.
    pub id: BlockId,
    /// From which group.
    pub from: GroupId,
    /// To which: the open group of the same slot.
    pub to: GroupId,
}

/// A block that a commit brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBlock {
    /// Its id, of the committing session.
    pub id: BlockId,
    /// Its group in the file's volume.
    pub group: GroupId,
    /// Bytes, 1 to 1 MiB.
    pub len: u32,
    /// Shares that could not be placed: bit i for share i.
    pub missing: u64,
}

/// Where a part of a new block shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewExtent {
    /// In the file, bytes.
    pub offset: u64,
    /// Bytes, not 0.
    pub len: u32,
    /// Index into the commit's `blocks`.
    pub block: u32,
    /// In the block, bytes.
    pub block_offset: u32,
}

/// A piece of inline data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinePiece {
    /// In the file, bytes.
    pub offset: u32,
    /// What is there now.
    pub data: Vec<u8>,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The inode as it is now.
    Attr(Attr),
    /// The name is gone.
    Removed {
        /// What the name meant.
        ino: Ino,
        /// Whether the inode is an orphan now.
        last_name_gone: bool,
    },
    /// A session's number.
    Session(SessionId),
    /// The new volume.
    Volume(VolumeId),
    /// The node's number.
    Node(NodeId),
    /// How it stands with the lock.
    Lock {
        /// Whose it is.
        session: SessionId,
        /// How it stands.
        state: LockState,
        /// The inode as it is now: what was written under the lock before is in it.
        attr: Attr,
    },
    /// Inode numbers that nobody else will use.
    Reserved {
        /// The first.
        first: Ino,
        /// How many.
        count: u32,
    },
}

/// A command's result, as it is recorded and sent.
pub type Applied = Result<Outcome, NsError>;
