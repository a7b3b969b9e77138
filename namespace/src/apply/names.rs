//! Names: make, link, unlink, rename, and the end of unlinked files.

use super::DONE;
use super::inode::NAME_BYTES_MAX;
use super::table::Table;
use super::table::counters::NEXT_INO;
use crate::command::{Applied, Outcome, RenameMode, Whiteout};
use crate::error::NsError;
use crate::key;
use crate::record::{Attr, FileKind, Time, UnlinkedRecord};
use rain_types::{Ino, VolumeId};

/// Largest length of a symlink's target, bytes: the longest path that Linux passes on.
const TARGET_BYTES_MAX: usize = 4095;
/// Largest number of links to one inode, as in ext4: programs expect the number to fit into 16 bits.
const LINKS_MAX: u32 = 65_000;

/// The properties of a new inode.
pub(super) struct NewInode<'a> {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) umask: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) target: &'a [u8],
    pub(super) ino: Option<Ino>,
}

/// Returns the attributes of a new inode.
pub(super) fn new_attr(ino: Ino, volume: VolumeId, kind: FileKind, time: Time) -> Attr {
    Attr {
        ino,
        volume,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        size: 0,
        stored_bytes: 0,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        version: 0,
        parent: Ino(0),
        extents: 0,
        acl: false,
        default_acl: false,
    }
}

fn check_name(name: &[u8]) -> Result<(), NsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NsError::NameTooLong { bytes: name.len() as u64, limit: NAME_BYTES_MAX as u64 });
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| *byte == b'/' || *byte == 0)
    {
        return Err(NsError::Invalid(format!("{:?} is no name", String::from_utf8_lossy(name))));
    }
    Ok(())
}

impl Table<'_> {
    /// Returns a directory in which the asker may change the name. Fails when the name is malformed or the
    /// directory is delegated to another session.
    pub(super) fn parent_for(&self, parent: Ino, name: &[u8]) -> Result<Attr, NsError> {
        check_name(name)?;
        self.check_delegation(parent)?;
        self.directory(parent)
    }

    /// Returns the number of a new inode: the reserved one, or the next.
    fn new_ino(&mut self, reserved: Option<Ino>) -> Result<Ino, NsError> {
        let Some(ino) = reserved else { return Ok(Ino::new(0, self.next(NEXT_INO))) };
        let next = self.read::<u64>(&key::counter(NEXT_INO)).unwrap_or(1);
        if ino.0 == 0 || ino.0 >= next || self.kv.get(&key::inode(ino)).is_some() {
            return Err(NsError::Invalid(format!("inode number {ino} was not reserved, or is in use")));
        }
        Ok(ino)
    }

    /// Updates a directory's counts, version and times after a change of its entries.
    fn touch_directory(&mut self, dir: &mut Attr, entries: i64, subdirectories: i32) {
        dir.size = dir.size.saturating_add_signed(entries);
        dir.nlink = dir.nlink.saturating_add_signed(subdirectories);
        dir.version += 1;
        (dir.mtime, dir.ctime) = (self.time, self.time);
        self.put_attr(dir);
    }

    pub(super) fn make(
        &mut self,
        parent: Ino,
        name: &[u8],
        new: &NewInode<'_>,
        or_existing: bool,
    ) -> Applied {
        let mut dir = self.parent_for(parent, name)?;
        if let Some(ino) = self.entry(parent, name) {
            let there = self.attr(ino)?;
            return match there.kind {
                FileKind::File if or_existing && new.kind == FileKind::File => Ok(Outcome::Attr(there)),
                FileKind::Directory if or_existing => Err(NsError::IsDirectory),
                _ => Err(NsError::Exists),
            };
        }
        let is_link = new.kind == FileKind::Symlink;
        if is_link == new.target.is_empty() {
            return Err(NsError::Invalid("only a symlink has a target, and it must have one".into()));
        }
        if new.target.len() > TARGET_BYTES_MAX {
            return Err(NsError::NameTooLong {
                bytes: new.target.len() as u64,
                limit: TARGET_BYTES_MAX as u64,
            });
        }
        let is_dir = new.kind == FileKind::Directory;
        if is_dir && dir.nlink >= LINKS_MAX {
            return Err(NsError::TooManyLinks);
        }
        let mut attr = self.new_inode(&dir, new)?;
        match new.kind {
            FileKind::Directory => attr.parent = parent,
            FileKind::Symlink => {
                attr.size = new.target.len() as u64;
                self.kv.put(&key::target(attr.ino), new.target);
            }
            FileKind::CharDevice | FileKind::BlockDevice => attr.rdev = new.rdev,
            FileKind::File | FileKind::Fifo | FileKind::Socket => {}
        }
        self.put_attr(&attr);
        self.put_entry(parent, name, &attr);
        self.touch_directory(&mut dir, 1, i32::from(is_dir));
        self.count_volume(attr.volume, 1, 0);
        Ok(Outcome::Attr(attr))
    }

    /// Returns the attributes of a new inode in a directory, from which it inherits. Writes its ACLs.
    fn new_inode(&mut self, dir: &Attr, new: &NewInode<'_>) -> Result<Attr, NsError> {
        let mut attr = new_attr(self.new_ino(new.ino)?, dir.volume, new.kind, self.time);
        (attr.mode, attr.uid, attr.gid) = (new.mode & 0o7777, new.uid, new.gid);
        if dir.mode & 0o2000 != 0 {
            attr.gid = dir.gid;
            attr.mode |= if new.kind == FileKind::Directory { 0o2000 } else { 0 };
        }
        self.inherit_mode(dir, &mut attr, new.umask);
        Ok(attr)
    }

    pub(super) fn make_unnamed(&mut self, dir: Ino, new: &NewInode<'_>) -> Applied {
        self.check_delegation(dir)?;
        let dir = self.directory(dir)?;
        let mut attr = self.new_inode(&dir, new)?;
        attr.nlink = 0;
        self.put_attr(&attr);
        self.write(&key::unlinked(attr.ino), &UnlinkedRecord { sealed: false, never_named: true });
        self.count_volume(attr.volume, 1, 0);
        Ok(Outcome::Attr(attr))
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Applied {
        let mut dir = self.parent_for(parent, name)?;
        let mut attr = self.attr(ino)?;
        if attr.kind == FileKind::Directory {
            return Err(NsError::NotPermitted("a directory has one name".into()));
        }
        if attr.volume != dir.volume {
            return Err(NsError::CrossVolume);
        }
        if self.entry(parent, name).is_some() {
            return Err(NsError::Exists);
        }
        if attr.nlink == 0 && !self.unlinked(ino).is_some_and(|unlinked| unlinked.never_named) {
            return Err(NsError::NotFound);
        }
        if attr.nlink >= LINKS_MAX {
            return Err(NsError::TooManyLinks);
        }
        // With its first name the file is no unlinked file any more: a `Seal` or `Free` that comes late skips it.
        if attr.nlink == 0 {
            self.kv.delete(&key::unlinked(ino));
        }
        attr.nlink += 1;
        attr.ctime = self.time;
        self.put_attr(&attr);
        self.put_entry(parent, name, &attr);
        self.touch_directory(&mut dir, 1, 0);
        Ok(Outcome::Attr(attr))
    }

    /// Removes one link of an inode that is no directory. Returns whether it is a file without a name now;
    /// other inodes are freed.
    fn drop_link(&mut self, mut attr: Attr) -> bool {
        attr.nlink -= 1;
        attr.ctime = self.time;
        let last_name_gone = attr.nlink == 0 && attr.kind == FileKind::File;
        if last_name_gone {
            let unlinked = UnlinkedRecord { sealed: false, never_named: false };
            self.write(&key::unlinked(attr.ino), &unlinked);
        } else if attr.nlink == 0 {
            self.free(&attr);
            return false;
        }
        self.put_attr(&attr);
        last_name_gone
    }

    fn unlinked(&self, ino: Ino) -> Option<UnlinkedRecord> {
        self.read(&key::unlinked(ino))
    }

    /// Seals unlinked files, so that no session opens them again.
    pub(super) fn seal(&mut self, inos: &[Ino]) -> Applied {
        for ino in inos {
            if let Some(unlinked) = self.unlinked(*ino) {
                self.write(&key::unlinked(*ino), &UnlinkedRecord { sealed: true, ..unlinked });
            }
        }
        DONE
    }

    /// Frees unlinked files.
    pub(super) fn free_unlinked(&mut self, inos: &[Ino]) -> Applied {
        for ino in inos {
            let unlinked = key::unlinked(*ino);
            if self.kv.get(&unlinked).is_some() {
                self.kv.delete(&unlinked);
                self.free(&self.attr(*ino)?);
            }
        }
        DONE
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8]) -> Applied {
        let mut dir = self.parent_for(parent, name)?;
        let ino = self.entry(parent, name).ok_or(NsError::NotFound)?;
        let attr = self.attr(ino)?;
        if attr.kind == FileKind::Directory {
            return Err(NsError::IsDirectory);
        }
        self.kv.delete(&key::entry(parent, name));
        self.touch_directory(&mut dir, -1, 0);
        Ok(Outcome::Removed { ino, last_name_gone: self.drop_link(attr) })
    }

    pub(super) fn remove_directory(&mut self, parent: Ino, name: &[u8]) -> Applied {
        let mut dir = self.parent_for(parent, name)?;
        let ino = self.entry(parent, name).ok_or(NsError::NotFound)?;
        let attr = self.directory(ino)?;
        self.check_delegation(ino)?;
        if attr.size > 0 {
            return Err(NsError::NotEmpty);
        }
        self.kv.delete(&key::entry(parent, name));
        self.free(&attr);
        self.touch_directory(&mut dir, -1, -1);
        Ok(Outcome::Removed { ino, last_name_gone: false })
    }

    /// Returns whether `ino` is `dir` or one of its ancestors.
    fn is_above(&self, ino: Ino, dir: &Attr) -> Result<bool, NsError> {
        let mut at = dir.clone();
        loop {
            if at.ino == ino {
                return Ok(true);
            }
            if at.parent == at.ino {
                return Ok(false);
            }
            at = self.attr(at.parent)?;
        }
    }

    pub(super) fn rename(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
        whiteout: Option<&Whiteout>,
    ) -> Applied {
        if whiteout.is_some() && mode == RenameMode::Exchange {
            return Err(NsError::Invalid("an exchange leaves no name for a whiteout".into()));
        }
        let from = self.parent_for(parent, name)?;
        let to = self.parent_for(new_parent, new_name)?;
        let moved = self.attr(self.entry(parent, name).ok_or(NsError::NotFound)?)?;
        let renamed = |moved: &Attr, other, last_name_gone| {
            Ok(Outcome::Renamed { moved: moved.ino, other, last_name_gone })
        };
        let there = self.entry(new_parent, new_name).map(|ino| self.attr(ino)).transpose()?;
        if from.volume != to.volume {
            return Err(NsError::CrossVolume);
        }
        match mode {
            RenameMode::NoReplace if there.is_some() => return Err(NsError::Exists),
            RenameMode::Exchange if there.is_none() => return Err(NsError::NotFound),
            _ => {}
        }
        let is_dir = |attr: &Attr| attr.kind == FileKind::Directory;
        for directory in [Some(&moved), there.as_ref()].into_iter().flatten().filter(|attr| is_dir(attr)) {
            // The session to which it is delegated knows its attributes and whether it is empty.
            self.check_delegation(directory.ino)?;
        }
        let into_itself = || NsError::Invalid("a directory cannot go into itself".into());
        if is_dir(&moved) && parent != new_parent && self.is_above(moved.ino, &to)? {
            return Err(into_itself());
        }
        if there.as_ref().is_some_and(|there| there.ino == moved.ino) {
            return renamed(&moved, None, false);
        }
        let Some(there) = there else {
            let whiteout = self.new_whiteout(&from, whiteout)?;
            self.move_name(&from, name, &to, new_name, &moved, None);
            self.put_whiteout(parent, name, whiteout)?;
            return renamed(&moved, None, false);
        };
        if mode == RenameMode::Exchange {
            if is_dir(&there) && parent != new_parent && self.is_above(there.ino, &from)? {
                return Err(into_itself());
            }
            let outcome = renamed(&moved, Some(there.ino), false);
            self.exchange(&from, name, &to, new_name, moved, there);
            return outcome;
        }
        match (is_dir(&moved), is_dir(&there)) {
            (true, false) => return Err(NsError::NotDirectory),
            (false, true) => return Err(NsError::IsDirectory),
            (true, true) if there.size > 0 => return Err(NsError::NotEmpty),
            _ => {}
        }
        let whiteout = self.new_whiteout(&from, whiteout)?;
        self.move_name(&from, name, &to, new_name, &moved, Some(&there));
        self.put_whiteout(parent, name, whiteout)?;
        let ino = there.ino;
        let last_name_gone = if is_dir(&there) {
            self.free(&there);
            false
        } else {
            self.drop_link(there)
        };
        renamed(&moved, Some(ino), last_name_gone)
    }

    fn new_whiteout(&mut self, dir: &Attr, whiteout: Option<&Whiteout>) -> Result<Option<Attr>, NsError> {
        let Some(Whiteout { uid, gid, ino }) = whiteout.copied() else { return Ok(None) };
        let (kind, mode, umask, rdev) = (FileKind::CharDevice, 0, 0, 0);
        self.new_inode(dir, &NewInode { kind, mode, umask, uid, gid, rdev, target: &[], ino }).map(Some)
    }

    /// Puts a whiteout under the name that a rename has moved away.
    fn put_whiteout(&mut self, dir: Ino, name: &[u8], whiteout: Option<Attr>) -> Result<(), NsError> {
        let Some(attr) = whiteout else { return Ok(()) };
        self.put_attr(&attr);
        self.put_entry(dir, name, &attr);
        self.touch_directory(&mut self.directory(dir)?, 1, 0);
        self.count_volume(attr.volume, 1, 0);
        Ok(())
    }

    /// Moves a name to a free name, or over a name that it replaces. The caller ends the replaced inode.
    fn move_name(
        &mut self,
        from: &Attr,
        name: &[u8],
        to: &Attr,
        new_name: &[u8],
        moved: &Attr,
        there: Option<&Attr>,
    ) {
        let is_dir = |attr: &Attr| i32::from(attr.kind == FileKind::Directory);
        let (gone, came) = (is_dir(moved), is_dir(moved) - there.map_or(0, is_dir));
        self.kv.delete(&key::entry(from.ino, name));
        self.put_entry(to.ino, new_name, moved);
        let new_entries = i64::from(there.is_none());
        if from.ino == to.ino {
            self.touch_directory(&mut from.clone(), new_entries - 1, came - gone);
        } else {
            self.touch_directory(&mut from.clone(), -1, -gone);
            self.touch_directory(&mut to.clone(), new_entries, came);
        }
        self.update_moved(moved.clone(), to.ino);
    }

    /// Updates the change time of a moved inode, and the parent of a moved directory.
    fn update_moved(&mut self, mut moved: Attr, parent: Ino) {
        if moved.kind == FileKind::Directory {
            moved.parent = parent;
        }
        moved.ctime = self.time;
        self.put_attr(&moved);
    }

    fn exchange(&mut self, from: &Attr, name: &[u8], to: &Attr, new_name: &[u8], moved: Attr, there: Attr) {
        let is_dir = |attr: &Attr| i32::from(attr.kind == FileKind::Directory);
        let shift = is_dir(&moved) - is_dir(&there);
        self.put_entry(from.ino, name, &there);
        self.put_entry(to.ino, new_name, &moved);
        if from.ino == to.ino {
            self.touch_directory(&mut from.clone(), 0, 0);
        } else {
            self.touch_directory(&mut from.clone(), 0, -shift);
            self.touch_directory(&mut to.clone(), 0, shift);
        }
        self.update_moved(moved, to.ino);
        self.update_moved(there, from.ino);
    }
}
