//! The namespace under Raft, simulated. `cargo xtask sim namespace` runs more seeds, and checks that a seed
//! gives the same run again.

use rain_sim::names;

#[test]
fn every_reply_has_an_order_and_all_nodes_agree_whatever_loses_power() {
    let (mut done, mut losses) = (0, 0);
    for seed in 0..150 {
        let run = names::run(seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        done += run.done;
        losses += run.power_losses;
    }
    assert!(done > 20_000 && losses > 200, "{done} operations, {losses} power losses");
}

#[test]
fn disks_that_say_durable_too_early_are_found_out() {
    let caught = (0..40).filter(|seed| names::run_on_lying_disks(*seed).is_err()).count();
    assert!(caught >= 4, "only {caught} of 40");
}

#[test]
fn a_leader_whose_disk_hangs_is_replaced() {
    for seed in 0..20 {
        let took = names::leaders_disk_hangs(seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert!(took < std::time::Duration::from_secs(4), "seed {seed}: {took:?}");
    }
}
