//! Access control lists as POSIX.1e drafted them and Linux has them: what an ACL may contain, what it does to the
//! mode of an inode, and what a new inode inherits.
//!
//! An ACL is kept as the extended attribute by which programs set it, in the kernel's own form (version 2). The
//! kernel enforces it. The namespace keeps it and the mode together: both change in one command.
//!
//! Invariants:
//! 1. An access ACL that says no more than the mode is not stored (`an_acl_that_is_a_mode_is_not_kept`).
//! 2. The permission bits of an inode with an access ACL are those of its owner, its mask and the others
//!    ([`mod@crate::check`]).
//!
//! Left out: enforcement, and who may set an ACL; the kernel decides both.

use crate::error::NsError;

/// The extended attribute of the access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The extended attribute of the default ACL, which directories pass on.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Returns whether an extended attribute is an ACL.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// The version of the form, in its first four bytes.
const VERSION: u32 = 2;

/// Bytes of an entry: tag, permissions, id.
const ENTRY_BYTES: usize = 8;

/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about. The order is the one in which the entries of an ACL must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Others,
}

impl Who {
    fn tag(self) -> u16 {
        match self {
            Who::Owner => 0x01,
            Who::User(_) => 0x02,
            Who::OwningGroup => 0x04,
            Who::Group(_) => 0x08,
            Who::Mask => 0x10,
            Who::Others => 0x20,
        }
    }

    fn of(tag: u16, id: u32) -> Option<Who> {
        Some(match tag {
            0x01 => Who::Owner,
            0x02 => Who::User(id),
            0x04 => Who::OwningGroup,
            0x08 => Who::Group(id),
            0x10 => Who::Mask,
            0x20 => Who::Others,
            _ => return None,
        })
    }

    fn id(self) -> u32 {
        match self {
            Who::User(id) | Who::Group(id) => id,
            _ => NO_ID,
        }
    }
}

/// An access control list that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<(Who, u16)>,
}

fn invalid<T>(why: &str) -> Result<T, NsError> {
    Err(NsError::Invalid(format!("the ACL {why}")))
}

impl Acl {
    /// Reads an ACL. `None`: it has no entries, which stands for no ACL. Fails with `Invalid` where Linux would
    /// refuse it.
    pub fn parse(bytes: &[u8]) -> Result<Option<Acl>, NsError> {
        let Some((version, rest)) = bytes.split_first_chunk::<4>() else { return invalid("is too short") };
        if u32::from_le_bytes(*version) != VERSION {
            return invalid("is of another version than 2");
        }
        let (entries, []) = rest.as_chunks::<ENTRY_BYTES>() else { return invalid("ends within an entry") };
        let entries = entries.iter().map(|[t0, t1, p0, p1, id @ ..]| {
            let permissions = u16::from_le_bytes([*p0, *p1]);
            match Who::of(u16::from_le_bytes([*t0, *t1]), u32::from_le_bytes(*id)) {
                Some(who) if permissions <= 0o7 => Ok((who, permissions)),
                _ => invalid("has an entry of an unknown kind or with unknown permissions"),
            }
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl { entries };
        acl.check()?;
        Ok(Some(acl))
    }

    /// Checks what Linux checks: one entry each for the owner, the owning group and the others; a mask where a
    /// user or group is named; the kinds in order; and no id that stands for no id.
    fn check(&self) -> Result<(), NsError> {
        let count = |tag: u16| self.entries.iter().filter(|(who, _)| who.tag() == tag).count();
        let single = [Who::Owner, Who::OwningGroup, Who::Others].map(|who| count(who.tag()));
        let masks = count(Who::Mask.tag());
        let named = self.named().count();
        if single != [1; 3] || masks > 1 || named > 0 && masks == 0 {
            return invalid("lacks an entry, or has one twice");
        }
        if self.entries.windows(2).any(|pair| pair[0].0.tag() > pair[1].0.tag()) {
            return invalid("is not in order");
        }
        if self.named().any(|who| who.id() == NO_ID) {
            return invalid("names no user or group");
        }
        Ok(())
    }

    fn named(&self) -> impl Iterator<Item = Who> {
        self.entries.iter().map(|(who, _)| *who).filter(|who| matches!(who, Who::User(_) | Who::Group(_)))
    }

    /// Returns the bytes by which the ACL is kept and read.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (who, permissions) in &self.entries {
            bytes.extend(who.tag().to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(who.id().to_le_bytes());
        }
        bytes
    }

    /// Returns the kinds of the entries behind the three digits of a mode: the middle one is the mask where there
    /// is a mask.
    fn digits(&self) -> [(Who, u16); 3] {
        let has_mask = self.entries.iter().any(|(who, _)| *who == Who::Mask);
        let group = if has_mask { Who::Mask } else { Who::OwningGroup };
        [(Who::Owner, 6), (group, 3), (Who::Others, 0)]
    }

    /// Returns the permission bits (0777) that the mode of an inode with this access ACL has.
    pub fn mode(&self) -> u16 {
        let of = |wanted| self.entries.iter().find(|(who, _)| *who == wanted).map_or(0, |(_, has)| *has);
        self.digits().into_iter().map(|(who, shift)| of(who) << shift).sum()
    }

    /// Returns whether the ACL says no more than the mode does.
    pub fn is_a_mode(&self) -> bool {
        self.entries.len() == 3
    }

    /// Changes the entries that are behind a mode: `change` gets an entry's permissions and the mode's digit.
    fn change_behind(&mut self, mode: u16, change: impl Fn(u16, u16) -> u16) {
        for (wanted, shift) in self.digits() {
            for (_, permissions) in self.entries.iter_mut().filter(|(who, _)| *who == wanted) {
                *permissions = change(*permissions, mode >> shift & 0o7);
            }
        }
    }

    /// Changes the entries that are behind the mode: chmod(2) of an inode with this access ACL.
    pub fn change_mode(&mut self, mode: u16) {
        self.change_behind(mode, |_, digit| digit);
    }

    /// Makes a default ACL the access ACL of a new inode, which is made with this mode. Returns the new mode.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        self.change_behind(mode, |permissions, digit| permissions & digit);
        mode & !0o777 | self.mode()
    }
}
