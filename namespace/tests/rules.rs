//! One rule a test: promises of POSIX or of the commands' documentation. `tests/model` compares whole runs;
//! these tests cover the corners that random commands seldom meet.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

use rain_namespace::apply;
use rain_namespace::check::check;
use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::kv::{KvRead, KvTxn, MemoryKv};
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Query, Totals, answer};
use rain_namespace::record::{Attr, FileKind, Time};
use rain_namespace::repair;
mod world;

use rain_types::{BlockId, GroupId, Ino, SessionId, VolumeId};
use world::*;

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
        Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, or_existing, .. } => {
            Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino: None }
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
    assert_eq!(done, Ok(Outcome::Renamed { moved: file, other: None, last_name_gone: false }));
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
fn an_unlinked_file_is_whole_until_it_is_freed_and_gets_no_new_name() {
    let mut world = World::new();
    let (root, session) = (world.root, world.session);
    let file = world.made(root, "f", FileKind::File);
    let removed = world.run(unlink(root, "f"));
    assert_eq!(removed, Ok(Outcome::Removed { ino: file, last_name_gone: true }));
    assert_eq!(world.run(link(file, root, "g")), Err(NsError::NotFound));
    world.commit(file, 1, &[(0, 900)], 0).unwrap();
    world.run(set_attr(file, size(500))).unwrap();
    assert_eq!((world.attr(file).nlink, world.attr(file).stored_bytes), (0, 500));
    world.run(Command::EndSession { session }).unwrap();
    assert_eq!(world.attr(file).size, 500, "others may have it open");
    let unlinked = |after| answer(&world.kv, &Query::UnlinkedFiles { after, limit: 9 });
    assert_eq!(unlinked(None), Ok(Answer::UnlinkedFiles(vec![(file, false)])));
    assert_eq!(unlinked(Some(file)), Ok(Answer::UnlinkedFiles(vec![])));
    assert!(answer(&world.kv, &Query::Open { ino: file }).is_ok(), "its name was there a moment ago");
    world.run(Command::Seal { inos: vec![root, file] }).unwrap();
    assert_eq!(answer(&world.kv, &Query::Open { ino: file }), Err(NsError::Stale));
    assert!(answer(&world.kv, &Query::Open { ino: root }).is_ok());
    world.run(Command::Free { inos: vec![root, file, file] }).unwrap();
    assert_eq!(answer(&world.kv, &Query::GetAttr { ino: file }), Err(NsError::NotFound));
    assert_eq!(world.totals(), Totals { garbage: 1, places: 64, ..Totals::default() });
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
    // The last one releases its lock, and the wait ends.
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
    // A copy that the network delayed until its result was forgotten does not apply again.
    world.run(unlink(root, "f")).unwrap();
    assert_eq!(world.numbered(1, 0, make(root, "f", FileKind::File)), Err(NsError::Answered(1)));
    assert_eq!(world.run(unlink(root, "f")), Err(NsError::NotFound));
    // A request whose `done_below` covers itself keeps its result.
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
    assert_eq!((attr.size, attr.stored_bytes, attr.extents), (end, 1500, 2));
    assert_eq!(world.layout(file, (1 << 40) + 499).1.len(), 2, "an extent that covers the byte is included");
    assert_eq!(world.layout(file, (1 << 40) + 500).1.len(), 1);
    let keys = world.kv.0.len();
    world.run(Command::Punch { ino: file, offset: 1 << 30, len: 4 << 40 }).unwrap();
    assert_eq!(world.attr(file).stored_bytes, 1000);
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
    assert_eq!(world.attr(file).stored_bytes, 4106);
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
    let totals = Totals { blocks: 1, blocks_missing: 1, shares_missing: 1, places: 64, ..Totals::default() };
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
    // Pages of one block, each after the last one.
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
    let block = |seq| BlockId { session: world.session, seq };
    let shares = vec![SharesOf { block: block(2), group: GroupId(1), bits: u64::MAX }];
    world.run(Command::MarkPresent { shares }).unwrap();
    assert_eq!(missing(&world), [3, 1]);
    let shares =
        vec![SharesOf { block: BlockId { session: world.session, seq: 1 }, group: GroupId(1), bits: 0b1110 }];
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
        clear_set_gid: false,
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
        Ok(Answer::Volumes(volumes)) => (volumes[0].inodes, volumes[0].stored_bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(counts(&world), (3, 703));
    world.run(unlink(world.root, "f")).unwrap();
    assert_eq!(counts(&world), (3, 703), "somebody may have it open");
    world.run(Command::Free { inos: vec![file] }).unwrap();
    assert_eq!(counts(&world), (2, 0));
    assert_eq!(answer(&world.kv, &Query::VolumeById { id: VolumeId(9) }), Err(NsError::NotFound));
}

/// Damages the store in one place and returns whether the check notices it.
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
        // No other record counts these: counters of numbers, nodes, results of requests (which may be dropped
        // at any time), and the version of the layout.
        let counted = key[0] != b'N'
            && key[0] != b'R'
            && ![&b"Cnext-"[..], b"Cplaces"].iter().any(|known| key.starts_with(known));
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

fn clone_range(from: Ino, offset: u64, len: u64, to: Ino, to_offset: u64) -> Command {
    Command::CloneRange { from, offset, len, to, to_offset, mtime: None }
}

#[test]
fn a_cloned_range_keeps_its_block_when_the_source_is_removed() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let copy = world.made(world.root, "copy", FileKind::File);
    world.commit(file, 1, &[(0, 1000), (5000, 1000)], 0).unwrap();
    let cloned = world.run(clone_range(file, 500, 1 << 40, copy, 100));
    let Ok(Outcome::Cloned { attr, len }) = cloned else { panic!("{cloned:?}") };
    assert_eq!((len, attr.size, attr.extents, attr.stored_bytes), (5500, 5600, 2, 1500));
    world.run(Command::Unlink { parent: world.root, name: b"f".to_vec() }).unwrap();
    world.run(Command::Free { inos: vec![file] }).unwrap();
    let shown: Vec<_> = world.layout(copy, 0).1.iter().map(|extent| (extent.offset, extent.len)).collect();
    assert_eq!(shown, [(100, 500), (4600, 1000)]);
    let end = world.run(clone_range(copy, 5600, 1, copy, 0));
    assert!(matches!(end, Ok(Outcome::Cloned { len: 0, .. })), "the source's end");
    assert!(matches!(world.run(clone_range(copy, 0, 10, copy, 9)), Err(NsError::Invalid(_))));
    let small = world.made(world.root, "small", FileKind::File);
    world.run(inline(small, 0, b"0123456789")).unwrap();
    assert_eq!(world.run(clone_range(small, 9, 1, copy, 0)), Err(NsError::HasInline));
}

#[test]
fn a_file_of_very_many_pieces_is_cloned_in_parts() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    let copy = world.made(world.root, "copy", FileKind::File);
    let pieces: Vec<(u64, u32)> = (0..5000).map(|piece| (piece * 10, 5)).collect();
    world.commit(file, 1, &pieces, 0).unwrap();
    world.run(set_attr(file, size(50_000))).unwrap();
    let first = world.run(clone_range(file, 0, 50_000, copy, 0));
    let Ok(Outcome::Cloned { len, .. }) = first else { panic!("{first:?}") };
    assert_eq!(len, 40_960);
    let rest = world.run(clone_range(file, len, 50_000 - len, copy, len));
    let Ok(Outcome::Cloned { attr, len }) = rest else { panic!("{rest:?}") };
    assert_eq!((len, attr.size, attr.extents), (9040, 50_000, 5000));
}

#[test]
fn a_command_for_a_name_that_has_changed_does_nothing() {
    let mut world = World::new();
    let root = world.root;
    let Ok(Outcome::Attr(Attr { ino: first, .. })) = world.run(make(root, "a", FileKind::File)) else {
        panic!()
    };
    let known = |name: &str, ino| Known { parent: root, name: name.into(), ino };
    let move_a = |names: Vec<Known>| Command::IfNamed {
        names,
        command: Box::new(rename(root, "a", root, "b", RenameMode::Replace)),
    };
    assert_eq!(world.run(move_a(vec![known("a", None)])), Err(NsError::NameChanged));
    assert_eq!(world.run(move_a(vec![known("a", Some(Ino(first.0 + 1)))])), Err(NsError::NameChanged));
    assert_eq!(
        world.run(move_a(vec![known("a", Some(first)), known("b", Some(first))])),
        Err(NsError::NameChanged),
        "each of the names counts"
    );
    let both = vec![known("a", Some(first)), known("b", None)];
    assert!(matches!(world.run(move_a(both.clone())), Ok(Outcome::Renamed { moved, .. }) if moved == first));
    assert_eq!(world.run(move_a(both)), Err(NsError::NameChanged));
    let nested = Command::IfNamed { names: vec![], command: Box::new(move_a(vec![])) };
    assert!(matches!(world.run(nested), Err(NsError::Invalid(_))));
}

#[test]
fn a_guard_lets_only_the_newest_through() {
    let mut world = World::new();
    let root = world.root;
    let fence = |value: &[u8]| value.to_vec();
    let raise = |from: Option<&[u8]>, to: &[u8]| Command::Guarded {
        ino: root,
        name: b"user.fence".to_vec(),
        value: from.map(fence),
        command: Box::new(Command::SetXattr {
            ino: root,
            name: b"user.fence".to_vec(),
            value: fence(to),
            mode: XattrMode::Any,
            clear_set_gid: false,
        }),
    };
    let fenced_make = |fence: &[u8], name: &str| Command::Guarded {
        ino: root,
        name: b"user.fence".to_vec(),
        value: Some(fence.to_vec()),
        command: Box::new(make(root, name, FileKind::File)),
    };
    assert_eq!(world.run(raise(None, b"1")), Ok(Outcome::Done));
    assert_eq!(world.run(raise(None, b"1")), Err(NsError::GuardFailed), "two that take over: one wins");
    assert!(world.run(fenced_make(b"1", "first")).is_ok());
    assert_eq!(world.run(raise(Some(b"1"), b"2")), Ok(Outcome::Done));
    assert_eq!(world.run(fenced_make(b"1", "late")), Err(NsError::GuardFailed));
    assert!(world.run(fenced_make(b"2", "second")).is_ok());
    let nested = Command::Guarded {
        ino: root,
        name: b"user.fence".to_vec(),
        value: Some(fence(b"2")),
        command: Box::new(fenced_make(b"2", "x")),
    };
    assert!(matches!(world.run(nested), Err(NsError::Invalid(_))));
}
