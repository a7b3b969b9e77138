//! ACLs: kept with the mode that they stand for, inherited by new inodes, moved by chmod.

use super::DONE;
use super::table::Table;
use crate::acl::{ACCESS, Acl, DEFAULT};
use crate::command::{Applied, Name};
use crate::error::NsError;
use crate::key;
use crate::record::{Attr, FileKind};
use rain_types::Ino;

/// Notes in the attributes whether the inode has an ACL.
pub(super) fn note(attr: &mut Attr, name: &[u8], has: bool) {
    match name {
        ACCESS => attr.acl = has,
        DEFAULT => attr.default_acl = has,
        _ => {}
    }
}

impl Table<'_> {
    fn acl(&self, ino: Ino, name: &[u8]) -> Option<Acl> {
        let bytes = self.kv.get(&key::xattr(ino, name))?;
        Acl::parse(&bytes).expect("an ACL in the store is well formed")
    }

    /// Sets the mode of a new inode in a directory: by the directory's default ACL, which the inode inherits, or
    /// else by the umask. Writes the inode's ACLs; the caller writes its attributes.
    pub(super) fn inherit_mode(&mut self, dir: &Attr, attr: &mut Attr, umask: u16) {
        if attr.kind == FileKind::Symlink {
            return;
        }
        let inherited = if dir.default_acl { self.acl(dir.ino, DEFAULT) } else { None };
        let Some(default) = inherited else {
            attr.mode &= !(umask & 0o777);
            return;
        };
        let mut access = default.clone();
        attr.mode = access.inherit(attr.mode);
        if !access.is_a_mode() {
            self.put_acl(attr, ACCESS, &access);
        }
        if attr.kind == FileKind::Directory {
            self.put_acl(attr, DEFAULT, &default);
        }
    }

    fn put_acl(&mut self, attr: &mut Attr, name: &[u8], acl: &Acl) {
        self.kv.put(&key::xattr(attr.ino, name), &acl.encode());
        note(attr, name, true);
    }

    /// Changes the access ACL of an inode whose mode has changed.
    pub(super) fn move_mask(&mut self, attr: &Attr) {
        if attr.acl
            && let Some(mut acl) = self.acl(attr.ino, ACCESS)
        {
            acl.change_mode(attr.mode);
            self.kv.put(&key::xattr(attr.ino, ACCESS), &acl.encode());
        }
    }

    /// Sets an ACL. An access ACL sets the mode, and `clear_set_gid` clears the set-group-id bit with it.
    pub(super) fn set_acl(
        &mut self,
        mut attr: Attr,
        name: &Name,
        value: &[u8],
        clear_set_gid: bool,
    ) -> Applied {
        let acl = Acl::parse(value)?;
        match attr.kind {
            FileKind::Symlink => return Err(NsError::Invalid("a symlink has no ACL".into())),
            FileKind::Directory => {}
            _ if name == DEFAULT && acl.is_some() => {
                return Err(NsError::NotPermitted("only a directory has a default ACL".into()));
            }
            _ => {}
        }
        self.check_xattr_room(attr.ino, name, value)?;
        if let Some(acl) = acl.as_ref().filter(|_| name == ACCESS) {
            attr.mode = attr.mode & !0o777 | acl.mode();
            if clear_set_gid {
                attr.mode &= !0o2000;
            }
        }
        match acl.filter(|acl| name == DEFAULT || !acl.is_a_mode()) {
            Some(acl) => self.put_acl(&mut attr, name, &acl),
            None => {
                self.kv.delete(&key::xattr(attr.ino, name));
                note(&mut attr, name, false);
            }
        }
        attr.ctime = self.time;
        self.put_attr(&attr);
        DONE
    }
}
