//! What commands touch, and what answers tell.

use super::{Subject, Touch};
use crate::command::{Command, Name, RenameMode};
use crate::key;
use crate::kv::KvRead;
use crate::query::{Answer, Query};
use crate::record::FileKind;
use crate::wire;
use rain_types::Ino;

/// Returns what a command touches, as far as other sessions may have it cached. Names are looked up in the
/// state before the command.
pub fn touched_by(kv: &dyn KvRead, command: &Command, touches: &mut Vec<Touch>) {
    let child = |parent: &Ino, name: &Name| -> Option<Ino> {
        let bytes = kv.get(&key::entry(*parent, name))?;
        wire::decode::<(Ino, FileKind)>(&bytes).ok().map(|(ino, _)| ino)
    };
    let mut touch = |subject| touches.push(Touch::One(subject));
    let mut touch_name = |parent: &Ino, name: &Name, renamed: bool| {
        touch(Subject::Name(*parent, name.clone()));
        touch(Subject::Inode(*parent));
        if let Some(ino) = child(parent, name).filter(|_| renamed) {
            touch(Subject::Inode(ino));
        }
    };
    match command {
        Command::Make { parent, name, .. } => touch_name(parent, name, false),
        Command::Link { ino, parent, name } => {
            touch_name(parent, name, false);
            touch(Subject::Inode(*ino));
        }
        Command::Unlink { parent, name } | Command::RemoveDirectory { parent, name } => {
            touch_name(parent, name, true);
        }
        Command::Rename { parent, name, new_parent, new_name, .. } => {
            touch_name(parent, name, true);
            touch_name(new_parent, new_name, true);
        }
        Command::SetAttr { ino, .. }
        | Command::SetXattr { ino, .. }
        | Command::RemoveXattr { ino, .. }
        | Command::Commit { ino, .. }
        | Command::Punch { ino, .. } => touch(Subject::Inode(*ino)),
        Command::Delegate { dir } => {
            touch(Subject::Inode(*dir));
            touches.push(Touch::Names(*dir));
        }
        _ => {}
    }
}

/// Returns the names that the kernel of the session which sends a command has afterwards, without looking them up:
/// a rename moves a cached name there.
pub fn moved_to(command: &Command) -> Vec<Subject> {
    match command {
        Command::Rename { parent, name, new_parent, new_name, mode } => {
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
        | Query::GetXattr { ino, .. }
        | Query::ListXattr { ino } => Some(*ino),
        Query::As { query, .. } => asked_about(query),
        _ => None,
    }
}

/// Returns what an answer to a query tells, and a session may cache.
pub fn told_by(query: &Query, answer: &Answer) -> Vec<Subject> {
    match (query, answer) {
        (Query::As { query, .. }, answer) => told_by(query, answer),
        // `.` and `..` are no names that a change touches.
        (Query::Lookup { parent, name }, Answer::Attr(attr)) if name != b"." && name != b".." => {
            vec![Subject::Name(*parent, name.clone()), Subject::Inode(attr.ino)]
        }
        (Query::ReadDirectory { dir, .. }, Answer::Directory { entries, .. }) => entries
            .iter()
            .flat_map(|entry| [Subject::Name(*dir, entry.name.clone()), Subject::Inode(entry.attr.ino)])
            .collect(),
        (_, Answer::Attr(attr) | Answer::Layout { attr, .. }) => {
            vec![Subject::Inode(attr.ino)]
        }
        (query, _) => asked_about(query).map(Subject::Inode).into_iter().collect(),
    }
}
