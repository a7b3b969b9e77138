//! A file's data: opening, reading, writing, holes, and making it durable.
//!
//! A write is answered when the client's buffer has it, in the callback itself where there is room. Errors of
//! storing it come out at close(2) (FLUSH) and fsync(2).
//!
//! Close-to-open: opening asks the namespace. Pages the kernel kept are kept only if the contents are those
//! this client knew, and attributes it kept are dropped if they are of other contents.

use super::Caller;
use super::Shared;
use super::attrs::without_set_id;
use crate::handles::Opened;
use fuser::{Errno, FileHandle, FopenFlags, OpenAccMode, OpenFlags};
use rain_client::OpenFile;
use rain_namespace::command::AttrChange;
use rain_types::Ino;
use std::sync::Arc;
use std::time::Duration;

impl Opened {
    pub(super) fn new(file: Arc<OpenFile>, flags: i32) -> Opened {
        let writable = OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY;
        let direct = flags & libc::O_DIRECT != 0;
        Opened { file, writable, direct, lockers: Default::default() }
    }

    /// How the kernel is to treat the handle. Never NOFLUSH: it would lose errors at close.
    pub(super) fn reply_flags(&self) -> FopenFlags {
        if self.direct {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else if self.file.keep_cache() {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        }
    }
}

/// Between a lookup and the open that it was for.
const NAME_FRESH: Duration = Duration::from_millis(500);

/// What a write needs besides its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) offset: u64,
    /// At the end, wherever that is by now.
    pub(super) append: bool,
    /// Durable before the answer. For cached files the kernel itself sends an FSYNC; for direct ones it
    /// does not.
    pub(super) sync: bool,
}

impl Write {
    /// From the kernel's flags. Pages that were written by mmap come back with a borrowed handle and no
    /// flags: they go where they belong.
    pub(super) fn new(offset: u64, flags: i32, direct: bool, from_cache: bool) -> Write {
        Write {
            offset,
            append: !from_cache && flags & libc::O_APPEND != 0,
            sync: !from_cache && direct && flags & libc::O_DSYNC != 0,
        }
    }
}

impl Shared {
    pub(super) async fn open(
        &self,
        caller: Caller,
        thread: u32,
        ino: Ino,
        flags: i32,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let named = self.inodes.opened(ino, thread);
        let file = self.volume.open(ino).await.map_err(|error| self.inode_errno("opening", &error))?;
        // A name may have gone, or mean another file by now. Where the kernel had it from memory it is told to look again, which it
        // does once; where it has just done so the file is as it was a moment ago, which is as good.
        let fresh = named.is_some_and(|age| age < NAME_FRESH);
        if file.attr().nlink == 0 && !file.is_shared() && !fresh {
            return Err(Errno::ESTALE);
        }
        let opened = Opened::new(file, flags);
        if opened.writable && flags & libc::O_TRUNC != 0 {
            self.empty(caller.is_privileged(), ino, &opened.file).await?;
        } else if !self.inodes.kernel_knows(ino, opened.file.attr().version) {
            self.drop_kernel_attributes(ino);
        }
        let reply = opened.reply_flags();
        Ok((self.files.insert(opened), reply))
    }

    /// O_TRUNC: the kernel left it to the opening (FUSE_ATOMIC_O_TRUNC), and with it what a truncation by
    /// somebody without privilege does to set-id bits.
    async fn empty(&self, privileged: bool, ino: Ino, file: &OpenFile) -> Result<(), Errno> {
        let emptied = file.truncate(0).await;
        self.inodes.changed(ino);
        let attr = emptied.map_err(|error| self.errno("emptying a file", &error))?;
        if !privileged && let Some(mode) = without_set_id(attr.mode) {
            self.set_attr(ino, AttrChange { mode: Some(mode), ..AttrChange::default() }).await?;
        }
        self.drop_kernel_attributes(ino);
        Ok(())
    }

    /// Has the kernel ask for the attributes before it uses them again. It takes no lock that an open or a
    /// read holds, so it may be sent while one is being answered.
    pub(super) fn drop_kernel_attributes(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get() {
            // An inode that the kernel dropped meanwhile is as good (ENOENT).
            let _ = notifier.inval_inode(self.numbers.kernel(ino), -1, 0);
        }
    }

    /// Has the kernel drop the pages of a file. It waits for those that a request under way has locked, so
    /// never from the task that answers such a request, and after the answer.
    pub(super) fn drop_kernel_pages(self: &Arc<Self>, ino: Ino) -> impl Future<Output = ()> {
        let shared = self.clone();
        let dropping = self.runtime.spawn_blocking(move || {
            if let Some(notifier) = shared.notifier.get() {
                let _ = notifier.inval_inode(shared.numbers.kernel(ino), 0, 0);
            }
        });
        async {
            let _ = dropping.await;
        }
    }

    /// Takes a write if that needs no waiting. O_APPEND is at the end of what this client knows, which may be
    /// past the end that the kernel knows when somebody else appended: then it is not as simple as that.
    pub(super) fn write_now(&self, ino: Ino, opened: &Opened, write: Write, data: &[u8]) -> bool {
        let at_end = !write.append || opened.file.size() == write.offset;
        let taken = at_end && !write.sync && opened.file.write_now(write.offset, data);
        if taken {
            self.inodes.changed(ino);
        }
        taken
    }

    /// Writes, waiting as long as it takes.
    pub(super) async fn write(
        self: &Arc<Self>,
        ino: Ino,
        opened: &Opened,
        write: Write,
        data: &[u8],
    ) -> Result<(), Errno> {
        let written = if write.append {
            opened.file.append(data).await
        } else {
            opened.file.write(write.offset, data).await.map(|()| write.offset)
        };
        self.inodes.changed(ino);
        let at = written.map_err(|error| self.inode_errno("writing", &error))?;
        if write.sync {
            self.flush(&opened.file).await?;
        }
        if at != write.offset {
            // The kernel put the bytes into its pages where it believed the end to be.
            drop(self.drop_kernel_pages(ino));
        }
        Ok(())
    }

    pub(super) async fn flush(&self, file: &OpenFile) -> Result<(), Errno> {
        file.flush().await.map_err(|error| self.inode_errno("storing written data", &error))
    }

    /// fallocate(2): mode 0 makes the file as long as asked, by a hole; nothing is reserved, as everywhere
    /// where blocks are made by writing. Punching makes a hole.
    pub(super) async fn fallocate(
        &self,
        ino: Ino,
        file: &OpenFile,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let done = match mode {
            0 if file.size() >= end => return Ok(()),
            0 => file.truncate(end).await,
            PUNCH => file.punch(offset, len).await,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        self.inodes.changed(ino);
        done.map(|_| ()).map_err(|error| self.errno("allocating", &error))
    }

    /// lseek(2) for data and holes; the kernel does the others itself.
    pub(super) async fn seek(&self, file: &OpenFile, offset: i64, whence: i32) -> Result<i64, Errno> {
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = match whence {
            libc::SEEK_DATA => file.seek_data(from).await,
            libc::SEEK_HOLE => file.seek_hole(from).await,
            _ => return Err(Errno::EINVAL),
        };
        let found = found.map_err(|error| self.errno("seeking", &error))?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_written_by_mmap_go_where_they_belong() {
        let write = Write::new(10, libc::O_APPEND | libc::O_SYNC, true, true);
        assert!(!write.append && !write.sync);
        assert_eq!(write.offset, 10);
    }

    #[test]
    fn only_direct_files_are_made_durable_here() {
        assert!(Write::new(0, libc::O_DSYNC, true, false).sync);
        assert!(Write::new(0, libc::O_SYNC, true, false).sync, "O_SYNC is O_DSYNC and more");
        assert!(!Write::new(0, libc::O_SYNC, false, false).sync, "the kernel sends an FSYNC");
        assert!(Write::new(0, libc::O_APPEND, false, false).append);
    }
}
