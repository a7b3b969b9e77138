//! What the namespace stores: the values behind the keys of [`crate::key`]. All of them are written with
//! postcard behind one version byte; `docs/formats.md` has the tables and golden tests hold them.

use rain_types::{BlockId, CodeSpec, GroupId, Ino, NodeId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// A moment, as the proposer's clock or a caller gave it: seconds and nanoseconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// A path.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device, numbered by `rdev`.
    CharDevice,
    /// A block device, numbered by `rdev`.
    BlockDevice,
}

/// What `stat` shows, and what a cache needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Number.
    pub ino: Ino,
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Names (for a directory 2 + its subdirectories).
    pub nlink: u32,
    /// Bytes: of a file its length, of a directory its number of entries, of a symlink its target's length.
    pub size: u64,
    /// Bytes of data held in extents or inline (holes do not count).
    pub held: u64,
    /// Device number of a device.
    pub rdev: u32,
    /// Last read, as far as it is kept: set by utimens and by creation.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub crtime: Time,
    /// Goes up by one with every change of the contents (data, size, entries).
    pub version: u64,
    /// Of a directory: the directory it is in (its own number for a root). 0 otherwise.
    pub parent: Ino,
    /// Number of extents; 0 with `size > 0` is a file that is inline or a hole.
    pub extents: u64,
}

/// A stretch of a file in a block. `offset` is the key's part; bytes no extent covers come from the inline
/// data below, then are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where in the file it starts, bytes.
    pub offset: u64,
    /// Bytes, never 0.
    pub len: u32,
    /// The block.
    pub block: BlockId,
    /// Where in the block it starts, bytes.
    pub block_offset: u32,
    /// The whole block's length, bytes: with the code it gives the shares' length.
    pub block_len: u32,
    /// The block's placement group in the file's volume: in the store the one it was written to, in an answer the one it is in now.
    pub group: GroupId,
}

impl Extent {
    /// The first byte of the file after it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A block that extents use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Whose code and groups hold.
    pub volume: VolumeId,
    /// Its nodes.
    pub group: GroupId,
    /// Bytes.
    pub len: u32,
    /// Bytes that extents still use. 0 never stays: the block becomes garbage.
    pub live: u64,
    /// Shares that are not on their node: bit i for share i.
    pub missing: u64,
}

/// A block that nothing uses any more, until its shares are deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageRecord {
    /// Whose groups hold.
    pub volume: VolumeId,
    /// Its nodes.
    pub group: GroupId,
    /// Shares still to be deleted: bit i for share i.
    pub remaining: u64,
}

/// A mountable tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Number.
    pub id: VolumeId,
    /// Name, as in `a,b:/NAME`.
    pub name: String,
    /// Its code.
    pub code: CodeSpec,
    /// Its root directory.
    pub root: Ino,
    /// Placement groups; `GroupId` is the index.
    pub groups: Vec<Group>,
    /// Inodes.
    pub inodes: u64,
    /// Bytes of user data in extents and inline.
    pub held: u64,
    /// When it was made.
    pub created: Time,
}

/// A placement group: the n nodes that hold shares 0..n of a block. It never changes. When nodes come or go, its slot gets a new group,
/// which is *open* from then on, takes new blocks, and is where the blocks of the slot's closed groups move, one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Which of the volume's slots; the last group of a slot is the open one.
    pub slot: u32,
    /// The nodes of shares 0 to n.
    pub nodes: Vec<NodeId>,
}

impl VolumeRecord {
    /// The open groups, by slot.
    pub fn open_groups(&self) -> Vec<GroupId> {
        let mut open: Vec<GroupId> = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let slot = group.slot as usize;
            open.resize(open.len().max(slot + 1), GroupId::default());
            open[slot] = GroupId(at as u32);
        }
        open
    }

    /// The closed groups, each with the open one of its slot.
    pub fn closed_groups(&self) -> Vec<(GroupId, GroupId)> {
        let open = self.open_groups();
        let all = self.groups.iter().enumerate();
        all.map(|(at, group)| (GroupId(at as u32), open[group.slot as usize]))
            .filter(|(group, open)| group != open)
            .collect()
    }

    /// The nodes of a group.
    pub fn nodes_of(&self, group: GroupId) -> Option<&[NodeId]> {
        self.groups.get(group.0 as usize).map(|group| group.nodes.as_slice())
    }

    /// The open group of a group's slot.
    pub fn open_of(&self, group: GroupId) -> Option<GroupId> {
        let slot = self.groups.get(group.0 as usize)?.slot;
        let last = self.groups.iter().rposition(|group| group.slot == slot)?;
        Some(GroupId(last as u32))
    }
}

/// An eligible node: a member of the durable configuration, whether it answers now or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Number.
    pub id: NodeId,
    /// Where others reach it, `host:port`. Empty: nowhere, another node is there in its place, and it leaves.
    pub address: String,
    /// Failure domain: nodes with equal text fail together. Empty: the node is its own.
    pub domain: String,
    /// Relative capacity for placement, 1 or more.
    pub weight: u32,
    /// When it joined.
    pub joined: Time,
    /// It votes and keeps no shares: no placement group has it.
    pub witness: bool,
    /// The mark of its data folder.
    pub folder: String,
    /// It is to go: no open group has it where there are others, and its shares move to them.
    pub draining: bool,
    /// Where it is reached, too, over other networks, `host:port`.
    pub others: Vec<String>,
}

impl NodeRecord {
    /// All addresses of it.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.address).chain(&self.others).filter(|address| !address.is_empty())
    }

    /// Whether it may be in open groups.
    pub fn takes_shares(&self) -> bool {
        !self.witness && !self.draining
    }
}

/// A directory whose names are one session's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationRecord {
    /// Whose.
    pub session: SessionId,
    /// Somebody else wants it.
    pub recalled: bool,
}

/// A client that may hold locks, open files and blocks not yet committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Number.
    pub id: SessionId,
    /// For people: "mount /mnt on host a, pid 77".
    pub label: String,
    /// When it was opened.
    pub opened: Time,
    /// Its requests below this number are answered, and their results forgotten.
    pub done_below: u64,
}
