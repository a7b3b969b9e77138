//! From results to the kernel's replies. The lifetimes in a reply are those that [`crate::coherence`] gives.

use super::RainFs;
use super::attrs::{XattrAnswer, to_kernel};
use crate::coherence::{Lifetimes, ReadFor};
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyXattr,
};
use rain_namespace::lease::Subject;
use rain_namespace::record::Attr;
use rain_types::Ino;

/// The generation of every inode. Inode numbers are never used again, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
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

impl RainFs {
    /// For how long a name, and the attributes of the inode that it names, may be used.
    pub(super) fn read_for(&self, (parent, name): (Ino, &[u8]), ino: Ino) -> (ReadFor, ReadFor) {
        let name = Subject::Name(parent, name.to_vec());
        (self.volume.read_for(&name), self.volume.read_for(&Subject::Inode(ino)))
    }

    pub(super) fn reply_attr(&self, reply: ReplyAttr, result: Result<Attr, Errno>) {
        match result {
            Ok(attr) => {
                let lifetime =
                    self.coherence.attributes_given(&attr, self.volume.read_for(&Subject::Inode(attr.ino)));
                reply.attr(&lifetime, &to_kernel(&attr, self.numbers));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers a lookup by a thread, which is likely to open the inode next.
    pub(super) fn reply_looked_up(
        &self,
        reply: ReplyEntry,
        name: (Ino, &[u8]),
        found: Result<Attr, Errno>,
        thread: u32,
    ) {
        match found {
            Ok(attr) => {
                let read_for = self.read_for(name, attr.ino);
                self.reply_name(reply, &attr, self.coherence.name_looked_up(name, &attr, read_for, thread));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with the inode under a name that was just made.
    pub(super) fn reply_entry(&self, reply: ReplyEntry, name: (Ino, &[u8]), made: Result<Attr, Errno>) {
        match made {
            Ok(attr) => {
                let read_for = self.read_for(name, attr.ino);
                self.reply_name(reply, &attr, self.coherence.name_given(name, &attr, read_for));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn reply_name(&self, reply: ReplyEntry, attr: &Attr, lifetimes: Lifetimes) {
        let kernel = to_kernel(attr, self.numbers);
        reply.entry_with_ttls(&lifetimes.attr, &lifetimes.entry, &kernel, GENERATION);
    }

    pub(super) fn reply_created(
        &self,
        reply: ReplyCreate,
        name: (Ino, &[u8]),
        result: Result<(Attr, FileHandle, FopenFlags), Errno>,
    ) {
        match result {
            Ok((attr, handle, flags)) => {
                let read_for = self.read_for(name, attr.ino);
                let lifetime = self.coherence.file_created(name, &attr, read_for);
                reply.created(&lifetime, &to_kernel(&attr, self.numbers), GENERATION, handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }
}
