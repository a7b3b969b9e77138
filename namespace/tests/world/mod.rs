//! A namespace in memory with nodes, a volume and a session, and short forms of commands, for the tests of
//! the rules.

// Each test file uses only a part of this.
#![allow(dead_code)]

use rain_namespace::apply;
use rain_namespace::check::check;
use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::kv::MemoryKv;
use rain_namespace::query::{Answer, Query, Totals, answer};
use rain_namespace::record::{Attr, Extent, FileKind, Time};
use rain_types::{BlockId, CodeSpec, Codec, GroupId, Ino, NodeId, RequestId, SessionId};

pub(crate) struct World {
    pub(crate) kv: MemoryKv,
    pub(crate) root: Ino,
    pub(crate) session: SessionId,
    pub(crate) now: i64,
}

pub(crate) fn code(k: u8, m: u8) -> CodeSpec {
    CodeSpec { codec: Codec::Rs, k, m }
}

pub(crate) fn volume(name: &str, code: CodeSpec, groups: u32) -> Command {
    Command::CreateVolume { name: name.into(), code, groups, uid: 0, gid: 0, mode: 0o755 }
}

pub(crate) fn make(parent: Ino, name: &str, kind: FileKind) -> Command {
    let target = if kind == FileKind::Symlink { b"to".to_vec() } else { vec![] };
    let name = name.as_bytes().to_vec();
    Command::Make {
        parent,
        name,
        kind,
        mode: 0o644,
        umask: 0,
        uid: 7,
        gid: 8,
        rdev: 9,
        target,
        or_existing: false,
        ino: None,
    }
}

pub(crate) fn unlink(parent: Ino, name: &str) -> Command {
    Command::Unlink { parent, name: name.into() }
}

pub(crate) fn link(ino: Ino, parent: Ino, name: &str) -> Command {
    Command::Link { ino, parent, name: name.into() }
}

pub(crate) fn rename(parent: Ino, name: &str, new_parent: Ino, new_name: &str, mode: RenameMode) -> Command {
    Command::Rename { parent, name: name.into(), new_parent, new_name: new_name.into(), mode, whiteout: None }
}

pub(crate) fn set_attr(ino: Ino, change: AttrChange) -> Command {
    Command::SetAttr { ino, change }
}

pub(crate) fn size(size: u64) -> AttrChange {
    AttrChange { size: Some(size), ..AttrChange::default() }
}

pub(crate) fn inline(ino: Ino, offset: u32, data: &[u8]) -> Command {
    let inline = vec![InlinePiece { offset, data: data.to_vec() }];
    Command::Commit { ino, blocks: vec![], extents: vec![], inline, size_at_least: 0, mtime: None }
}

pub(crate) fn is_invalid(applied: Applied) -> bool {
    matches!(applied, Err(NsError::Invalid(_)))
}

impl World {
    /// Returns a namespace with 64 nodes, a volume of 2+1 and a session.
    pub(crate) fn new() -> World {
        let mut world = World { kv: MemoryKv::default(), root: Ino(0), session: SessionId(0), now: 100 };
        for id in 1..=64 {
            let node = NodeSpec { address: format!("h{id}:1"), weight: 1, ..NodeSpec::default() };
            let command = Command::RegisterNode { id: NodeId(id), node };
            assert_eq!(world.run(command), Ok(Outcome::Node(NodeId(id))));
        }
        world.root = world.volume("one", code(2, 1));
        world.session = world.open_session();
        world
    }

    pub(crate) fn open_session(&mut self) -> SessionId {
        match self.run(Command::OpenSession { label: "t".into(), caches: false }) {
            Ok(Outcome::Session(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn volume(&mut self, name: &str, code: CodeSpec) -> Ino {
        let Ok(Outcome::Volume(id)) = self.run(volume(name, code, 4)) else { panic!() };
        let Ok(Answer::Volumes(volumes)) = answer(&self.kv, &Query::VolumeById { id }) else { panic!() };
        volumes[0].root
    }

    /// Applies a command. Whatever its outcome, the records must agree, and a refusal must leave no trace.
    pub(crate) fn run(&mut self, command: Command) -> Applied {
        self.now += 1;
        let before = self.kv.clone();
        let request = Request::internal(command);
        let applied = apply(&mut self.kv, Time { secs: self.now, nanos: 0 }, &request);
        if applied.is_err() {
            assert!(before == self.kv, "refused with {applied:?}, and yet something was written");
        }
        assert_eq!(check(&self.kv), []);
        applied
    }

    pub(crate) fn numbered(&mut self, seq: u64, done_below: u64, command: Command) -> Applied {
        let id = Some(RequestId { session: self.session, seq });
        apply(
            &mut self.kv,
            Time { secs: self.now, nanos: 0 },
            &Request { id, done_below, time: None, command },
        )
    }

    /// Applies a command for another session than the first. The records must agree.
    pub(crate) fn as_session(&mut self, session: SessionId, seq: u64, command: Command) -> Applied {
        let request = Request { id: Some(RequestId { session, seq }), done_below: 0, time: None, command };
        let applied = apply(&mut self.kv, Time { secs: self.now, nanos: 0 }, &request);
        assert_eq!(check(&self.kv), []);
        applied
    }

    pub(crate) fn made(&mut self, parent: Ino, name: &str, kind: FileKind) -> Ino {
        self.attr_of(make(parent, name, kind)).ino
    }

    pub(crate) fn attr_of(&mut self, command: Command) -> Attr {
        match self.run(command) {
            Ok(Outcome::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attr(&self, ino: Ino) -> Attr {
        match answer(&self.kv, &Query::GetAttr { ino }) {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    /// Commits blocks of 1000 bytes, one for each pair of offset and used bytes.
    pub(crate) fn commit(&mut self, ino: Ino, seq: u64, shown: &[(u64, u32)], missing: u64) -> Applied {
        let id = |index: usize| BlockId { session: self.session, seq: seq + index as u64 };
        let blocks = (0..shown.len())
            .map(|index| NewBlock { id: id(index), group: GroupId(1), len: 1000, missing })
            .collect();
        let extents = shown
            .iter()
            .enumerate()
            .map(|(index, (offset, len))| NewExtent {
                offset: *offset,
                len: *len,
                block: index as u32,
                block_offset: 0,
            })
            .collect();
        self.run(Command::Commit { ino, blocks, extents, inline: vec![], size_at_least: 0, mtime: None })
    }

    pub(crate) fn layout(&self, ino: Ino, from: u64) -> (Vec<u8>, Vec<Extent>) {
        match answer(&self.kv, &Query::Layout { ino, from, limit: 4096 }) {
            Ok(Answer::Layout { inline, extents, .. }) => (inline, extents),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        match answer(&self.kv, &Query::Totals) {
            Ok(Answer::Totals(totals)) => totals,
            other => panic!("{other:?}"),
        }
    }
}
