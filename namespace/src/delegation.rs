//! [`DelegationSet`]: the directories that are delegated to a session, and the commands that the session
//! decides itself.
//!
//! While a directory is delegated ([`crate::command::Command::Delegate`]) no other session changes or looks
//! up its names. So the holder of the delegation computes the outcome of a command with the namespace's own
//! functions, acknowledges it early, and sends the command to the leader later, in order. Local filesystems
//! write back in this way; Ceph's asynchronous directory operations and NFS's directory delegations are
//! relatives. There are three kinds of inodes:
//!
//! - **delegated**: the delegated directories. Their attributes and all their names are known here.
//! - **unpublished**: inodes that were made here below a delegated directory. No other session knows them,
//!   because every path to them leads through that directory. Everything about them is known here.
//! - **external**: inodes that a delegated directory named before. Only their names and kinds are known here;
//!   the leader knows their attributes.
//!
//! Invariants, which `what_is_acknowledged_early_is_what_the_leader_says_later` holds against a namespace
//! that applies the same commands later:
//! 1. The outcome of a [`Decision::Local`] command is the leader's later outcome, except for the state of an
//!    *external* inode.
//! 2. The answer of [`DelegationSet::answer`] is the leader's answer once it has applied every earlier
//!    command.
//! 3. After [`DelegationSet::return_directory`] no inode that other sessions can reach through that directory
//!    counts as unpublished.
//!
//! Left out: sending, waiting, and the decision when to ask for a delegation; the client's write-back does
//! these.

use crate::acl;
use crate::apply::apply;
use crate::command::{Applied, Command, Name, Outcome, RenameMode, Request};
use crate::key;
use crate::kv::{KvRead, KvTxn, MemoryKv};
use crate::lease::changed_by;
use crate::query::{Answered, Query, answer};
use crate::record::{Attr, BlockRecord, Extent, FileKind, Time, VolumeRecord};
use crate::wire;
use rain_types::{GroupId, Ino, VolumeId};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Where a command is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Here: [`DelegationSet::apply_locally`] returns the outcome, and the leader gets the command later.
    Local,
    /// By the leader, in order: [`DelegationSet::apply_locally`] applies the command here, and the leader
    /// confirms the outcome.
    Confirm,
    /// By the leader alone: the command changes nothing that is known here.
    Remote,
    /// By the leader, after these directories are returned.
    Return(Vec<Ino>),
}

/// A name in a directory, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name in the directory.
    pub name: Name,
    /// Inode of the name.
    pub ino: Ino,
    /// Attributes, if they are known here.
    pub attr: Option<Attr>,
}

/// The part of an answer that is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAnswer {
    /// The whole answer.
    Complete(Answered),
    /// A part of the answer; the leader knows the rest, and gives it for this query.
    Partial(Query),
    /// No part of the answer.
    Unknown,
}

/// The delegated directories of a session, and the unpublished inodes below them.
#[derive(Debug, Clone, Default)]
pub struct DelegationSet {
    kv: MemoryKv,
    delegated: BTreeSet<Ino>,
    /// Unpublished inodes, each with the delegated directory below which it was made.
    unpublished: BTreeMap<Ino, Ino>,
    /// Closed groups of the volume; rebalance moves the blocks in them.
    closed_groups: BTreeSet<GroupId>,
}

/// Returns the extended attributes that are a directory's ACLs, by its attributes.
pub fn acls_of(dir: &Attr) -> impl Iterator<Item = Name> {
    let acls = [(dir.acl, acl::ACCESS), (dir.default_acl, acl::DEFAULT)];
    acls.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_vec())
}

fn read<T: DeserializeOwned>(kv: &MemoryKv, key: &[u8]) -> Option<T> {
    kv.get(key).map(|bytes| wire::decode(&bytes).expect("a record of the namespace is readable"))
}

/// Returns placeholder attributes for an external inode, used while one command is applied.
fn placeholder(ino: Ino, kind: FileKind, volume: VolumeId) -> Attr {
    let time = Time::default();
    // Two names: after losing one, the inode still exists here, whatever happens to it at the leader.
    let nlink = 2;
    let (mode, uid, gid, size, stored_bytes, rdev, version, extents) = Default::default();
    let (atime, mtime, ctime, crtime, parent) = (time, time, time, time, ino);
    let (acl, default_acl) = (false, false);
    Attr {
        ino,
        volume,
        kind,
        mode,
        uid,
        gid,
        nlink,
        size,
        stored_bytes,
        rdev,
        atime,
        mtime,
        ctime,
        crtime,
        version,
        parent,
        extents,
        acl,
        default_acl,
    }
}

impl DelegationSet {
    /// Returns whether no directory is delegated.
    pub fn is_empty(&self) -> bool {
        self.delegated.is_empty()
    }

    /// Returns the delegated directories.
    pub fn delegated(&self) -> impl ExactSizeIterator<Item = Ino> + '_ {
        self.delegated.iter().copied()
    }

    /// Returns the number of records kept, as a measure of memory.
    pub fn records(&self) -> usize {
        self.kv.0.len()
    }

    /// Returns whether everything about an inode is known here: it is delegated or unpublished.
    pub fn is_fully_known(&self, ino: Ino) -> bool {
        self.delegated.contains(&ino) || self.unpublished.contains_key(&ino)
    }

    /// Returns whether no other session can know the inode.
    pub fn is_unpublished(&self, ino: Ino) -> bool {
        self.unpublished.contains_key(&ino)
    }

    /// Returns whether all names of a directory are known here.
    fn knows_all_names(&self, dir: Ino) -> bool {
        self.delegated.contains(&dir)
            || self.unpublished.contains_key(&dir)
                && self.attr(dir).is_some_and(|attr| attr.kind == FileKind::Directory)
    }

    fn attr(&self, ino: Ino) -> Option<Attr> {
        read(&self.kv, &key::inode(ino))
    }

    fn child(&self, parent: Ino, name: &[u8]) -> Option<(Ino, FileKind)> {
        read(&self.kv, &key::entry(parent, name))
    }

    /// Returns the time of an inode's last change, if it is known here.
    pub fn ctime(&self, ino: Ino) -> Option<Time> {
        self.attr(ino).map(|attr| attr.ctime)
    }

    /// Returns the delegated directory of an inode: the inode itself, or the directory below which it was
    /// made.
    pub fn delegated_ancestor(&self, ino: Ino) -> Option<Ino> {
        if self.delegated.contains(&ino) { Some(ino) } else { self.unpublished.get(&ino).copied() }
    }

    /// Adds a directory that was delegated, with its current attributes, names and ACLs ([`acls_of`]): new inodes
    /// inherit from it, and a change of its mode changes its ACL.
    pub fn add_directory(
        &mut self,
        volume: &VolumeRecord,
        dir: &Attr,
        names: impl IntoIterator<Item = (Vec<u8>, Ino, FileKind)>,
        acls: impl IntoIterator<Item = (Name, Vec<u8>)>,
    ) {
        self.keep_volume(volume);
        // Commands carry reserved inode numbers, so every number below the counter must pass.
        self.put(&key::counter("next-ino"), &u64::MAX);
        self.put(&key::inode(dir.ino), dir);
        for (name, ino, kind) in names {
            self.put(&key::entry(dir.ino, &name), &(ino, kind));
        }
        for (name, acl) in acls {
            self.kv.put(&key::xattr(dir.ino, &name), &acl);
        }
        self.delegated.insert(dir.ino);
    }

    /// Updates the volume's placement groups.
    pub fn update_volume(&mut self, volume: &VolumeRecord) {
        if !self.delegated.is_empty() {
            self.keep_volume(volume);
        }
    }

    fn keep_volume(&mut self, volume: &VolumeRecord) {
        self.put(&key::volume(volume.id), volume);
        self.closed_groups = volume.closed_groups().into_iter().map(|(group, _)| group).collect();
    }

    fn put<T: serde::Serialize>(&mut self, key: &[u8], value: &T) {
        self.kv.put(key, &wire::encode(value));
    }

    /// Returns where a command is decided.
    pub fn decide(&self, command: &Command) -> Decision {
        let here_if = |here: bool| if here { Decision::Local } else { Decision::Remote };
        match command {
            Command::Make { parent, name, or_existing, .. } => match self.child(*parent, name) {
                _ if !self.knows_all_names(*parent) => Decision::Remote,
                Some((ino, FileKind::File)) if *or_existing && !self.is_fully_known(ino) => Decision::Confirm,
                _ => Decision::Local,
            },
            Command::Unlink { parent, .. } => here_if(self.knows_all_names(*parent)),
            Command::RemoveDirectory { parent, name } => match self.child(*parent, name) {
                _ if !self.knows_all_names(*parent) => Decision::Remote,
                Some((ino, FileKind::Directory)) if !self.is_fully_known(ino) => Decision::Confirm,
                _ => Decision::Local,
            },
            Command::Link { ino, parent, .. } => {
                match (self.knows_all_names(*parent), self.delegated_ancestor(*ino)) {
                    (true, Some(_)) => Decision::Local,
                    (true, None) => Decision::Confirm,
                    (false, Some(ancestor)) => Decision::Return(vec![ancestor]),
                    (false, None) => Decision::Remote,
                }
            }
            Command::Rename { parent, name, new_parent, new_name, mode, .. } => {
                self.decide_rename((*parent, name), (*new_parent, new_name), *mode)
            }
            Command::SetAttr { ino, .. } => here_if(self.is_fully_known(*ino)),
            Command::Commit { ino, .. } | Command::Punch { ino, .. } => here_if(self.is_unpublished(*ino)),
            Command::SetXattr { ino, .. } | Command::RemoveXattr { ino, .. } => {
                // The extended attributes that a delegated directory had before are not known here.
                if self.delegated.contains(ino) {
                    Decision::Return(vec![*ino])
                } else {
                    here_if(self.is_unpublished(*ino))
                }
            }
            Command::Guarded { ino, command, .. } => self.decide_condition(command, &[*ino]),
            Command::IfNamed { names, command } => {
                let parents: Vec<Ino> = names.iter().map(|known| known.parent).collect();
                self.decide_condition(command, &parents)
            }
            Command::CloneRange { from, to, .. } => {
                let unpublished = [*from, *to].into_iter().filter(|ino| self.is_unpublished(*ino));
                let ancestors: Vec<Ino> =
                    unpublished.filter_map(|ino| self.delegated_ancestor(ino)).collect();
                if ancestors.is_empty() { Decision::Remote } else { Decision::Return(ancestors) }
            }
            _ => Decision::Remote,
        }
    }

    /// Only the leader decides about a condition before a command. What is delegated of it is returned before.
    fn decide_condition(&self, command: &Command, about: &[Ino]) -> Decision {
        let inner = self.decide(command);
        let here = matches!(inner, Decision::Local | Decision::Confirm)
            || about.iter().any(|ino| self.is_fully_known(*ino));
        let about = Self::affected_inodes(command).into_iter().chain(about.iter().copied());
        let mut ancestors: Vec<Ino> = about.filter_map(|ino| self.delegated_ancestor(ino)).collect();
        ancestors.dedup();
        if here && !ancestors.is_empty() { Decision::Return(ancestors) } else { inner }
    }

    fn decide_rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Decision {
        let moved = self.child(from.0, from.1);
        let (from_known, to_known) = (self.knows_all_names(from.0), self.knows_all_names(to.0));
        if !(from_known && to_known) {
            // Other sessions can reach an inode that moves out. An inode that moves in is not known here.
            let known = [(from_known, from.0), (to_known, to.0)].into_iter().find(|(known, _)| *known);
            return match known.and_then(|(_, dir)| self.delegated_ancestor(dir)) {
                Some(ancestor) => Decision::Return(vec![ancestor]),
                None => Decision::Remote,
            };
        }
        let there = self.child(to.0, to.1);
        let is_other_dir = |child: Option<(Ino, FileKind)>| {
            child.is_some_and(|(ino, kind)| kind == FileKind::Directory && !self.is_fully_known(ino))
        };
        let swaps = mode == RenameMode::Exchange;
        // Only the leader knows the contents of an external directory and whether it is empty.
        let confirm = is_other_dir(there) || is_other_dir(moved) && (swaps || from.0 != to.0);
        if confirm { Decision::Confirm } else { Decision::Local }
    }

    /// Returns the lookups to make before a [`Decision::Remote`] command. If one of them finds a delegated
    /// directory, the command would remove or move it, and the directory must be returned first.
    pub fn lookups_before(&self, command: &Command) -> Vec<Query> {
        let lookup = |parent: &Ino, name: &Name| Query::Lookup { parent: *parent, name: name.clone() };
        match command {
            _ if self.delegated.is_empty() => Vec::new(),
            Command::Guarded { command, .. } | Command::IfNamed { command, .. } => {
                self.lookups_before(command)
            }
            Command::RemoveDirectory { parent, name } => vec![lookup(parent, name)],
            Command::Rename { parent, name, new_parent, new_name, .. } => {
                vec![lookup(parent, name), lookup(new_parent, new_name)]
            }
            _ => Vec::new(),
        }
    }

    /// Returns the inodes that a command concerns. If one of them has pending changes, the command must wait
    /// for these.
    pub fn affected_inodes(command: &Command) -> Vec<Ino> {
        match command {
            Command::Make { parent, .. } | Command::MakeUnnamed { dir: parent, .. } => vec![*parent],
            Command::Unlink { parent, .. } | Command::RemoveDirectory { parent, .. } => vec![*parent],
            Command::Link { ino, parent, .. } => vec![*ino, *parent],
            Command::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
            Command::SetAttr { ino, .. }
            | Command::SetXattr { ino, .. }
            | Command::RemoveXattr { ino, .. }
            | Command::Commit { ino, .. }
            | Command::Punch { ino, .. }
            | Command::Lock { ino, .. }
            | Command::Unlock { ino, .. }
            | Command::CancelLockWait { ino, .. } => vec![*ino],
            Command::CloneRange { from, to, .. } => vec![*from, *to],
            Command::Guarded { ino, command, .. } => {
                let mut inos = Self::affected_inodes(command);
                inos.push(*ino);
                inos
            }
            Command::IfNamed { names, command } => {
                let mut inos = Self::affected_inodes(command);
                inos.extend(names.iter().map(|known| known.parent));
                inos
            }
            _ => Vec::new(),
        }
    }

    /// Returns the inode that a query concerns. If it has pending changes, the query must wait for these.
    pub fn queried_inode(query: &Query) -> Option<Ino> {
        match query {
            Query::Lookup { parent: ino, .. }
            | Query::ReadDirectory { dir: ino, .. }
            | Query::GetAttr { ino }
            | Query::Open { ino }
            | Query::Layout { ino, .. }
            | Query::ReadLink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Ticket { ino, .. }
            | Query::Conflict { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// Returns the inodes whose names a command removes or moves, by the names that are known here.
    pub fn named_inodes(&self, command: &Command) -> Vec<Ino> {
        let names = changed_by(command).named.into_iter();
        names.filter_map(|(parent, name)| self.child(parent, &name)).map(|(ino, _)| ino).collect()
    }

    /// Applies a command here, with a time that the leader gets, too. A refused command has changed nothing,
    /// and the leader need not get it.
    pub fn apply_locally(&mut self, time: Time, command: &Command) -> Applied {
        let placeholders = self.put_placeholders(command);
        let moved = match command {
            Command::Rename { parent, name, .. } => self.child(*parent, name).map(|(ino, _)| ino),
            _ => None,
        };
        let request = Request { id: None, done_below: 0, time: Some(time), command: command.clone() };
        // No directory in this store is delegated to another session.
        let applied = apply(&mut self.kv, time, &request);
        for ino in placeholders {
            self.kv.delete(&key::inode(ino));
        }
        let made = match (&applied, command) {
            (Ok(Outcome::Attr(attr)), Command::Make { parent, .. }) => Some((attr.ino, *parent)),
            (Ok(_), Command::Rename { parent, .. }) => command.reserved_ino().map(|ino| (ino, *parent)),
            _ => None,
        };
        if let Some((ino, parent)) = made.filter(|(ino, _)| self.attr(*ino).is_some())
            && let Some(ancestor) = self.delegated_ancestor(parent)
        {
            self.unpublished.entry(ino).or_insert(ancestor);
        }
        if let Ok(Outcome::Removed { ino, .. } | Outcome::Renamed { other: Some(ino), .. }) = &applied
            && self.attr(*ino).is_none()
        {
            self.unpublished.remove(ino);
            self.delegated.remove(ino);
        }
        debug_assert!(moved.is_none_or(|moved| self.is_fully_known(moved) == self.attr(moved).is_some()));
        for letter in [b"G", b"S"] {
            self.delete_all(letter);
        }
        applied
    }

    /// Applies the leader's outcome of a [`Decision::Confirm`] command.
    pub fn confirm(&mut self, command: &Command, outcome: &Outcome) {
        if let (Command::Link { parent, name, .. }, Outcome::Attr(attr)) = (command, outcome)
            && self.child(*parent, name).is_some_and(|(ino, _)| ino == attr.ino)
        {
            self.put(&key::entry(*parent, name), &(attr.ino, attr.kind));
        }
    }

    /// Writes placeholder attributes of the external inodes that a command meets, and returns these inodes.
    fn put_placeholders(&mut self, command: &Command) -> Vec<Ino> {
        let mut wanted: Vec<(Ino, FileKind)> = Vec::new();
        let dir = match command {
            Command::Make { parent, name, .. }
            | Command::Unlink { parent, name }
            | Command::RemoveDirectory { parent, name } => {
                wanted.extend(self.child(*parent, name));
                *parent
            }
            Command::Link { ino, parent, .. } => {
                wanted.push((*ino, FileKind::File));
                *parent
            }
            Command::Rename { parent, name, new_parent, new_name, .. } => {
                wanted.extend(self.child(*parent, name));
                wanted.extend(self.child(*new_parent, new_name));
                // The search for ancestors ends above the delegated directories.
                let above = self.delegated.iter().filter_map(|dir| self.attr(*dir));
                wanted.extend(above.map(|dir| (dir.parent, FileKind::Directory)));
                *parent
            }
            _ => return Vec::new(),
        };
        let volume = self.attr(dir).map(|attr| attr.volume).unwrap_or_default();
        wanted.retain(|(ino, _)| self.attr(*ino).is_none());
        for (ino, kind) in &wanted {
            self.put(&key::inode(*ino), &placeholder(*ino, *kind, volume));
        }
        wanted.into_iter().map(|(ino, _)| ino).collect()
    }

    /// Answers a query as far as the answer is known here.
    pub fn answer(&self, query: &Query) -> LocalAnswer {
        match query {
            Query::Lookup { parent, name } if self.knows_all_names(*parent) => {
                match self.child(*parent, name) {
                    Some((ino, _)) if !self.is_fully_known(ino) => {
                        LocalAnswer::Partial(Query::GetAttr { ino })
                    }
                    None if name == b".." => LocalAnswer::Unknown,
                    _ => LocalAnswer::Complete(answer(&self.kv, query)),
                }
            }
            Query::GetAttr { ino } | Query::Open { ino } if self.is_fully_known(*ino) => {
                LocalAnswer::Complete(answer(&self.kv, query))
            }
            // Rebalance moves blocks without recalling the delegation.
            Query::Layout { ino, .. } if self.is_unpublished(*ino) && !self.may_have_moved(*ino) => {
                LocalAnswer::Complete(answer(&self.kv, query))
            }
            Query::ReadLink { ino } | Query::GetXattr { ino, .. } | Query::ListXattr { ino }
                if self.is_unpublished(*ino) =>
            {
                LocalAnswer::Complete(answer(&self.kv, query))
            }
            _ => LocalAnswer::Unknown,
        }
    }

    /// Returns whether a file has blocks in groups that are closed.
    fn may_have_moved(&self, ino: Ino) -> bool {
        let mut any = false;
        if !self.closed_groups.is_empty() {
            self.kv.scan(&key::extent(ino, 0), &key::extent(ino, u64::MAX), &mut |_, value| {
                let extent: Extent = wire::decode(value).expect("an extent is readable");
                any = self.closed_groups.contains(&extent.group);
                if any { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        any
    }

    /// Returns the names of a directory after `after`, in order, and whether more follow. Returns `None` when
    /// the names are not known here. Entries of external inodes have no attributes.
    pub fn list(&self, dir: Ino, after: Option<&[u8]>, limit: usize) -> Option<(Vec<Listed>, bool)> {
        if !self.knows_all_names(dir) {
            return None;
        }
        let prefix = key::entry(dir, b"");
        let from = after.map_or_else(|| prefix.clone(), |name| key::after(key::entry(dir, name)));
        let mut listed = Vec::new();
        let mut more = false;
        self.kv.scan(&from, &key::after_prefix(&prefix), &mut |key, value| {
            if listed.len() == limit {
                more = true;
                return ControlFlow::Break(());
            }
            let (ino, _): (Ino, FileKind) = wire::decode(value).expect("an entry is readable");
            let attr = if self.is_fully_known(ino) { self.attr(ino) } else { None };
            listed.push(Listed { name: key[prefix.len()..].to_vec(), ino, attr });
            ControlFlow::Continue(())
        });
        Some((listed, more))
    }

    /// Returns the inodes that a return of the directory would publish: unpublished inodes that were made
    /// below it or can be reached through it.
    pub fn published_by_return(&self, dir: Ino) -> BTreeSet<Ino> {
        let mut found: BTreeSet<Ino> =
            self.unpublished.iter().filter(|(_, ancestor)| **ancestor == dir).map(|(ino, _)| *ino).collect();
        let mut to_look: Vec<Ino> = found.iter().copied().chain([dir]).collect();
        while let Some(next) = to_look.pop() {
            let prefix = key::entry(next, b"");
            self.kv.scan(&prefix, &key::after_prefix(&prefix), &mut |_, value| {
                let (ino, _): (Ino, FileKind) = wire::decode(value).expect("an entry is readable");
                if self.unpublished.contains_key(&ino) && found.insert(ino) {
                    to_look.push(ino);
                }
                ControlFlow::Continue(())
            });
        }
        found
    }

    /// Removes a directory that is returned, and all unpublished inodes below it.
    pub fn return_directory(&mut self, dir: Ino) {
        for ino in self.published_by_return(dir) {
            self.forget(ino);
        }
        self.delegated.remove(&dir);
        self.forget(dir);
        if self.delegated.is_empty() {
            *self = DelegationSet::default();
        }
    }

    /// Removes all directories and inodes.
    pub fn clear(&mut self) {
        *self = DelegationSet::default();
    }

    /// Notes that this client has the inode open in no file. An unpublished inode without a name ends with
    /// it.
    pub fn last_close(&mut self, ino: Ino) {
        if self.unpublished.contains_key(&ino) && self.kv.get(&key::unlinked(ino)).is_some() {
            self.forget(ino);
        }
    }

    fn forget(&mut self, ino: Ino) {
        let extents = key::extent(ino, 0);
        let mut blocks = Vec::new();
        self.kv.scan(&extents, &key::extent(ino, u64::MAX), &mut |_, value| {
            let extent: Extent = wire::decode(value).expect("an extent is readable");
            blocks.push(extent.block);
            ControlFlow::Continue(())
        });
        for block in blocks {
            if let Some(record) = read::<BlockRecord>(&self.kv, &key::block(block)) {
                self.kv.delete(&key::in_group(record.volume, record.group, block));
            }
            self.kv.delete(&key::block(block));
        }
        for prefix in [key::entry(ino, b""), key::xattr(ino, b""), extents[..9].to_vec()] {
            self.delete_all(&prefix);
        }
        for key in [key::inode(ino), key::inline(ino), key::target(ino), key::unlinked(ino)] {
            self.kv.delete(&key);
        }
        self.unpublished.remove(&ino);
    }

    fn delete_all(&mut self, prefix: &[u8]) {
        let keys: Vec<Vec<u8>> =
            self.kv.0.range(prefix.to_vec()..key::after_prefix(prefix)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.kv.delete(&key);
        }
    }
}
