//! What commands touch, and what answers tell.

use super::{Subject, Touch};
use crate::command::{Command, Name, Outcome, RenameMode};
use crate::error::NsError;
use crate::key;
use crate::kv::KvRead;
use crate::query::{Answer, Answered, Query};
use crate::record::FileKind;
use crate::wire;
use rain_types::Ino;

/// What a command changes, as far as the command says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Inodes and names.
    pub subjects: Vec<Subject>,
    /// Names whose inodes it changes, too.
    pub named: Vec<(Ino, Name)>,
}

impl Changed {
    fn inode(&mut self, ino: Ino) {
        self.subjects.push(Subject::Inode(ino));
    }

    fn name(&mut self, parent: Ino, name: &Name) {
        self.subjects.push(Subject::Name(parent, name.clone()));
        self.inode(parent);
    }

    fn name_and_inode(&mut self, parent: Ino, name: &Name) {
        self.name(parent, name);
        self.named.push((parent, name.clone()));
    }
}

/// Returns what a command changes, as far as the command says.
pub fn changed_by(command: &Command) -> Changed {
    let mut changed = Changed::default();
    match command {
        Command::Make { parent, name, .. } => changed.name(*parent, name),
        Command::Link { ino, parent, name } => {
            changed.name(*parent, name);
            changed.inode(*ino);
        }
        Command::Unlink { parent, name } | Command::RemoveDirectory { parent, name } => {
            changed.name_and_inode(*parent, name);
        }
        Command::Rename { parent, name, new_parent, new_name, .. } => {
            changed.name_and_inode(*parent, name);
            changed.name_and_inode(*new_parent, new_name);
        }
        Command::SetAttr { ino, .. }
        | Command::SetXattr { ino, .. }
        | Command::RemoveXattr { ino, .. }
        | Command::Commit { ino, .. }
        | Command::Punch { ino, .. }
        | Command::CloneRange { to: ino, .. } => changed.inode(*ino),
        Command::Guarded { command, .. } | Command::IfNamed { command, .. } => return changed_by(command),
        _ => {}
    }
    changed
}

/// Returns the inodes that a command has changed, as far as its outcome says.
pub fn inodes_of(outcome: &Outcome) -> Vec<Ino> {
    match outcome {
        Outcome::Attr(attr) | Outcome::Cloned { attr, .. } => vec![attr.ino],
        Outcome::Removed { ino, .. } => vec![*ino],
        Outcome::Renamed { moved, other, .. } => [Some(*moved), *other].into_iter().flatten().collect(),
        _ => Vec::new(),
    }
}

/// Returns what a command touches, as far as other sessions may have it cached. Names are looked up in the
/// state before the command.
pub fn touched_by(kv: &dyn KvRead, command: &Command, touches: &mut Vec<Touch>) {
    if let Command::Delegate { dir } = command {
        touches.extend([Touch::One(Subject::Inode(*dir)), Touch::Names(*dir)]);
    }
    let Changed { subjects, named } = changed_by(command);
    let inodes = named.iter().filter_map(|(parent, name)| {
        let bytes = kv.get(&key::entry(*parent, name))?;
        wire::decode::<(Ino, FileKind)>(&bytes).ok().map(|(ino, _)| Subject::Inode(ino))
    });
    touches.extend(subjects.into_iter().chain(inodes).map(Touch::One));
}

/// Returns the names that the kernel of the session which sends a command has afterwards, without looking them up:
/// a rename moves a cached name there.
pub fn moved_to(command: &Command) -> Vec<Subject> {
    match command {
        Command::Guarded { command, .. } | Command::IfNamed { command, .. } => moved_to(command),
        Command::Rename { parent, name, new_parent, new_name, mode, .. } => {
            let new = Subject::Name(*new_parent, new_name.clone());
            match mode {
                RenameMode::Exchange => vec![new, Subject::Name(*parent, name.clone())],
                _ => vec![new],
            }
        }
        _ => Vec::new(),
    }
}

/// Returns the inode that a query is about, as far as the query says.
pub fn asked_about(query: &Query) -> Option<Ino> {
    match query {
        Query::Lookup { parent: ino, .. }
        | Query::ReadDirectory { dir: ino, .. }
        | Query::GetAttr { ino }
        | Query::Open { ino }
        | Query::Layout { ino, .. }
        | Query::ReadLink { ino }
        | Query::GetXattr { ino, .. }
        | Query::ListXattr { ino } => Some(*ino),
        Query::As { query, .. } => asked_about(query),
        _ => None,
    }
}

/// Returns what an answer to a query tells, and a session may cache.
pub fn told_by(query: &Query, answered: &Answered) -> Vec<Subject> {
    match (query, answered) {
        (Query::As { query, .. }, answered) => told_by(query, answered),
        // `.` and `..` are no names that a change touches.
        (Query::Lookup { parent, name }, Ok(Answer::Attr(attr))) if name != b"." && name != b".." => {
            vec![Subject::Name(*parent, name.clone()), Subject::Inode(attr.ino)]
        }
        (Query::Lookup { parent, name }, Err(NsError::NotFound)) => {
            vec![Subject::Name(*parent, name.clone())]
        }
        (Query::ReadDirectory { dir, .. }, Ok(Answer::Directory { entries, .. })) => entries
            .iter()
            .flat_map(|entry| [Subject::Name(*dir, entry.name.clone()), Subject::Inode(entry.attr.ino)])
            .collect(),
        (_, Ok(Answer::Attr(attr) | Answer::Layout { attr, .. })) => vec![Subject::Inode(attr.ino)],
        (Query::GetXattr { ino, .. }, Err(NsError::NoAttribute)) => vec![Subject::Inode(*ino)],
        (_, Err(_)) => Vec::new(),
        (query, Ok(_)) => asked_about(query).map(Subject::Inode).into_iter().collect(),
    }
}
