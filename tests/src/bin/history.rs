//! `cargo xtask history`: histories of four clients on a real cluster while parts of it fail, each checked for an order that explains it.

use anyhow::{Context, ensure};
use rain_tests::history::run::expect_none;
use rain_tests::history::{Asked, Stage};
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
                "{other} is not understood; --rain PATH, --seeds N, --first N, --faults N, --stale"
            ),
        }
    }
    let say = |text: String| {
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let (mut done, mut unknown, mut early, mut caught) = (0, 0, 0, 0);
    // Half of them with three voters, half with five.
    for (nodes, from, to) in [(3, first, first + seeds / 2), (5, first + seeds / 2, first + seeds)] {
        if from == to {
            continue;
        }
        let mut stage = Stage::new(&rain, nodes)?;
        for seed in from..to {
            let report = stage.play(Asked { seed, faults, stale })?;
            done += report.done;
            unknown += report.unknown;
            early += report.acknowledged_early;
            let what = report.faults.join(", ");
            let (done, unknown, early) = (report.done, report.unknown, report.acknowledged_early);
            say(format!("seed {seed}: {done} operations, {unknown} unknown, {early} told early; {what}"));
            if stale {
                caught += u64::from(!report.violations.is_empty());
            } else {
                expect_none(&report)?;
            }
        }
    }
    if stale {
        ensure!(caught == seeds, "old answers were seen in {caught} of {seeds} histories only");
        say(format!("the deliberately old answers were caught in all {seeds} histories"));
        return Ok(());
    }
    say(format!(
        "{seeds} histories, {done} operations, {unknown} with an unknown outcome, {early} told before the namespace had them: each has an order"
    ));
    Ok(())
}
