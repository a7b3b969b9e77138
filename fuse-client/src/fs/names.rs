//! Names: looking up, making, linking, renaming, removing.
//!
//! A missing name is answered with plain ENOENT, which the kernel does not cache. So a name that is made
//! through another mount is seen at once.

use super::attrs::kind_of_mode;
use super::{Caller, RainFs};
use crate::handles::Opened;
use fuser::{Errno, FileHandle, FopenFlags, RenameFlags};
use rain_client::{Error, NewInode, OpenFile};
use rain_namespace::command::{RenameMode, Whiteout};
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::sync::Arc;

impl RainFs {
    /// The inode under a name. `.` and `..` are names, too: the kernel asks for them when a program uses a
    /// file handle of `name_to_handle_at` (or of an NFS export), and does not have the inode in memory. ESTALE:
    /// the inode is of another volume, or is a file that was removed.
    pub(super) async fn lookup(&self, parent: Ino, name: &[u8], thread: u32) -> Result<Attr, Errno> {
        let found = match name {
            b"." => self.volume.attr(parent).await,
            name => self.volume.lookup(parent, name).await,
        };
        let attr = found.map_err(|error| self.errno("looking up a name", &error))?;
        // All volumes share one space of inode numbers: a handle must not lead from one volume into another.
        if attr.volume != self.volume.record().id || attr.nlink == 0 {
            return Err(Errno::ESTALE);
        }
        self.coherence.may_have_length(&attr, thread).await;
        Ok(attr)
    }

    /// Makes an inode under a name.
    pub(super) async fn make(&self, parent: Ino, name: &[u8], new: NewInode) -> Result<Attr, Errno> {
        let made = self.volume.make(parent, name, new).await;
        self.coherence.changed(parent);
        made.map_err(|error| self.errno("making a name", &error))
    }

    /// mknod(2): makes a file, pipe, socket or device. The device number is kept as the kernel encodes it.
    pub(super) async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: (u32, u32),
        rdev: u32,
    ) -> Result<Attr, Errno> {
        let kind = kind_of_mode(mode.0).ok_or(Errno::EINVAL)?;
        self.make(parent, name, NewInode { rdev, ..caller.new_inode(kind, mode) }).await
    }

    pub(super) async fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: Vec<u8>,
    ) -> Result<Attr, Errno> {
        self.make(parent, name, NewInode { target, ..caller.new_inode(FileKind::Symlink, (0o777, 0)) }).await
    }

    /// Makes a file and opens it, in one round trip.
    ///
    /// The kernel has just looked the name up in vain and takes the file in the reply for a new one: it
    /// checks no permission on it. So a file that another mount has made meanwhile is not opened here. ESTALE
    /// makes the kernel look the name up again, find the file, check permissions and open it (O_EXCL:
    /// EEXIST).
    pub(super) async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: (u32, u32),
        flags: i32,
    ) -> Result<(Attr, FileHandle, FopenFlags), Errno> {
        let made = self.volume.create(parent, name, caller.new_inode(FileKind::File, mode)).await;
        self.coherence.changed(parent);
        let (attr, file) = match made {
            Ok(made) => made,
            Err(Error::Refused(NsError::Exists)) if flags & libc::O_EXCL == 0 => return Err(Errno::ESTALE),
            Err(error) => return Err(self.errno("making a file", &error)),
        };
        Ok(self.hand_out(attr, file, flags))
    }

    /// Makes a file without a name and opens it (O_TMPFILE). The kernel decides whether it may get one.
    pub(super) async fn create_unnamed(
        &self,
        caller: Caller,
        dir: Ino,
        mode: (u32, u32),
        flags: i32,
    ) -> Result<(Attr, FileHandle, FopenFlags), Errno> {
        let made = self.volume.create_unnamed(dir, caller.new_inode(FileKind::File, mode)).await;
        let (attr, file) = made.map_err(|error| self.errno("making a file without a name", &error))?;
        Ok(self.hand_out(attr, file, flags))
    }

    fn hand_out(&self, attr: Attr, file: Arc<OpenFile>, flags: i32) -> (Attr, FileHandle, FopenFlags) {
        let opened = Opened::new(file, flags);
        let open_flags = self.coherence.open_flags(opened.past_pages);
        (attr, self.files.insert(opened), open_flags)
    }

    pub(super) async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.coherence.changing(ino);
        let linked = self.volume.link(ino, parent, name).await;
        self.coherence.changed(ino);
        self.coherence.changed(parent);
        linked.map_err(|error| self.errno("linking", &error))
    }

    pub(super) async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let removed = self.volume.unlink(parent, name).await;
        self.coherence.changed(parent);
        removed.map_err(|error| self.errno("removing a name", &error))
    }

    pub(super) async fn remove_directory(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let removed = self.volume.remove_directory(parent, name).await;
        self.coherence.changed(parent);
        let ino = removed.map_err(|error| self.errno("removing a directory", &error))?;
        self.coherence.directory_removed(ino);
        Ok(())
    }

    pub(super) async fn rename(
        &self,
        caller: Caller,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (mode, leaves_whiteout) = rename_mode(flags)?;
        let whiteout = leaves_whiteout.then_some(Whiteout { uid: caller.uid, gid: caller.gid, ino: None });
        let (from, to) = ((parent, name), (new_parent, new_name));
        let decides = || [parent, new_parent].iter().all(|dir| self.volume.decides_names(*dir));
        // The kernel moves the inodes that it knows by these names, whatever is moved here.
        let moving: &[_] = if mode == RenameMode::Exchange { &[from, to] } else { &[from] };
        let known = if decides() { Some(Vec::new()) } else { self.coherence.known(moving) };
        let known = match known {
            None if self.coherence.may_look_again(caller.thread, from) => return Err(Errno::ESTALE),
            known => known.unwrap_or_default(),
        };
        self.coherence.renaming(from, to, mode);
        let mut renamed = self.volume.rename_known(known, whiteout, from, to, mode).await;
        if matches!(renamed, Err(Error::Refused(NsError::NameChanged))) {
            if self.coherence.may_look_again(caller.thread, from) {
                return Err(Errno::ESTALE);
            }
            // The call was repeated already, and another mount is ahead once more.
            renamed = self.volume.rename_known(Vec::new(), whiteout, from, to, mode).await;
        }
        self.coherence.call_ended(caller.thread);
        self.coherence.changed(parent);
        self.coherence.changed(new_parent);
        if let Ok(moved) = renamed {
            self.coherence.moved(moved, to);
        }
        if !decides() {
            self.coherence.names_in_question(from, to);
        }
        renamed.map(|_| ()).map_err(|error| self.errno("renaming", &error))
    }

    pub(super) async fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let target = self.volume.read_link(ino).await;
        target.map_err(|error| self.errno("reading a symlink", &error))
    }
}

/// The mode of a rename, and whether it leaves a whiteout. EINVAL: an exchange together with another flag.
fn rename_mode(flags: RenameFlags) -> Result<(RenameMode, bool), Errno> {
    let leaves_whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
    match flags - RenameFlags::RENAME_WHITEOUT {
        rest if rest.is_empty() => Ok((RenameMode::Replace, leaves_whiteout)),
        RenameFlags::RENAME_NOREPLACE => Ok((RenameMode::NoReplace, leaves_whiteout)),
        RenameFlags::RENAME_EXCHANGE if !leaves_whiteout => Ok((RenameMode::Exchange, false)),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_stands_alone_and_the_others_may_leave_a_whiteout() {
        let whiteout = RenameFlags::RENAME_WHITEOUT;
        for (flags, expected) in [
            (RenameFlags::empty(), (RenameMode::Replace, false)),
            (RenameFlags::RENAME_NOREPLACE, (RenameMode::NoReplace, false)),
            (RenameFlags::RENAME_EXCHANGE, (RenameMode::Exchange, false)),
            (whiteout, (RenameMode::Replace, true)),
            (whiteout | RenameFlags::RENAME_NOREPLACE, (RenameMode::NoReplace, true)),
        ] {
            assert!(rename_mode(flags).is_ok_and(|mode| mode == expected), "{flags:?}");
        }
        for flags in [
            RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE,
            RenameFlags::RENAME_EXCHANGE | whiteout,
            RenameFlags::from_bits_retain(8),
        ] {
            assert!(rename_mode(flags).is_err_and(|errno| errno.code() == libc::EINVAL), "{flags:?}");
        }
    }
}
