//! Attributes: from the namespace's form to the kernel's and back; free space.

use super::RainFs;
use crate::numbers::Numbers;
use fuser::{Errno, FileAttr, FileType, ReplyStatfs, TimeOrNow};
use rain_client::{Error, Space};
use rain_namespace::command::{AttrChange, TimeChange};
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_namespace::record::{Attr, FileKind, Time};
use rain_types::Ino;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The preferred length of a read or write that `stat` gives, bytes: large enough that a program's buffer
/// costs few requests, small enough for thousands of buffers.
const BLOCK_SIZE: u32 = 128 << 10;

/// The unit in which free space is given, bytes: a page, as local filesystems have it.
const SPACE_UNIT: u32 = 4096;

/// The number of free inodes that statfs gives. Inodes are not limited, and `df -i` wants a number.
const INODES_FREE: u64 = 1 << 32;

/// Attributes in the kernel's form.
pub(super) fn to_kernel(attr: &Attr, numbers: Numbers) -> FileAttr {
    FileAttr {
        ino: numbers.kernel(attr.ino),
        size: attr.size,
        blocks: attr.stored_bytes.div_ceil(512),
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: to_system(attr.crtime),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// A kind of inode in the kernel's form.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind of inode that mknod(2) asks for; None for one that it cannot make.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

fn to_system(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let start = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let at = start.and_then(|start| start.checked_add(Duration::from_nanos(time.nanos.into())));
    at.unwrap_or(UNIX_EPOCH)
}

/// The time that the kernel sent, from the time that fuser 0.18 makes of it. For a time before 1970 fuser
/// subtracts the nanoseconds that the kernel means to be added; the two numbers that the kernel sent can
/// still be read.
fn from_fuser(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Time { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
        }
    }
}

fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::At(from_fuser(time)),
    }
}

/// The change that SETATTR asks for. The kernel's own `ctime` is left out: the namespace stamps it.
pub(super) fn change_of(
    mode: Option<u32>,
    (uid, gid): (Option<u32>, Option<u32>),
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> AttrChange {
    AttrChange {
        mode: mode.map(|mode| (mode & 0o7777) as u16),
        uid,
        gid,
        size,
        atime: atime.map(time_change),
        mtime: mtime.map(time_change),
    }
}

/// The mode of a file after a user without privilege has emptied it; None if the mode stays. As a write does,
/// that takes set-id bits away. Set-gid without the group's execute bit is no set-id bit.
pub(super) fn without_set_id(mode: u16) -> Option<u16> {
    let mut left = mode & !0o4000;
    if mode & 0o010 != 0 {
        left &= !0o2000;
    }
    (left != mode).then_some(left)
}

/// Free space in the form of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StatFs {
    pub(super) blocks: u64,
    pub(super) free: u64,
    pub(super) files: u64,
    pub(super) files_free: u64,
    pub(super) unit: u32,
    pub(super) name_max: u32,
}

impl StatFs {
    fn of(space: &Space) -> StatFs {
        StatFs {
            blocks: space.total_bytes / u64::from(SPACE_UNIT),
            free: space.free_bytes / u64::from(SPACE_UNIT),
            files: space.inodes + INODES_FREE,
            files_free: INODES_FREE,
            unit: SPACE_UNIT,
            name_max: 255,
        }
    }

    pub(super) fn reply(&self, reply: ReplyStatfs) {
        let StatFs { blocks, free, files, files_free, unit, name_max } = *self;
        reply.statfs(blocks, free, free, files, files_free, unit, name_max, unit);
    }
}

impl RainFs {
    /// The attributes of an inode. A removed directory keeps its last ones, without names, for the programs
    /// that have it open or are in it.
    pub(super) async fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        match self.volume.attr(ino).await {
            Err(Error::Refused(NsError::NotFound)) => {
                self.coherence.attributes_of_removed(ino).ok_or(Errno::ESTALE)
            }
            read => read.map_err(|error| self.inode_errno("reading attributes", &error)),
        }
    }

    pub(super) async fn set_attr(&self, ino: Ino, change: AttrChange) -> Result<Attr, Errno> {
        let changed = if change == AttrChange::default() {
            self.volume.attr(ino).await
        } else {
            if self.volume.read_for(&Subject::Inode(ino)).is_some() {
                self.coherence.changing(ino);
            }
            let _truncating =
                if change.size.is_some() { Some(self.coherence.truncating(ino).await) } else { None };
            self.volume.set_attr(ino, change.clone()).await
        };
        self.coherence.changed(ino);
        if let Err(Error::Refused(NsError::NotFound)) = changed {
            return self.coherence.change_removed(ino, &change).ok_or(Errno::ESTALE);
        }
        changed.map_err(|error| self.inode_errno("changing attributes", &error))
    }

    pub(super) async fn statfs(&self) -> Result<StatFs, Errno> {
        let space = self.space.get(self.volume.space()).await;
        space.map(|space| StatFs::of(&space)).map_err(|error| self.errno("asking for free space", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds_on_both_sides_of_1970() {
        for time in
            [Time { secs: 5, nanos: 7 }, Time { secs: 0, nanos: 0 }, Time { secs: -2, nanos: 800_000_000 }]
        {
            let system = to_system(time);
            let exact = match system.duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            };
            assert_eq!(exact, i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos));
        }
        assert!(to_system(Time { secs: i64::MAX, nanos: 0 }) >= UNIX_EPOCH);
    }

    #[test]
    fn fusers_times_before_1970_are_what_the_kernel_sent() {
        // What fuser 0.18 makes of the kernel's (-2 s, 800,000,000 ns).
        let given = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(from_fuser(given), Time { secs: -2, nanos: 800_000_000 });
        assert_eq!(from_fuser(UNIX_EPOCH + Duration::new(3, 4)), Time { secs: 3, nanos: 4 });
    }

    #[test]
    fn set_id_bits_go_as_the_kernel_takes_them() {
        assert_eq!(without_set_id(0o0755), None);
        assert_eq!(without_set_id(0o4755), Some(0o0755));
        assert_eq!(without_set_id(0o6755), Some(0o0755));
        assert_eq!(without_set_id(0o2744), None, "set-gid without execute is no privilege");
        assert_eq!(without_set_id(0o1644), None);
    }

    #[test]
    fn every_kind_of_node_can_be_made_and_only_those() {
        let kinds = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK];
        let made: Vec<_> = kinds.iter().map(|kind| kind_of_mode(kind | 0o644).map(file_type)).collect();
        let expected = [
            FileType::RegularFile,
            FileType::NamedPipe,
            FileType::Socket,
            FileType::CharDevice,
            FileType::BlockDevice,
        ];
        assert_eq!(made, expected.map(Some));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
        assert_eq!(kind_of_mode(libc::S_IFLNK), None);
    }

    #[test]
    fn free_space_is_in_whole_units() {
        let space = Space { total_bytes: 10 << 20, free_bytes: (4 << 20) + 4095, inodes: 3 };
        let stat = StatFs::of(&space);
        assert_eq!((stat.blocks, stat.free), (2560, 1024));
        assert_eq!(stat.files - stat.files_free, 3);
    }
}
