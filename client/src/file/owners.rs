//! The owners of a file's locks among this client's programs. Pure.

use rain_namespace::lock::{Lock, LockKind};
use rain_types::SessionId;
use std::collections::BTreeMap;

/// The owner of a lock within the session: the kind of lock, and the number that the kernel gives its owner.
pub(super) type Owner = (LockKind, u64);

/// The locks that this client's programs have on a file, or may have.
#[derive(Debug, Default)]
pub(super) struct LockOwners {
    /// The session that granted them.
    pub(super) session: SessionId,
    /// Lock owners; true once the owner has closed the file and its locks are released after the next flush.
    pub(super) owners: BTreeMap<Owner, bool>,
    /// The session has ended, so other clients may have had the locks.
    pub(super) lost: bool,
}

impl LockOwners {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The owners that have closed the file.
    pub(super) fn closed(&self) -> Vec<Owner> {
        self.owners.iter().filter(|(_, closed)| **closed).map(|(owner, _)| *owner).collect()
    }

    /// Whether the lock's owner has any lock of this kind.
    pub(super) fn any_of(&self, lock: &Lock) -> bool {
        self.owners.keys().any(|(kind, owner)| *owner == lock.owner && kind.sees(lock.kind))
    }

    pub(super) fn remove(&mut self, (gone, number): Owner) {
        self.owners.retain(|(kind, owner), _| *owner != number || !kind.sees(gone));
        if self.owners.is_empty() {
            *self = LockOwners::default();
        }
    }
}
