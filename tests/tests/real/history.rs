//! What four clients see at once while parts of the cluster fail has an order: each operation at one moment (`cargo xtask history` for more).

use crate::{Promise, RAIN};
use anyhow::ensure;
use rain_tests::history::run::expect_none;
use rain_tests::history::{Asked, Stage};
use rain_tests::needs::Need;
use std::path::Path;

pub(crate) const PROMISES: &[Promise] = &[
    ("names_values_and_locks_are_linearizable_whatever_fails", &[Need::Namespaces], linearizable),
    ("answers_from_memory_are_caught_by_the_check_of_histories", &[Need::Namespaces], stale),
];

fn linearizable() -> anyhow::Result<()> {
    let mut stage = Stage::new(Path::new(RAIN), 3)?;
    let mut done = 0;
    for seed in 1..=4 {
        let report = stage.play(Asked { seed, faults: 2, stale: false })?;
        done += report.done;
        expect_none(&report)?;
    }
    ensure!(done > 400, "only {done} operations: nothing could go wrong");
    Ok(())
}

fn stale() -> anyhow::Result<()> {
    let report = Stage::new(Path::new(RAIN), 3)?.play(Asked { seed: 1, faults: 0, stale: true })?;
    ensure!(!report.violations.is_empty(), "{} operations, and no old answer among them", report.done);
    Ok(())
}
