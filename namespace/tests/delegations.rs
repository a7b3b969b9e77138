//! Delegations of directories to one session, and reserved inode numbers.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

mod world;

use rain_namespace::command::*;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query, answer};
use rain_namespace::record::FileKind;
use rain_types::Ino;
use world::*;

fn reserve(world: &mut World, count: u32) -> Ino {
    match world.run(Command::ReserveInos { count }) {
        Ok(Outcome::Reserved { first, .. }) => first,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_delegated_directory_is_its_holders_alone_until_it_is_given_back() {
    let mut world = World::new();
    let Ok(Outcome::Session(other)) =
        world.run(Command::OpenSession { label: "other".into(), caches: false })
    else {
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
    // Other sessions cannot change its names, its attributes, or remove or move it. They can change the file
    // in it.
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
            whiteout: None,
        },
        Command::Rename {
            parent: root,
            name: b"d".to_vec(),
            new_parent: root,
            new_name: b"e".to_vec(),
            mode: RenameMode::Replace,
            whiteout: None,
        },
        Command::RemoveDirectory { parent: root, name: b"d".to_vec() },
        Command::SetAttr { ino: dir, change: AttrChange { mode: Some(0o700), ..AttrChange::default() } },
        Command::SetXattr {
            ino: dir,
            name: b"user.x".to_vec(),
            value: Vec::new(),
            mode: XattrMode::Any,
            clear_set_gid: false,
        },
        Command::Delegate { dir },
    ];
    for (at, command) in commands.into_iter().enumerate() {
        assert_eq!(world.as_session(other, 10 + at as u64, command.clone()), refused, "{command:?}");
    }
    assert_eq!(world.run(make(dir, "g", FileKind::File)), refused, "nor nobody's");
    let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    assert!(world.as_session(other, 30, Command::SetAttr { ino: inside, change }).is_ok());
    assert!(world.as_session(holder, 3, make(dir, "g", FileKind::File)).is_ok());
    // A query about names carries the session that asks.
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
    // A recalled directory still belongs to its holder; a returned one belongs to nobody.
    let held = |world: &World| answer(&world.kv, &Query::Delegations { session: holder });
    assert_eq!(held(&world), Ok(Answer::Delegations(vec![(dir, false)])));
    assert_eq!(answer(&world.kv, &Query::Recalled { limit: 9 }), Ok(Answer::Recalled(vec![])));
    assert_eq!(world.run(Command::Recall { dir }), Ok(Outcome::Done));
    assert_eq!(held(&world), Ok(Answer::Delegations(vec![(dir, true)])));
    assert_eq!(answer(&world.kv, &Query::Recalled { limit: 9 }), Ok(Answer::Recalled(vec![(dir, holder)])));
    assert!(world.as_session(holder, 4, make(dir, "i", FileKind::File)).is_ok());
    assert_eq!(
        world.as_session(other, 31, Command::ReturnDelegations { dirs: vec![dir] }),
        Ok(Outcome::Done)
    );
    assert_eq!(
        answer(&world.kv, &Query::Delegation { dir }),
        Ok(Answer::Delegation(Some(holder))),
        "not theirs to give"
    );
    assert_eq!(
        world.as_session(holder, 5, Command::ReturnDelegations { dirs: vec![dir] }),
        Ok(Outcome::Done)
    );
    assert_eq!(answer(&world.kv, &Query::Delegation { dir }), Ok(Answer::Delegation(None)));
    assert!(world.as_session(other, 32, make(dir, "j", FileKind::File)).is_ok());
    assert_eq!(world.run(Command::Recall { dir }), Ok(Outcome::Done), "nobody has it");
    // A delegation ends with its session, with its directory, and when it is revoked.
    assert!(world.as_session(holder, 6, Command::Delegate { dir }).is_ok());
    assert_eq!(world.run(Command::RevokeDelegation { dir, session: other }), Ok(Outcome::Done));
    assert_eq!(
        answer(&world.kv, &Query::Delegation { dir }),
        Ok(Answer::Delegation(Some(holder))),
        "it is another's"
    );
    assert_eq!(world.run(Command::RevokeDelegation { dir, session: holder }), Ok(Outcome::Done));
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
        Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, .. } => {
            let ino = Some(Ino(number));
            Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino }
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
