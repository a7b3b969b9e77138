//! Compares the bytes of everything that is sent or stored, one value of each type, with `golden.txt`.
//!
//! If this test fails, old logs and stores would be misread. Append variants and lines only. A changed line
//! needs a new version byte and code that reads the old form.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::key;
use rain_namespace::lock::*;
use rain_namespace::query::*;
use rain_namespace::record::*;
use rain_namespace::wire::{decode, encode};
use rain_types::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::{Debug, Write};

const GOLDEN: &str = include_str!("golden.txt");

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        writeln!(self.0, "{name} {hex}").unwrap();
    }

    /// Adds a line for a value, and checks that the value decodes to itself.
    fn value<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, kind: &str, value: T) {
        let bytes = encode(&value);
        let debug = format!("{value:?}");
        let variant: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
        let inner: String = match debug.strip_prefix("Err(").or(debug.strip_prefix("Ok(")) {
            Some(rest) => rest.chars().take_while(char::is_ascii_alphanumeric).collect(),
            None => String::new(),
        };
        self.bytes(&format!("{kind}.{variant}{inner}"), &bytes);
        assert_eq!(decode::<T>(&bytes), Ok(value));
    }
}

const TIME: Time = Time { secs: -5, nanos: 999_999_999 };
const BLOCK: BlockId = BlockId { session: SessionId(300), seq: 2 };
const SHARES: SharesOf = SharesOf { block: BLOCK, group: GroupId(4), bits: 0b101 };
const CODE: CodeSpec = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
const INO: Ino = Ino(1 << 48 | 77);

const LOCK: Lock =
    Lock { kind: LockKind::Flock, owner: u64::MAX, exclusive: true, first: 1, last: 1 << 33, pid: 300 };

fn attr() -> Attr {
    Attr {
        ino: INO,
        volume: VolumeId(3),
        kind: FileKind::Symlink,
        mode: 0o6755,
        uid: 1000,
        gid: 1001,
        nlink: 2,
        size: 1 << 40,
        stored_bytes: 4097,
        rdev: 5,
        atime: TIME,
        mtime: Time { secs: 1, nanos: 2 },
        ctime: Time { secs: 3, nanos: 4 },
        crtime: Time { secs: 5, nanos: 6 },
        version: 7,
        parent: Ino(8),
        extents: 9,
        acl: true,
        default_acl: true,
    }
}

fn volume() -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(3),
        name: "home".into(),
        code: CODE,
        root: Ino(1),
        groups: vec![
            Group { slot: 0, nodes: vec![NodeId(1), NodeId(300)] },
            Group { slot: 300, nodes: vec![NodeId(2)] },
        ],
        inodes: 10,
        stored_bytes: 20,
        created: TIME,
    }
}

fn block() -> BlockRecord {
    BlockRecord { volume: VolumeId(3), group: GroupId(4), len: 1 << 20, live: 1000, missing: 0b10 }
}

fn garbage() -> GarbageRecord {
    GarbageRecord { volume: VolumeId(3), group: GroupId(4), remaining: 0b11_1111 }
}

fn extent() -> Extent {
    Extent { offset: 1 << 33, len: 5, block: BLOCK, block_offset: 6, block_len: 700, group: GroupId(4) }
}

fn node() -> NodeRecord {
    NodeRecord {
        id: NodeId(300),
        address: "h:1".into(),
        domain: "rack".into(),
        weight: 2,
        joined: TIME,
        witness: false,
        folder: "f0".into(),
        draining: true,
        others: vec!["h:2".into()],
    }
}

fn session() -> SessionRecord {
    SessionRecord { id: SessionId(300), label: "mount".into(), opened: TIME, done_below: 5, caches: true }
}

fn records(lines: &mut Lines) {
    lines.value("record", attr());
    lines.value("record", extent());
    lines.value("record", block());
    lines.value("record", garbage());
    lines.value("record", volume());
    lines.value("record", node());
    lines.value("record", session());
    let wanted = SessionLock { session: SessionId(300), lock: LOCK };
    let locks = LockRecord { held: vec![wanted], waiting: vec![Waiting { ticket: 300, wanted }] };
    lines.value("record", locks);
    lines.value("record", UnlinkedRecord { sealed: true, never_named: false });
    lines.value("record", DelegationRecord { session: SessionId(300), recalled: true });
    lines.value("record.entry", (INO, Directory));
    lines.value("record.counts", (10u64, 20u64));
    lines.value("record.counter", 300u64);
    use FileKind::*;
    for kind in [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice] {
        lines.value("kind", kind);
    }
    for code in [CodeSpec { codec: Codec::Rs, k: 4, m: 2 }, CODE] {
        lines.bytes(&format!("code.{}", code.codec), &encode(&code));
        assert_eq!(decode(&encode(&code)), Ok(code));
    }
}

fn name() -> Vec<u8> {
    b"name".to_vec()
}

fn commands() -> Vec<Command> {
    let change = AttrChange {
        mode: Some(0o644),
        uid: Some(1),
        gid: Some(2),
        size: Some(3),
        atime: Some(TimeChange::Now),
        mtime: Some(TimeChange::At(TIME)),
    };
    let rename = |mode| Command::Rename {
        parent: INO,
        name: name(),
        new_parent: Ino(2),
        new_name: b"new".to_vec(),
        mode,
        whiteout: None,
    };
    let xattr =
        |mode| Command::SetXattr { ino: INO, name: name(), value: vec![1, 2], mode, clear_set_gid: true };
    vec![
        Command::RegisterNode {
            id: NodeId(300),
            node: NodeSpec {
                address: "h:1".into(),
                domain: "rack".into(),
                weight: 2,
                witness: true,
                folder: "f0".into(),
                others: vec!["h:2".into()],
            },
        },
        Command::CreateVolume { name: "home".into(), code: CODE, groups: 128, uid: 1, gid: 2, mode: 0o755 },
        Command::OpenSession { label: "mount".into(), caches: true },
        Command::EndSession { session: SessionId(300) },
        Command::Make {
            parent: INO,
            name: name(),
            kind: FileKind::Symlink,
            mode: 0o777,
            umask: 0o22,
            uid: 1,
            gid: 2,
            rdev: 3,
            target: b"to".to_vec(),
            or_existing: true,
            ino: Some(INO),
        },
        Command::Link { ino: INO, parent: Ino(2), name: name() },
        Command::Unlink { parent: INO, name: name() },
        Command::RemoveDirectory { parent: INO, name: name() },
        rename(RenameMode::Replace),
        rename(RenameMode::NoReplace),
        rename(RenameMode::Exchange),
        Command::Rename {
            parent: INO,
            name: name(),
            new_parent: Ino(2),
            new_name: b"new".to_vec(),
            mode: RenameMode::Replace,
            whiteout: Some(Whiteout { uid: 1, gid: 2, ino: Some(INO) }),
        },
        Command::SetAttr { ino: INO, change },
        Command::SetAttr { ino: INO, change: AttrChange::default() },
        xattr(XattrMode::Any),
        xattr(XattrMode::Create),
        xattr(XattrMode::Replace),
        Command::RemoveXattr { ino: INO, name: name() },
        Command::Commit {
            ino: INO,
            blocks: vec![NewBlock { id: BLOCK, group: GroupId(4), len: 700, missing: 0b10 }],
            extents: vec![NewExtent { offset: 1 << 33, len: 5, block: 0, block_offset: 6 }],
            inline: vec![InlinePiece { offset: 9, data: vec![1, 2, 3] }],
            size_at_least: 1 << 34,
            mtime: Some(TIME),
        },
        Command::Punch { ino: INO, offset: 1, len: 2 },
        Command::Free { inos: vec![INO] },
        Command::MarkMissing { shares: vec![SHARES] },
        Command::MarkPresent { shares: vec![SHARES] },
        Command::Reclaimed { shares: vec![(BLOCK, 0b101)] },
        Command::RemoveNode { id: NodeId(300) },
        Command::Lock { ino: INO, lock: LOCK, ticket: Some(300) },
        Command::Lock { ino: INO, lock: Lock { kind: LockKind::Record, ..LOCK }, ticket: None },
        Command::Unlock { ino: INO, lock: Lock { kind: LockKind::Either, exclusive: false, ..LOCK } },
        Command::CancelLockWait { ino: INO, ticket: 300 },
        Command::Seal { inos: vec![INO] },
        Command::Delegate { dir: INO },
        Command::Recall { dir: INO },
        Command::ReturnDelegations { dirs: vec![INO] },
        Command::RevokeDelegation { dir: INO, session: SessionId(300) },
        Command::ReserveInos { count: 300 },
        Command::CloneRange { from: INO, offset: 1, len: 2, to: Ino(3), to_offset: 300, mtime: Some(TIME) },
        Command::Guarded {
            ino: INO,
            name: name(),
            value: Some(vec![1]),
            command: Box::new(Command::RemoveXattr { ino: INO, name: name() }),
        },
        Command::SetDraining { id: NodeId(300), draining: true },
        Command::Regroup { volume: VolumeId(3) },
        Command::MoveBlocks { blocks: vec![MovedBlock { id: BLOCK, from: GroupId(4), to: GroupId(300) }] },
        Command::MakeUnnamed { dir: INO, mode: 0o600, umask: 0o22, uid: 1, gid: 2 },
        Command::IfNamed {
            names: vec![
                Known { parent: INO, name: name(), ino: Some(Ino(2)) },
                Known { parent: INO, name: name(), ino: None },
            ],
            command: Box::new(Command::Unlink { parent: INO, name: name() }),
        },
    ]
}

fn results(lines: &mut Lines) {
    let lock = |state| Outcome::Lock { session: SessionId(300), state, attr: attr() };
    let outcomes = [
        Outcome::Done,
        Outcome::Attr(attr()),
        Outcome::Removed { ino: INO, last_name_gone: true },
        Outcome::Session(SessionId(300)),
        Outcome::Volume(VolumeId(3)),
        Outcome::Node(NodeId(300)),
        lock(LockState::Granted),
        lock(LockState::Waiting),
        lock(LockState::Held),
        Outcome::Reserved { first: INO, count: 300 },
        Outcome::Renamed { moved: INO, other: Some(Ino(3)), last_name_gone: true },
        Outcome::Cloned { attr: attr(), len: 300 },
    ];
    for outcome in outcomes {
        lines.value::<Applied>("applied", Ok(outcome));
    }
    let errors = [
        NsError::NotFound,
        NsError::Exists,
        NsError::NotDirectory,
        NsError::IsDirectory,
        NsError::NotEmpty,
        NsError::NameTooLong { bytes: 300, limit: 255 },
        NsError::Invalid("why".into()),
        NsError::Stale,
        NsError::NotInline,
        NsError::NoAttribute,
        NsError::AttributesTooLarge,
        NsError::TooManyLinks,
        NsError::FileTooLarge,
        NsError::SessionEnded(SessionId(300)),
        NsError::TooFewNodes { code: "rs 4+2".into(), needed: 6, have: 3 },
        NsError::NotPermitted("why".into()),
        NsError::CrossVolume,
        NsError::Malformed("why".into()),
        NsError::Answered(7),
        NsError::Deadlock,
        NsError::TooManyLocks,
        NsError::Delegated { dir: INO, session: SessionId(300) },
        NsError::HasInline,
        NsError::GuardFailed,
        NsError::NameChanged,
    ];
    for error in errors {
        lines.value::<Applied>("applied", Err(error));
    }
}

fn queries() -> Vec<Query> {
    vec![
        Query::Lookup { parent: INO, name: name() },
        Query::GetAttr { ino: INO },
        Query::Layout { ino: INO, from: 1 << 33, limit: 5 },
        Query::ReadLink { ino: INO },
        Query::ReadDirectory { dir: INO, after: Some(name()), limit: 5 },
        Query::GetXattr { ino: INO, name: name() },
        Query::ListXattr { ino: INO },
        Query::Volume { name: "home".into() },
        Query::Volumes,
        Query::Nodes,
        Query::Sessions,
        Query::Missing { after: Some((130, BLOCK)), limit: 5 },
        Query::Garbage { after: Some(BLOCK), limit: 5 },
        Query::Blocks { ids: vec![BLOCK] },
        Query::Session { session: SessionId(300) },
        Query::Totals,
        Query::VolumeById { id: VolumeId(3) },
        Query::UnlinkedFiles { after: Some(INO), limit: 5 },
        Query::Ticket { ino: INO, session: SessionId(300), ticket: 300 },
        Query::Conflict { ino: INO, session: SessionId(300), lock: LOCK },
        Query::Open { ino: INO },
        Query::As { session: SessionId(300), query: Box::new(Query::GetAttr { ino: INO }) },
        Query::Delegation { dir: INO },
        Query::Delegations { session: SessionId(300) },
        Query::Recalled { limit: 5 },
        Query::Strays { after: Some((VolumeId(3), GroupId(4), BLOCK)), limit: 5 },
        Query::GroupsWith { node: NodeId(300) },
    ]
}

fn answers() -> Vec<Answer> {
    let totals = Totals {
        blocks: 1,
        blocks_missing: 2,
        shares_missing: 3,
        blocks_without_margin: 4,
        garbage: 500,
        places: 600,
    };
    vec![
        Answer::Attr(attr()),
        Answer::Layout { attr: attr(), inline: vec![1], extents: vec![extent()], more: true },
        Answer::Bytes(vec![1, 2]),
        Answer::Directory { entries: vec![DirectoryEntry { name: name(), attr: attr() }], more: false },
        Answer::Names(vec![name()]),
        Answer::Volumes(vec![volume()]),
        Answer::Nodes(vec![node()]),
        Answer::Sessions(vec![session()]),
        Answer::Blocks(vec![BlockEntry { id: BLOCK, record: block() }]),
        Answer::Garbage(vec![(BLOCK, garbage())]),
        Answer::Totals(totals),
        Answer::UnlinkedFiles(vec![(INO, true)]),
        Answer::Ticket { waiting: true, attr: attr() },
        Answer::Conflict(Some((SessionId(300), LOCK))),
        Answer::Delegation(Some(SessionId(300))),
        Answer::Delegations(vec![(INO, true)]),
        Answer::Recalled(vec![(INO, SessionId(300))]),
        Answer::Groups(300),
    ]
}

fn keys(lines: &mut Lines) {
    let request = RequestId { session: SessionId(300), seq: 2 };
    let keys = [
        ("inode", key::inode(INO)),
        ("entry", key::entry(INO, b"name")),
        ("extent", key::extent(INO, 1 << 33)),
        ("inline", key::inline(INO)),
        ("target", key::target(INO)),
        ("xattr", key::xattr(INO, b"name")),
        ("unlinked", key::unlinked(INO)),
        ("locks", key::locks(INO)),
        ("locked_by", key::locked_by(SessionId(300), INO)),
        ("delegation", key::delegation(INO)),
        ("delegated_to", key::delegated_to(SessionId(300), INO)),
        ("block", key::block(BLOCK)),
        ("in_group", key::in_group(VolumeId(3), GroupId(4), BLOCK)),
        ("missing", key::missing(129, BLOCK)),
        ("garbage", key::garbage(BLOCK)),
        ("volume", key::volume(VolumeId(3))),
        ("volume_counts", key::volume_counts(VolumeId(3))),
        ("volume_name", key::volume_name("home")),
        ("node", key::node(NodeId(300))),
        ("session", key::session(SessionId(300))),
        ("result", key::result(request)),
        ("counter", key::counter("next-ino")),
    ];
    for (name, key) in keys {
        lines.bytes(&format!("key.{name}"), &key);
    }
}

#[test]
fn every_encoding_is_the_one_that_old_logs_and_stores_hold() {
    let mut lines = Lines::default();
    keys(&mut lines);
    records(&mut lines);
    for command in commands() {
        lines.value("command", command);
    }
    let id = Some(RequestId { session: SessionId(300), seq: 2 });
    let request = Request {
        id,
        done_below: 1,
        time: Some(TIME),
        command: Command::Punch { ino: INO, offset: 1, len: 2 },
    };
    lines.value("entry", Entry { time: TIME, requests: vec![request.clone()] });
    lines.value("request", request);
    results(&mut lines);
    for query in queries() {
        lines.value("query", query);
    }
    for answer in answers() {
        lines.value::<Answered>("answered", Ok(answer));
    }
    let nodes: Vec<NodeRecord> =
        (1..=5).map(|id| NodeRecord { id: NodeId(id), weight: id, ..node() }).collect();
    lines.value("placement", rain_namespace::placement::plan_groups(VolumeId(3), 3, &nodes, 4));
    for (now, golden) in lines.0.lines().zip(GOLDEN.lines()) {
        assert_eq!(now, golden);
    }
    assert_eq!(lines.0, GOLDEN, "lines are missing from golden.txt, or too many");
}
