//! A short form of `cargo xtask sim ring`, and that a seed means what it says.

use rain_sim::ring;
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
