//! Attributes, extended attributes, and the end of an inode.

use super::DONE;
use super::acls::note;
use super::table::Table;
use crate::acl::is_acl;
use crate::command::{Applied, AttrChange, Name, Outcome, TimeChange, XattrMode};
use crate::error::NsError;
use crate::key;
use crate::record::{Attr, Time};
use rain_types::Ino;
use std::ops::ControlFlow;

/// Largest length of a name, bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Largest length of an extended attribute's value, bytes: the limit of Linux.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Largest length of all extended attributes of one inode, names and values, bytes.
const XATTRS_BYTES_MAX: usize = 1 << 20;

/// Largest length of a file, bytes: the largest `off_t`.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

impl Table<'_> {
    pub(super) fn set_attr(&mut self, ino: Ino, change: &AttrChange) -> Applied {
        let mut attr = if change.size.is_some() { self.file(ino)? } else { self.attr(ino)? };
        self.check_delegation(ino)?;
        let time = self.time;
        for change in [change.atime, change.mtime].into_iter().flatten() {
            if let TimeChange::At(time) = change {
                check_time(time)?;
            }
        }
        if change.size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(NsError::FileTooLarge);
        }
        // All checks are above this line, because a cut cannot be undone.
        if let Some(size) = change.size {
            if size < attr.size {
                self.cut(&mut attr, size, u64::MAX);
            }
            attr.size = size;
            attr.version += 1;
            attr.mtime = time;
        }
        change.apply_to(&mut attr, time);
        if change.mode.is_some() {
            self.move_mask(&attr);
        }
        self.put_attr(&attr);
        Ok(Outcome::Attr(attr))
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &Name,
        value: &[u8],
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> Applied {
        let mut attr = self.attr(ino)?;
        self.check_delegation(ino)?;
        check_xattr_name(name)?;
        let key = key::xattr(ino, name);
        let old = self.kv.get(&key);
        match mode {
            XattrMode::Create if old.is_some() => return Err(NsError::Exists),
            XattrMode::Replace if old.is_none() => return Err(NsError::NoAttribute),
            _ => {}
        }
        if is_acl(name) {
            return self.set_acl(attr, name, value, clear_set_gid);
        }
        self.check_xattr_room(ino, name, value)?;
        self.kv.put(&key, value);
        attr.ctime = self.time;
        self.put_attr(&attr);
        DONE
    }

    /// Fails when an extended attribute is too large, or does not fit beside the inode's others.
    pub(super) fn check_xattr_room(&self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), NsError> {
        if value.len() > XATTR_BYTES_MAX {
            return Err(NsError::AttributesTooLarge);
        }
        let (prefix, key) = (key::xattr(ino, b""), key::xattr(ino, name));
        let mut bytes = value.len() + name.len();
        self.kv.scan(&prefix, &key::after_prefix(&prefix), &mut |other, value| {
            bytes += if other == key { 0 } else { other.len() - prefix.len() + value.len() };
            ControlFlow::Continue(())
        });
        if bytes > XATTRS_BYTES_MAX {
            return Err(NsError::AttributesTooLarge);
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Applied {
        let mut attr = self.attr(ino)?;
        self.check_delegation(ino)?;
        check_xattr_name(name)?;
        let key = key::xattr(ino, name);
        if self.kv.get(&key).is_none() {
            return Err(NsError::NoAttribute);
        }
        self.kv.delete(&key);
        note(&mut attr, name, false);
        attr.ctime = self.time;
        self.put_attr(&attr);
        DONE
    }

    /// Frees an inode: its data becomes garbage and its keys are deleted. Costs a write for each extent and
    /// block.
    pub(super) fn free(&mut self, attr: &Attr) {
        let mut attr = attr.clone();
        self.cut(&mut attr, 0, u64::MAX);
        for prefix in [key::xattr(attr.ino, b""), key::inline(attr.ino), key::target(attr.ino)] {
            for key in self.keys(&prefix, usize::MAX) {
                self.kv.delete(&key);
            }
        }
        self.end_locks(attr.ino);
        self.end_delegation(attr.ino);
        self.kv.delete(&key::inode(attr.ino));
        self.count_volume(attr.volume, -1, 0);
    }
}

/// Fails when a caller's time is malformed.
pub(super) fn check_time(time: Time) -> Result<(), NsError> {
    if time.nanos > 999_999_999 {
        return Err(NsError::Invalid(format!("{} nanoseconds", time.nanos)));
    }
    Ok(())
}

fn check_xattr_name(name: &[u8]) -> Result<(), NsError> {
    if name.is_empty() || name.contains(&0) {
        return Err(NsError::Invalid("an empty name of an attribute".into()));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NsError::NameTooLong { bytes: name.len() as u64, limit: NAME_BYTES_MAX as u64 });
    }
    Ok(())
}
