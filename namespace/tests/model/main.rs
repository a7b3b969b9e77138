//! Goal: the namespace does what a plain tree of byte vectors does, for all commands.
//!
//! Method: random commands are applied to both. After each step the attributes, names and bytes of everything
//! are compared. `check` must find nothing, a refused command must have left no trace, and a retried command
//! must change nothing. At the end the same entries must give a byte-identical store.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

mod tree;

use proptest::prelude::*;
use rain_namespace::check::check;
use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::kv::MemoryKv;
use rain_namespace::lock::{Lock, LockKind};
use rain_namespace::query::{Answer, BlockEntry, Query, answer};
use rain_namespace::record::{FileKind, Time};
use rain_namespace::{apply, apply_entry};
use rain_types::{BlockId, CodeSpec, Codec, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};
use tree::{Refusals, Tree, block_byte, refusal};

const BLOCK_BYTES: u32 = 3000;
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"a longer name \xff"];

/// A random step; its numbers choose among the existing objects when the step is executed.
#[derive(Debug, Clone)]
enum Step {
    Make { dir: usize, name: usize, kind: usize, or_existing: bool },
    Link { ino: usize, dir: usize, name: usize },
    Unlink { dir: usize, name: usize },
    RemoveDirectory { dir: usize, name: usize },
    MakeUnnamed { dir: usize },
    Rename { from: (usize, usize), to: (usize, usize), mode: usize, whiteout: bool },
    Truncate { ino: usize, size: u16 },
    TruncateWrongly { ino: usize, size: u16 },
    Punch { ino: usize, offset: u16, len: u16 },
    Clone { from: usize, offset: u16, len: u16, to: usize, to_offset: u16 },
    Inline { ino: usize, offset: u16, data: Vec<u8> },
    Commit { ino: usize, stretches: Vec<(u16, u16, u16)>, missing: u64, size_at_least: u16 },
    Free { ino: usize },
    Lock { ino: usize, owner: u64, exclusive: bool, first: u64, wait: bool },
    Unlock { ino: usize, owner: u64 },
    EndSession,
    Mark { bits: u64, missing: bool },
    Reclaim { bits: u64 },
    SetDraining { node: u32, draining: bool },
    Regroup { volume: u32 },
    Move { limit: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..12;
    let name = 0usize..NAMES.len();
    let place = (at.clone(), name.clone());
    let offset = prop_oneof![0u16..64, 0u16..9000];
    prop_oneof![
        6 => (at.clone(), name.clone(), 0usize..8, any::<bool>())
            .prop_map(|(dir, name, kind, or_existing)| Step::Make { dir, name, kind, or_existing }),
        1 => (at.clone(), at.clone(), name.clone()).prop_map(|(ino, dir, name)| Step::Link { ino, dir, name }),
        2 => (at.clone(), name.clone()).prop_map(|(dir, name)| Step::Unlink { dir, name }),
        1 => (at.clone(), name).prop_map(|(dir, name)| Step::RemoveDirectory { dir, name }),
        4 => (place.clone(), place, 0usize..3, any::<bool>())
            .prop_map(|(from, to, mode, whiteout)| Step::Rename { from, to, mode, whiteout }),
        1 => at.clone().prop_map(|dir| Step::MakeUnnamed { dir }),
        2 => (at.clone(), offset.clone()).prop_map(|(ino, size)| Step::Truncate { ino, size }),
        1 => (at.clone(), offset.clone()).prop_map(|(ino, size)| Step::TruncateWrongly { ino, size }),
        2 => (at.clone(), offset.clone(), 0u16..4000)
            .prop_map(|(ino, offset, len)| Step::Punch { ino, offset, len }),
        3 => (at.clone(), offset.clone(), 0u16..4000, at.clone(), offset.clone())
            .prop_map(|(from, offset, len, to, to_offset)| Step::Clone { from, offset, len, to, to_offset }),
        3 => (at.clone(), 0u16..4200, prop::collection::vec(1u8.., 1..60))
            .prop_map(|(ino, offset, data)| Step::Inline { ino, offset, data }),
        6 => (
            at.clone(),
            prop::collection::vec((offset.clone(), 1u16..2000, 0u16..1000), 1..4),
            prop_oneof![3 => Just(0u64), 1 => 0u64..16, 1 => any::<u64>()],
            offset,
        )
            .prop_map(|(ino, stretches, missing, size_at_least)| Step::Commit {
                ino,
                stretches,
                missing,
                size_at_least
            }),
        2 => at.clone().prop_map(|ino| Step::Free { ino }),
        3 => (at.clone(), 0u64..3, any::<bool>(), 0u64..3, any::<bool>())
            .prop_map(|(ino, owner, exclusive, first, wait)| Step::Lock { ino, owner, exclusive, first, wait }),
        1 => (at, 0u64..3).prop_map(|(ino, owner)| Step::Unlock { ino, owner }),
        1 => Just(Step::EndSession),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(bits, missing)| Step::Mark { bits, missing }),
        1 => any::<u64>().prop_map(|bits| Step::Reclaim { bits }),
        1 => (1u32..6, any::<bool>()).prop_map(|(node, draining)| Step::SetDraining { node, draining }),
        2 => (1u32..3).prop_map(|volume| Step::Regroup { volume }),
        2 => (1u32..5).prop_map(|limit| Step::Move { limit }),
    ]
}

/// The outcome that the model expects.
enum Expected {
    Done,
    Ino(u64),
    /// This many bytes of a range of this file were cloned.
    Cloned(u64, u64),
    /// A new inode in this directory with this name and kind.
    Made(u64, Vec<u8>, FileKind),
    /// A new file without a name in this volume.
    Unnamed(u32),
    Removed(u64, bool),
    Renamed(u64, Option<u64>, bool),
    /// As `Renamed`, with a whiteout under this name of the directory.
    Whiteout((u64, Option<u64>, bool), u64, Vec<u8>),
    Lock,
}

fn test_lock(owner: u64, exclusive: bool, first: u64) -> Lock {
    Lock { kind: LockKind::Flock, owner, exclusive, first, last: first + 1, pid: 1 }
}

struct World {
    kv: MemoryKv,
    tree: Tree,
    entries: Vec<Entry>,
    /// Every inode so far: steps choose among them, so they also meet freed ones.
    inos: Vec<u64>,
    session: u64,
    seq: u64,
    next_block: u64,
}

impl World {
    fn new() -> World {
        let (kv, tree) = (MemoryKv::default(), Tree::default());
        let mut world = World { kv, tree, entries: vec![], inos: vec![], session: 0, seq: 0, next_block: 1 };
        for id in 1..=5 {
            let node = NodeSpec { address: format!("h{id}:1"), weight: 1, ..NodeSpec::default() };
            let command = Command::RegisterNode { id: NodeId(id), node };
            assert_eq!(world.internal(command), Ok(Outcome::Node(NodeId(id))));
        }
        for (name, m) in [("one", 2), ("two", 1)] {
            let code = CodeSpec { codec: Codec::Rs, k: 2, m };
            let command =
                Command::CreateVolume { name: name.into(), code, groups: 3, uid: 0, gid: 0, mode: 0o755 };
            let Ok(Outcome::Volume(id)) = world.internal(command) else { panic!("no volume") };
            let Ok(Answer::Volumes(volumes)) = answer(&world.kv, &Query::VolumeById { id }) else { panic!() };
            world.tree.add_root(volumes[0].root.0, id.0);
            world.inos.push(volumes[0].root.0);
        }
        world.open_session();
        world
    }

    fn open_session(&mut self) {
        let Ok(Outcome::Session(id)) =
            self.internal(Command::OpenSession { label: "test".into(), caches: false })
        else {
            panic!("no session")
        };
        (self.session, self.seq) = (id.0, 0);
    }

    fn internal(&mut self, command: Command) -> Applied {
        self.send(Request::internal(command))
    }

    fn send(&mut self, request: Request) -> Applied {
        let time = Time { secs: 1000 + self.entries.len() as i64, nanos: 7 };
        let applied = apply(&mut self.kv, time, &request);
        self.entries.push(Entry { time, requests: vec![request] });
        applied
    }

    fn ino(&self, pick: usize) -> u64 {
        // Half of the picks take the newest inodes, so that the tree grows deep.
        let len = self.inos.len();
        if pick.is_multiple_of(2) {
            self.inos[(pick / 2) % len]
        } else {
            self.inos[len - 1 - (pick / 2) % len]
        }
    }

    fn take(&mut self, step: &Step) {
        if matches!(step, Step::EndSession) {
            let session = SessionId(self.session);
            assert_eq!(self.internal(Command::EndSession { session }), Ok(Outcome::Done));
            self.open_session();
            return;
        }
        let (command, expected) = self.plan(step);
        self.seq += 1;
        let id = RequestId { session: SessionId(self.session), seq: self.seq };
        let request = Request { id: Some(id), done_below: self.seq.saturating_sub(3), time: None, command };
        let before = self.kv.clone();
        let applied = self.send(request.clone());
        match (&applied, expected) {
            (Err(error), Err(right)) => {
                assert!(right.contains(&refusal(error.clone())), "{step:?}: {error}");
                assert_eq!(
                    without_results(&before),
                    without_results(&self.kv),
                    "refused {step:?} left a trace"
                );
            }
            (Err(error), Ok(_)) => panic!("{step:?} refused: {error}"),
            (Ok(outcome), Err(_)) => panic!("{step:?} not refused: {outcome:?}"),
            (Ok(outcome), Ok(expected)) => self.match_outcome(outcome, expected),
        }
        let once = self.kv.clone();
        assert_eq!(self.send(request), applied, "a retry gave another result");
        assert_eq!(once, self.kv, "a retry changed something");
    }

    fn match_outcome(&mut self, outcome: &Outcome, expected: Expected) {
        match (outcome, expected) {
            (Outcome::Done, Expected::Done) => {}
            (Outcome::Lock { session, .. }, Expected::Lock) => assert_eq!(session.0, self.session),
            (Outcome::Attr(attr), Expected::Ino(ino)) => assert_eq!(attr.ino.0, ino),
            (Outcome::Cloned { attr, len }, Expected::Cloned(ino, cloned)) => {
                assert_eq!((attr.ino.0, *len), (ino, cloned));
            }
            (Outcome::Attr(attr), Expected::Made(dir, name, kind)) => {
                assert!(!self.inos.contains(&attr.ino.0), "an inode number twice");
                self.inos.push(attr.ino.0);
                self.tree.made(attr.ino.0, dir, &name, kind);
            }
            (Outcome::Attr(attr), Expected::Unnamed(volume)) => {
                assert!(!self.inos.contains(&attr.ino.0), "an inode number twice");
                assert_eq!(attr.nlink, 0);
                self.inos.push(attr.ino.0);
                self.tree.made_unnamed(attr.ino.0, volume);
            }
            (Outcome::Removed { ino, last_name_gone }, Expected::Removed(was, kept)) => {
                assert_eq!((ino.0, *last_name_gone), (was, kept));
            }
            (Outcome::Renamed { moved, other, last_name_gone }, Expected::Renamed(was, over, gone)) => {
                assert_eq!((moved.0, other.map(|ino| ino.0), *last_name_gone), (was, over, gone));
            }
            (Outcome::Renamed { moved, other, last_name_gone }, Expected::Whiteout(renamed, dir, name)) => {
                assert_eq!((moved.0, other.map(|ino| ino.0), *last_name_gone), renamed);
                let Ok(Answer::Attr(attr)) =
                    answer(&self.kv, &Query::Lookup { parent: Ino(dir), name: name.clone() })
                else {
                    panic!("no whiteout")
                };
                assert_eq!(
                    (attr.kind, attr.rdev, attr.mode, attr.nlink),
                    (FileKind::CharDevice, 0, 0, 1),
                    "a whiteout"
                );
                assert!(!self.inos.contains(&attr.ino.0), "an inode number twice");
                self.inos.push(attr.ino.0);
                self.tree.made(attr.ino.0, dir, &name, FileKind::CharDevice);
            }
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    /// Returns the command of a step and the outcome of the model, which executes the step.
    fn plan(&mut self, step: &Step) -> (Command, Result<Expected, Refusals>) {
        match *step {
            Step::Make { dir, name, kind, or_existing } => {
                let (dir, name) = (self.ino(dir), NAMES[name]);
                let kind = [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Fifo]
                    [[0, 0, 0, 1, 1, 1, 2, 3][kind]];
                let target = if kind == FileKind::Symlink { b"there".to_vec() } else { vec![] };
                let (mode, uid, gid, rdev) = (0o644, 1, 1, 0);
                let parent = Ino(dir);
                let expected = self.tree.make(dir, name, kind, or_existing).map(|there| {
                    there.map_or_else(|| Expected::Made(dir, name.to_vec(), kind), Expected::Ino)
                });
                let name = name.to_vec();
                (
                    Command::Make {
                        parent,
                        name,
                        kind,
                        mode,
                        umask: 0,
                        uid,
                        gid,
                        rdev,
                        target,
                        or_existing,
                        ino: None,
                    },
                    expected,
                )
            }
            Step::Link { ino, dir, name } => {
                let (ino, dir, name) = (self.ino(ino), self.ino(dir), NAMES[name]);
                let expected = self.tree.link(ino, dir, name).map(|()| Expected::Ino(ino));
                (Command::Link { ino: Ino(ino), parent: Ino(dir), name: name.to_vec() }, expected)
            }
            Step::Unlink { dir, name } => {
                let (dir, name) = (self.ino(dir), NAMES[name]);
                let expected = self.tree.unlink(dir, name).map(|(ino, kept)| Expected::Removed(ino, kept));
                (Command::Unlink { parent: Ino(dir), name: name.to_vec() }, expected)
            }
            Step::RemoveDirectory { dir, name } => {
                let (dir, name) = (self.ino(dir), NAMES[name]);
                let expected = self.tree.remove_directory(dir, name).map(|ino| Expected::Removed(ino, false));
                (Command::RemoveDirectory { parent: Ino(dir), name: name.to_vec() }, expected)
            }
            Step::MakeUnnamed { dir } => {
                let dir = self.ino(dir);
                let command = Command::MakeUnnamed { dir: Ino(dir), mode: 0o600, umask: 0, uid: 1, gid: 1 };
                (command, self.tree.make_unnamed(dir).map(Expected::Unnamed))
            }
            Step::Rename { from, to, mode, whiteout } => {
                let (dir, name, to, new_name) =
                    (self.ino(from.0), NAMES[from.1], self.ino(to.0), NAMES[to.1]);
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][mode];
                let whiteout = whiteout.then_some(Whiteout { uid: 1, gid: 1, ino: None });
                let expected = match whiteout {
                    Some(_) if mode == RenameMode::Exchange => {
                        let mut right = vec![refusal(NsError::Invalid(String::new()))];
                        let also = self.tree.clone().rename((dir, name), (to, new_name), mode);
                        right.extend(also.err().into_iter().flatten());
                        Err(right)
                    }
                    _ => self.tree.rename((dir, name), (to, new_name), mode),
                };
                let is_left = self.tree.nodes.get(&dir).is_some_and(|node| node.entries.contains_key(name));
                let command = Command::Rename {
                    parent: Ino(dir),
                    name: name.to_vec(),
                    new_parent: Ino(to),
                    new_name: new_name.to_vec(),
                    mode,
                    whiteout,
                };
                let expected = expected.map(|renamed| match whiteout {
                    // Two names of one inode stay as they are.
                    Some(_) if !is_left => Expected::Whiteout(renamed, dir, name.to_vec()),
                    _ => Expected::Renamed(renamed.0, renamed.1, renamed.2),
                });
                (command, expected)
            }
            Step::Truncate { ino, size } => {
                let ino = self.ino(ino);
                let expected = self.tree.truncate(ino, size.into()).map(|()| Expected::Ino(ino));
                let change = AttrChange { size: Some(size.into()), ..AttrChange::default() };
                (Command::SetAttr { ino: Ino(ino), change }, expected)
            }
            Step::TruncateWrongly { ino, size } => {
                let ino = self.ino(ino);
                let wrong = Time { secs: 0, nanos: 1_000_000_000 };
                let mtime = Some(TimeChange::At(wrong));
                let change = AttrChange { size: Some(size.into()), mtime, ..AttrChange::default() };
                let mut right = vec![refusal(NsError::Invalid(String::new()))];
                right.extend(self.tree.clone().truncate(ino, 0).err().into_iter().flatten());
                (Command::SetAttr { ino: Ino(ino), change }, Err(right))
            }
            Step::Punch { ino, offset, len } => {
                let ino = self.ino(ino);
                let expected = self.tree.punch(ino, offset.into(), len.into()).map(|()| Expected::Ino(ino));
                (Command::Punch { ino: Ino(ino), offset: offset.into(), len: len.into() }, expected)
            }
            Step::Clone { from, offset, len, to, to_offset } => {
                let (from, to) = (self.ino(from), self.ino(to));
                let (source, dest) = ((from, offset.into()), (to, to_offset.into()));
                let expected = self.tree.clone_range(source, len.into(), dest);
                let command = Command::CloneRange {
                    from: Ino(from),
                    offset: offset.into(),
                    len: len.into(),
                    to: Ino(to),
                    to_offset: to_offset.into(),
                    mtime: None,
                };
                (command, expected.map(|len| Expected::Cloned(to, len)))
            }
            Step::Inline { ino, offset, ref data } => {
                let ino = self.ino(ino);
                let expected = self.tree.write_inline(ino, offset.into(), data).map(|()| Expected::Ino(ino));
                let inline = vec![InlinePiece { offset: offset.into(), data: data.clone() }];
                (commit(ino, vec![], vec![], inline, 0), expected)
            }
            Step::Commit { ino, ref stretches, missing, size_at_least } => {
                self.plan_commit(self.ino(ino), stretches, missing, size_at_least)
            }
            Step::Free { ino } => {
                let ino = self.ino(ino);
                self.tree.free(ino);
                (Command::Free { inos: vec![Ino(ino)] }, Ok(Expected::Done))
            }
            Step::Lock { ino, owner, exclusive, first, wait } => {
                let ino = self.ino(ino);
                let lock = test_lock(owner, exclusive, first);
                // The rules of the record and `check` cover which request gets the lock. This checks the
                // refusals.
                let expected = self.tree.lockable(ino).map(|()| Expected::Lock);
                (Command::Lock { ino: Ino(ino), lock, ticket: wait.then_some(self.seq + 1) }, expected)
            }
            Step::Unlock { ino, owner } => {
                let lock = test_lock(owner, false, 0);
                (
                    Command::Unlock { ino: Ino(self.ino(ino)), lock: Lock { last: u64::MAX, ..lock } },
                    Ok(Expected::Done),
                )
            }
            Step::Mark { bits, missing } => {
                let Ok(Answer::Blocks(known)) = answer(&self.kv, &Query::Blocks { ids: self.blocks() })
                else {
                    panic!()
                };
                let group = |id| known.iter().find(|entry| entry.id == id).map(|entry| entry.record.group);
                let of = |block| SharesOf { block, group: group(block).unwrap_or_default(), bits };
                let shares = self.blocks().into_iter().map(of).collect();
                let command =
                    if missing { Command::MarkMissing { shares } } else { Command::MarkPresent { shares } };
                (command, Ok(Expected::Done))
            }
            Step::Reclaim { bits } => {
                let shares = self.blocks().into_iter().map(|id| (id, bits | 1)).collect();
                (Command::Reclaimed { shares }, Ok(Expected::Done))
            }
            Step::SetDraining { node, draining } => {
                (Command::SetDraining { id: NodeId(node), draining }, Ok(Expected::Done))
            }
            Step::Regroup { volume } => {
                let Ok(Answer::Nodes(nodes)) = answer(&self.kv, &Query::Nodes) else { panic!() };
                let enough = nodes.iter().filter(|node| !node.draining).count() >= 5 - volume as usize;
                let command = Command::Regroup { volume: VolumeId(volume) };
                let too_few = NsError::TooFewNodes { code: String::new(), needed: 0, have: 0 };
                (command, if enough { Ok(Expected::Done) } else { Err(vec![refusal(too_few)]) })
            }
            Step::Move { limit } => {
                let strays = answer(&self.kv, &Query::Strays { after: None, limit });
                let Ok(Answer::Blocks(strays)) = strays else { panic!() };
                let moved = |entry: BlockEntry| {
                    let id = entry.record.volume;
                    let Ok(Answer::Volumes(volumes)) = answer(&self.kv, &Query::VolumeById { id }) else {
                        panic!()
                    };
                    let to = volumes[0].open_of(entry.record.group).expect("a group has a slot");
                    MovedBlock { id: entry.id, from: entry.record.group, to }
                };
                let blocks = strays.into_iter().map(moved).collect();
                (Command::MoveBlocks { blocks }, Ok(Expected::Done))
            }
            Step::EndSession => unreachable!("taken by itself"),
        }
    }

    fn plan_commit(
        &mut self,
        ino: u64,
        stretches: &[(u16, u16, u16)],
        missing: u64,
        size_at_least: u16,
    ) -> (Command, Result<Expected, Refusals>) {
        // Two blocks share the ranges; with a single range no extent would use the second block.
        let count = stretches.len().min(2) as u64;
        let seqs: Vec<u64> = (0..count).map(|index| self.next_block + index).collect();
        self.next_block += count;
        let session = SessionId(self.session);
        let id = |seq: u64| BlockId { session, seq };
        let blocks = seqs
            .iter()
            .map(|seq| NewBlock { id: id(*seq), group: GroupId(*seq as u32 % 3), len: BLOCK_BYTES, missing })
            .collect();
        let of = |index: usize| index % seqs.len();
        let extents = stretches.iter().enumerate().map(|(index, (offset, len, block_offset))| NewExtent {
            offset: (*offset).into(),
            len: (*len).into(),
            block: of(index) as u32,
            block_offset: (*block_offset).into(),
        });
        let command = commit(ino, blocks, extents.collect(), vec![], size_at_least.into());
        let shown: Vec<_> = stretches
            .iter()
            .enumerate()
            .map(|(index, (offset, len, at))| {
                ((*offset).into(), (*len).into(), seqs[of(index)], (*at).into())
            })
            .collect();
        let shares = self.tree.nodes.get(&ino).map_or(4, |node| if node.volume == 1 { 4 } else { 3 });
        let too_few = missing >> shares != 0 || shares - missing.count_ones() < 2;
        if too_few {
            let mut right = vec![refusal(NsError::Invalid(String::new()))];
            right.extend(self.tree.clone().commit(ino, &shown, 0).err().into_iter().flatten());
            return (command, Err(right));
        }
        let expected = self.tree.commit(ino, &shown, size_at_least.into());
        (command, expected.map(|()| Expected::Ino(ino)))
    }

    /// Returns all blocks committed so far by any session, also the freed ones.
    fn blocks(&self) -> Vec<BlockId> {
        let sessions = 1..=self.session;
        sessions
            .flat_map(|session| {
                (1..self.next_block).map(move |seq| BlockId { session: SessionId(session), seq })
            })
            .collect()
    }

    fn compare(&self) {
        let violations = check(&self.kv);
        assert!(violations.is_empty(), "{violations:#?}");
        for ino in &self.inos {
            match self.tree.nodes.get(ino) {
                Some(node) => self.compare_inode(*ino, node),
                None => {
                    assert_eq!(answer(&self.kv, &Query::GetAttr { ino: Ino(*ino) }), Err(NsError::NotFound))
                }
            }
        }
        let Ok(Answer::Blocks(blocks)) = answer(&self.kv, &Query::Blocks { ids: self.blocks() }) else {
            panic!()
        };
        let live = blocks.iter().map(|entry| (entry.id.seq, entry.record.live)).collect();
        assert_eq!(self.tree.live(), live, "bytes that show each block");
        let Ok(Answer::Garbage(garbage)) = answer(&self.kv, &Query::Garbage { after: None, limit: 4096 })
        else {
            panic!()
        };
        assert!(garbage.iter().all(|(id, _)| self.tree.garbage.contains(&id.seq)), "{garbage:?}");
    }

    fn compare_inode(&self, ino: u64, node: &tree::Node) {
        let Ok(Answer::Attr(attr)) = answer(&self.kv, &Query::GetAttr { ino: Ino(ino) }) else {
            panic!("inode {ino} is gone")
        };
        assert_eq!(
            (attr.kind, attr.nlink, attr.parent.0),
            (node.kind, node.nlink, node.parent),
            "inode {ino}"
        );
        match node.kind {
            FileKind::Directory => {
                assert_eq!(self.names(ino), node.entries.clone().into_iter().collect::<Vec<_>>());
                for (name, ino) in &node.entries {
                    let query = Query::Lookup { parent: attr.ino, name: name.clone() };
                    assert!(
                        matches!(answer(&self.kv, &query), Ok(Answer::Attr(found)) if found.ino.0 == *ino)
                    );
                }
            }
            FileKind::File => {
                assert_eq!(
                    (attr.size, attr.stored_bytes),
                    (node.bytes.len() as u64, node.held()),
                    "file {ino}"
                );
                let expected: Vec<u8> = (0..node.bytes.len())
                    .map(|at| if node.bytes[at].1 == 0 { node.below[at] } else { node.bytes[at].0 })
                    .collect();
                assert!(self.read(ino) == expected, "bytes of file {ino}");
            }
            _ => {}
        }
    }

    /// Reads the names in pages of two, so that paging is tested, too.
    fn names(&self, dir: u64) -> Vec<(Vec<u8>, u64)> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let query = Query::ReadDirectory { dir: Ino(dir), after, limit: 2 };
            let Ok(Answer::Directory { entries, more }) = answer(&self.kv, &query) else { panic!() };
            assert!(entries.len() <= 2);
            names.extend(entries.into_iter().map(|entry| (entry.name, entry.attr.ino.0)));
            if !more {
                return names;
            }
            after = names.last().map(|(name, _)| name.clone());
        }
    }

    /// Reads a file's bytes from a layout that is fetched in pages of two extents.
    fn read(&self, ino: u64) -> Vec<u8> {
        let (mut bytes, mut from): (Option<Vec<u8>>, u64) = (None, 0);
        loop {
            let query = Query::Layout { ino: Ino(ino), from, limit: 2 };
            let Ok(Answer::Layout { attr, inline, extents, more }) = answer(&self.kv, &query) else {
                panic!()
            };
            let bytes = bytes.get_or_insert_with(|| {
                let mut bytes = inline;
                bytes.resize(attr.size as usize, 0);
                bytes
            });
            for extent in &extents {
                for at in 0..extent.len as usize {
                    bytes[extent.offset as usize + at] =
                        block_byte(extent.block.seq, extent.block_offset as usize + at);
                }
                from = extent.end();
            }
            if !more {
                return bytes.clone();
            }
        }
    }
}

fn commit(
    ino: u64,
    blocks: Vec<NewBlock>,
    extents: Vec<NewExtent>,
    inline: Vec<InlinePiece>,
    size_at_least: u64,
) -> Command {
    Command::Commit { ino: Ino(ino), blocks, extents, inline, size_at_least, mtime: None }
}

/// Returns the store without the results of requests and without the sessions, which hold `done_below`.
fn without_results(kv: &MemoryKv) -> MemoryKv {
    MemoryKv(kv.0.clone().into_iter().filter(|(key, _)| key[0] != b'R' && key[0] != b'Z').collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_namespace_does_what_a_plain_tree_does(steps in prop::collection::vec(step(), 1..70)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.compare();
        }
        let mut again = MemoryKv::default();
        for entry in &world.entries {
            apply_entry(&mut again, entry);
        }
        prop_assert!(again == world.kv, "the same entries gave another store");
    }
}
