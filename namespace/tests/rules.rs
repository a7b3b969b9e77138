//! One rule a test: what POSIX, or the commands' own words, promise. `tests/model` compares whole runs; here
//! stand the corners that random commands seldom meet.

// A test's helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

use rain_namespace::apply;
use rain_namespace::check::check;
use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::kv::{KvRead, KvTxn, MemoryKv};
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Query, Totals, answer};
use rain_namespace::record::{Attr, Extent, FileKind, Time};
use rain_namespace::repair;
use rain_types::{BlockId, CodeSpec, Codec, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};

struct World {
    kv: MemoryKv,
    root: Ino,
    session: SessionId,
    now: i64,
}

fn code(k: u8, m: u8) -> CodeSpec {
    CodeSpec { codec: Codec::Rs, k, m }
}

fn volume(name: &str, code: CodeSpec, groups: u32) -> Command {
    Command::CreateVolume { name: name.into(), code, groups, uid: 0, gid: 0, mode: 0o755 }
}

fn make(parent: Ino, name: &str, kind: FileKind) -> Command {
    let target = if kind == FileKind::Symlink { b"to".to_vec() } else { vec![] };
    let name = name.as_bytes().to_vec();
    Command::Make {
        parent,
        name,
        kind,
        mode: 0o644,
        uid: 7,
        gid: 8,
        rdev: 9,
        target,
        or_existing: false,
        ino: None,
    }
}

fn unlink(parent: Ino, name: &str) -> Command {
    Command::Unlink { parent, name: name.into() }
}

fn link(ino: Ino, parent: Ino, name: &str) -> Command {
    Command::Link { ino, parent, name: name.into() }
}

fn rename(parent: Ino, name: &str, new_parent: Ino, new_name: &str, mode: RenameMode) -> Command {
    Command::Rename { parent, name: name.into(), new_parent, new_name: new_name.into(), mode }
}

fn set_attr(ino: Ino, change: AttrChange) -> Command {
    Command::SetAttr { ino, change }
}

fn size(size: u64) -> AttrChange {
    AttrChange { size: Some(size), ..AttrChange::default() }
}

fn inline(ino: Ino, offset: u32, data: &[u8]) -> Command {
    let inline = vec![InlinePiece { offset, data: data.to_vec() }];
    Command::Commit { ino, blocks: vec![], extents: vec![], inline, size_at_least: 0, mtime: None }
}

fn is_invalid(applied: Applied) -> bool {
    matches!(applied, Err(NsError::Invalid(_)))
}

impl World {
    /// 64 nodes, a volume of 2+1, a session.
    fn new() -> World {
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

    fn open_session(&mut self) -> SessionId {
        match self.run(Command::OpenSession { label: "t".into() }) {
            Ok(Outcome::Session(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    fn volume(&mut self, name: &str, code: CodeSpec) -> Ino {
        let Ok(Outcome::Volume(id)) = self.run(volume(name, code, 4)) else { panic!() };
        let Ok(Answer::Volumes(volumes)) = answer(&self.kv, &Query::VolumeById { id }) else { panic!() };
        volumes[0].root
    }

    /// Applies a command; whatever it was, the records must agree, and a refusal must leave no trace.
    fn run(&mut self, command: Command) -> Applied {
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

    fn numbered(&mut self, seq: u64, done_below: u64, command: Command) -> Applied {
        let id = Some(RequestId { session: self.session, seq });
        apply(
            &mut self.kv,
            Time { secs: self.now, nanos: 0 },
            &Request { id, done_below, time: None, command },
        )
    }

    /// As another session than the first; the records must agree.
    fn as_session(&mut self, session: SessionId, seq: u64, command: Command) -> Applied {
        let request = Request { id: Some(RequestId { session, seq }), done_below: 0, time: None, command };
        let applied = apply(&mut self.kv, Time { secs: self.now, nanos: 0 }, &request);
        assert_eq!(check(&self.kv), []);
        applied
    }

    fn made(&mut self, parent: Ino, name: &str, kind: FileKind) -> Ino {
        self.attr_of(make(parent, name, kind)).ino
    }

    fn attr_of(&mut self, command: Command) -> Attr {
        match self.run(command) {
            Ok(Outcome::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    fn attr(&self, ino: Ino) -> Attr {
        match answer(&self.kv, &Query::GetAttr { ino }) {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    /// Commits blocks of 1000 bytes, one for each (offset, bytes shown).
    fn commit(&mut self, ino: Ino, seq: u64, shown: &[(u64, u32)], missing: u64) -> Applied {
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

    fn layout(&self, ino: Ino, from: u64) -> (Vec<u8>, Vec<Extent>) {
        match answer(&self.kv, &Query::Layout { ino, from, limit: 4096 }) {
            Ok(Answer::Layout { inline, extents, .. }) => (inline, extents),
            other => panic!("{other:?}"),
        }
    }

    fn totals(&self) -> Totals {
        match answer(&self.kv, &Query::Totals) {
            Ok(Answer::Totals(totals)) => totals,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let mut world = World::new();
    for name in ["", ".", "..", "a/b", "a\0b"] {
        assert!(is_invalid(world.run(make(world.root, name, FileKind::File))), "{name:?}");
    }
    let long = "x".repeat(256);
    let refused = world.run(make(world.root, &long, FileKind::File));
    assert_eq!(refused, Err(NsError::NameTooLong { bytes: 256, limit: 255 }));
    world.made(world.root, &long[..255], FileKind::File);
}

#[test]
fn a_symlink_target_has_1_to_4095_bytes() {
    let mut world = World::new();
    let with = |name: &str, kind, target: Vec<u8>| match make(world.root, name, kind) {
        Command::Make { parent, name, kind, mode, uid, gid, rdev, or_existing, .. } => {
            Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing, ino: None }
        }
        _ => unreachable!(),
    };
    let commands = [
        with("a", FileKind::Symlink, vec![b'x'; 4096]),
        with("a", FileKind::Symlink, vec![]),
        with("a", FileKind::File, b"x".to_vec()),
        with("a", FileKind::Symlink, vec![b'x'; 4095]),
    ];
    let [long, none, file, good] = commands;
    assert_eq!(world.run(long), Err(NsError::NameTooLong { bytes: 4096, limit: 4095 }));
    assert!(is_invalid(world.run(none)));
    assert!(is_invalid(world.run(file)));
    let attr = world.attr_of(good);
    assert_eq!(attr.size, 4095);
    assert_eq!(answer(&world.kv, &Query::ReadLink { ino: attr.ino }), Ok(Answer::Bytes(vec![b'x'; 4095])));
}

#[test]
fn nothing_is_made_in_a_removed_directory_or_in_a_file() {
    let mut world = World::new();
    let dir = world.made(world.root, "d", FileKind::Directory);
    world.run(Command::RemoveDirectory { parent: world.root, name: b"d".to_vec() }).unwrap();
    assert_eq!(world.run(make(dir, "a", FileKind::File)), Err(NsError::NotFound));
    let file = world.made(world.root, "f", FileKind::File);
    assert_eq!(world.run(make(file, "a", FileKind::File)), Err(NsError::NotDirectory));
}

#[test]
fn a_set_gid_directory_passes_its_group_on() {
    let mut world = World::new();
    let dir = world.made(world.root, "d", FileKind::Directory);
    let change = AttrChange { mode: Some(0o2775), gid: Some(55), ..AttrChange::default() };
    world.run(set_attr(dir, change)).unwrap();
    let file = world.attr_of(make(dir, "f", FileKind::File));
    let inner = world.attr_of(make(dir, "d", FileKind::Directory));
    assert_eq!((file.gid, file.mode), (55, 0o644));
    assert_eq!((inner.gid, inner.mode), (55, 0o2644));
}

#[test]
fn a_change_of_owner_clears_set_id_bits_unless_the_mode_is_given() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let mode = |mode| AttrChange { mode: Some(mode), ..AttrChange::default() };
    let owner = AttrChange { uid: Some(3), ..AttrChange::default() };
    for (before, after) in [(0o6755, 0o755), (0o4711, 0o711), (0o2745, 0o2745), (0o1777, 0o1777)] {
        world.run(set_attr(file, mode(before))).unwrap();
        assert_eq!(world.attr_of(set_attr(file, owner.clone())).mode, after, "{before:o}");
    }
    let both = AttrChange { mode: Some(0o6755), ..owner };
    assert_eq!(world.attr_of(set_attr(file, both)).mode, 0o6755);
}

#[test]
fn a_size_with_a_wrong_time_is_refused_before_anything_is_cut() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    world.commit(file, 1, &[(0, 1000)], 0).unwrap();
    let wrong = Some(TimeChange::At(Time { secs: 1, nanos: 1_000_000_000 }));
    for change in [AttrChange { mtime: wrong, ..size(10) }, AttrChange { atime: wrong, ..size(0) }] {
        assert!(is_invalid(world.run(set_attr(file, change))));
    }
    assert_eq!(world.attr(file).size, 1000);
}

#[test]
fn a_directory_goes_neither_into_itself_nor_under_itself_by_exchange() {
    let mut world = World::new();
    let (root, replace) = (world.root, RenameMode::Replace);
    let a = world.made(root, "a", FileKind::Directory);
    let b = world.made(a, "b", FileKind::Directory);
    world.made(b, "f", FileKind::File);
    assert!(is_invalid(world.run(rename(root, "a", b, "x", replace))));
    assert!(is_invalid(world.run(rename(root, "a", a, "x", replace))));
    for (dir, name) in [(b, "f"), (a, "b")] {
        assert!(is_invalid(world.run(rename(dir, name, root, "a", RenameMode::Exchange))), "{name}");
        assert!(is_invalid(world.run(rename(root, "a", dir, name, RenameMode::Exchange))), "{name}");
    }
}

#[test]
fn an_exchange_of_a_file_and_a_directory_keeps_parents_and_links_right() {
    let mut world = World::new();
    let root = world.root;
    let left = world.made(root, "left", FileKind::Directory);
    let right = world.made(root, "right", FileKind::Directory);
    let dir = world.made(left, "x", FileKind::Directory);
    let file = world.made(right, "y", FileKind::File);
    world.run(rename(left, "x", right, "y", RenameMode::Exchange)).unwrap();
    assert_eq!((world.attr(left).nlink, world.attr(right).nlink), (2, 3));
    assert_eq!(world.attr(dir).parent, right);
    let up = answer(&world.kv, &Query::Lookup { parent: dir, name: b"..".to_vec() });
    assert_eq!(up, Ok(Answer::Attr(world.attr(right))));
    let at = Time { secs: world.now, nanos: 0 };
    for ino in [dir, file, left, right] {
        assert_eq!(world.attr(ino).ctime, at, "inode {ino}");
    }
}

#[test]
fn a_rename_onto_another_name_of_the_same_file_changes_nothing() {
    let mut world = World::new();
    let file = world.made(world.root, "a", FileKind::File);
    world.run(link(file, world.root, "b")).unwrap();
    let before = world.kv.clone();
    let done = world.run(rename(world.root, "a", world.root, "b", RenameMode::Replace));
    assert_eq!(done, Ok(Outcome::Removed { ino: Ino(0), orphaned: false }));
    assert!(before == world.kv);
    let refused = world.run(rename(world.root, "a", world.root, "b", RenameMode::NoReplace));
    assert_eq!(refused, Err(NsError::Exists));
}

#[test]
fn names_stay_in_their_volume_and_directories_have_one() {
    let mut world = World::new();
    let root = world.root;
    let other = world.volume("two", code(1, 1));
    let file = world.made(root, "f", FileKind::File);
    let dir = world.made(root, "d", FileKind::Directory);
    assert_eq!(world.run(link(file, other, "f")), Err(NsError::CrossVolume));
    assert_eq!(world.run(rename(root, "f", other, "f", RenameMode::Replace)), Err(NsError::CrossVolume));
    assert!(matches!(world.run(link(dir, root, "e")), Err(NsError::NotPermitted(_))));
}

#[test]
fn an_orphan_is_whole_until_it_is_freed_and_gets_no_new_name() {
    let mut world = World::new();
    let (root, session) = (world.root, world.session);
    let file = world.made(root, "f", FileKind::File);
    let removed = world.run(unlink(root, "f"));
    assert_eq!(removed, Ok(Outcome::Removed { ino: file, orphaned: true }));
    assert_eq!(world.run(link(file, root, "g")), Err(NsError::NotFound));
    world.commit(file, 1, &[(0, 900)], 0).unwrap();
    world.run(set_attr(file, size(500))).unwrap();
    assert_eq!((world.attr(file).nlink, world.attr(file).held), (0, 500));
    world.run(Command::EndSession { session }).unwrap();
    assert_eq!(world.attr(file).size, 500, "others may have it open");
    let orphans = |after| answer(&world.kv, &Query::Orphans { after, limit: 9 });
    assert_eq!(orphans(None), Ok(Answer::Orphans(vec![(file, false)])));
    assert_eq!(orphans(Some(file)), Ok(Answer::Orphans(vec![])));
    assert!(answer(&world.kv, &Query::Open { ino: file }).is_ok(), "its name was there a moment ago");
    world.run(Command::Seal { inos: vec![root, file] }).unwrap();
    assert_eq!(answer(&world.kv, &Query::Open { ino: file }), Err(NsError::Stale));
    assert!(answer(&world.kv, &Query::Open { ino: root }).is_ok());
    world.run(Command::Free { inos: vec![root, file, file] }).unwrap();
    assert_eq!(answer(&world.kv, &Query::GetAttr { ino: file }), Err(NsError::NotFound));
    assert_eq!(world.totals(), Totals { garbage: 1, ..Totals::default() });
}

#[test]
fn the_end_of_a_session_frees_its_locks_and_refuses_its_requests() {
    let mut world = World::new();
    let (root, session) = (world.root, world.session);
    let file = world.made(root, "f", FileKind::File);
    let lock = Lock { kind: LockKind::Flock, owner: 1, exclusive: true, first: 0, last: u64::MAX, pid: 1 };
    world.numbered(1, 0, Command::Lock { ino: file, lock, ticket: None }).unwrap();
    let next = world.open_session();
    let mut state = |seq, command| match world.as_session(next, seq, command) {
        Ok(Outcome::Lock { state, .. }) => state,
        other => panic!("{other:?}"),
    };
    assert_eq!(state(1, Command::Lock { ino: file, lock, ticket: None }), LockState::Held);
    assert_eq!(state(2, Command::Lock { ino: file, lock, ticket: Some(7) }), LockState::Waiting);
    for _ in 0..2 {
        assert_eq!(world.run(Command::EndSession { session }), Ok(Outcome::Done));
    }
    let ticket = answer(&world.kv, &Query::Ticket { ino: file, session: next, ticket: 7 });
    assert!(matches!(ticket, Ok(Answer::Ticket { waiting: false, .. })), "{ticket:?}");
    let old = answer(&world.kv, &Query::Ticket { ino: file, session, ticket: 7 });
    assert_eq!(old, Err(NsError::SessionEnded(session)));
    for (seq, command) in [(1, unlink(root, "f")), (2, make(root, "g", FileKind::File))] {
        assert_eq!(world.numbered(seq, 0, command), Err(NsError::SessionEnded(session)));
    }
    world.run(unlink(root, "f")).unwrap();
    world.run(Command::Free { inos: vec![file] }).unwrap();
}

#[test]
fn a_circle_of_waiters_is_refused_over_any_number_of_files() {
    let mut world = World::new();
    let root = world.root;
    let files: Vec<Ino> = ["a", "b", "c"].map(|name| world.made(root, name, FileKind::File)).into();
    let lock = Lock { kind: LockKind::Record, owner: 1, exclusive: true, first: 5, last: 9, pid: 1 };
    let sessions: Vec<SessionId> = (0..3).map(|_| world.open_session()).collect();
    for (session, file) in sessions.iter().zip(&files) {
        world.as_session(*session, 1, Command::Lock { ino: *file, lock, ticket: None }).unwrap();
    }
    let wait = |world: &mut World, who: usize, file: usize| {
        world.as_session(sessions[who], 2, Command::Lock { ino: files[file], lock, ticket: Some(1) })
    };
    for who in 0..2 {
        let waiting = wait(&mut world, who, who + 1).unwrap();
        assert!(matches!(waiting, Outcome::Lock { state: LockState::Waiting, .. }));
    }
    assert_eq!(wait(&mut world, 2, 0), Err(NsError::Deadlock));
    // The last lets go, and the wait before it ends.
    world.as_session(sessions[2], 3, Command::Unlock { ino: files[2], lock }).unwrap();
    let ticket = answer(&world.kv, &Query::Ticket { ino: files[2], session: sessions[1], ticket: 1 });
    assert!(matches!(ticket, Ok(Answer::Ticket { waiting: false, .. })));
}

#[test]
fn a_repeated_request_gives_its_first_result_and_old_results_go() {
    let mut world = World::new();
    let root = world.root;
    let first = world.numbered(1, 0, make(root, "f", FileKind::File));
    world.numbered(2, 0, unlink(root, "f")).unwrap();
    assert_eq!(world.numbered(1, 0, make(root, "f", FileKind::File)), first);
    assert_eq!(world.numbered(3, 0, unlink(root, "f")), Err(NsError::NotFound));
    world.run(make(root, "f", FileKind::File)).unwrap();
    assert_eq!(world.numbered(3, 0, unlink(root, "f")), Err(NsError::NotFound), "refusals count too");
    let results = |world: &World| world.kv.0.keys().filter(|key| key[0] == b'R').count();
    assert_eq!(results(&world), 3);
    world.numbered(4, 4, make(root, "g", FileKind::File)).unwrap();
    assert_eq!(results(&world), 1);
    // A copy that the network kept back until nobody knows its result any more does not apply again.
    world.run(unlink(root, "f")).unwrap();
    assert_eq!(world.numbered(1, 0, make(root, "f", FileKind::File)), Err(NsError::Answered(1)));
    assert_eq!(world.run(unlink(root, "f")), Err(NsError::NotFound));
    // A request that claims to be done itself keeps its result all the same.
    let made = world.numbered(5, 9, make(root, "h", FileKind::File));
    assert_eq!(world.numbered(5, 9, make(root, "h", FileKind::File)), made);
}

#[test]
fn a_sparse_file_of_5_tib_costs_what_its_data_costs() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let end = 5u64 << 40;
    world.run(set_attr(file, size(end))).unwrap();
    world.commit(file, 1, &[(end - 1000, 1000), (1 << 40, 500)], 0).unwrap();
    let attr = world.attr(file);
    assert_eq!((attr.size, attr.held, attr.extents), (end, 1500, 2));
    assert_eq!(world.layout(file, (1 << 40) + 499).1.len(), 2, "an extent that covers the byte is included");
    assert_eq!(world.layout(file, (1 << 40) + 500).1.len(), 1);
    let keys = world.kv.0.len();
    world.run(Command::Punch { ino: file, offset: 1 << 30, len: 4 << 40 }).unwrap();
    assert_eq!(world.attr(file).held, 1000);
    assert!(world.kv.0.len() <= keys);
}

#[test]
fn a_file_ends_before_2_to_the_63() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let max = i64::MAX as u64;
    assert_eq!(world.run(set_attr(file, size(max + 1))), Err(NsError::FileTooLarge));
    assert_eq!(world.commit(file, 1, &[(max - 10, 11)], 0), Err(NsError::FileTooLarge));
    assert_eq!(world.commit(file, 1, &[(u64::MAX, 1)], 0), Err(NsError::FileTooLarge));
    let punch = Command::Punch { ino: file, offset: max, len: 1 };
    assert_eq!(world.run(punch), Err(NsError::FileTooLarge));
    world.commit(file, 1, &[(max - 10, 10)], 0).unwrap();
    assert_eq!(world.run(set_attr(file, size(max))).map(|_| ()), Ok(()));
}

#[test]
fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    world.run(inline(file, 0, b"0123456789")).unwrap();
    world.commit(file, 1, &[(5, 10)], 0).unwrap();
    world.run(set_attr(file, size(3))).unwrap();
    world.run(set_attr(file, size(20))).unwrap();
    assert_eq!(world.layout(file, 0), (b"012".to_vec(), vec![]));
}

#[test]
fn inline_pieces_are_for_files_without_extents_and_end_by_4096() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    assert_eq!(world.run(inline(file, 4090, b"1234567")), Err(NsError::NotInline));
    world.run(inline(file, 4090, b"123456")).unwrap();
    world.commit(file, 1, &[(0, 10)], 0).unwrap();
    assert_eq!(world.run(inline(file, 0, b"x")), Err(NsError::NotInline));
    assert_eq!(world.layout(file, 0).0.len(), 4096, "it stays as the lowest layer");
    assert_eq!(world.attr(file).held, 4106);
}

#[test]
fn a_commit_that_makes_no_sense_is_refused_whole() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let id = |seq| BlockId { session: world.session, seq };
    let block = NewBlock { id: id(1), group: GroupId(0), len: 100, missing: 0 };
    let extent = NewExtent { offset: 0, len: 100, block: 0, block_offset: 0 };
    let commit = |blocks: Vec<NewBlock>, extents: Vec<NewExtent>| Command::Commit {
        ino: file,
        blocks,
        extents,
        inline: vec![],
        size_at_least: 0,
        mtime: None,
    };
    let second = NewBlock { id: id(2), ..block.clone() };
    let wrong = [
        commit(vec![block.clone(), second], vec![extent.clone()]),
        commit(
            vec![block.clone(), block.clone()],
            vec![extent.clone(), NewExtent { offset: 100, block: 1, ..extent.clone() }],
        ),
        commit(vec![block.clone()], vec![NewExtent { block: 1, ..extent.clone() }]),
        commit(vec![block.clone()], vec![NewExtent { block_offset: 1, ..extent.clone() }]),
        commit(vec![block.clone()], vec![NewExtent { len: 0, ..extent.clone() }]),
        commit(vec![block.clone()], vec![extent.clone(), NewExtent { offset: 99, ..extent.clone() }]),
        commit(vec![NewBlock { group: GroupId(4), ..block.clone() }], vec![extent.clone()]),
        commit(vec![NewBlock { len: (1 << 20) + 1, ..block.clone() }], vec![extent.clone()]),
        commit(vec![NewBlock { missing: 0b1000, ..block.clone() }], vec![extent.clone()]),
        commit(vec![NewBlock { missing: 0b110, ..block.clone() }], vec![extent.clone()]),
    ];
    for (index, command) in wrong.into_iter().enumerate() {
        assert!(is_invalid(world.run(command)), "number {index}");
    }
    let foreign = NewBlock { id: BlockId { session: SessionId(77), seq: 1 }, ..block.clone() };
    let command = commit(vec![foreign], vec![extent.clone()]);
    assert!(is_invalid(world.numbered(1, 0, command)));
    let time = Some(Time { secs: 0, nanos: u32::MAX });
    let (blocks, extents) = (vec![block.clone()], vec![extent.clone()]);
    let untimely =
        Command::Commit { ino: file, blocks, extents, inline: vec![], size_at_least: 0, mtime: time };
    assert!(is_invalid(world.run(untimely)));
    world.run(commit(vec![block.clone()], vec![extent.clone()])).unwrap();
    assert!(is_invalid(world.run(commit(vec![block.clone()], vec![extent.clone()]))), "in use");
    world.run(set_attr(file, size(0))).unwrap();
    assert!(is_invalid(world.run(commit(vec![block], vec![extent]))), "garbage");
}

#[test]
fn a_block_of_64_shares_may_miss_some() {
    let mut world = World::new();
    let root = world.volume("wide", code(60, 4));
    let file = world.made(root, "f", FileKind::File);
    world.commit(file, 1, &[(0, 1000)], 1 << 63).unwrap();
    assert!(is_invalid(world.commit(file, 2, &[(0, 1000)], 0b11111)));
    let totals = Totals { blocks: 1, blocks_missing: 1, shares_missing: 1, ..Totals::default() };
    assert_eq!(world.totals(), totals);
}

#[test]
fn blocks_with_the_least_margin_come_first() {
    let mut world = World::new();
    let root = world.volume("wide", code(2, 3));
    let file = world.made(root, "f", FileKind::File);
    for (seq, missing) in [(1, 0b1), (2, 0b111), (3, 0b11), (4, 0)] {
        world.commit(file, seq, &[(seq * 1000, 1000)], missing).unwrap();
    }
    // One at a time, each after the last.
    let missing = |world: &World| {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            match answer(&world.kv, &Query::Missing { after, limit: 1 }) {
                Ok(Answer::Blocks(blocks)) => {
                    let Some(block) = blocks.first() else { return found };
                    after = Some(repair::position(block, code(2, 3)));
                    found.push(block.id.seq);
                }
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(missing(&world), [2, 3, 1]);
    let shares = vec![(BlockId { session: world.session, seq: 2 }, u64::MAX)];
    world.run(Command::MarkPresent { shares }).unwrap();
    assert_eq!(missing(&world), [3, 1]);
    let shares = vec![(BlockId { session: world.session, seq: 1 }, 0b1110)];
    world.run(Command::MarkMissing { shares }).unwrap();
    assert_eq!(missing(&world), [1, 3]);
    let totals = world.totals();
    assert_eq!((totals.blocks_missing, totals.shares_missing, totals.blocks_without_margin), (2, 6, 1));
}

#[test]
fn garbage_is_forgotten_when_its_last_share_is_gone() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    world.commit(file, 1, &[(0, 1000)], 0b1).unwrap();
    world.commit(file, 2, &[(0, 1000)], 0).unwrap();
    let id = BlockId { session: world.session, seq: 1 };
    let garbage = |world: &World| match answer(&world.kv, &Query::Garbage { after: None, limit: 10 }) {
        Ok(Answer::Garbage(garbage)) => garbage,
        other => panic!("{other:?}"),
    };
    assert_eq!(garbage(&world)[0].1.remaining, 0b111, "a missing share may lie somewhere all the same");
    world.run(Command::Reclaimed { shares: vec![(id, 0b101)] }).unwrap();
    assert_eq!(garbage(&world)[0].1.remaining, 0b10);
    world.run(Command::Reclaimed { shares: vec![(id, 0b10), (id, 0b1)] }).unwrap();
    assert!(garbage(&world).is_empty());
}

#[test]
fn extended_attributes_follow_their_modes_and_limits() {
    let mut world = World::new();
    let ino = world.made(world.root, "f", FileKind::File);
    let set = |name: &str, len: usize, mode| Command::SetXattr {
        ino,
        name: name.into(),
        value: vec![1; len],
        mode,
    };
    let remove = |name: &str| Command::RemoveXattr { ino, name: name.into() };
    assert_eq!(world.run(set("user.a", 1, XattrMode::Replace)), Err(NsError::NoAttribute));
    world.run(set("user.a", 1, XattrMode::Create)).unwrap();
    assert_eq!(world.run(set("user.a", 1, XattrMode::Create)), Err(NsError::Exists));
    world.run(set("user.a", 65536, XattrMode::Replace)).unwrap();
    assert_eq!(world.run(set("user.b", 65537, XattrMode::Any)), Err(NsError::AttributesTooLarge));
    for index in 0..14 {
        world.run(set(&format!("user.{index}"), 65536, XattrMode::Any)).unwrap();
    }
    assert_eq!(world.run(set("user.last", 65536, XattrMode::Any)), Err(NsError::AttributesTooLarge));
    assert_eq!(world.run(remove("user.none")), Err(NsError::NoAttribute));
    world.run(remove("user.0")).unwrap();
    let query = Query::GetXattr { ino, name: b"user.0".to_vec() };
    assert_eq!(answer(&world.kv, &query), Err(NsError::NoAttribute));
    world.run(unlink(world.root, "f")).unwrap();
    world.run(Command::Free { inos: vec![ino] }).unwrap();
    assert!(!world.kv.any(b"X", b"Y"), "they go with their inode");
}

#[test]
fn a_file_has_at_most_65000_names() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    for index in 1..65_000 {
        let request = Request::internal(link(file, world.root, &index.to_string()));
        apply(&mut world.kv, Time::default(), &request).unwrap();
    }
    assert_eq!(world.run(link(file, world.root, "more")), Err(NsError::TooManyLinks));
}

#[test]
fn a_volume_needs_a_name_a_code_and_the_nodes_for_it() {
    let mut world = World::new();
    for name in ["", ".a", "a/b", "a b", &"x".repeat(65)] {
        assert!(is_invalid(world.run(volume(name, code(2, 1), 4))), "{name:?}");
    }
    for (code, groups) in [(code(0, 2), 4), (code(63, 2), 4), (code(2, 1), 0), (code(2, 1), 4097)] {
        assert!(is_invalid(world.run(volume("x", code, groups))), "{code} {groups}");
    }
    assert_eq!(world.run(volume("one", code(2, 1), 4)), Err(NsError::Exists));
    let mut empty = World { kv: MemoryKv::default(), root: Ino(0), session: SessionId(0), now: 0 };
    let few = NsError::TooFewNodes { code: "rs 2+1".into(), needed: 3, have: 0 };
    assert_eq!(empty.run(volume("x", code(2, 1), 4)), Err(few));
}

#[test]
fn a_volume_counts_its_inodes_and_bytes() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    world.made(world.root, "l", FileKind::Symlink);
    world.run(inline(file, 0, b"123")).unwrap();
    world.commit(file, 1, &[(0, 700)], 0).unwrap();
    let counts = |world: &World| match answer(&world.kv, &Query::Volume { name: "one".into() }) {
        Ok(Answer::Volumes(volumes)) => (volumes[0].inodes, volumes[0].held),
        other => panic!("{other:?}"),
    };
    assert_eq!(counts(&world), (3, 703));
    world.run(unlink(world.root, "f")).unwrap();
    assert_eq!(counts(&world), (3, 703), "somebody may have it open");
    world.run(Command::Free { inos: vec![file] }).unwrap();
    assert_eq!(counts(&world), (2, 0));
    assert_eq!(answer(&world.kv, &Query::VolumeById { id: VolumeId(9) }), Err(NsError::NotFound));
}

/// Damages the store in one place and says whether the check sees it.
fn is_noticed(world: &World, damage: impl FnOnce(&mut MemoryKv)) -> bool {
    let mut kv = world.kv.clone();
    damage(&mut kv);
    !check(&kv).is_empty()
}

#[test]
fn every_key_that_goes_missing_is_noticed_by_the_check() {
    let mut world = World::new();
    let root = world.root;
    let dir = world.made(root, "d", FileKind::Directory);
    let file = world.made(dir, "f", FileKind::File);
    world.made(root, "l", FileKind::Symlink);
    world.run(inline(file, 0, b"inline")).unwrap();
    world.commit(file, 1, &[(0, 100), (200, 100)], 0b1).unwrap();
    world.commit(file, 9, &[(200, 100)], 0).unwrap();
    world.made(root, "o", FileKind::File);
    world.run(unlink(root, "o")).unwrap();
    let lock = Lock { kind: LockKind::Flock, owner: 1, exclusive: true, first: 0, last: 9, pid: 1 };
    let session = world.session;
    world.as_session(session, 1, Command::Lock { ino: file, lock, ticket: None }).unwrap();
    assert_eq!(check(&world.kv), []);
    for key in world.kv.0.keys() {
        // What nothing else counts: numbers given out, and nodes.
        // And results of requests, which may go at any time.
        let counted = key[0] != b'N' && key[0] != b'R' && !key.starts_with(b"Cnext-");
        let noticed = is_noticed(&world, |kv| kv.delete(key));
        assert!(noticed || !counted, "nobody misses {}", key.escape_ascii());
    }
}

#[test]
fn what_is_in_a_wrong_place_is_noticed_by_the_check() {
    let mut world = World::new();
    let root = world.root;
    let a = world.made(root, "a", FileKind::Directory);
    let b = world.made(a, "b", FileKind::Directory);
    let key = |letter: u8, ino: Ino| [&[letter][..], &ino.0.to_be_bytes()].concat();
    // Two directories that name each other and that no root names: every count of theirs is right.
    assert!(is_noticed(&world, |kv| {
        let entry = |dir, name: &[u8]| [&key(b'D', dir)[..], name].concat();
        let to_a = kv.get(&entry(root, b"a")).unwrap();
        kv.delete(&entry(root, b"a"));
        kv.put(&entry(b, b"a"), &to_a);
        for (ino, nlink, size, parent) in [(root, 2, 0, root), (a, 3, 1, b), (b, 3, 1, a)] {
            let attr = Attr { nlink, size, parent, ..world.attr(ino) };
            kv.put(&key(b'I', ino), &rain_namespace::wire::encode(&attr));
        }
    }));
    for stray in [key(b'T', Ino(99)), key(b'X', Ino(99)), key(b'L', a), b"?".to_vec(), key(b'T', a)] {
        assert!(is_noticed(&world, |kv| kv.put(&stray, b"x")), "{}", stray.escape_ascii());
    }
    assert!(is_noticed(&world, |kv| kv.put(&key(b'I', a), &[1, 2, 3])), "an unreadable record");
}

#[test]
fn a_node_is_known_by_its_folder_and_its_number_is_never_used_again() {
    let mut world = World::new();
    let node = |folder: &str, port: u32| NodeSpec {
        address: format!("n:{port}"),
        weight: 1,
        folder: folder.into(),
        ..NodeSpec::default()
    };
    let register = |id, node| Command::RegisterNode { id: NodeId(id), node };
    assert_eq!(world.run(register(0, node("a", 1))), Ok(Outcome::Node(NodeId(65))));
    // Asked again, and from another address: the same node.
    assert_eq!(world.run(register(0, node("a", 2))), Ok(Outcome::Node(NodeId(65))));
    assert_eq!(world.run(register(65, node("a", 3))), Ok(Outcome::Node(NodeId(65))));
    // Another folder at its address or with its number is another node.
    assert!(matches!(world.run(register(0, node("b", 3))), Err(NsError::Invalid(_))));
    assert!(matches!(world.run(register(65, node("b", 4))), Err(NsError::Invalid(_))));
    assert!(matches!(world.run(register(66, node("a", 3))), Err(NsError::Invalid(_))));
    let witness = NodeSpec { witness: true, ..node("a", 3) };
    assert!(matches!(world.run(register(65, witness)), Err(NsError::Invalid(_))));
    assert_eq!(world.run(Command::RemoveNode { id: NodeId(65) }), Ok(Outcome::Done));
    assert_eq!(world.run(Command::RemoveNode { id: NodeId(65) }), Err(NsError::NotFound));
    assert_eq!(world.run(register(0, node("b", 3))), Ok(Outcome::Node(NodeId(66))));
}

#[test]
fn a_node_with_shares_stays_and_a_witness_never_has_any() {
    let mut world = World::new();
    for id in 1..=64 {
        let gone = world.run(Command::RemoveNode { id: NodeId(id) });
        assert!(gone == Ok(Outcome::Done) || matches!(gone, Err(NsError::Invalid(_))), "{gone:?}");
    }
    let Ok(Answer::Nodes(left)) = answer(&world.kv, &Query::Nodes) else { panic!() };
    assert!(left.len() >= 3, "the volume's groups hold theirs");
    let witness = NodeSpec { address: "w:1".into(), weight: 1, witness: true, ..NodeSpec::default() };
    world.run(Command::RegisterNode { id: NodeId(0), node: witness }).expect("taken");
    let all = left.len() as u8;
    let create = |n: u8| Command::CreateVolume {
        name: "wide".into(),
        code: code(n - 1, 1),
        groups: 1,
        uid: 0,
        gid: 0,
        mode: 0o755,
    };
    assert!(matches!(world.run(create(all + 1)), Err(NsError::TooFewNodes { .. })));
    assert!(world.run(create(all)).is_ok());
}

fn reserve(world: &mut World, count: u32) -> Ino {
    match world.run(Command::ReserveInos { count }) {
        Ok(Outcome::Reserved { first, .. }) => first,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_delegated_directory_is_its_holders_alone_until_it_is_given_back() {
    let mut world = World::new();
    let Ok(Outcome::Session(other)) = world.run(Command::OpenSession { label: "other".into() }) else {
        panic!()
    };
    let (root, holder) = (world.root, world.session);
    let dir = world.made(root, "d", FileKind::Directory);
    let inside = world.made(dir, "f", FileKind::File);
    assert!(matches!(world.run(Command::Delegate { dir }), Err(NsError::Invalid(_))), "it needs a session");
    assert!(matches!(
        world.as_session(holder, 1, Command::Delegate { dir: inside }),
        Err(NsError::NotDirectory)
    ));
    assert_eq!(world.as_session(holder, 2, Command::Delegate { dir }), Ok(Outcome::Attr(world.attr(dir))));
    let refused = Err(NsError::Delegated { dir, session: holder });
    // Names in it, its own attributes, its end and its move are not others' for now; the file in it is.
    let commands = [
        make(dir, "g", FileKind::File),
        Command::Unlink { parent: dir, name: b"f".to_vec() },
        link(inside, dir, "h"),
        Command::Rename {
            parent: dir,
            name: b"f".to_vec(),
            new_parent: root,
            new_name: b"f".to_vec(),
            mode: RenameMode::Replace,
        },
        Command::Rename {
            parent: root,
            name: b"d".to_vec(),
            new_parent: root,
            new_name: b"e".to_vec(),
            mode: RenameMode::Replace,
        },
        Command::RemoveDirectory { parent: root, name: b"d".to_vec() },
        Command::SetAttr { ino: dir, change: AttrChange { mode: Some(0o700), ..AttrChange::default() } },
        Command::SetXattr { ino: dir, name: b"user.x".to_vec(), value: Vec::new(), mode: XattrMode::Any },
        Command::Delegate { dir },
    ];
    for (at, command) in commands.into_iter().enumerate() {
        assert_eq!(world.as_session(other, 10 + at as u64, command.clone()), refused, "{command:?}");
    }
    assert_eq!(world.run(make(dir, "g", FileKind::File)), refused, "nor nobody's");
    let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    assert!(world.as_session(other, 30, Command::SetAttr { ino: inside, change }).is_ok());
    assert!(world.as_session(holder, 3, make(dir, "g", FileKind::File)).is_ok());
    // Questions about names say who asks.
    let lookup = Query::Lookup { parent: dir, name: b"f".to_vec() };
    let list = Query::ReadDirectory { dir, after: None, limit: 9 };
    for query in [lookup, list] {
        let asks = |session| answer(&world.kv, &Query::As { session, query: Box::new(query.clone()) });
        assert!(asks(holder).is_ok());
        assert_eq!(asks(other), Err(NsError::Delegated { dir, session: holder }));
        assert!(answer(&world.kv, &query).is_ok(), "who does not say is answered from the state as it is");
    }
    assert!(
        answer(&world.kv, &Query::As { session: other, query: Box::new(Query::GetAttr { ino: inside }) })
            .is_ok()
    );
    // Recalled, it is still the holder's; given back, it is anybody's.
    let held = |world: &World| answer(&world.kv, &Query::Delegations { session: holder });
    assert_eq!(held(&world), Ok(Answer::Delegations(vec![(dir, false)])));
    assert_eq!(answer(&world.kv, &Query::Recalled { limit: 9 }), Ok(Answer::Recalled(vec![])));
    assert_eq!(world.run(Command::Recall { dir }), Ok(Outcome::Done));
    assert_eq!(held(&world), Ok(Answer::Delegations(vec![(dir, true)])));
    assert_eq!(answer(&world.kv, &Query::Recalled { limit: 9 }), Ok(Answer::Recalled(vec![(dir, holder)])));
    assert!(world.as_session(holder, 4, make(dir, "i", FileKind::File)).is_ok());
    assert_eq!(world.as_session(other, 31, Command::GiveBack { dirs: vec![dir] }), Ok(Outcome::Done));
    assert_eq!(
        answer(&world.kv, &Query::Delegation { dir }),
        Ok(Answer::Delegation(Some(holder))),
        "not theirs to give"
    );
    assert_eq!(world.as_session(holder, 5, Command::GiveBack { dirs: vec![dir] }), Ok(Outcome::Done));
    assert_eq!(answer(&world.kv, &Query::Delegation { dir }), Ok(Answer::Delegation(None)));
    assert!(world.as_session(other, 32, make(dir, "j", FileKind::File)).is_ok());
    assert_eq!(world.run(Command::Recall { dir }), Ok(Outcome::Done), "nobody has it");
    // It goes with its session, with the directory, and when it is taken back.
    assert!(world.as_session(holder, 6, Command::Delegate { dir }).is_ok());
    assert_eq!(world.run(Command::TakeBack { dir, session: other }), Ok(Outcome::Done));
    assert_eq!(
        answer(&world.kv, &Query::Delegation { dir }),
        Ok(Answer::Delegation(Some(holder))),
        "it is another's"
    );
    assert_eq!(world.run(Command::TakeBack { dir, session: holder }), Ok(Outcome::Done));
    assert_eq!(answer(&world.kv, &Query::Delegation { dir }), Ok(Answer::Delegation(None)));
    assert!(world.as_session(holder, 7, Command::Delegate { dir }).is_ok());
    let empty = world.made(root, "empty", FileKind::Directory);
    assert!(world.as_session(holder, 8, Command::Delegate { dir: empty }).is_ok());
    assert!(
        world
            .as_session(holder, 9, Command::RemoveDirectory { parent: root, name: b"empty".to_vec() })
            .is_ok()
    );
    assert_eq!(held(&world), Ok(Answer::Delegations(vec![(dir, false)])));
    world.run(Command::EndSession { session: holder }).expect("ended");
    assert_eq!(answer(&world.kv, &Query::Delegation { dir }), Ok(Answer::Delegation(None)));
    assert_eq!(held(&world), Err(NsError::SessionEnded(holder)));
}

#[test]
fn a_reserved_number_is_used_once_and_only_if_it_was_reserved() {
    let mut world = World::new();
    let root = world.root;
    let first = reserve(&mut world, 3);
    let with = |name: &str, number: u64| match make(root, name, FileKind::File) {
        Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing, .. } => {
            let ino = Some(Ino(number));
            Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing, ino }
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(world.attr_of(with("b", first.0 + 1)).ino, Ino(first.0 + 1), "in any order");
    assert_eq!(world.attr_of(with("a", first.0)).ino, first);
    for wrong in [first.0, first.0 + 3, 0, u64::MAX] {
        assert!(matches!(world.run(with("c", wrong)), Err(NsError::Invalid(_))), "{wrong}");
    }
    assert_eq!(world.attr_of(make(root, "d", FileKind::File)).ino, Ino(first.0 + 3), "others go on behind");
    for count in [0, 65_537] {
        assert!(matches!(world.run(Command::ReserveInos { count }), Err(NsError::Invalid(_))));
    }
}
