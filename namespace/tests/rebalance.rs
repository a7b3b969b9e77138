//! Nodes that are added, drained and removed, and the blocks that move with them.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

mod world;

use rain_namespace::command::*;
use rain_namespace::delegation::{DelegationSet, LocalAnswer};
use rain_namespace::error::NsError;
use rain_namespace::placement::moving;
use rain_namespace::query::{Answer, BlockEntry, Query, answer};
use rain_namespace::record::{FileKind, Time, VolumeRecord};
use rain_types::{BlockId, GroupId, Ino, NodeId, VolumeId};
use world::*;

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
    // Registered again, and from another address: the same node.
    assert_eq!(world.run(register(0, node("a", 2))), Ok(Outcome::Node(NodeId(65))));
    assert_eq!(world.run(register(65, node("a", 3))), Ok(Outcome::Node(NodeId(65))));
    // Another folder at the node's address or with its number is another node.
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

impl World {
    fn volume_record(&self) -> VolumeRecord {
        match answer(&self.kv, &Query::VolumeById { id: VolumeId(1) }) {
            Ok(Answer::Volumes(volumes)) => volumes[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn strays(&self, after: Option<&BlockEntry>, limit: u32) -> Vec<BlockEntry> {
        let after = after.map(|entry| (entry.record.volume, entry.record.group, entry.id));
        match answer(&self.kv, &Query::Strays { after, limit }) {
            Ok(Answer::Blocks(blocks)) => blocks,
            other => panic!("{other:?}"),
        }
    }

    fn groups_with(&self, node: NodeId) -> u64 {
        match answer(&self.kv, &Query::GroupsWith { node }) {
            Ok(Answer::Groups(groups)) => groups,
            other => panic!("{other:?}"),
        }
    }

    fn block(&self, id: BlockId) -> BlockEntry {
        match answer(&self.kv, &Query::Blocks { ids: vec![id] }) {
            Ok(Answer::Blocks(blocks)) => blocks[0].clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_that_leaves_can_go_when_its_blocks_have_moved() {
    let mut world = World::new();
    let file = world.made(world.root, "f", FileKind::File);
    world.commit(file, 1, &[(0, 1000), (1000, 1000), (2000, 1000)], 0b1).unwrap();
    let before = world.volume_record();
    let leaver = before.nodes_of(GroupId(1)).unwrap()[0];
    assert_eq!(world.run(Command::Regroup { volume: VolumeId(1) }), Ok(Outcome::Done));
    assert_eq!(world.volume_record(), before, "all is where it should be");
    world.run(Command::SetDraining { id: leaver, draining: true }).unwrap();
    assert!(is_invalid(world.run(Command::RemoveNode { id: leaver })));
    assert_eq!(world.run(Command::Regroup { volume: VolumeId(1) }), Ok(Outcome::Done));
    let record = world.volume_record();
    let to = record.open_of(GroupId(1)).unwrap();
    let nodes = |group| record.nodes_of(group).unwrap();
    assert_ne!(to, GroupId(1));
    assert_eq!(moving(nodes(GroupId(1)), nodes(to)), 0b1);
    assert!(!nodes(to).contains(&leaver));
    assert_eq!(world.groups_with(leaver), 1, "the closed group has blocks");
    assert!(is_invalid(world.run(Command::RemoveNode { id: leaver })));

    // Pages of two; the second page starts after the last block of the first.
    let first = world.strays(None, 2);
    let second = world.strays(first.last(), 2);
    assert_eq!((first.len(), second.len()), (2, 1));
    let id = first[0].id;
    let moved = |from, to| Command::MoveBlocks { blocks: vec![MovedBlock { id, from, to }] };
    // Refused: to its own group, to a group of another slot, to a group that does not exist, and from a wrong
    // group.
    for (from, to) in
        [(GroupId(1), GroupId(1)), (GroupId(1), GroupId(0)), (GroupId(1), GroupId(99)), (to, to)]
    {
        assert_eq!(world.run(moved(from, to)), Ok(Outcome::Done));
        assert_eq!(world.block(id), first[0]);
    }
    world.run(moved(GroupId(1), to)).unwrap();
    assert_eq!(
        (world.block(id).record.group, world.block(id).record.missing),
        (to, 0),
        "the share was made there"
    );
    assert_eq!(world.layout(file, 0).1[0].group, to, "readers are told the group of now");

    // A report that names the block's old group is ignored.
    let shares = vec![SharesOf { block: id, group: GroupId(1), bits: 0b111 }];
    world.run(Command::MarkMissing { shares }).unwrap();
    assert_eq!(world.block(id).record.missing, 0);

    let blocks =
        world.strays(None, 9).iter().map(|entry| MovedBlock { id: entry.id, from: GroupId(1), to }).collect();
    world.run(Command::MoveBlocks { blocks }).unwrap();
    assert_eq!((world.strays(None, 9), world.groups_with(leaver)), (vec![], 0));
    assert_eq!(world.totals().shares_missing, 0);
    world.run(Command::RemoveNode { id: leaver }).unwrap();

    // A mount that does not know the new group yet writes to the closed one. That is allowed; the block moves
    // again.
    world.commit(file, 9, &[(0, 1000)], 0b1).unwrap();
    assert_eq!(world.strays(None, 9).len(), 1);
}

#[test]
fn a_node_stays_where_there_are_too_few_others_and_until_it_leaves_after_all() {
    let mut world = World::new();
    for id in 4..=64 {
        world.run(Command::SetDraining { id: NodeId(id), draining: true }).unwrap();
    }
    let regroup = Command::Regroup { volume: VolumeId(1) };
    world.run(regroup.clone()).unwrap();
    let record = world.volume_record();
    assert!(record.open_groups().iter().all(|group| {
        let mut nodes = record.nodes_of(*group).unwrap().to_vec();
        nodes.sort_unstable();
        nodes == [NodeId(1), NodeId(2), NodeId(3)]
    }));
    world.run(Command::SetDraining { id: NodeId(3), draining: true }).unwrap();
    let refused = world.run(regroup.clone());
    assert_eq!(refused, Err(NsError::TooFewNodes { code: code(2, 1).to_string(), needed: 3, have: 2 }));
    assert!(is_invalid(world.run(Command::RemoveNode { id: NodeId(3) })));
    let places = world.totals().places;
    world.run(Command::SetDraining { id: NodeId(3), draining: true }).unwrap();
    assert_eq!(world.totals().places, places, "nothing new");
    world.run(Command::SetDraining { id: NodeId(3), draining: false }).unwrap();
    assert_eq!(world.totals().places, places + 1);
    world.run(regroup).unwrap();
    assert_eq!(world.volume_record(), record);
    assert_eq!(world.run(Command::SetDraining { id: NodeId(99), draining: true }), Err(NsError::NotFound));
}

#[test]
fn who_holds_a_directory_asks_where_blocks_are_that_may_have_moved() {
    let mut world = World::new();
    let mut delegations = DelegationSet::default();
    delegations.add_directory(&world.volume_record(), &world.attr(world.root), [], []);
    let ino = Some(Ino(77));
    let Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, .. } =
        make(world.root, "f", FileKind::File)
    else {
        unreachable!()
    };
    let make = Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino };
    let file = Ino(77);
    delegations.apply_locally(Time { secs: 1, nanos: 0 }, &make).expect("made here");
    let id = BlockId { session: world.session, seq: 1 };
    let commit = Command::Commit {
        ino: file,
        blocks: vec![NewBlock { id, group: GroupId(1), len: 1000, missing: 0 }],
        extents: vec![NewExtent { offset: 0, len: 1000, block: 0, block_offset: 0 }],
        inline: vec![],
        size_at_least: 0,
        mtime: None,
    };
    delegations.apply_locally(Time { secs: 2, nanos: 0 }, &commit).expect("committed here");
    let layout = Query::Layout { ino: file, from: 0, limit: 9 };
    assert!(matches!(delegations.answer(&layout), LocalAnswer::Complete(Ok(Answer::Layout { .. }))));
    let leaver = world.volume_record().nodes_of(GroupId(1)).unwrap()[0];
    world.run(Command::SetDraining { id: leaver, draining: true }).unwrap();
    world.run(Command::Regroup { volume: VolumeId(1) }).unwrap();
    delegations.update_volume(&world.volume_record());
    assert_eq!(delegations.answer(&layout), LocalAnswer::Unknown);
    assert!(matches!(delegations.answer(&Query::GetAttr { ino: file }), LocalAnswer::Complete(_)));
}

#[test]
fn a_new_node_may_be_where_one_is_that_leaves() {
    let mut world = World::new();
    let register = |folder: &str| {
        let node =
            NodeSpec { address: "h2:1".into(), weight: 1, folder: folder.into(), ..NodeSpec::default() };
        Command::RegisterNode { id: NodeId(0), node }
    };
    assert!(is_invalid(world.run(register("new"))), "node 2 is there");
    world.run(Command::SetDraining { id: NodeId(2), draining: true }).unwrap();
    assert_eq!(world.run(register("new")), Ok(Outcome::Node(NodeId(65))));
    let Ok(Answer::Nodes(nodes)) = answer(&world.kv, &Query::Nodes) else { panic!() };
    let at: Vec<_> = nodes.iter().filter(|node| node.address == "h2:1").map(|node| node.id).collect();
    assert_eq!(at, [NodeId(65)]);
    assert_eq!(nodes[1].address, "");
    // The node may come back at another address.
    let node = NodeSpec { address: "h99:1".into(), weight: 1, ..NodeSpec::default() };
    world.run(Command::RegisterNode { id: NodeId(2), node }).unwrap();
    let Ok(Answer::Nodes(nodes)) = answer(&world.kv, &Query::Nodes) else { panic!() };
    assert_eq!((nodes[1].address.as_str(), nodes[1].draining), ("h99:1", true));
}

#[test]
fn a_new_node_is_given_its_part() {
    let mut world = World::new();
    let before = world.volume_record();
    for id in 65..=128 {
        let node = NodeSpec { address: format!("h{id}:1"), weight: 9, ..NodeSpec::default() };
        world.run(Command::RegisterNode { id: NodeId(id), node }).unwrap();
    }
    world.run(Command::Regroup { volume: VolumeId(1) }).unwrap();
    let after = world.volume_record();
    assert_eq!(after.groups[..before.groups.len()], before.groups, "groups never change");
    assert!(after.closed_groups().len() >= 3, "heavy nodes win most groups of four");
    assert_eq!(after.open_groups().len(), 4);
}
