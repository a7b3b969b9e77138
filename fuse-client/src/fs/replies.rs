//! From results to the kernel's replies. The lifetimes in a reply are those that [`crate::coherence`] gives.

use super::RainFs;
use super::attrs::to_kernel;
use super::calls::makes_name;
use super::locks::kernel_end;
use super::xattrs::XattrAnswer;
use crate::coherence::{Lifetimes, ReadFor, Stamp};
use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatx, ReplyWrite, ReplyXattr,
};
use rain_namespace::lease::Subject;
use rain_namespace::lock::Lock;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::time::Duration;

/// The generation of every inode. Inode numbers are never used again, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// `result`: the number of bytes written.
pub(super) fn reply_written(reply: ReplyWrite, result: Result<u32, Errno>) {
    match result {
        Ok(written) => reply.written(written),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, result: Result<XattrAnswer, Errno>) {
    match result {
        Ok(XattrAnswer::Size(size)) => reply.size(size),
        Ok(XattrAnswer::Data(data)) => reply.data(&data),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_data(reply: ReplyData, result: Result<impl AsRef<[u8]>, Errno>) {
    match result {
        Ok(data) => reply.data(data.as_ref()),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_opened(reply: ReplyOpen, result: Result<(FileHandle, FopenFlags), Errno>) {
    match result {
        Ok((handle, flags)) => reply.opened(handle, flags),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_offset(reply: ReplyLseek, result: Result<i64, Errno>) {
    match result {
        Ok(offset) => reply.offset(offset),
        Err(errno) => reply.error(errno),
    }
}

/// Answers whether a range could be locked: by the lock that is in the way, or that there is none.
pub(super) fn reply_lock(reply: ReplyLock, (start, end): (u64, u64), result: Result<Option<Lock>, Errno>) {
    match result {
        Ok(Some(lock)) => {
            let typ = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
            reply.locked(lock.first, kernel_end(&lock), typ, lock.pid);
        }
        Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
        Err(errno) => reply.error(errno),
    }
}

impl RainFs {
    /// For how long a name, and the attributes of the inode that it names, may be used.
    pub(super) fn read_for(&self, (parent, name): (Ino, &[u8]), ino: Ino) -> (ReadFor, ReadFor) {
        let name = Subject::Name(parent, name.to_vec());
        (self.volume.read_for(&name), self.volume.read_for(&Subject::Inode(ino)))
    }

    /// Attributes that were asked for at a stamp, as the kernel has them, and their lifetime.
    fn attributes(&self, attr: &Attr, asked: Stamp) -> (Duration, FileAttr) {
        let read_for = self.volume.read_for(&Subject::Inode(attr.ino));
        let lifetime = self.coherence.attributes_given(attr, read_for, asked);
        (lifetime, to_kernel(attr, self.numbers))
    }

    /// Answers with attributes that were asked for at a stamp.
    pub(super) fn reply_attr(&self, reply: ReplyAttr, result: Result<Attr, Errno>, asked: Stamp) {
        match result {
            Ok(attr) => {
                let (lifetime, attr) = self.attributes(&attr, asked);
                reply.attr(&lifetime, &attr);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// As [`RainFs::reply_attr`], with the birth time.
    pub(super) fn reply_statx(&self, reply: ReplyStatx, result: Result<Attr, Errno>, asked: Stamp) {
        match result {
            Ok(attr) => {
                let (lifetime, attr) = self.attributes(&attr, asked);
                reply.statx(&lifetime, &attr);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers a lookup that a thread has begun at a stamp. The thread is likely to open the inode next.
    pub(super) async fn reply_looked_up(
        &self,
        reply: ReplyEntry,
        name: (Ino, &[u8]),
        found: Result<Attr, Errno>,
        by: (u32, Stamp),
    ) {
        // A call that makes a name is not made again: the program would get the error.
        let may_help = match &found {
            Ok(attr) => self.coherence.is_known_otherwise(by.0, name, attr) && !makes_name(by.0).await,
            Err(_) => false,
        };
        match found {
            Ok(attr) if self.coherence.looks_again(by.0, name, &attr, may_help) => reply.error(Errno::ESTALE),
            Ok(attr) => {
                let read_for = self.read_for(name, attr.ino);
                let lifetimes = self.coherence.name_looked_up(name, &attr, read_for, by);
                self.reply_name(reply, name, &attr, lifetimes);
            }
            Err(errno) => {
                self.coherence.name_missing(by.0, name);
                reply.error(errno);
            }
        }
    }

    /// Answers with the inode under a name that was just made.
    pub(super) fn reply_entry(&self, reply: ReplyEntry, name: (Ino, &[u8]), made: Result<Attr, Errno>) {
        match made {
            Ok(attr) => {
                let read_for = self.read_for(name, attr.ino);
                let lifetimes = self.coherence.name_made(name, &attr, read_for);
                self.reply_name(reply, name, &attr, lifetimes);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn reply_name(&self, reply: ReplyEntry, name: (Ino, &[u8]), attr: &Attr, lifetimes: Lifetimes) {
        // Once more: whoever gave a lease up before the name was noted as given did not have the kernel drop it.
        let lifetimes = lifetimes.at_most(self.read_for(name, attr.ino));
        let kernel = to_kernel(attr, self.numbers);
        reply.entry_with_ttls(&lifetimes.attr, &lifetimes.entry, &kernel, GENERATION);
    }

    /// Answers with a file that was just made and opened, under a name or without one.
    pub(super) fn reply_created(
        &self,
        reply: ReplyCreate,
        name: Option<(Ino, &[u8])>,
        result: Result<(Attr, FileHandle, FopenFlags), Errno>,
    ) {
        match result {
            Ok((attr, handle, flags)) => {
                let attr_for = self.volume.read_for(&Subject::Inode(attr.ino));
                let name_for = name.map(|name| (name, self.read_for(name, attr.ino).0));
                let mut lifetime = self.coherence.file_created(name_for, &attr, attr_for);
                if let Some(name) = name {
                    lifetime = self.read_for(name, attr.ino).0.map_or(lifetime, |left| left.min(lifetime));
                }
                reply.created(&lifetime, &to_kernel(&attr, self.numbers), GENERATION, handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }
}
