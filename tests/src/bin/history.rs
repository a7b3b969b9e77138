//! `cargo xtask history`: records histories of four clients on a real cluster while parts of it fail, and
//! checks that each is linearizable.

use anyhow::{Context, ensure};
use rain_tests::history::{HistoryCluster, HistoryOptions, expect_linearizable};
use std::io::Write;
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let (mut rain, mut seeds, mut first, mut faults, mut stale) = (PathBuf::new(), 100, 1, 2, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> anyhow::Result<u64> {
            Ok(args.next().with_context(|| format!("{arg} needs a number"))?.parse()?)
        };
        match arg.as_str() {
            "--seeds" => seeds = number()?,
            "--first" => first = number()?,
            "--faults" => faults = number()? as u32,
            "--stale" => stale = true,
            "--rain" => rain = args.next().context("--rain needs a path")?.into(),
            other => anyhow::bail!(
                "unknown argument {other}; known are --rain PATH, --seeds N, --first N, --faults N, --stale"
            ),
        }
    }
    let say = |text: String| {
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let (mut done, mut unknown, mut early, mut caught) = (0, 0, 0, 0);
    // One half runs with three voters, the other with five.
    for (nodes, from, to) in [(3, first, first + seeds / 2), (5, first + seeds / 2, first + seeds)] {
        if from == to {
            continue;
        }
        let mut cluster = HistoryCluster::new(&rain, nodes)?;
        for seed in from..to {
            let report = cluster.play(HistoryOptions { seed, faults, stale })?;
            done += report.done;
            unknown += report.unknown;
            early += report.acknowledged_early;
            let what = report.faults.join(", ");
            let (done, unknown, early) = (report.done, report.unknown, report.acknowledged_early);
            say(format!(
                "seed {seed}: {done} operations, {unknown} unknown, {early} acknowledged early; {what}"
            ));
            if stale {
                caught += u64::from(!report.violations.is_empty());
            } else {
                expect_linearizable(&report)?;
            }
        }
    }
    if stale {
        ensure!(caught == seeds, "the check found the old answers in only {caught} of {seeds} histories");
        say(format!("the check found the deliberately old answers in all {seeds} histories"));
        return Ok(());
    }
    say(format!(
        "{seeds} histories, {done} operations, {unknown} with an unknown outcome, {early} acknowledged early: all are linearizable"
    ));
    Ok(())
}
