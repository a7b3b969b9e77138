//! The model of a directory with a few names.

use super::{Done, Name, Op, Reply, changes_nothing};
use crate::history::Model;
use std::collections::BTreeMap;

/// Numbers from here on stand for files whose creators got no reply, so that their inode numbers are not
/// known. No inode number of a test is as large.
const UNKNOWN: u64 = 1 << 63;

/// A directory: files by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NamesModel(BTreeMap<Name, u64>);

impl NamesModel {
    /// The state in which a name means the file `seen`; none when it means another. A file whose number is
    /// not known becomes the seen one.
    fn is(mut self, name: Name, seen: u64) -> Option<NamesModel> {
        let has = *self.0.get(&name)?;
        if has >= UNKNOWN && seen < UNKNOWN && !self.0.values().any(|file| *file == seen) {
            self.0.values_mut().filter(|file| **file == has).for_each(|file| *file = seen);
            return Some(self);
        }
        (has == seen).then_some(self)
    }

    fn listed(self, seen: &BTreeMap<Name, u64>) -> Option<NamesModel> {
        if !self.0.keys().eq(seen.keys()) {
            return None;
        }
        seen.iter().try_fold(self, |names, (name, file)| names.is(*name, *file))
    }
}

impl Model for NamesModel {
    type Op = Op;
    type Reply = Reply;

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }

    fn step(&self, event: &Done) -> Option<NamesModel> {
        let mut next = self.clone();
        let reply = event.reply.as_ref();
        let says = |wanted: Reply| reply.is_none_or(|reply| *reply == wanted);
        match &event.op {
            Op::Create(name) if self.0.contains_key(name) => says(Reply::Exists).then_some(next),
            Op::Create(name) => {
                let file = match reply {
                    Some(Reply::File(file)) if !self.0.values().any(|there| there == file) => *file,
                    None => UNKNOWN + event.begun,
                    Some(_) => return None,
                };
                next.0.insert(*name, file);
                Some(next)
            }
            Op::Unlink(name) => match next.0.remove(name) {
                Some(_) => says(Reply::Done).then_some(next),
                None => says(Reply::NotFound).then_some(next),
            },
            Op::Rename(from, to) => match next.0.get(from).copied() {
                None => says(Reply::NotFound).then_some(next),
                Some(file) => {
                    // Two names of one file: rename(2) does nothing.
                    if next.0.get(to) != Some(&file) {
                        next.0.remove(from);
                        next.0.insert(*to, file);
                    }
                    says(Reply::Done).then_some(next)
                }
            },
            Op::Link(file, name) => {
                let has_name = self.0.values().any(|there| there == file);
                match reply {
                    _ if self.0.contains_key(name) => says(Reply::Exists).then_some(next),
                    Some(Reply::NotFound) if !has_name => Some(next),
                    Some(Reply::File(linked)) if has_name && linked == file => {
                        next.0.insert(*name, *file);
                        Some(next)
                    }
                    None if has_name => {
                        next.0.insert(*name, *file);
                        Some(next)
                    }
                    _ => None,
                }
            }
            Op::Lookup(name) => match reply? {
                Reply::File(file) => next.is(*name, *file),
                Reply::NotFound => (!self.0.contains_key(name)).then_some(next),
                _ => None,
            },
            Op::List => match reply? {
                Reply::Names(names) => next.listed(names),
                _ => None,
            },
            _ => None,
        }
    }
}
