//! Extended attributes.
//!
//! `user.`, `trusted.`, `security.` and the two ACLs are stored; the kernel checks who may read and set them, and
//! enforces the ACLs. Any other name is refused. The namespace checks an ACL, keeps it together with the mode,
//! and lets new inodes inherit it ([`rain_namespace::acl`]).

use super::RainFs;
use crate::coherence::CAPABILITY;
use fuser::Errno;
use fuser::consts::FUSE_SETXATTR_ACL_KILL_SGID;
use rain_client::Error;
use rain_namespace::acl::is_acl;
use rain_namespace::command::XattrMode;
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_types::Ino;

/// An extended attribute to set, with the kernel's flags.
pub(super) struct SetXattr {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) flags: i32,
    pub(super) setxattr_flags: u32,
}

/// The answer about an extended attribute, or about the list of their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum XattrAnswer {
    /// The length in bytes, which the program asked for.
    Size(u32),
    /// The bytes, which fit into the program's buffer.
    Data(Vec<u8>),
}

/// The answer for a buffer of `room` bytes; 0 asks for the length. ERANGE: the buffer is too short.
fn answer(bytes: Vec<u8>, room: u32) -> Result<XattrAnswer, Errno> {
    match u32::try_from(bytes.len()) {
        Ok(len) if room == 0 => Ok(XattrAnswer::Size(len)),
        Ok(len) if len <= room => Ok(XattrAnswer::Data(bytes)),
        Ok(_) => Err(Errno::ERANGE),
        Err(_) => Err(Errno::E2BIG),
    }
}

/// Whether extended attributes of this name are stored.
pub(super) fn is_kept(name: &[u8]) -> bool {
    is_acl(name) || [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix))
}

/// Names in the form of listxattr(2); `trusted.` is listed for privileged callers only.
fn listed(names: Vec<Vec<u8>>, privileged: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names.iter().filter(|name| privileged || !name.starts_with(b"trusted.")) {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

impl RainFs {
    pub(super) async fn get_xattr(&self, ino: Ino, name: &[u8], room: u32) -> Result<XattrAnswer, Errno> {
        if is_acl(name) {
            self.coherence.acl_given(ino);
        }
        let stamp = self.coherence.stamp();
        match self.volume.get_xattr(ino, name).await {
            Ok(value) => answer(value, room),
            Err(error) => {
                if name == CAPABILITY && matches!(error, Error::Refused(NsError::NoAttribute)) {
                    let read_for = self.volume.read_for(&Subject::Inode(ino));
                    self.coherence.learn_no_capability(ino, stamp, read_for);
                }
                Err(self.errno("reading an extended attribute", &error))
            }
        }
    }

    pub(super) async fn list_xattr(
        &self,
        ino: Ino,
        room: u32,
        privileged: bool,
    ) -> Result<XattrAnswer, Errno> {
        let names = self.volume.list_xattr(ino).await;
        let names = names.map_err(|error| self.errno("listing extended attributes", &error))?;
        answer(listed(names, privileged), room)
    }

    pub(super) async fn set_xattr(&self, ino: Ino, set: SetXattr) -> Result<(), Errno> {
        let SetXattr { name, value, flags, setxattr_flags } = set;
        if !is_kept(&name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        // A caller outside of the file's group must not leave the set-group-id bit.
        let clear_set_gid = setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID != 0;
        let set = self.volume.set_xattr(ino, &name, &value, mode, clear_set_gid).await;
        self.coherence.changed(ino);
        self.coherence.doubt_xattrs(ino);
        set.map_err(|error| self.errno("setting an extended attribute", &error))
    }

    pub(super) async fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        let removed = match self.volume.remove_xattr(ino, name).await {
            // As every filesystem of Linux does it: what has no ACL has none afterwards.
            Err(Error::Refused(NsError::NoAttribute)) if is_acl(name) => return Ok(()),
            removed => removed,
        };
        self.coherence.changed(ino);
        removed.map_err(|error| self.errno("removing an extended attribute", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::acl::DEFAULT;

    #[test]
    fn a_value_is_measured_given_or_too_long() {
        assert_eq!(answer(vec![1; 9], 0), Ok(XattrAnswer::Size(9)));
        assert_eq!(answer(vec![1; 9], 9), Ok(XattrAnswer::Data(vec![1; 9])));
        assert!(answer(vec![1; 9], 8).is_err_and(|errno| errno.code() == libc::ERANGE));
    }

    #[test]
    fn trusted_names_are_listed_for_the_privileged_only() {
        let names = || vec![b"trusted.t".to_vec(), b"user.u".to_vec()];
        assert_eq!(listed(names(), true), b"trusted.t\0user.u\0");
        assert_eq!(listed(names(), false), b"user.u\0");
    }

    #[test]
    fn acls_are_the_only_attributes_of_the_system_that_are_kept() {
        for kept in ["user.x", "security.selinux", "trusted.x", "system.posix_acl_access"] {
            assert!(is_kept(kept.as_bytes()), "{kept}");
        }
        assert!(is_kept(DEFAULT) && !is_kept(b"system.posix_acl_other") && !is_kept(b"x"));
    }
}
