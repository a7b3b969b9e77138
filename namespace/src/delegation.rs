//! What a session decides by itself in directories that are delegated to it: its own small part of the namespace, under the same
//! functions, ahead of the leader.
//!
//! While a directory is delegated ([`crate::command::Command::Delegate`]) nobody else changes or looks up its names. So its holder can
//! say at once what a command on them gives, tell the program, and send the command later, in order ("behind the caller", as local
//! filesystems do; Ceph's asynchronous directory operations and NFS's directory delegations are relatives). Three kinds of inodes:
//!
//! - **held**: the delegated directories. All their names are known here, and their attributes are.
//! - **born**: made here below a held directory and known to nobody else, since every way to them leads through it. Everything about
//!   them is known here.
//! - others: what a held directory named before. Of them only names and kinds are known; their attributes are the leader's to tell.
//!
//! Invariants, held by `tests/holding.rs` against a namespace that applies the same commands later:
//! 1. What [`Decision::Local`] gives is what the leader will give, but for what became of an *other* inode.
//! 2. What [`DelegationSet::answer`] gives is what the leader will answer once it has applied every command before.
//! 3. After [`DelegationSet::let_go`] nothing that others can reach through that directory is taken for born.
//!
//! It leaves out sending, waiting, and when to ask for a directory: the client does that.

use crate::apply::apply;
use crate::command::{Applied, Command, Name, Outcome, RenameMode, Request};
use crate::key;
use crate::kv::{KvRead, KvTxn, MemoryKv};
use crate::query::{Answered, Query, answer};
use crate::record::{Attr, BlockRecord, Extent, FileKind, Time, VolumeRecord};
use crate::wire;
use rain_types::{GroupId, Ino, VolumeId};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What becomes of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// [`DelegationSet::act`] says the outcome; the leader is told later.
    Local,
    /// [`DelegationSet::act`] takes it in; the outcome is the leader's to say, in its turn.
    Confirm,
    /// It changes nothing that is known here: the leader's alone.
    Remote,
    /// These must be given back first.
    Return(Vec<Ino>),
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// If that is known here.
    pub attr: Option<Attr>,
}

/// What is known of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAnswer {
    /// The answer.
    Complete(Answered),
    /// Part of it; the leader knows the rest, if it is asked this.
    Partial(Query),
    /// Nothing.
    Unknown,
}

/// Directories held, and what was made in them.
#[derive(Debug, Clone, Default)]
pub struct DelegationSet {
    kv: MemoryKv,
    held: BTreeSet<Ino>,
    /// With the held directory that each was born below.
    unpublished: BTreeMap<Ino, Ino>,
    /// The volume's closed groups: blocks in them move.
    closed: BTreeSet<GroupId>,
}

fn read<T: DeserializeOwned>(kv: &MemoryKv, key: &[u8]) -> Option<T> {
    kv.get(key).map(|bytes| wire::decode(&bytes).expect("a record of the namespace is readable"))
}

/// An inode of which only this is known, for as long as a command is looked at.
fn stand_in(ino: Ino, kind: FileKind, volume: VolumeId) -> Attr {
    let time = Time::default();
    // Two names: losing one does not end it here, whatever it does at the leader.
    let nlink = 2;
    let (mode, uid, gid, size, held, rdev, version, extents) = Default::default();
    let (atime, mtime, ctime, crtime, parent) = (time, time, time, time, ino);
    Attr {
        ino,
        volume,
        kind,
        mode,
        uid,
        gid,
        nlink,
        size,
        held,
        rdev,
        atime,
        mtime,
        ctime,
        crtime,
        version,
        parent,
        extents,
    }
}

impl DelegationSet {
    /// Whether anything is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The directories held.
    pub fn held(&self) -> impl ExactSizeIterator<Item = Ino> + '_ {
        self.held.iter().copied()
    }

    /// Records kept, as a measure of memory.
    pub fn records(&self) -> usize {
        self.kv.0.len()
    }

    /// Whether all that is to be known of an inode is known here.
    pub fn is_mine(&self, ino: Ino) -> bool {
        self.held.contains(&ino) || self.unpublished.contains_key(&ino)
    }

    /// Whether nobody else can know of an inode.
    pub fn is_unpublished(&self, ino: Ino) -> bool {
        self.unpublished.contains_key(&ino)
    }

    /// Whether all names of a directory are known here.
    fn knows(&self, dir: Ino) -> bool {
        self.held.contains(&dir)
            || self.unpublished.contains_key(&dir)
                && self.attr(dir).is_some_and(|attr| attr.kind == FileKind::Directory)
    }

    fn attr(&self, ino: Ino) -> Option<Attr> {
        read(&self.kv, &key::inode(ino))
    }

    fn child(&self, parent: Ino, name: &[u8]) -> Option<(Ino, FileKind)> {
        read(&self.kv, &key::entry(parent, name))
    }

    /// When an inode last changed, where that is known here.
    pub fn ctime(&self, ino: Ino) -> Option<Time> {
        self.attr(ino).map(|attr| attr.ctime)
    }

    /// The held directory that an inode belongs to.
    pub fn home(&self, ino: Ino) -> Option<Ino> {
        if self.held.contains(&ino) { Some(ino) } else { self.unpublished.get(&ino).copied() }
    }

    /// Takes in a directory that was delegated: as it is now, with all its names.
    pub fn take(
        &mut self,
        volume: &VolumeRecord,
        dir: &Attr,
        names: impl IntoIterator<Item = (Vec<u8>, Ino, FileKind)>,
    ) {
        self.keep_volume(volume);
        // Numbers are given by who asks.
        self.put(&key::counter("next-ino"), &u64::MAX);
        self.put(&key::inode(dir.ino), dir);
        for (name, ino, kind) in names {
            self.put(&key::entry(dir.ino, &name), &(ino, kind));
        }
        self.held.insert(dir.ino);
    }

    /// The volume has other groups now.
    pub fn volume_is(&mut self, volume: &VolumeRecord) {
        if !self.held.is_empty() {
            self.keep_volume(volume);
        }
    }

    fn keep_volume(&mut self, volume: &VolumeRecord) {
        self.put(&key::volume(volume.id), volume);
        self.closed = volume.closed_groups().into_iter().map(|(group, _)| group).collect();
    }

    fn put<T: serde::Serialize>(&mut self, key: &[u8], value: &T) {
        self.kv.put(key, &wire::encode(value));
    }

    /// What becomes of a command.
    pub fn plan(&self, command: &Command) -> Decision {
        let here_if = |here: bool| if here { Decision::Local } else { Decision::Remote };
        match command {
            Command::Make { parent, name, or_existing, .. } => match self.child(*parent, name) {
                _ if !self.knows(*parent) => Decision::Remote,
                Some((ino, FileKind::File)) if *or_existing && !self.is_mine(ino) => Decision::Confirm,
                _ => Decision::Local,
            },
            Command::Unlink { parent, .. } => here_if(self.knows(*parent)),
            Command::RemoveDirectory { parent, name } => match self.child(*parent, name) {
                _ if !self.knows(*parent) => Decision::Remote,
                Some((ino, FileKind::Directory)) if !self.is_mine(ino) => Decision::Confirm,
                _ => Decision::Local,
            },
            Command::Link { ino, parent, .. } => match (self.knows(*parent), self.home(*ino)) {
                (true, Some(_)) => Decision::Local,
                (true, None) => Decision::Confirm,
                (false, Some(home)) => Decision::Return(vec![home]),
                (false, None) => Decision::Remote,
            },
            Command::Rename { parent, name, new_parent, new_name, mode } => {
                self.plan_rename((*parent, name), (*new_parent, new_name), *mode)
            }
            Command::SetAttr { ino, .. } => here_if(self.is_mine(*ino)),
            Command::Commit { ino, .. } | Command::Punch { ino, .. } => here_if(self.is_unpublished(*ino)),
            Command::SetXattr { ino, .. } | Command::RemoveXattr { ino, .. } => {
                // The attributes that a held directory had before are not known.
                if self.held.contains(ino) {
                    Decision::Return(vec![*ino])
                } else {
                    here_if(self.is_unpublished(*ino))
                }
            }
            _ => Decision::Remote,
        }
    }

    fn plan_rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Decision {
        let moved = self.child(from.0, from.1);
        let (from_known, to_known) = (self.knows(from.0), self.knows(to.0));
        if !(from_known && to_known) {
            // What is moved out can be reached by others from then on, and what is moved in is not known.
            let known = [(from_known, from.0), (to_known, to.0)].into_iter().find(|(known, _)| *known);
            return match known.and_then(|(_, dir)| self.home(dir)) {
                Some(home) => Decision::Return(vec![home]),
                None => Decision::Remote,
            };
        }
        let there = self.child(to.0, to.1);
        let is_other_dir = |child: Option<(Ino, FileKind)>| {
            child.is_some_and(|(ino, kind)| kind == FileKind::Directory && !self.is_mine(ino))
        };
        let swaps = mode == RenameMode::Exchange;
        // What lies below a directory that is not known here, and whether it is empty, the leader says.
        let confirm = is_other_dir(there) || is_other_dir(moved) && (swaps || from.0 != to.0);
        if confirm { Decision::Confirm } else { Decision::Local }
    }

    /// What to look up before a command that is the leader's alone: should it name a held directory, which the command ends or moves, that
    /// is to be given back first.
    pub fn suspects(&self, command: &Command) -> Vec<Query> {
        let lookup = |parent: &Ino, name: &Name| Query::Lookup { parent: *parent, name: name.clone() };
        match command {
            _ if self.held.is_empty() => Vec::new(),
            Command::RemoveDirectory { parent, name } => vec![lookup(parent, name)],
            Command::Rename { parent, name, new_parent, new_name, .. } => {
                vec![lookup(parent, name), lookup(new_parent, new_name)]
            }
            _ => Vec::new(),
        }
    }

    /// The inodes that a command is about: where one of them has changes under way it must wait for them.
    pub fn about(command: &Command) -> Vec<Ino> {
        match command {
            Command::Make { parent, .. } => vec![*parent],
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
            _ => Vec::new(),
        }
    }

    /// As [`DelegationSet::about`], of a question.
    pub fn asked_about(query: &Query) -> Option<Ino> {
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

    /// The *other* inodes that a command changes: their attributes here and at the leader differ until it is applied.
    pub fn changes(&self, command: &Command) -> Vec<Ino> {
        let others = |children: &[Option<(Ino, FileKind)>]| {
            let inos = children.iter().flatten().map(|(ino, _)| *ino);
            inos.filter(|ino| !self.is_mine(*ino)).collect()
        };
        match command {
            Command::Unlink { parent, name } | Command::RemoveDirectory { parent, name } => {
                others(&[self.child(*parent, name)])
            }
            Command::Rename { parent, name, new_parent, new_name, .. } => {
                others(&[self.child(*parent, name), self.child(*new_parent, new_name)])
            }
            Command::Link { ino, .. } => others(&[Some((*ino, FileKind::File))]),
            _ => Vec::new(),
        }
    }

    /// Does a command here, at a time that goes with it to the leader. A refusal has changed nothing, and the leader need not be told.
    pub fn act(&mut self, time: Time, command: &Command) -> Applied {
        let stand_ins = self.put_stand_ins(command);
        let moved = match command {
            Command::Rename { parent, name, .. } => self.child(*parent, name).map(|(ino, _)| ino),
            _ => None,
        };
        let request = Request { id: None, done_below: 0, time: Some(time), command: command.clone() };
        // Nothing here is delegated to somebody else.
        let applied = apply(&mut self.kv, time, &request);
        for ino in stand_ins {
            self.kv.delete(&key::inode(ino));
        }
        match (&applied, command) {
            (Ok(Outcome::Attr(attr)), Command::Make { parent, .. }) => {
                if let Some(home) = self.home(*parent)
                    && self.attr(attr.ino).is_some()
                {
                    self.unpublished.entry(attr.ino).or_insert(home);
                }
            }
            (Ok(Outcome::Removed { ino, .. }), _) if self.attr(*ino).is_none() => {
                self.unpublished.remove(ino);
                self.held.remove(ino);
            }
            _ => {}
        }
        debug_assert!(moved.is_none_or(|moved| self.is_mine(moved) == self.attr(moved).is_some()));
        for letter in [b"G", b"S"] {
            self.delete_all(letter);
        }
        applied
    }

    /// Takes in what the leader said of a command that had to be confirmed.
    pub fn confirmed(&mut self, command: &Command, outcome: &Outcome) {
        if let (Command::Link { parent, name, .. }, Outcome::Attr(attr)) = (command, outcome)
            && self.child(*parent, name).is_some_and(|(ino, _)| ino == attr.ino)
        {
            self.put(&key::entry(*parent, name), &(attr.ino, attr.kind));
        }
    }

    /// Attributes, for as long as a command is looked at, of the others that it meets.
    fn put_stand_ins(&mut self, command: &Command) -> Vec<Ino> {
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
                // The way up ends above what is held.
                let above = self.held.iter().filter_map(|held| self.attr(*held));
                wanted.extend(above.map(|held| (held.parent, FileKind::Directory)));
                *parent
            }
            _ => return Vec::new(),
        };
        let volume = self.attr(dir).map(|attr| attr.volume).unwrap_or_default();
        wanted.retain(|(ino, _)| self.attr(*ino).is_none());
        for (ino, kind) in &wanted {
            self.put(&key::inode(*ino), &stand_in(*ino, *kind, volume));
        }
        wanted.into_iter().map(|(ino, _)| ino).collect()
    }

    /// Answers, as far as that is known here.
    pub fn answer(&self, query: &Query) -> LocalAnswer {
        match query {
            Query::Lookup { parent, name } if self.knows(*parent) => match self.child(*parent, name) {
                Some((ino, _)) if !self.is_mine(ino) => LocalAnswer::Partial(Query::GetAttr { ino }),
                None if name == b".." => LocalAnswer::Unknown,
                _ => LocalAnswer::Complete(answer(&self.kv, query)),
            },
            Query::GetAttr { ino } | Query::Open { ino } if self.is_mine(*ino) => {
                LocalAnswer::Complete(answer(&self.kv, query))
            }
            // Blocks move without anybody's asking the holder.
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

    /// Whether a file has blocks in groups that are closed by now.
    fn may_have_moved(&self, ino: Ino) -> bool {
        let mut any = false;
        if !self.closed.is_empty() {
            self.kv.scan(&key::extent(ino, 0), &key::extent(ino, u64::MAX), &mut |_, value| {
                let extent: Extent = wire::decode(value).expect("an extent is readable");
                any = self.closed.contains(&extent.group);
                if any { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        any
    }

    /// The names of a directory, in order, after one; and whether there are more. None: they are not known here. Of those without attributes
    /// only the number is known.
    pub fn list(&self, dir: Ino, after: Option<&[u8]>, limit: usize) -> Option<(Vec<Listed>, bool)> {
        if !self.knows(dir) {
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
            let attr = if self.is_mine(ino) { self.attr(ino) } else { None };
            listed.push(Listed { name: key[prefix.len()..].to_vec(), ino, attr });
            ControlFlow::Continue(())
        });
        Some((listed, more))
    }

    /// What would not be born any more, were a directory given back: all that was born below it or can be reached through it.
    pub fn below(&self, dir: Ino) -> BTreeSet<Ino> {
        let mut found: BTreeSet<Ino> =
            self.unpublished.iter().filter(|(_, home)| **home == dir).map(|(ino, _)| *ino).collect();
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

    /// Forgets a directory that is given back, and all that is below it.
    pub fn let_go(&mut self, dir: Ino) {
        for ino in self.below(dir) {
            self.forget(ino);
        }
        self.held.remove(&dir);
        self.forget(dir);
        if self.held.is_empty() {
            *self = DelegationSet::default();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = DelegationSet::default();
    }

    /// Nobody here has a file open any more: if it has no name it is over.
    pub fn closed(&mut self, ino: Ino) {
        if self.unpublished.contains_key(&ino) && self.kv.get(&key::orphan(ino)).is_some() {
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
        for key in [key::inode(ino), key::inline(ino), key::target(ino), key::orphan(ino)] {
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
