//! A file's data: opening, reading, writing, holes, and making data durable.
//!
//! A write is answered when the client's buffer has it, in the callback itself where there is room. If
//! storing the data fails, close(2) (FLUSH) or fsync(2) returns the error.
//!
//! Every open asks the namespace, and then [`crate::coherence`] decides which pages and attributes the kernel
//! keeps.

use super::attrs::without_set_id;
use super::{Caller, RainFs};
use crate::coherence::{CAPABILITY, READ_WITHIN};
use crate::handles::Opened;
use bytes::Bytes;
use fuser::{Errno, FileHandle, FopenFlags, OpenAccMode, OpenFlags, WriteFlags};
use parking_lot::Mutex;
use rain_client::OpenFile;
use rain_namespace::command::AttrChange;
use rain_namespace::lease::Subject;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::sync::Arc;
use std::time::Instant;

impl Opened {
    pub(super) fn new(file: Arc<OpenFile>, flags: i32) -> Opened {
        let writable = OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY;
        // The kernel would put appended bytes where it believes the end to be; another mount may have moved it.
        let appends = writable && flags & libc::O_APPEND != 0;
        Opened {
            file,
            writable,
            past_pages: appends || flags & libc::O_DIRECT != 0,
            failed_append: Mutex::default(),
        }
    }
}

/// The mode of fallocate(2) that makes a hole.
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// Most bytes of one copy_file_range(2): a call ends within a moment.
const COPIED_MAX: u64 = 1 << 30;

/// How often the kernel's pages are read for one request, where other mounts change the file meanwhile.
const PAGES_READ_MAX: usize = 3;

/// Where the file ends, if a read of so many bytes ended there.
fn end_of_short(read: &Result<Bytes, Errno>, offset: u64, size: u32) -> Option<u64> {
    let read = read.as_ref().ok()?.len();
    (read < size as usize).then_some(offset + read as u64)
}

/// Where and how a write goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) offset: u64,
    /// The write goes to the end of the file, wherever that is when the write is taken; `offset` is where the
    /// kernel believes the end to be.
    pub(super) append: bool,
    /// The write goes past the kernel's pages.
    pub(super) past_pages: bool,
    /// The data must be durable before the answer. For a write through its pages the kernel itself sends an FSYNC.
    pub(super) sync: bool,
    /// The bytes were written through a mapping.
    pub(super) from_mapping: bool,
    /// The set-id bits are to be cleared before. For a write through its pages the kernel itself sends a SETATTR.
    pub(super) clear_set_id: bool,
}

impl Write {
    /// A write by the kernel's flags. A page that was written through a mapping comes with a borrowed handle,
    /// whose flags do not count: it is written at its own offset.
    pub(super) fn new(offset: u64, flags: i32, handle_past_pages: bool, how: WriteFlags) -> Write {
        let from_mapping = how.contains(WriteFlags::FUSE_WRITE_CACHE);
        let past_pages = handle_past_pages && !from_mapping;
        Write {
            offset,
            append: !from_mapping && flags & libc::O_APPEND != 0,
            past_pages,
            sync: past_pages && flags & libc::O_DSYNC != 0,
            clear_set_id: past_pages && how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            from_mapping,
        }
    }

    /// The write on a mount with the option `sync`, or without it. What is written through a mapping is durable after
    /// msync(2) in any case.
    pub(super) fn synchronous(self, sync: bool) -> Write {
        Write { sync: self.sync || sync && !self.from_mapping, ..self }
    }
}

impl RainFs {
    /// Reads for a thread, for the kernel's pages or past them. Returns also whether the kernel may keep what it reads.
    pub(super) async fn read(
        &self,
        ino: Ino,
        opened: &Opened,
        thread: u32,
        (offset, size): (u64, u32),
    ) -> (Result<Bytes, Errno>, bool) {
        if opened.past_pages {
            return (self.read_now(opened, offset, size).await, true);
        }
        // Without leases the kernel's length may be old in any case.
        let has_leases = self.volume.read_for(&Subject::Inode(ino)).is_some();
        let mut rounds = 0;
        loop {
            let (read, may_stay) = self.read_pages(ino, opened, (offset, size)).await;
            let Some(end) = end_of_short(&read, offset, size) else { return (read, may_stay) };
            rounds += 1;
            let is_answer = !has_leases || rounds == PAGES_READ_MAX;
            if is_answer || self.coherence.lower_length(ino, end, &opened.file).await {
                self.coherence.read_to_end(ino, thread, end);
                return (read, may_stay);
            }
        }
    }

    async fn read_now(&self, opened: &Opened, offset: u64, size: u32) -> Result<Bytes, Errno> {
        let read = opened.file.read(offset, size).await;
        read.map_err(|error| self.inode_errno("reading", &error))
    }

    /// Reads for the kernel's pages. Returns also whether the kernel may keep them: a lease on the file was there from
    /// the beginning, and no change has come since. Else nobody would have the kernel drop them after another mount's
    /// change.
    async fn read_pages(
        &self,
        ino: Ino,
        opened: &Opened,
        (offset, size): (u64, u32),
    ) -> (Result<Bytes, Errno>, bool) {
        let is_leased = || self.may_be_used(&Subject::Inode(ino));
        let mut longest: Option<Bytes> = None;
        for _ in 0..PAGES_READ_MAX {
            if !is_leased() {
                // With the attributes comes a lease, unless a change is under way.
                let _ = self.volume.attr(ino).await;
            }
            let (was_leased, stamp) = (is_leased(), self.coherence.stamp());
            let read = match self.read_now(opened, offset, size).await {
                Ok(read) => read,
                Err(errno) => return (Err(errno), false),
            };
            let may_stay = was_leased && is_leased() && !self.coherence.attributes_are_outdated(ino, stamp);
            if longest.as_ref().is_some_and(|longest| longest.len() > read.len()) {
                // Cut meanwhile. The kernel would show zeros up to the end that it knows. The read has begun before.
                break;
            }
            if may_stay {
                return (Ok(read), true);
            }
            longest = Some(read);
        }
        (Ok(longest.unwrap_or_default()), false)
    }

    pub(super) async fn open(
        &self,
        caller: Caller,
        ino: Ino,
        flags: i32,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let name_is_fresh = self.coherence.name_is_fresh(ino, caller.thread);
        let writes = OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY;
        let file =
            self.volume.open_to(ino, writes).await.map_err(|error| self.inode_errno("opening", &error))?;
        if self.coherence.name_may_be_gone(&file, name_is_fresh) {
            return Err(Errno::ESTALE);
        }
        let opened = Opened::new(file, flags);
        if opened.writable && flags & libc::O_TRUNC != 0 {
            self.empty(caller.is_privileged(), ino, &opened.file).await?;
        }
        self.coherence.opened(ino, &opened.file).await;
        let open_flags = self.coherence.open_flags(opened.past_pages);
        Ok((self.files.insert(opened), open_flags))
    }

    /// Empties a file at its open. The kernel leaves O_TRUNC to the filesystem (FUSE_ATOMIC_O_TRUNC), and
    /// with it the removal of set-id bits when a user without privilege truncates a file.
    async fn empty(&self, privileged: bool, ino: Ino, file: &OpenFile) -> Result<(), Errno> {
        let truncating = self.coherence.truncating(ino).await;
        let emptied = file.truncate(0).await;
        drop(truncating);
        self.coherence.changed(ino);
        let attr = emptied.map_err(|error| self.errno("emptying a file", &error))?;
        if !privileged && let Some(mode) = without_set_id(attr.mode) {
            self.set_attr(ino, AttrChange { mode: Some(mode), ..AttrChange::default() }).await?;
        }
        self.coherence.emptied(ino);
        Ok(())
    }

    /// Takes a write if that needs no waiting; returns whether it did. An O_APPEND write is taken here only
    /// if the kernel's end of the file is this client's. The two differ when another mount has appended, and
    /// then the kernel's pages are to be dropped, too.
    pub(super) fn write_now(&self, ino: Ino, opened: &Opened, write: Write, data: &[u8]) -> bool {
        if !write.past_pages {
            self.coherence.pages_filled(ino);
        }
        let at_end = || opened.file.size() == write.offset;
        let no_privileges = || !write.clear_set_id && self.coherence.lacks_xattr(ino, CAPABILITY);
        let may_be_now = !write.sync && (!write.append || at_end()) && (!write.past_pages || no_privileges());
        let taken = may_be_now && opened.file.write_now(write.offset, data);
        if taken {
            self.coherence.written(ino, write.offset + data.len() as u64);
        }
        taken
    }

    /// Writes, and waits for room in the client's buffer, at most as long as the client's deadline.
    pub(super) async fn write(
        &self,
        ino: Ino,
        opened: &Opened,
        write: Write,
        data: &[u8],
    ) -> Result<(), Errno> {
        if write.past_pages {
            self.remove_privileges(ino, write.clear_set_id).await?;
        }
        let under_way =
            (!write.past_pages).then(|| self.coherence.write_under_way(ino, write.offset, data.len()));
        let written = if write.append {
            opened.file.append(data).await
        } else {
            opened.file.write(write.offset, data).await.map(|()| write.offset)
        };
        self.coherence.written(ino, write.offset.saturating_add(data.len() as u64));
        if write.append && written.is_err() {
            opened.append_failed(write.offset);
        }
        let at = written.map_err(|error| self.inode_errno("writing", &error))?;
        let stored = if write.sync { self.flush(&opened.file).await } else { Ok(()) };
        // Until here the kernel has a page locked.
        drop(under_way);
        if write.past_pages {
            // Where the kernel believed the end to be, it has zeros behind it.
            self.coherence.written_past_pages(ino, at.min(write.offset), at + data.len() as u64).await;
        }
        if at != write.offset {
            if write.past_pages {
                self.coherence.tell_length(ino, at + data.len() as u64, None).await;
            } else {
                self.coherence.append_misplaced(ino);
            }
        }
        stored
    }

    /// Attributes for a thread that asks for those of a file it has open, or of a name.
    pub(super) async fn attr_for(&self, ino: Ino, thread: u32, is_open: bool) -> Result<Attr, Errno> {
        if is_open {
            return self.attr_of_open(ino, thread).await;
        }
        let attr = self.attr(ino).await?;
        self.coherence.may_have_length(&attr, thread).await;
        Ok(attr)
    }

    /// Attributes for a program that reads or seeks at the end of an open file. If the kernel would ignore the
    /// length in them, it is told the length before: a length that the file has had since the call.
    async fn attr_of_open(&self, ino: Ino, thread: u32) -> Result<Attr, Errno> {
        let begun = Instant::now();
        loop {
            let Some(doubt) = self.coherence.length_doubted(ino) else { return self.attr(ino).await };
            let no_truncation = self.coherence.no_truncation(ino).await;
            let attr = self.attr(ino).await?;
            if self.coherence.tell_changed_length(&attr, thread, no_truncation).await {
                // Without a lease others may change the file unseen, and the next read tells the length again.
                if self.may_be_used(&Subject::Inode(ino)) {
                    self.coherence.length_is_known(ino, doubt);
                }
                return Ok(attr);
            }
            // A read under way has a page locked, and waits for the cluster.
            if !self.coherence.reads_are_over(ino).await || begun.elapsed() > READ_WITHIN {
                tracing::warn!(%ino, "a read at the end of a file fails: another read of it is not answered");
                return Err(Errno::EIO);
            }
        }
    }

    /// Removes what a write removes from a program file: `security.capability`, and the set-id bits where the writer
    /// may not set them. The kernel does not do it for a write past its cache.
    async fn remove_privileges(&self, ino: Ino, clear_set_id: bool) -> Result<(), Errno> {
        if !self.coherence.lacks_xattr(ino, CAPABILITY) {
            match self.get_xattr(ino, CAPABILITY, 0).await {
                Ok(_) => self.remove_xattr(ino, CAPABILITY).await?,
                Err(errno) if errno.code() == Errno::NO_XATTR.code() => {}
                Err(errno) => return Err(errno),
            }
        }
        if clear_set_id && let Some(mode) = without_set_id(self.attr(ino).await?.mode) {
            self.set_attr(ino, AttrChange { mode: Some(mode), ..AttrChange::default() }).await?;
        }
        Ok(())
    }

    pub(super) async fn flush(&self, file: &OpenFile) -> Result<(), Errno> {
        file.flush().await.map_err(|error| self.inode_errno("storing written data", &error))
    }

    /// fallocate(2). Mode 0 makes the file at least as long as asked, by a hole; no room is reserved, because
    /// blocks are made by writing. Punching makes a hole. Every other mode is EOPNOTSUPP.
    pub(super) async fn fallocate(
        &self,
        ino: Ino,
        file: &OpenFile,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let refreshed = file.refresh().await;
        refreshed.map_err(|error| self.inode_errno("asking for a length", &error))?;
        let done = match mode {
            0 if file.size() >= end => return Ok(()),
            0 => file.truncate(end).await,
            PUNCH => file.punch(offset, len).await,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        self.coherence.written(ino, end);
        done.map(|_| ()).map_err(|error| self.errno("allocating", &error))
    }

    /// copy_file_range(2): the files share the blocks. Returns the number of bytes copied, at most [`COPIED_MAX`]; the
    /// caller asks for the rest.
    pub(super) async fn copy_range(
        &self,
        (from, offset): (&OpenFile, u64),
        (ino, to, to_offset): (Ino, &OpenFile, u64),
        len: u64,
    ) -> Result<u32, Errno> {
        let copied = from.copy_range(offset, to, to_offset, len.min(COPIED_MAX)).await;
        self.coherence.written(ino, to_offset.saturating_add(len));
        let copied = copied.map_err(|error| self.errno("copying a range", &error))?;
        Ok(copied as u32)
    }

    /// lseek(2) for data (SEEK_DATA) and holes (SEEK_HOLE). The kernel does the others itself.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_written_by_mmap_go_where_they_belong() {
        let how = WriteFlags::FUSE_WRITE_CACHE | WriteFlags::FUSE_WRITE_KILL_SUIDGID;
        let write = Write::new(10, libc::O_APPEND | libc::O_SYNC, true, how);
        assert!(!write.append && !write.sync && !write.clear_set_id);
        assert_eq!(write.offset, 10);
    }

    #[test]
    fn only_writes_past_the_pages_are_made_durable_and_lose_set_id_bits_here() {
        let plain = WriteFlags::empty();
        assert!(Write::new(0, libc::O_DSYNC, true, plain).sync);
        assert!(Write::new(0, libc::O_SYNC, true, plain).sync, "O_SYNC is O_DSYNC and more");
        assert!(!Write::new(0, libc::O_SYNC, false, plain).sync, "the kernel sends an FSYNC");
        assert!(Write::new(0, libc::O_APPEND, false, plain).append);
        assert!(Write::new(0, 0, false, plain).synchronous(true).sync, "the mount has the option sync");
        assert!(!Write::new(0, 0, false, WriteFlags::FUSE_WRITE_CACHE).synchronous(true).sync);
        let kills = WriteFlags::FUSE_WRITE_KILL_SUIDGID;
        assert!(Write::new(0, 0, true, kills).clear_set_id && !Write::new(0, 0, false, kills).clear_set_id);
        assert!(!Write::new(0, 0, true, plain).clear_set_id);
    }
}
