//! The kernel's requests, as fuser calls them. Every callback takes what it needs out of the request and
//! hands the reply to a task of the runtime (`tasks`). None of them waits, so that a loop is always free for
//! the next request. Only an answer that needs no waiting is given in the callback: a write into the client's
//! buffer, a handle, an error.
//!
//! fuser answers an INTERRUPT with ENOSYS, so a killed program waits for its reply. The client gives every
//! operation a deadline, so the wait ends.

use super::attrs::change_of;
use super::data::Write;
use super::locks::LockRequest;
use super::replies::*;
use super::xattrs::{SetXattr, is_kept};
use super::{Callbacks, Caller, handshake};
use crate::handles::OpenedDirectory;
use crate::listing::Listing;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyStatx, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rain_namespace::record::FileKind;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

/// The value of a result. An error is sent as the reply, and the callback returns.
macro_rules! or_reply {
    ($result:expr, $reply:ident) => {
        match $result {
            Ok(value) => value,
            Err(errno) => return $reply.error(errno),
        }
    };
}

impl Filesystem for Callbacks {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        handshake::negotiate(config)
    }

    fn destroy(&mut self) {
        tracing::debug!(inodes = self.fs.coherence.inodes_known(), "the kernel has ended the connection");
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name, thread) = (self.ino(parent), name.as_bytes().to_vec(), request.pid());
        self.answer_in(request, [parent], move |fs| async move {
            let stamp = fs.coherence.stamp();
            let found = fs.lookup(parent, &name, thread).await;
            fs.reply_looked_up(reply, (parent, &name), found, (thread, stamp)).await;
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.fs.coherence.forget(self.ino(ino), lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let (ino, thread) = (self.ino(ino), request.pid());
        self.answer(move |fs| async move {
            fs.coherence.names_certain(ino, thread).await;
            let stamp = fs.coherence.stamp();
            let attr = fs.attr_for(ino, thread, handle.is_some()).await;
            fs.reply_attr(reply, attr, stamp);
        });
    }

    fn statx(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        _flags: u32,
        _mask: u32,
        reply: ReplyStatx,
    ) {
        let ino = self.ino(ino);
        self.answer(|fs| async move {
            let stamp = fs.coherence.stamp();
            fs.reply_statx(reply, fs.attr(ino).await, stamp);
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let opened = handle.and_then(|handle| self.fs.files.get(handle));
        let size = size.filter(|size| !opened.is_some_and(|opened| opened.undoes_append(*size)));
        let change = change_of(mode, (uid, gid), size, atime, mtime);
        let ino = self.ino(ino);
        self.answer(|fs| async move {
            let stamp = fs.coherence.stamp();
            fs.reply_attr(reply, fs.set_attr(ino, change).await, stamp);
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let ino = self.ino(ino);
        self.answer(|fs| async move { reply_data(reply, fs.read_link(ino).await) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, parent, name) = (Caller::from(request), self.ino(parent), name.as_bytes().to_vec());
        self.answer_in(request, [parent], move |fs| async move {
            let made = fs.mknod(caller, parent, &name, (mode, umask), rdev).await;
            fs.reply_entry(reply, (parent, &name), made);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (self.ino(parent), name.as_bytes().to_vec());
        let new = Caller::from(request).new_inode(FileKind::Directory, (mode, umask));
        self.answer_in(request, [parent], |fs| async move {
            let made = fs.make(parent, &name, new).await;
            fs.reply_entry(reply, (parent, &name), made);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (self.ino(parent), name.as_bytes().to_vec());
        self.answer_in(
            request,
            [parent],
            |fs| async move { reply_empty(reply, fs.unlink(parent, &name).await) },
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (self.ino(parent), name.as_bytes().to_vec());
        self.answer_in(request, [parent], |fs| async move {
            reply_empty(reply, fs.remove_directory(parent, &name).await)
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, parent, name) = (Caller::from(request), self.ino(parent), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        self.answer_in(request, [parent], |fs| async move {
            let made = fs.symlink(caller, parent, &name, target).await;
            fs.reply_entry(reply, (parent, &name), made);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (caller, parent, name) = (Caller::from(request), self.ino(parent), name.as_bytes().to_vec());
        let (new_parent, new_name) = (self.ino(new_parent), new_name.as_bytes().to_vec());
        self.answer_in(request, [parent, new_parent], move |fs| async move {
            reply_empty(reply, fs.rename(caller, (parent, &name), (new_parent, &new_name), flags).await);
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (ino, parent, name) = (self.ino(ino), self.ino(new_parent), new_name.as_bytes().to_vec());
        self.answer_in(request, [parent], |fs| async move {
            let linked = fs.link(ino, parent, &name).await;
            fs.reply_entry(reply, (parent, &name), linked);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, ino) = (Caller::from(request), self.ino(ino));
        self.answer(move |fs| async move {
            reply_opened(reply, fs.open(caller, ino, flags.0).await);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, parent, name) = (Caller::from(request), self.ino(parent), name.as_bytes().to_vec());
        self.answer_in(request, [parent], move |fs| async move {
            let made = fs.create(caller, parent, &name, (mode, umask), flags).await;
            fs.reply_created(reply, Some((parent, &name)), made);
        });
    }

    fn tmpfile(
        &self,
        request: &Request,
        parent: INodeNo,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, parent) = (Caller::from(request), self.ino(parent));
        self.answer(move |fs| async move {
            fs.reply_created(reply, None, fs.create_unnamed(caller, parent, (mode, umask), flags).await);
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (ino, opened) = (self.ino(ino), or_reply!(self.opened(handle), reply));
        let thread = request.pid();
        self.fs.coherence.pages_filled(ino);
        self.answer(move |fs| async move {
            let (read, may_stay) = fs.read(ino, &opened, thread, (offset, size)).await;
            reply_data(reply, read);
            if !may_stay {
                fs.coherence.drop_read(ino, offset, size).await;
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        let ino = self.ino(ino);
        let write = Write::new(offset, flags.0, opened.past_pages, write_flags).synchronous(self.fs.sync);
        let len = data.len();
        if self.fs.write_now(ino, &opened, write, data) {
            if !write.past_pages || !self.fs.coherence.may_have_pages(ino) {
                return reply.written(len as u32);
            }
            return self.answer(move |fs| async move {
                fs.coherence.written_past_pages(ino, offset, offset + len as u64).await;
                reply.written(len as u32);
            });
        }
        let data = data.to_vec();
        self.answer(|fs| async move {
            let written = fs.write(ino, &opened, write, &data).await;
            reply_written(reply, written.map(|()| len as u32));
        });
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        let ino = self.ino(ino);
        let had_locks = self.fs.process_closes(ino, (handle, &opened), owner.0);
        if !opened.writable && !had_locks {
            return reply.ok();
        }
        self.answer(move |fs| async move { reply_empty(reply, fs.close(ino, (handle, &opened)).await) });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // No program waits for this answer or sees an error of it: FLUSH came before.
        if let Some(closed) = self.fs.files.remove(handle) {
            self.fs.release_locks(self.ino(ino), handle, closed);
        }
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        self.answer(|fs| async move { reply_empty(reply, fs.flush(&opened.file).await) });
    }

    fn getlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        let lock = LockRequest { owner: owner.0, start, end, typ, pid, thread: request.pid() };
        self.answer(move |fs| async move {
            reply_lock(reply, (start, end), fs.get_lock(&opened, lock).await);
        });
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        let ino = self.ino(ino);
        let lock = LockRequest { owner: owner.0, start, end, typ, pid, thread: request.pid() };
        self.answer(move |fs| async move {
            reply_empty(reply, fs.set_lock(ino, (handle, &opened), lock, sleep).await);
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (ino, listing) = (self.ino(ino), tokio::sync::Mutex::new(Listing::new()));
        self.fs.coherence.directory_opened(ino, true);
        let handle = self.fs.directories.insert(OpenedDirectory { ino, listing });
        reply.opened(handle, FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let opened = or_reply!(self.fs.directories.get(handle).ok_or(Errno::EBADF), reply);
        self.answer_in(
            request,
            [opened.ino],
            |fs| async move { fs.read_directory(&opened, offset, reply).await },
        );
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let opened = or_reply!(self.fs.directories.get(handle).ok_or(Errno::EBADF), reply);
        self.answer_in(
            request,
            [opened.ino],
            |fs| async move { fs.read_directory(&opened, offset, reply).await },
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        if let Some(closed) = self.fs.directories.remove(handle) {
            self.fs.coherence.directory_opened(closed.ino, false);
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(|fs| async move {
            let drained = fs.volume.drain().await;
            reply_empty(reply, drained.map_err(|error| fs.errno("storing changed names", &error)));
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.answer(|fs| async move {
            match fs.statfs().await {
                Ok(stat) => stat.reply(reply),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        setxattr_flags: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, name, value) = (self.ino(ino), name.as_bytes().to_vec(), value.to_vec());
        let set = SetXattr { name, value, flags, setxattr_flags };
        self.answer(move |fs| async move { reply_empty(reply, fs.set_xattr(ino, set).await) });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (ino, name) = (self.ino(ino), name.as_bytes());
        if !is_kept(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        if self.fs.coherence.lacks_xattr(ino, name) {
            return reply.error(Errno::NO_XATTR);
        }
        let name = name.to_vec();
        self.answer(move |fs| async move { reply_xattr(reply, fs.get_xattr(ino, &name, size).await) });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (ino, privileged) = (self.ino(ino), request.uid() == 0);
        self.answer(move |fs| async move {
            reply_xattr(reply, fs.list_xattr(ino, size, privileged).await);
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if !is_kept(name.as_bytes()) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (ino, name) = (self.ino(ino), name.as_bytes().to_vec());
        self.answer(|fs| async move { reply_empty(reply, fs.remove_xattr(ino, &name).await) });
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The mount has `default_permissions`: the kernel decides.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // isatty(3) and chattr(1) expect this of a file without ioctls.
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then answers by itself that files are always ready.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        let ino = self.ino(ino);
        self.answer(move |fs| async move {
            reply_empty(reply, fs.fallocate(ino, &opened.file, offset, length, mode).await);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let opened = or_reply!(self.opened(handle), reply);
        self.answer(move |fs| async move {
            reply_offset(reply, fs.seek(&opened.file, offset, whence).await);
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = (self.opened(handle_in), self.opened(handle_out));
        let (from, to, ino) = (or_reply!(from, reply), or_reply!(to, reply), self.ino(ino_out));
        self.answer(move |fs| async move {
            let copied = fs.copy_range((&from.file, offset_in), (ino, &to.file, offset_out), len).await;
            reply_written(reply, copied);
        });
    }
}
