//! Names: looking up, making, linking, renaming, removing.
//!
//! A missing name is answered with plain ENOENT, which the kernel does not cache. So a name that is made
//! through another mount is seen at once.

use super::attrs::kind_of_mode;
use super::{Caller, RainFs};
use crate::handles::Opened;
use fuser::{Errno, FileHandle, FopenFlags, RenameFlags};
use rain_client::{Error, NewInode};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;

impl RainFs {
    /// The inode under a name. `.` and `..` are names, too: the kernel asks for them when a program uses a
    /// file handle of `name_to_handle_at` (or of an NFS export). ESTALE: the inode is of another volume.
    pub(super) async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        let found = match name {
            b"." => self.volume.attr(parent).await,
            name => self.volume.lookup(parent, name).await,
        };
        let attr = found.map_err(|error| self.errno("looking up a name", &error))?;
        // All volumes share one space of inode numbers: a handle must not lead from one volume into another.
        if attr.volume != self.volume.record().id {
            return Err(Errno::ESTALE);
        }
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
        mode: u32,
        rdev: u32,
    ) -> Result<Attr, Errno> {
        let kind = kind_of_mode(mode).ok_or(Errno::EINVAL)?;
        self.make(parent, name, NewInode { rdev, ..caller.new_inode(kind, mode) }).await
    }

    pub(super) async fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: Vec<u8>,
    ) -> Result<Attr, Errno> {
        self.make(parent, name, NewInode { target, ..caller.new_inode(FileKind::Symlink, 0o777) }).await
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
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, FileHandle, FopenFlags), Errno> {
        let made = self.volume.create(parent, name, caller.new_inode(FileKind::File, mode)).await;
        self.coherence.changed(parent);
        let (attr, file) = match made {
            Ok(made) => made,
            Err(Error::Refused(NsError::Exists)) if flags & libc::O_EXCL == 0 => return Err(Errno::ESTALE),
            Err(error) => return Err(self.errno("making a file", &error)),
        };
        let opened = Opened::new(file, flags);
        let open_flags = self.coherence.open_flags(opened.direct);
        Ok((attr, self.files.insert(opened), open_flags))
    }

    pub(super) async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
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
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let mode = rename_mode(flags)?;
        self.coherence.renaming((parent, name), (new_parent, new_name));
        let renamed = self.volume.rename(parent, name, new_parent, new_name, mode).await;
        self.coherence.changed(parent);
        self.coherence.changed(new_parent);
        if ![parent, new_parent].iter().all(|dir| self.volume.decides_names(*dir)) {
            self.coherence.renamed((parent, name), (new_parent, new_name));
        }
        renamed.map_err(|error| self.errno("renaming", &error))
    }

    pub(super) async fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let target = self.volume.read_link(ino).await;
        target.map_err(|error| self.errno("reading a symlink", &error))
    }
}

/// The mode of a rename. EINVAL: RENAME_WHITEOUT, which only union filesystems need, and two flags at once.
fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    match flags {
        flags if flags.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_does_one_of_three_things_or_refuses() {
        assert!(matches!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace)));
        assert!(matches!(rename_mode(RenameFlags::RENAME_NOREPLACE), Ok(RenameMode::NoReplace)));
        assert!(matches!(rename_mode(RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange)));
        for flags in [
            RenameFlags::RENAME_WHITEOUT,
            RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE,
            RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT,
        ] {
            assert!(rename_mode(flags).is_err_and(|errno| errno.code() == libc::EINVAL), "{flags:?}");
        }
    }
}
