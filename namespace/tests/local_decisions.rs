//! Goal: the holder of a delegation decides a command as the leader decides it later, whatever other sessions
//! do in between.
//!
//! Method: one session holds delegations, applies commands and sends them some time later. Another session
//! works on the same tree and recalls the directories that it meets. Every outcome that was acknowledged
//! early must be the leader's outcome. Every answer that was given early must be the leader's answer once it
//! has applied all commands.

use proptest::prelude::*;
use rain_namespace::acl::{ACCESS, DEFAULT};
use rain_namespace::apply;
use rain_namespace::check::check;
use rain_namespace::command::{
    Applied, AttrChange, Command, InlinePiece, Known, NewBlock, NewExtent, NodeSpec, Outcome, RenameMode,
    Request, TimeChange, Whiteout, XattrMode,
};
use rain_namespace::delegation::{Decision, DelegationSet, LocalAnswer, acls_of};
use rain_namespace::error::NsError;
use rain_namespace::kv::MemoryKv;
use rain_namespace::query::{Answer, Answered, Query, answer};
use rain_namespace::record::{FileKind, Time, VolumeRecord};
use rain_types::{BlockId, CodeSpec, Codec, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};
use std::collections::VecDeque;

/// Small random numbers that choose the objects of a step.
type Dice = (u8, u8, u8, u8, u8);

#[derive(Debug, Clone)]
enum Step {
    /// The holder asks for the delegation of a directory.
    Take(u8),
    /// The holder executes a command.
    Ours(Dice),
    /// The holder asks a query.
    Ask(Dice),
    /// The holder sends some of its pending commands.
    Send(u8),
    /// The other session executes a command on inodes that it can reach.
    Theirs(Dice),
}

fn dice() -> impl Strategy<Value = Dice> {
    (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<u8>().prop_map(Step::Take),
        12 => dice().prop_map(Step::Ours),
        5 => dice().prop_map(Step::Ask),
        2 => (1u8..6).prop_map(Step::Send),
        3 => dice().prop_map(Step::Theirs),
    ]
}

/// An ACL with a named user, or one that is a mode only.
fn acl(permissions: u8, die: u8) -> Vec<u8> {
    let digit = |shift: u8| u16::from(permissions >> shift & 7);
    let named = [(0x02, digit(1), 7), (0x10, digit(2), u32::MAX)];
    let mut entries =
        vec![(0x01, digit(0), u32::MAX), (0x04, digit(3), u32::MAX), (0x20, digit(5), u32::MAX)];
    if die & 4 == 0 {
        entries.extend(named);
        entries.sort_unstable();
    }
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let (tag, permissions, id): (u16, u16, u32) = (tag, permissions, id);
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

struct Waiting {
    time: Time,
    command: Command,
    /// The acknowledged outcome, and whether an *external* inode was part of it.
    acknowledged: Option<(Outcome, bool)>,
}

struct World {
    leader: MemoryKv,
    delegations: DelegationSet,
    waiting: VecDeque<Waiting>,
    volume: VolumeRecord,
    /// The holder's session, then the other session.
    sessions: [SessionId; 2],
    seqs: [u64; 2],
    clock: i64,
    next_ino: u64,
    next_block: u64,
    /// Inodes that each session has met.
    known: [Vec<Ino>; 2],
    early: usize,
}

fn internal(kv: &mut MemoryKv, command: Command) -> Outcome {
    apply(kv, Time::default(), &Request::internal(command)).expect("the world is set up")
}

impl World {
    fn new() -> World {
        let mut leader = MemoryKv::default();
        for id in 1..=3 {
            let node = NodeSpec { address: format!("n{id}:1"), weight: 1, ..NodeSpec::default() };
            internal(&mut leader, Command::RegisterNode { id: NodeId(id), node });
        }
        let code = CodeSpec { codec: Codec::Rs, k: 2, m: 1 };
        let name = "v".to_owned();
        let make = Command::CreateVolume { name, code, groups: 4, uid: 0, gid: 0, mode: 0o755 };
        internal(&mut leader, make);
        let Ok(Answer::Volumes(volumes)) = answer(&leader, &Query::VolumeById { id: VolumeId(1) }) else {
            panic!("the volume is there")
        };
        let open = |leader: &mut MemoryKv| match internal(
            leader,
            Command::OpenSession { label: "s".into(), caches: false },
        ) {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        };
        let sessions = [open(&mut leader), open(&mut leader)];
        let Outcome::Reserved { first, .. } = internal(&mut leader, Command::ReserveInos { count: 10_000 })
        else {
            panic!("numbers are reserved")
        };
        let root = volumes[0].root;
        World {
            leader,
            delegations: DelegationSet::default(),
            waiting: VecDeque::new(),
            volume: volumes[0].clone(),
            sessions,
            seqs: [0, 0],
            clock: 100,
            next_ino: first.0,
            next_block: 1,
            known: [vec![root], vec![root]],
            early: 0,
        }
    }

    fn now(&mut self) -> Time {
        self.clock += 1;
        Time { secs: self.clock, nanos: 0 }
    }

    fn send(&mut self, who: usize, time: Option<Time>, command: Command) -> Applied {
        self.seqs[who] += 1;
        let id = Some(RequestId { session: self.sessions[who], seq: self.seqs[who] });
        let request = Request { id, done_below: self.seqs[who], time, command };
        let now = self.now();
        apply(&mut self.leader, now, &request)
    }

    fn send_waiting(&mut self, count: usize) {
        for _ in 0..count.min(self.waiting.len()) {
            let Waiting { time, command, acknowledged } = self.waiting.pop_front().expect("counted");
            let applied = self.send(0, Some(time), command.clone());
            let Some((acknowledged, has_other)) = acknowledged else { continue };
            match (&acknowledged, &applied) {
                (Outcome::Removed { ino, .. }, Ok(Outcome::Removed { ino: really, .. })) if has_other => {
                    assert_eq!(ino, really, "{command:?}");
                }
                (
                    Outcome::Renamed { moved, other, .. },
                    Ok(Outcome::Renamed { moved: really, other: really_other, .. }),
                ) if has_other => {
                    assert_eq!((moved, other), (really, really_other), "{command:?}");
                }
                _ => assert_eq!(applied, Ok(acknowledged), "{command:?}"),
            }
        }
    }

    fn give_back(&mut self, dir: Ino) {
        self.send_waiting(usize::MAX);
        self.delegations.return_directory(dir);
        let done = self.send(0, None, Command::ReturnDelegations { dirs: vec![dir] });
        assert_eq!(done, Ok(Outcome::Done));
    }

    fn take(&mut self, dir: Ino) {
        if self.delegations.is_fully_known(dir) {
            return;
        }
        self.send_waiting(usize::MAX);
        let Ok(Outcome::Attr(attr)) = self.send(0, None, Command::Delegate { dir }) else { return };
        let list = Query::ReadDirectory { dir, after: None, limit: 4096 };
        let Ok(Answer::Directory { entries, more: false }) = answer(&self.leader, &list) else {
            panic!("a directory that was just delegated")
        };
        let names = entries.into_iter().map(|entry| (entry.name, entry.attr.ino, entry.attr.kind));
        let acls = acls_of(&attr).map(|name| {
            let query = Query::GetXattr { ino: dir, name: name.clone() };
            let Ok(Answer::Bytes(acl)) = answer(&self.leader, &query) else { panic!("it has this ACL") };
            (name, acl)
        });
        self.delegations.add_directory(&self.volume, &attr, names, acls);
    }

    /// Returns the leader's state after all pending commands.
    fn ahead(&self) -> MemoryKv {
        let mut kv = self.leader.clone();
        for (at, Waiting { time, command, .. }) in self.waiting.iter().enumerate() {
            let id = Some(RequestId { session: self.sessions[0], seq: self.seqs[0] + 1 + at as u64 });
            let request = Request { id, done_below: 0, time: Some(*time), command: command.clone() };
            let _ = apply(&mut kv, *time, &request);
        }
        kv
    }

    fn some(&self, who: usize, die: u8) -> Ino {
        self.known[who][usize::from(die) % self.known[who].len()]
    }

    fn command(&mut self, who: usize, (what, a, b, c, d): Dice) -> Command {
        let name = |die: u8| vec![b'a' + die % 4];
        let (parent, other) = (self.some(who, a), self.some(who, b));
        let ino = |world: &mut World| {
            (who == 0 && d & 64 == 0).then(|| {
                world.next_ino += 1;
                Ino(world.next_ino - 1)
            })
        };
        match what % 25 {
            0..=5 => {
                let kind = [FileKind::File, FileKind::Directory, FileKind::File, FileKind::Symlink]
                    [usize::from(d % 4)];
                let target = if kind == FileKind::Symlink { b"to".to_vec() } else { Vec::new() };
                let or_existing = d & 16 != 0;
                let mode = if d & 32 != 0 { 0o2755 } else { 0o644 };
                let (umask, uid, gid, rdev) = (0o27, 1, u32::from(c), 0);
                let ino = ino(self);
                Command::Make {
                    parent,
                    name: name(c),
                    kind,
                    mode,
                    umask,
                    uid,
                    gid,
                    rdev,
                    target,
                    or_existing,
                    ino,
                }
            }
            6 | 7 => Command::Unlink { parent, name: name(c) },
            8 | 9 => Command::RemoveDirectory { parent, name: name(c) },
            10..=13 => {
                let mode = match d % 4 {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let new_parent = if d & 16 != 0 { parent } else { other };
                Command::Rename {
                    parent,
                    name: name(c),
                    new_parent,
                    new_name: name(d / 32),
                    mode,
                    whiteout: None,
                }
            }
            14 => Command::Link { ino: other, parent, name: name(c) },
            15 => {
                let mut change = AttrChange { mode: Some(u16::from(c)), ..AttrChange::default() };
                match d % 3 {
                    0 => change.size = Some(u64::from(c)),
                    1 => change.mtime = Some(TimeChange::At(Time { secs: 5, nanos: c.into() })),
                    _ => change.atime = Some(TimeChange::Now),
                }
                Command::SetAttr { ino: parent, change }
            }
            16 => Command::SetXattr {
                ino: parent,
                name: name(c),
                value: vec![d],
                mode: XattrMode::Any,
                clear_set_gid: false,
            },
            19 => {
                let mode = if d & 1 == 0 { RenameMode::Replace } else { RenameMode::NoReplace };
                let new_parent = if d & 16 != 0 { parent } else { other };
                let whiteout = Some(Whiteout { uid: 1, gid: c.into(), ino: ino(self) });
                Command::Rename { parent, name: name(c), new_parent, new_name: name(d / 32), mode, whiteout }
            }
            20 => Command::MakeUnnamed { dir: parent, mode: 0o666, umask: c.into(), uid: 1, gid: 2 },
            21 => Command::SetXattr {
                ino: parent,
                name: if d & 1 == 0 { ACCESS.to_vec() } else { DEFAULT.to_vec() },
                value: acl(c, d),
                mode: XattrMode::Any,
                clear_set_gid: d & 2 != 0,
            },
            22 => {
                let name = if d & 1 == 0 { ACCESS.to_vec() } else { DEFAULT.to_vec() };
                Command::RemoveXattr { ino: parent, name }
            }
            23 => {
                let known = Known { parent, name: name(c), ino: (d & 1 == 0).then_some(other) };
                let (new_parent, new_name) = (if d & 16 != 0 { parent } else { other }, name(d / 32));
                let (whiteout, mode) = (None, RenameMode::Replace);
                let command = Command::Rename { parent, name: name(c), new_parent, new_name, mode, whiteout };
                Command::IfNamed { names: vec![known], command: Box::new(command) }
            }
            17 => Command::RemoveXattr { ino: parent, name: name(c) },
            18 => {
                let inline = vec![InlinePiece { offset: c.into(), data: vec![d; 3] }];
                let (ino, blocks, extents) = (parent, Vec::new(), Vec::new());
                Command::Commit { ino, blocks, extents, inline, size_at_least: d.into(), mtime: None }
            }
            _ => {
                let id = BlockId { session: self.sessions[who], seq: self.next_block };
                self.next_block += 1;
                let blocks = vec![NewBlock { id, group: GroupId(1), len: 100, missing: 0 }];
                let extents = vec![NewExtent { offset: c.into(), len: 50, block: 0, block_offset: 10 }];
                let (ino, inline) = (parent, Vec::new());
                let mtime = Some(Time { secs: 7, nanos: 0 });
                Command::Commit { ino, blocks, extents, inline, size_at_least: 0, mtime }
            }
        }
    }

    fn directory(&self, parent: Ino, die: u8) -> Command {
        let (name, kind, target) = (vec![b'a' + die], FileKind::Directory, Vec::new());
        let (mode, umask, uid, gid, rdev, or_existing, ino) = (0o755, 0, 1, 1, 0, false, None);
        Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino }
    }

    fn ours(&mut self, command: Command) {
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 10, "{command:?} comes to no end: {:?}", self.delegations.decide(&command));
            match self.delegations.decide(&command) {
                Decision::Return(dirs) => dirs.into_iter().for_each(|dir| self.give_back(dir)),
                plan @ (Decision::Local | Decision::Confirm) => {
                    if matches!(command.clone().new_ino(), Some(None)) {
                        return;
                    }
                    let mut named = self.delegations.named_inodes(&command);
                    if let Command::Link { ino, .. } = &command {
                        named.push(*ino);
                    }
                    let has_other = named.iter().any(|ino| !self.delegations.is_fully_known(*ino));
                    let time = self.now();
                    let ahead = self.ahead();
                    let acted = self.delegations.apply_locally(time, &command);
                    let outcome = match acted {
                        Ok(outcome) => outcome,
                        Err(error) => {
                            // The refusal is not sent: the leader must refuse the command as well.
                            let mut ahead = ahead;
                            let id = Some(RequestId { session: self.sessions[0], seq: 1 << 40 });
                            let request =
                                Request { id, done_below: 0, time: Some(time), command: command.clone() };
                            let really = apply(&mut ahead, time, &request);
                            // With an external inode the leader may refuse for another reason.
                            let refused = if has_other || plan == Decision::Confirm {
                                really.is_err()
                            } else {
                                really == Err(error.clone())
                            };
                            assert!(refused, "{command:?}: {error:?} here, {really:?} there");
                            return;
                        }
                    };
                    self.early += 1;
                    self.meet(0, &outcome);
                    let acknowledged = (plan == Decision::Local).then_some((outcome, has_other));
                    self.waiting.push_back(Waiting { time, command: command.clone(), acknowledged });
                    if plan == Decision::Confirm {
                        let last = self.waiting.pop_back().expect("just pushed");
                        self.send_waiting(usize::MAX);
                        match self.send(0, Some(last.time), last.command) {
                            Ok(outcome) => self.delegations.confirm(&command, &outcome),
                            // The local state is wrong after this refusal: every delegation is returned.
                            Err(_) => {
                                for dir in self.delegations.delegated().collect::<Vec<_>>() {
                                    self.give_back(dir);
                                }
                            }
                        }
                    }
                    return;
                }
                Decision::Remote => {
                    let held: Vec<Ino> = self.delegations.delegated().collect();
                    let named =
                        self.delegations.lookups_before(&command).into_iter().filter_map(
                            |query| match answer(&self.leader, &query) {
                                Ok(Answer::Attr(attr)) if held.contains(&attr.ino) => Some(attr.ino),
                                _ => None,
                            },
                        );
                    let named: Vec<Ino> = named.collect();
                    if !named.is_empty() {
                        named.into_iter().for_each(|dir| self.give_back(dir));
                        continue;
                    }
                    self.send_waiting(usize::MAX);
                    let applied = self.send(0, None, command.clone());
                    assert!(
                        !matches!(applied, Err(NsError::Delegated { .. })),
                        "{applied:?}: nobody else holds"
                    );
                    if let Ok(outcome) = &applied {
                        self.meet(0, outcome);
                    }
                    return;
                }
            }
        }
    }

    fn meet(&mut self, who: usize, outcome: &Outcome) {
        if let Outcome::Attr(attr) = outcome
            && !self.known[who].contains(&attr.ino)
        {
            self.known[who].push(attr.ino);
        }
    }

    fn ask(&mut self, (what, a, b, ..): Dice) {
        let ino = self.some(0, a);
        let name = vec![b'a' + b % 4];
        let query = match what % 8 {
            0 | 1 => Query::Lookup { parent: ino, name },
            2 => Query::GetAttr { ino },
            3 => Query::Layout { ino, from: u64::from(b), limit: 3 },
            4 => Query::ReadDirectory {
                dir: ino,
                after: (b & 8 != 0).then_some(name),
                limit: 1 + u32::from(b % 3),
            },
            5 => Query::ListXattr { ino },
            6 => Query::GetXattr { ino, name: if b & 1 == 0 { ACCESS.to_vec() } else { DEFAULT.to_vec() } },
            _ => Query::GetXattr { ino, name },
        };
        let ahead = self.ahead();
        let expected = answer(&ahead, &query);
        match self.delegations.answer(&query) {
            LocalAnswer::Complete(answered) => assert_eq!(&answered, &expected, "{query:?}"),
            LocalAnswer::Partial(other) => {
                assert_eq!(&answer(&ahead, &other), &expected, "{query:?} as {other:?}");
            }
            LocalAnswer::Unknown => {}
        }
        if let Query::ReadDirectory { dir, after, limit } = &query
            && let Some((listed, more)) = self.delegations.list(*dir, after.as_deref(), *limit as usize)
        {
            let Ok(Answer::Directory { entries, more: really }) = expected else { panic!("{expected:?}") };
            assert_eq!(more, really);
            assert_eq!(listed.len(), entries.len(), "{query:?}");
            for (listed, entry) in listed.iter().zip(&entries) {
                assert_eq!((&listed.name, listed.ino), (&entry.name, entry.attr.ino));
                assert!(listed.attr.as_ref().is_none_or(|attr| *attr == entry.attr), "{query:?}");
            }
        }
    }

    fn theirs(&mut self, dice: Dice) {
        // A walk from the root finds more inodes.
        let mut at = self.volume.root;
        for die in [dice.1, dice.2, dice.3] {
            let name = vec![b'a' + die % 4];
            let query = Box::new(Query::Lookup { parent: at, name });
            let framed = Query::As { session: self.sessions[1], query };
            let mut answered: Answered = answer(&self.leader, &framed);
            if let Err(NsError::Delegated { dir, session }) = answered {
                assert_eq!(session, self.sessions[0]);
                self.give_back(dir);
                answered = answer(&self.leader, &framed);
            }
            let Ok(Answer::Attr(attr)) = answered else { break };
            self.meet(1, &Outcome::Attr(attr.clone()));
            assert!(!self.delegations.is_unpublished(attr.ino), "the other has found {}", attr.ino);
            at = attr.ino;
        }
        let command = self.command(1, dice);
        let mut applied = self.send(1, None, command.clone());
        for _ in 0..3 {
            let Err(NsError::Delegated { dir, .. }) = applied else { break };
            self.give_back(dir);
            applied = self.send(1, None, command.clone());
        }
        assert!(!matches!(applied, Err(NsError::Delegated { .. })), "{applied:?}");
        if let Ok(outcome) = &applied {
            self.meet(1, outcome);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_acknowledged_early_is_what_the_leader_says_later(
        two in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        let root = world.volume.root;
        if two {
            // Two delegated directories side by side: inodes move between them.
            for (die, ino) in [(0, 1), (1, 2)] {
                world.ours(world.directory(root, die));
                world.take(world.known[0][ino]);
            }
        } else {
            world.take(root);
        }
        for step in steps {
            match step {
                Step::Take(die) => {
                    let dir = world.some(0, die);
                    world.take(dir);
                }
                Step::Ours(dice) => {
                    let command = world.command(0, dice);
                    world.ours(command);
                }
                Step::Ask(dice) => world.ask(dice),
                Step::Send(count) => world.send_waiting(count.into()),
                Step::Theirs(dice) => world.theirs(dice),
            }
        }
        world.send_waiting(usize::MAX);
        prop_assert_eq!(check(&world.leader), vec![]);
    }
}
