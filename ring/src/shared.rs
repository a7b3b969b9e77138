//! The shared data: items, locks and transactions, mirrored on every member of a primary ring. It follows
//! Raincore's Group Data Manager (Fan, Bruck 2001).
//!
//! Invariants:
//! 1. The committed log alone determines the state and the notices: the same entries give the same on every
//!    node ([`crate::invariants::mirrors_agree`]).
//! 2. A transaction applies whole or not at all (`a_transaction_applies_whole_or_not_at_all`).
//! 3. A lock has at most one owner, which is a member. When the owner leaves the view, the next waiter gets
//!    the lock (`a_lock_outlives_everything_but_its_owner`).
//! 4. A change with one id is applied once (`a_repeated_change_is_applied_once`).
//! 5. Sizes are bounded (`limits_and_ranges_are_held`).
//!
//! Left out: history, permissions, and quotas; the caller decides who may write and how much.

use crate::change::{Bytes, Change, NAME_BYTES_MAX, Notice, Refused, VALUE_BYTES_MAX};
use crate::log::{Content, Entry, LogPosition};
use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Largest number of items, and of locks. It bounds the snapshot that a new member fetches.
pub const ITEMS_MAX: usize = 1 << 17;
/// Largest number of waiters for one lock.
pub(crate) const WAITERS_MAX: usize = 1024;

/// An item of the shared data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Item {
    /// Value.
    pub value: Bytes,
    /// Log index of its last change.
    pub version: u64,
}

/// The state of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct LockState {
    /// Owner, with the fence of its hold.
    pub owner: Option<(Member, u64)>,
    /// Waiters, the next one first.
    pub waiting: VecDeque<Member>,
}

/// The mirror of the shared data on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SharedData {
    applied: LogPosition,
    items: BTreeMap<String, Item>,
    locks: BTreeMap<String, LockState>,
    /// For each origin, its newest incarnation and the id of its last applied change.
    done: BTreeMap<NodeId, (u64, u64)>,
}

impl SharedData {
    /// Returns the log index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied.index
    }

    /// Returns the position of the last applied entry.
    pub(crate) fn position(&self) -> LogPosition {
        self.applied
    }

    /// Returns an item by its name.
    pub fn item(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// Returns all items by name.
    pub fn items(&self) -> impl ExactSizeIterator<Item = (&String, &Item)> {
        self.items.iter()
    }

    /// Returns a lock by its name.
    pub fn lock(&self, name: &str) -> Option<&LockState> {
        self.locks.get(name)
    }

    /// Returns the id of the last applied change of a node's incarnation; 0 for none.
    pub fn last_id_of(&self, member: Member) -> u64 {
        self.done.get(&member.node).filter(|done| done.0 == member.incarnation).map_or(0, |done| done.1)
    }

    /// Applies the next committed entry. [`Notice::Done`] reports the changes of `me`.
    pub(crate) fn apply(&mut self, index: u64, entry: &Entry, me: Member, out: &mut Vec<Notice>) {
        assert_eq!(index, self.applied.index + 1, "entries are applied in order");
        self.applied = LogPosition { index, epoch: entry.epoch };
        match &entry.content {
            Content::View(members) => {
                self.enter(index, members, out);
                out.push(Notice::View(members.clone()));
            }
            Content::Change { origin, id, change } => {
                let done = self.done.entry(origin.node).or_default();
                if (origin.incarnation, *id) <= *done {
                    return;
                }
                *done = (origin.incarnation, *id);
                let result = self.check(*origin, change);
                if result.is_ok() {
                    self.make(index, *origin, change, out);
                }
                if *origin == me {
                    out.push(Notice::Done { id: *id, result });
                }
            }
        }
    }

    /// Passes on the locks of nodes that are no members.
    fn enter(&mut self, index: u64, members: &[Member], out: &mut Vec<Notice>) {
        for (name, lock) in &mut self.locks {
            lock.waiting.retain(|member| members.contains(member));
            if lock.owner.is_some_and(|(owner, _)| !members.contains(&owner)) {
                pass_lock(name, lock, index, out);
            }
        }
    }

    fn check(&self, origin: Member, change: &Change) -> Result<(), Refused> {
        match change {
            // The changes of a transaction see the earlier ones: they are tried on a copy of the items and
            // locks that they name.
            Change::Transaction(changes) => {
                let mut trial = self.part(changes);
                for change in changes {
                    if matches!(change, Change::Transaction(_)) {
                        return Err(too_much("depth of transactions", 2, 1));
                    }
                    trial.check_one(origin, change, self.items.len())?;
                    trial.make(0, origin, change, &mut Vec::new());
                }
                Ok(())
            }
            change => self.check_one(origin, change, self.items.len()),
        }
    }

    /// Returns a copy of the items and locks that these changes name.
    fn part(&self, changes: &[Change]) -> SharedData {
        let mut part = SharedData::default();
        for change in changes {
            match change {
                Change::Create { key, .. }
                | Change::Write { key, .. }
                | Change::Patch { key, .. }
                | Change::Delete { key } => {
                    part.items.extend(self.items.get(key).map(|item| (key.clone(), item.clone())));
                }
                Change::CreateLock { name }
                | Change::DestroyLock { name }
                | Change::Lock { name }
                | Change::Unlock { name } => {
                    part.locks.extend(self.locks.get(name).map(|lock| (name.clone(), lock.clone())));
                }
                Change::Message(_) | Change::Transaction(_) => {}
            }
        }
        part
    }

    fn check_one(&self, origin: Member, change: &Change, items: usize) -> Result<(), Refused> {
        let existing = |key: &String| self.items.get(key).ok_or_else(|| Refused::NoItem(key.clone()));
        let lock = |name: &String| self.locks.get(name).ok_or_else(|| Refused::NoLock(name.clone()));
        match change {
            Change::Message(bytes) => within("bytes of a message", bytes.0.len(), VALUE_BYTES_MAX),
            Change::Create { key, value } => {
                within("bytes of a name", key.len(), NAME_BYTES_MAX)?;
                within("bytes of a value", value.0.len(), VALUE_BYTES_MAX)?;
                within("shared items", items + 1, ITEMS_MAX)?;
                if self.items.contains_key(key) { Err(Refused::ItemExists(key.clone())) } else { Ok(()) }
            }
            Change::Write { key, value } => {
                existing(key)?;
                within("bytes of a value", value.0.len(), VALUE_BYTES_MAX)
            }
            Change::Patch { key, offset, bytes } => {
                let len = existing(key)?.value.0.len() as u64;
                let (from, to) = (u64::from(*offset), u64::from(*offset) + bytes.0.len() as u64);
                if to > len { Err(Refused::OutOfRange { key: key.clone(), from, to, len }) } else { Ok(()) }
            }
            Change::Delete { key } => existing(key).map(|_| ()),
            Change::CreateLock { name } => {
                within("bytes of a name", name.len(), NAME_BYTES_MAX)?;
                within("locks", self.locks.len() + 1, ITEMS_MAX)?;
                if self.locks.contains_key(name) { Err(Refused::LockExists(name.clone())) } else { Ok(()) }
            }
            Change::DestroyLock { name } => lock(name).map(|_| ()),
            Change::Lock { name } => {
                let lock = lock(name)?;
                if holds(lock, origin) || lock.waiting.contains(&origin) {
                    return Err(Refused::LockedTwice(name.clone()));
                }
                within("nodes waiting for a lock", lock.waiting.len() + 1, WAITERS_MAX)
            }
            Change::Unlock { name } => {
                let lock = lock(name)?;
                if holds(lock, origin) || lock.waiting.contains(&origin) {
                    Ok(())
                } else {
                    Err(Refused::NotHolder(name.clone()))
                }
            }
            Change::Transaction(_) => Err(too_much("depth of transactions", 2, 1)),
        }
    }

    /// Makes a change that was checked.
    fn make(&mut self, index: u64, origin: Member, change: &Change, out: &mut Vec<Notice>) {
        match change {
            Change::Message(bytes) => {
                out.push(Notice::Message { from: origin.node, bytes: bytes.clone() });
            }
            Change::Create { key, value } => {
                self.items.insert(key.clone(), Item { value: value.clone(), version: index });
                out.push(Notice::Created(key.clone()));
            }
            Change::Write { key, value } => {
                let item = self.items.get_mut(key).expect("checked");
                *item = Item { value: value.clone(), version: index };
                out.push(Notice::Written(key.clone()));
            }
            Change::Patch { key, offset, bytes } => {
                let item = self.items.get_mut(key).expect("checked");
                let from = *offset as usize;
                item.value.0[from..from + bytes.0.len()].copy_from_slice(&bytes.0);
                item.version = index;
                out.push(Notice::Written(key.clone()));
            }
            Change::Delete { key } => {
                self.items.remove(key);
                out.push(Notice::Deleted(key.clone()));
            }
            Change::CreateLock { name } => {
                self.locks.insert(name.clone(), LockState::default());
            }
            Change::DestroyLock { name } => {
                if self.locks.remove(name).is_some_and(|lock| lock.owner.is_some()) {
                    out.push(Notice::Unlocked(name.clone()));
                }
            }
            Change::Lock { name } => {
                let lock = self.locks.get_mut(name).expect("checked");
                lock.waiting.push_back(origin);
                if lock.owner.is_none() {
                    pass_lock(name, lock, index, out);
                }
            }
            Change::Unlock { name } => {
                let lock = self.locks.get_mut(name).expect("checked");
                lock.waiting.retain(|member| *member != origin);
                if holds(lock, origin) {
                    pass_lock(name, lock, index, out);
                }
            }
            Change::Transaction(changes) => {
                for change in changes {
                    self.make(index, origin, change, out);
                }
            }
        }
    }
}

fn holds(lock: &LockState, who: Member) -> bool {
    lock.owner.is_some_and(|(owner, _)| owner == who)
}

fn pass_lock(name: &str, lock: &mut LockState, fence: u64, out: &mut Vec<Notice>) {
    lock.owner = lock.waiting.pop_front().map(|next| (next, fence));
    out.push(match lock.owner {
        Some((owner, fence)) => Notice::Locked { name: name.to_owned(), owner, fence },
        None => Notice::Unlocked(name.to_owned()),
    });
}

fn too_much(what: &str, value: usize, limit: usize) -> Refused {
    Refused::TooMuch { what: what.to_owned(), value: value as u64, limit: limit as u64 }
}

fn within(what: &str, value: usize, limit: usize) -> Result<(), Refused> {
    if value > limit { Err(too_much(what, value, limit)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;

    const A: Member = Member { node: NodeId(1), incarnation: 1 };
    const B: Member = Member { node: NodeId(2), incarnation: 1 };

    #[derive(Default)]
    struct Mirror {
        shared: SharedData,
        ids: BTreeMap<Member, u64>,
    }

    impl Mirror {
        fn make(&mut self, origin: Member, change: Change) -> Vec<Notice> {
            let id = self.ids.entry(origin).or_default();
            *id += 1;
            let id = *id;
            self.entry(Content::Change { origin, id, change })
        }

        fn entry(&mut self, content: Content) -> Vec<Notice> {
            let mut notices = Vec::new();
            let entry = Entry { epoch: Epoch::default(), content };
            self.shared.apply(self.shared.applied() + 1, &entry, A, &mut notices);
            notices
        }
    }

    fn create(key: &str, value: &str) -> Change {
        Change::Create { key: key.into(), value: Bytes(value.into()) }
    }

    #[test]
    fn a_transaction_applies_whole_or_not_at_all() {
        let mut mirror = Mirror::default();
        mirror.make(A, create("a", "1"));
        let second = Change::Write { key: "b".into(), value: Bytes(b"3".to_vec()) };
        let good = Change::Transaction(vec![create("b", "2"), second, Change::Delete { key: "a".into() }]);
        let notices = mirror.make(A, good);
        assert_eq!(notices.last(), Some(&Notice::Done { id: 2, result: Ok(()) }));
        assert_eq!(mirror.shared.item("b").map(|item| item.value.0.as_slice()), Some(&b"3"[..]));
        let before = mirror.shared.clone();
        let bad = Change::Transaction(vec![create("c", "1"), create("b", "again")]);
        let notices = mirror.make(A, bad);
        let refused = Err(Refused::ItemExists("b".into()));
        assert_eq!(notices, [Notice::Done { id: 3, result: refused }]);
        assert_eq!(mirror.shared.items, before.items);
    }

    #[test]
    fn a_lock_outlives_everything_but_its_owner() {
        let mut mirror = Mirror::default();
        let name = || "l".to_owned();
        mirror.make(A, Change::CreateLock { name: name() });
        let got = mirror.make(B, Change::Lock { name: name() });
        assert_eq!(got, [Notice::Locked { name: name(), owner: B, fence: 2 }]);
        mirror.make(A, Change::Lock { name: name() });
        mirror.entry(Content::View(vec![A, B]));
        assert_eq!(mirror.shared.lock("l").and_then(|lock| lock.owner), Some((B, 2)));
        let notices = mirror.entry(Content::View(vec![A]));
        assert_eq!(notices[0], Notice::Locked { name: name(), owner: A, fence: 5 });
        assert_eq!(mirror.make(A, Change::Unlock { name: name() })[0], Notice::Unlocked(name()));
        let again = mirror.make(A, Change::Unlock { name: name() });
        assert_eq!(again, [Notice::Done { id: 4, result: Err(Refused::NotHolder(name())) }]);
    }

    #[test]
    fn a_repeated_change_is_applied_once() {
        let mut mirror = Mirror::default();
        let content = Content::Change { origin: A, id: 1, change: create("a", "1") };
        assert_eq!(mirror.entry(content.clone()).len(), 2);
        assert!(mirror.entry(content).is_empty());
    }

    #[test]
    fn limits_and_ranges_are_held() {
        let mut mirror = Mirror::default();
        let value = Bytes(vec![0; VALUE_BYTES_MAX + 1]);
        let notices = mirror.make(A, Change::Create { key: "a".into(), value });
        assert!(matches!(&notices[0], Notice::Done { result: Err(Refused::TooMuch { .. }), .. }));
        mirror.make(A, create("a", "12345"));
        let patch = |offset| Change::Patch { key: "a".into(), offset, bytes: Bytes(b"xy".to_vec()) };
        assert!(matches!(&mirror.make(A, patch(3))[0], Notice::Written(_)));
        assert_eq!(mirror.shared.item("a").map(|item| item.value.0.as_slice()), Some(&b"123xy"[..]));
        assert!(matches!(
            &mirror.make(A, patch(4))[0],
            Notice::Done { result: Err(Refused::OutOfRange { to: 6, len: 5, .. }), .. }
        ));
    }
}
