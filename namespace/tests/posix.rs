//! ACLs, files without a name, and whiteouts.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

mod world;

use proptest::prelude::*;
use rain_namespace::acl::{ACCESS, Acl, DEFAULT};
use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query, answer};
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use world::*;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;
const NONE: u32 = u32::MAX;

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// An ACL with one named user.
fn named(owner: u16, user: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    let entries = [
        (OWNER, owner, NONE),
        (USER, user, 1000),
        (GROUP, group, NONE),
        (MASK, mask, NONE),
        (OTHERS, others, NONE),
    ];
    acl(&entries)
}

fn set(ino: Ino, name: &[u8], value: Vec<u8>, clear_set_gid: bool) -> Command {
    Command::SetXattr { ino, name: name.to_vec(), value, mode: XattrMode::Any, clear_set_gid }
}

fn mode(mode: u16) -> AttrChange {
    AttrChange { mode: Some(mode), ..AttrChange::default() }
}

fn get(world: &World, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
    match answer(&world.kv, &Query::GetXattr { ino, name: name.to_vec() }) {
        Ok(Answer::Bytes(bytes)) => Some(bytes),
        Err(NsError::NoAttribute) => None,
        other => panic!("{other:?}"),
    }
}

fn made_with(world: &mut World, parent: Ino, kind: FileKind, bits: u16, mask: u16) -> Attr {
    let name = format!("n{}", world.now);
    let mut command = make(parent, &name, kind);
    let Command::Make { mode, umask, .. } = &mut command else { panic!("{command:?}") };
    (*mode, *umask) = (bits, mask);
    world.attr_of(command)
}

fn unnamed(dir: Ino) -> Command {
    Command::MakeUnnamed { dir, mode: 0o666, umask: 0o22, uid: 7, gid: 8 }
}

#[test]
fn an_acl_that_linux_refuses_is_refused() {
    let right =
        [(OWNER, 7, NONE), (USER, 5, 3), (USER, 5, 3), (GROUP, 0, NONE), (MASK, 7, NONE), (OTHERS, 0, NONE)];
    assert!(Acl::parse(&acl(&right)).unwrap().is_some(), "a user may be named twice");
    let plain = [(OWNER, 7, NONE), (GROUP, 0, 5), (OTHERS, 0, NONE)];
    assert!(
        Acl::parse(&acl(&plain)).unwrap().unwrap().is_a_mode(),
        "an id where none belongs is passed over"
    );
    assert_eq!(Acl::parse(&acl(&[])), Ok(None));
    let mut wrong: Vec<Vec<u8>> = vec![vec![], vec![2, 0, 0], acl(&right)[..9].to_vec(), acl(&plain)];
    wrong[3][0] = 1;
    let lists: [&[(u16, u16, u32)]; 8] = [
        &[(OWNER, 7, NONE), (GROUP, 0, NONE)],
        &[(OWNER, 7, NONE), (OWNER, 7, NONE), (GROUP, 0, NONE), (OTHERS, 0, NONE)],
        &[(GROUP, 0, NONE), (OWNER, 7, NONE), (OTHERS, 0, NONE)],
        &[(OWNER, 7, NONE), (USER, 5, 3), (GROUP, 0, NONE), (OTHERS, 0, NONE)],
        &[(OWNER, 7, NONE), (USER, 5, NONE), (GROUP, 0, NONE), (MASK, 7, NONE), (OTHERS, 0, NONE)],
        &[(OWNER, 8, NONE), (GROUP, 0, NONE), (OTHERS, 0, NONE)],
        &[(OWNER, 7, NONE), (GROUP, 0, NONE), (0x40, 0, NONE), (OTHERS, 0, NONE)],
        &[(OWNER, 7, NONE), (GROUP, 0, NONE), (MASK, 7, NONE), (NAMED_GROUP, 1, 2), (OTHERS, 0, NONE)],
    ];
    wrong.extend(lists.map(acl));
    for wrong in wrong {
        assert!(matches!(Acl::parse(&wrong), Err(NsError::Invalid(_))), "{wrong:?}");
    }
}

#[test]
fn an_access_acl_is_the_mode_and_chmod_moves_the_mask() {
    let mut world = World::new();
    let ino = world.made(world.root, "f", FileKind::File);
    world.run(set(ino, ACCESS, named(7, 7, 1, 5, 0), false)).unwrap();
    let attr = world.attr(ino);
    assert_eq!((attr.mode, attr.acl), (0o750, true));
    let changed = world.attr_of(set_attr(ino, mode(0o2624)));
    assert_eq!(changed.mode, 0o2624);
    assert_eq!(get(&world, ino, ACCESS), Some(named(6, 7, 1, 2, 4)), "the owning group keeps its entry");
    world.run(set(ino, ACCESS, named(7, 7, 7, 7, 7), true)).unwrap();
    assert_eq!(world.attr(ino).mode, 0o777, "set-group-id was to be cleared");
    world.run(Command::RemoveXattr { ino, name: ACCESS.to_vec() }).unwrap();
    let attr = world.attr(ino);
    assert_eq!((attr.mode, attr.acl), (0o777, false));
    assert_eq!(world.attr_of(set_attr(ino, mode(0o600))).mode, 0o600);
}

#[test]
fn an_acl_that_is_a_mode_is_not_kept() {
    let mut world = World::new();
    let ino = world.made(world.root, "f", FileKind::File);
    world.run(set(ino, ACCESS, named(7, 7, 7, 7, 7), false)).unwrap();
    let plain = acl(&[(OWNER, 6, NONE), (GROUP, 4, NONE), (OTHERS, 0, NONE)]);
    world.run(set(ino, ACCESS, plain, false)).unwrap();
    assert_eq!((world.attr(ino).mode, get(&world, ino, ACCESS)), (0o640, None));
    world.run(set(ino, ACCESS, named(7, 7, 7, 7, 7), false)).unwrap();
    world.run(set(ino, ACCESS, acl(&[]), false)).unwrap();
    assert_eq!((world.attr(ino).mode, get(&world, ino, ACCESS)), (0o777, None));
}

#[test]
fn only_directories_have_a_default_acl_and_symlinks_have_none() {
    let mut world = World::new();
    let (file, link) =
        (world.made(world.root, "f", FileKind::File), world.made(world.root, "l", FileKind::Symlink));
    let refused = world.run(set(file, DEFAULT, named(7, 7, 7, 7, 7), false));
    assert!(matches!(refused, Err(NsError::NotPermitted(_))));
    assert!(is_invalid(world.run(set(link, ACCESS, named(7, 7, 7, 7, 7), false))));
    assert!(is_invalid(world.run(set(file, ACCESS, vec![1], false))));
}

#[test]
fn what_is_made_inherits_the_default_acl_or_obeys_the_umask() {
    let mut world = World::new();
    let root = world.root;
    assert_eq!(made_with(&mut world, root, FileKind::File, 0o666, 0o27).mode, 0o640);
    assert_eq!(made_with(&mut world, root, FileKind::Symlink, 0o777, 0o27).mode, 0o777);
    assert_eq!(made_with(&mut world, root, FileKind::Directory, 0o7777, 0o777).mode, 0o7000, "0777 only");
    world.run(set(root, DEFAULT, named(7, 6, 5, 7, 1), false)).unwrap();
    assert_eq!(world.attr(root).mode, 0o755, "a default ACL leaves the mode");
    let file = made_with(&mut world, root, FileKind::File, 0o666, 0o777);
    assert_eq!((file.mode, file.acl, file.default_acl), (0o660, true, false));
    assert_eq!(get(&world, file.ino, ACCESS), Some(named(6, 6, 5, 6, 0)));
    let dir = made_with(&mut world, root, FileKind::Directory, 0o777, 0o777);
    assert_eq!((dir.mode, dir.acl, dir.default_acl), (0o771, true, true));
    assert_eq!(get(&world, dir.ino, DEFAULT), Some(named(7, 6, 5, 7, 1)));
    let link = made_with(&mut world, root, FileKind::Symlink, 0o777, 0o777);
    assert_eq!((link.mode, link.acl), (0o777, false));
    let file = world.attr_of(unnamed(root));
    assert_eq!((file.mode, file.nlink, file.acl), (0o660, 0, true));
    let plain = acl(&[(OWNER, 7, NONE), (GROUP, 5, NONE), (OTHERS, 0, NONE)]);
    world.run(set(root, DEFAULT, plain, false)).unwrap();
    let file = made_with(&mut world, root, FileKind::File, 0o666, 0o777);
    assert_eq!((file.mode, file.acl), (0o640, false), "a default ACL that is a mode leaves no access ACL");
}

#[test]
fn a_file_without_a_name_gets_one_unless_it_was_freed() {
    let mut world = World::new();
    let root = world.root;
    world.run(set_attr(root, mode(0o2755))).unwrap();
    let attr = world.attr_of(unnamed(root));
    assert_eq!(
        (attr.nlink, attr.mode, attr.uid, attr.gid),
        (0, 0o644, 7, 0),
        "a set-gid directory passes its group on"
    );
    let unlinked = |world: &World| answer(&world.kv, &Query::UnlinkedFiles { after: None, limit: 9 });
    assert_eq!(unlinked(&world), Ok(Answer::UnlinkedFiles(vec![(attr.ino, false)])));
    world.run(inline(attr.ino, 0, b"abc")).unwrap();
    world.run(Command::Seal { inos: vec![attr.ino] }).unwrap();
    assert_eq!(answer(&world.kv, &Query::Open { ino: attr.ino }), Err(NsError::Stale));
    assert_eq!(world.attr_of(link(attr.ino, root, "f")).nlink, 1);
    assert_eq!(unlinked(&world), Ok(Answer::UnlinkedFiles(vec![])));
    for late in [Command::Seal { inos: vec![attr.ino] }, Command::Free { inos: vec![attr.ino] }] {
        world.run(late).unwrap();
    }
    assert!(answer(&world.kv, &Query::Open { ino: attr.ino }).is_ok(), "it lives on and can be opened");
    assert_eq!(world.layout(attr.ino, 0).0, b"abc");
    world.run(unlink(root, "f")).unwrap();
    assert_eq!(world.run(link(attr.ino, root, "g")), Err(NsError::NotFound), "it had a name");
    let second = world.attr_of(unnamed(root));
    world.run(Command::Free { inos: vec![attr.ino, second.ino] }).unwrap();
    assert_eq!(world.run(link(second.ino, root, "g")), Err(NsError::NotFound));
    assert!(matches!(world.run(unnamed(attr.ino)), Err(NsError::NotFound)));
}

#[test]
fn a_rename_leaves_a_whiteout_in_the_same_step() {
    let mut world = World::new();
    let root = world.root;
    let (a, dir) = (world.made(root, "a", FileKind::File), world.made(root, "d", FileKind::Directory));
    let rename = |from: (Ino, &str), to: (Ino, &str), mode| Command::Rename {
        parent: from.0,
        name: from.1.into(),
        new_parent: to.0,
        new_name: to.1.into(),
        mode,
        whiteout: Some(Whiteout { uid: 3, gid: 4, ino: None }),
    };
    assert!(is_invalid(world.run(rename((root, "a"), (root, "d"), RenameMode::Exchange))));
    assert_eq!(world.run(rename((root, "a"), (root, "d"), RenameMode::NoReplace)), Err(NsError::Exists));
    world.run(rename((root, "a"), (dir, "b"), RenameMode::NoReplace)).unwrap();
    let Ok(Answer::Attr(left)) = answer(&world.kv, &Query::Lookup { parent: root, name: b"a".to_vec() })
    else {
        panic!("nothing is left")
    };
    assert_eq!((left.kind, left.rdev, left.mode, left.uid, left.gid), (FileKind::CharDevice, 0, 0, 3, 4));
    assert_eq!((world.attr(root).size, world.attr(dir).size), (2, 1));
    // A directory within one directory, over another one.
    world.made(root, "e", FileKind::Directory);
    let gone = world.run(rename((root, "d"), (root, "e"), RenameMode::Replace)).unwrap();
    assert!(matches!(gone, Outcome::Renamed { other: Some(_), .. }));
    assert_eq!((world.attr(root).size, world.attr(root).nlink), (3, 3));
    assert_eq!(world.attr(a).nlink, 1);
}

proptest! {
    #[test]
    fn an_acl_is_read_as_it_is_written(
        named in proptest::collection::vec((any::<bool>(), 0u16..8, 0u32..9), 0..6),
        digits in (0u16..8, 0u16..8, 0u16..8, 0u16..8),
        bits in 0u16..0o7777,
    ) {
        let mut entries = vec![(OWNER, digits.0, NONE), (GROUP, digits.1, NONE), (OTHERS, digits.2, NONE)];
        if !named.is_empty() {
            entries.push((MASK, digits.3, NONE));
        }
        entries.extend(named.iter().map(|(user, has, id)| (if *user { USER } else { NAMED_GROUP }, *has, *id)));
        entries.sort_by_key(|entry| entry.0);
        let bytes = acl(&entries);
        let mut read = Acl::parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(read.encode(), bytes);
        let before = read.mode();
        let mode = read.clone().inherit(bits);
        prop_assert_eq!(mode, bits & (before | !0o777), "what is inherited has no more than both");
        read.change_mode(bits);
        prop_assert_eq!(read.mode(), bits & 0o777);
    }
}
