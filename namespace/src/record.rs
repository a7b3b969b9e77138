//! The records: the values behind the keys of [`crate::key`]. Each is written with postcard behind one
//! version byte. `docs/formats-namespace.md` lists the fields; `tests/golden.rs` holds the bytes.

use rain_types::{BlockId, CodeSpec, GroupId, Ino, NodeId, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// A time since 1970 (UTC), from the proposer's clock or from a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device with the number `rdev`.
    CharDevice,
    /// Block device with the number `rdev`.
    BlockDevice,
}

/// The attributes of an inode: those of `stat`, and those that caches need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Volume of the inode.
    pub volume: VolumeId,
    /// Kind of the inode.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky (07777).
    pub mode: u16,
    /// Owner's user id.
    pub uid: u32,
    /// Owner's group id.
    pub gid: u32,
    /// Number of names; for a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// Length in bytes of a file or of a symlink's target; number of entries of a directory.
    pub size: u64,
    /// Bytes of data in extents and inline; holes do not count.
    pub stored_bytes: u64,
    /// Device number of a device.
    pub rdev: u32,
    /// Last access. Only creation and utimens set it.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub crtime: Time,
    /// Counter that grows by one with every change of the contents (data, size, entries).
    pub version: u64,
    /// For a directory, its parent directory (for a root, the root itself); 0 for other kinds.
    pub parent: Ino,
    /// Number of extents. A file with 0 extents and `size > 0` is inline or a hole.
    pub extents: u64,
    /// The inode has an access ACL ([`crate::acl`]), which says more than its mode.
    pub acl: bool,
    /// The directory has a default ACL.
    pub default_acl: bool,
}

/// A file without a name, which sessions may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlinkedRecord {
    /// Sessions that have not opened the file yet cannot open it.
    pub sealed: bool,
    /// The file was made without a name (O_TMPFILE), and may get one.
    pub never_named: bool,
}

/// A range of a file that lies in a block. Ranges without an extent read as the inline data, and past it as
/// zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte in the file; also part of the key.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub len: u32,
    /// Block with the data.
    pub block: BlockId,
    /// First byte in the block.
    pub block_offset: u32,
    /// Length of the whole block in bytes; with the code it determines the length of the shares.
    pub block_len: u32,
    /// Placement group of the block in the file's volume. In the store: the group at the time of the write.
    /// In an answer: the current group.
    pub group: GroupId,
}

impl Extent {
    /// Returns the first byte of the file after the extent.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A block that extents use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Volume whose code and placement groups apply.
    pub volume: VolumeId,
    /// Placement group with the nodes of its shares.
    pub group: GroupId,
    /// Length in bytes.
    pub len: u32,
    /// Bytes that extents use. A block with 0 becomes garbage at once.
    pub live: u64,
    /// Missing shares: bit i is set when share i is not on its node.
    pub missing: u64,
}

/// A block that no extent uses; it stays until its shares are deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageRecord {
    /// Volume whose placement groups apply.
    pub volume: VolumeId,
    /// Placement group with the nodes of its shares.
    pub group: GroupId,
    /// Shares that are not deleted yet: bit i for share i.
    pub remaining: u64,
}

/// A volume: a mountable directory tree with its code and placement groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Volume number.
    pub id: VolumeId,
    /// Name, as in `a,b:/NAME`.
    pub name: String,
    /// Erasure code.
    pub code: CodeSpec,
    /// Root directory.
    pub root: Ino,
    /// Placement groups; a `GroupId` is an index into this list.
    pub groups: Vec<Group>,
    /// Number of inodes.
    pub inodes: u64,
    /// Bytes of user data in extents and inline.
    pub stored_bytes: u64,
    /// Time of creation.
    pub created: Time,
}

/// A placement group: the nodes of shares 0 to n - 1 of its blocks. A group never changes. When nodes are
/// added or drained, the group's slot gets a new group. The newest group of a slot is *open* and takes new
/// blocks. The older groups are *closed*, and rebalance moves their blocks to the open one, block by block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Slot within the volume; the last group of a slot is the open one.
    pub slot: u32,
    /// Nodes of shares 0 to n - 1.
    pub nodes: Vec<NodeId>,
}

impl VolumeRecord {
    /// Returns the open groups by slot.
    pub fn open_groups(&self) -> Vec<GroupId> {
        let mut open: Vec<GroupId> = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let slot = group.slot as usize;
            open.resize(open.len().max(slot + 1), GroupId::default());
            open[slot] = GroupId(at as u32);
        }
        open
    }

    /// Returns the closed groups, each with the open group of its slot.
    pub fn closed_groups(&self) -> Vec<(GroupId, GroupId)> {
        let open = self.open_groups();
        let all = self.groups.iter().enumerate();
        all.map(|(at, group)| (GroupId(at as u32), open[group.slot as usize]))
            .filter(|(group, open)| group != open)
            .collect()
    }

    /// Returns the nodes of a group; `None` when the volume has no such group.
    pub fn nodes_of(&self, group: GroupId) -> Option<&[NodeId]> {
        self.groups.get(group.0 as usize).map(|group| group.nodes.as_slice())
    }

    /// Returns the open group of a group's slot; `None` when the volume has no such group.
    pub fn open_of(&self, group: GroupId) -> Option<GroupId> {
        let slot = self.groups.get(group.0 as usize)?.slot;
        let last = self.groups.iter().rposition(|group| group.slot == slot)?;
        Some(GroupId(last as u32))
    }
}

/// An eligible node: a member of the cluster's durable configuration, whether it is reachable or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Node number.
    pub id: NodeId,
    /// Address for other nodes, `host:port`. Empty for a draining node whose address another node has taken
    /// over.
    pub address: String,
    /// Failure domain: nodes with equal text fail together. Empty: the node is a domain of its own.
    pub domain: String,
    /// Relative capacity for placement, at least 1.
    pub weight: u32,
    /// Time of registration.
    pub joined: Time,
    /// True for a witness: it votes and stores no shares, so no placement group contains it.
    pub witness: bool,
    /// Random identity of its data folder.
    pub folder: String,
    /// True while the node is drained: open groups avoid it where other nodes are available, and its shares
    /// move away.
    pub draining: bool,
    /// Further addresses of the node on other networks, `host:port`.
    pub others: Vec<String>,
}

impl NodeRecord {
    /// Returns all addresses of the node.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.address).chain(&self.others).filter(|address| !address.is_empty())
    }

    /// Returns whether open groups may contain the node.
    pub fn takes_shares(&self) -> bool {
        !self.witness && !self.draining
    }
}

/// A directory whose names belong to one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationRecord {
    /// Session to which the directory is delegated.
    pub session: SessionId,
    /// True once another session has asked for the directory.
    pub recalled: bool,
}

/// A client that may hold locks, open files and blocks that are not committed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Session number.
    pub id: SessionId,
    /// Description for people: "mount /mnt on host a, pid 77".
    pub label: String,
    /// Time of opening.
    pub opened: Time,
    /// The client has the results of all requests below this number, and the service has dropped them.
    pub done_below: u64,
    /// The client keeps leases ([`crate::lease`]).
    pub caches: bool,
}
