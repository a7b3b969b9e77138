//! The owners of a file's locks among this client's programs. Pure.

use rain_namespace::lock::{Lock, LockKind};
use rain_types::SessionId;
use std::collections::BTreeMap;

/// The owner of a lock within the session: the kind of lock, and the number that the kernel gives its owner.
pub(super) type Owner = (LockKind, u64);

/// The state of an owner's locks.
#[derive(Debug, Clone, Copy)]
struct OwnerState {
    /// The owner has closed the file. Its locks are released after the next flush.
    closed: bool,
    /// The number of its last grant.
    grant: u64,
}

/// The locks that this client's programs have on a file, or may have.
#[derive(Debug, Default)]
pub(super) struct LockOwners {
    /// The session that granted them.
    pub(super) session: SessionId,
    /// The owners of locks.
    owners: BTreeMap<Owner, OwnerState>,
    /// Locks granted so far.
    grants: u64,
    /// The session has ended, so other clients may have had the locks.
    pub(super) lost: bool,
}

impl LockOwners {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The owners that have closed the file.
    pub(super) fn closed(&self) -> Vec<Owner> {
        self.owners.iter().filter(|(_, state)| state.closed).map(|(owner, _)| *owner).collect()
    }

    /// Marks the locks of owners that have closed the file for release. Returns whether there are any.
    pub(super) fn mark_closed(&mut self, owner: impl Fn(&Owner) -> bool) -> bool {
        let mut any = false;
        for (_, state) in self.owners.iter_mut().filter(|(has, _)| owner(has)) {
            state.closed = true;
            any = true;
        }
        any
    }

    /// Whether the lock's owner has any lock of this kind.
    pub(super) fn any_of(&self, lock: &Lock) -> bool {
        self.owners.keys().any(|(kind, owner)| *owner == lock.owner && kind.sees(lock.kind))
    }

    /// Takes in a lock that the session granted.
    pub(super) fn granted(&mut self, owner: Owner, session: SessionId) {
        self.session = session;
        self.grants += 1;
        self.owners.insert(owner, OwnerState { closed: false, grant: self.grants });
    }

    /// The number of the last grant: what is granted later has higher ones.
    pub(super) fn last_grant(&self) -> u64 {
        self.grants
    }

    /// Removes an owner whose locks were released, unless it was granted one after the grant `last`: the
    /// release may have come before it.
    pub(super) fn released(&mut self, (gone, number): Owner, last: u64) {
        self.owners.retain(|(kind, owner), state| *owner != number || !kind.sees(gone) || state.grant > last);
        if self.owners.is_empty() {
            *self = LockOwners { grants: self.grants, ..LockOwners::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = (LockKind::Flock, 7);

    #[test]
    fn a_release_leaves_an_owner_that_was_granted_a_lock_meanwhile() {
        let mut locks = LockOwners::default();
        locks.granted(OWNER, SessionId(3));
        let last = locks.last_grant();
        locks.granted(OWNER, SessionId(3));
        locks.released(OWNER, last);
        assert!(!locks.is_empty() && locks.closed().is_empty());
        locks.released(OWNER, locks.last_grant());
        assert!(locks.is_empty());
        assert!(locks.last_grant() > last, "a grant's number does not come back");
    }

    #[test]
    fn only_closed_owners_are_to_be_released() {
        let mut locks = LockOwners::default();
        locks.granted(OWNER, SessionId(3));
        locks.granted((LockKind::Record, 8), SessionId(3));
        assert!(locks.mark_closed(|(_, owner)| *owner == 7));
        assert!(!locks.mark_closed(|(_, owner)| *owner == 9));
        assert_eq!(locks.closed(), [OWNER]);
        locks.granted(OWNER, SessionId(3));
        assert!(locks.closed().is_empty(), "it has a lock again");
    }
}
