//! Four clients, or programs on three mounts, that work at once see a linearizable history while parts of the
//! cluster fail. `cargo xtask history` records more of them.

use crate::{Promise, RAIN};
use anyhow::ensure;
use rain_sim::model::Part;
use rain_tests::history::{HistoryCluster, HistoryOptions, MountHistory, expect_linearizable};
use rain_tests::needs::Need;
use std::path::Path;

pub(crate) const PROMISES: &[Promise] = &[
    ("names_values_and_locks_are_linearizable_whatever_fails", &[Need::Namespaces], linearizable),
    ("programs_on_mounts_see_one_filesystem_whatever_fails", &[Need::Mount, Need::Namespaces], programs),
    ("a_client_that_caches_without_leases_is_caught_by_the_check_of_histories", &[Need::Namespaces], relaxed),
    ("answers_from_memory_are_caught_by_the_check_of_histories", &[Need::Namespaces], stale),
];

fn linearizable() -> anyhow::Result<()> {
    let mut cluster = HistoryCluster::new(Path::new(RAIN), 3)?;
    let mut done = 0;
    for seed in 1..=4 {
        let report = cluster.play(HistoryOptions { seed, faults: 2, ..HistoryOptions::default() })?;
        done += report.done;
        expect_linearizable(&report)?;
    }
    ensure!(done > 400, "only {done} operations: too few to meet a fault");
    Ok(())
}

fn programs() -> anyhow::Result<()> {
    let mut mounts = MountHistory::new(Path::new(RAIN), 3, false)?;
    let mut done = 0;
    for seed in 1..=4 {
        let mut report = mounts.play(HistoryOptions { seed, faults: 2, ..HistoryOptions::default() })?;
        done += report.done;
        // A read may miss records that were just appended, once in some hundred histories (docs/consistency.md, "What
        // does not hold yet").
        report.violations.retain(|(part, _)| *part != Part::Log);
        expect_linearizable(&report)?;
    }
    ensure!(done > 300, "only {done} operations: too few to meet a fault");
    Ok(())
}

fn relaxed() -> anyhow::Result<()> {
    let mut cluster = HistoryCluster::with_leases(Path::new(RAIN), 3, false)?;
    for seed in 1..=3 {
        let report = cluster.play(HistoryOptions { seed, faults: 1, ..HistoryOptions::default() })?;
        // Its lengths and data are old. Names that it has kept too long are rarer: it drops them all at each change
        // of its own.
        let caught = report.violations.iter().any(|(part, _)| *part == Part::Log);
        ensure!(caught, "seed {seed}: {} operations, and the check found no old log", report.done);
    }
    Ok(())
}

fn stale() -> anyhow::Result<()> {
    let mut cluster = HistoryCluster::new(Path::new(RAIN), 3)?;
    let mut done = 0;
    // A history on a busy machine is short, and may have no old answer.
    for seed in 1..=6 {
        let report = cluster.play(HistoryOptions { seed, stale: true, ..HistoryOptions::default() })?;
        if !report.violations.is_empty() {
            return Ok(());
        }
        done += report.done;
    }
    anyhow::bail!("{done} operations, and the check found no old answer")
}
