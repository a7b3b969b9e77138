//! A short form of `cargo xtask sim ring`, and single faults of the ring.

use rain_ring::{Bytes, Change, Detection, Input};
use rain_sim::ring;
use rain_sim::world::{World, WorldOptions};
use std::time::Duration;

#[test]
fn two_hundred_seeds_of_chaos_hold() {
    let failed: Vec<String> = (0..200)
        .filter_map(|seed| Some((seed, ring::run(seed, false).err()?)))
        .map(|(seed, failure)| format!("cargo xtask sim ring --seed {seed} --trace: {}", failure.what))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 17, 40] {
        let [first, second] = [0, 1].map(|_| format!("{:?}", ring::run(seed, false)));
        assert_eq!(first, second);
    }
}

#[test]
fn six_nodes_see_a_kill_in_150_ms_and_a_silent_cut_in_300() {
    let row = ring::table_row(6, 20).expect("it holds");
    eprintln!("{row:?}");
    assert!(row.killed_out < Duration::from_millis(150), "{row:?}");
    assert!(row.cut_out < Duration::from_millis(300), "{row:?}");
    assert!(row.rejoined_in < Duration::from_secs(1) && row.merged_in < Duration::from_secs(2), "{row:?}");
}

/// Figure (c) of the paper: the link between two nodes is broken, and all other links work.
#[test]
fn a_broken_link_excludes_nobody_under_conservative_detection() {
    for seed in 0..20 {
        let mut options = WorldOptions::quiet(4);
        options.settings.detection = Detection::Conservative;
        let mut world = World::new(seed, options);
        world.run_until(Duration::from_secs(5), World::is_agreed).expect("holds");
        world.cut(0, 1, true);
        world.cut(1, 0, true);
        world.run_for(Duration::from_secs(2)).expect("holds");
        let few = |world: &World| {
            world.alive().iter().any(|node| node.view().is_none_or(|view| view.members.len() != 4))
        };
        let excluded = world.run_until(world.now + Duration::from_secs(5), few).expect("holds");
        assert_eq!(
            excluded, None,
            "seed {seed}: somebody was excluded though all reach each other by way of others"
        );
    }
}

#[test]
fn aggressive_detection_lets_a_node_behind_a_broken_link_come_back() {
    for seed in 0..20 {
        let mut world = World::new(seed, WorldOptions::quiet(4));
        world.run_until(Duration::from_secs(5), World::is_agreed).expect("holds");
        world.cut(0, 1, true);
        world.cut(1, 0, true);
        world.run_for(Duration::from_secs(1)).expect("holds");
        let back = world.run_until(world.now + Duration::from_secs(5), World::is_agreed).expect("holds");
        assert!(back.is_some(), "seed {seed}: no view of all");
    }
}

/// The token excludes: of all nodes that want the master lock one has it at a time, and its fences only grow.
#[test]
fn the_master_lock_is_one_nodes_at_a_time() {
    let mut world = World::new(5, WorldOptions::quiet(5));
    world.run_until(Duration::from_secs(5), World::is_agreed).expect("holds");
    for _ in 0..40 {
        for at in 0..5 {
            world.tell(at, Input::AcquireMaster);
        }
        world.run_for(Duration::from_millis(120)).expect("holds");
        for at in 0..5 {
            world.tell(at, Input::ReleaseMaster);
        }
    }
    let masters = &world.seen.masters;
    assert!(masters.len() >= 20, "{} grants of the master lock", masters.len());
    assert!(masters.windows(2).all(|pair| pair[0] < pair[1]), "fences grow: {masters:?}");
    assert!(!world.seen.two_masters, "two nodes had the master lock at once");
}

/// Raincore's data manager over the simulated network: all nodes change locks, items and transactions at once
/// and end with the same data.
#[test]
fn shared_data_is_the_same_everywhere_in_the_end() {
    let mut world = World::new(9, WorldOptions::quiet(5));
    world.run_until(Duration::from_secs(5), World::is_agreed).expect("holds");
    let key = |at: usize| format!("item {at}");
    for round in 0..30u8 {
        for at in 0..5 {
            let value = Bytes(vec![round, at as u8]);
            world.submit(at, Change::Create { key: key(at), value: value.clone() });
            let write = Change::Write { key: key((at + 1) % 5), value };
            world.submit(at, Change::Transaction(vec![write, Change::CreateLock { name: key(at) }]));
            world.submit(at, Change::Lock { name: key(0) });
        }
        world.run_for(Duration::from_millis(70)).expect("holds");
        if round == 10 {
            world.kill(3);
        }
        if round == 20 {
            world.start(3);
        }
    }
    world.run_for(Duration::from_secs(2)).expect("holds");
    let mirrors: Vec<_> = world.alive().iter().map(|node| node.shared().clone()).collect();
    assert_eq!(mirrors.len(), 5);
    assert!(
        mirrors[0].items().len() == 5 && mirrors[0].lock(&key(0)).is_some_and(|lock| lock.owner.is_some())
    );
    assert!(mirrors.iter().all(|mirror| *mirror == mirrors[0]));
}
