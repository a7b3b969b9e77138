//! `cargo xtask history`: records histories of four clients, or of programs on three mounts, on a real cluster
//! while parts of it fail, and checks that each is linearizable.

use anyhow::{Context, ensure};
use rain_sim::model::Parts;
use rain_tests::history::{HistoryCluster, HistoryOptions, HistoryReport, MountHistory, expect_linearizable};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A cluster with what works on it.
enum Cluster {
    Clients(HistoryCluster),
    Mounts(MountHistory),
}

impl Cluster {
    fn new(rain: &Path, nodes: u32, mounts: bool, relaxed: bool) -> anyhow::Result<Cluster> {
        Ok(if mounts {
            Cluster::Mounts(MountHistory::new(rain, nodes, relaxed)?)
        } else {
            Cluster::Clients(HistoryCluster::new(rain, nodes)?)
        })
    }

    fn play(&mut self, options: HistoryOptions) -> anyhow::Result<HistoryReport> {
        match self {
            Cluster::Clients(cluster) => cluster.play(options),
            Cluster::Mounts(mounts) => mounts.play(options),
        }
    }
}

/// The arguments. PARTS are names of [`rain_sim::model::Part`] with commas between them.
const KNOWN: &str = "--rain PATH, --seeds N, --first N, --faults N, --mounts, --relaxed (the mounts keep no leases, \
                     and only locks and what they guard are checked), --stale, --go-on (after a violation), --only \
                     PARTS (no other operations are done), --unjudged PARTS (they are done, but not checked), \
                     --without renames,reads,cuts (these operations are not done)";

fn main() -> anyhow::Result<()> {
    let (mut rain, mut seeds, mut first) = (PathBuf::new(), 100, 1);
    let mut options = HistoryOptions { faults: 2, ..HistoryOptions::default() };
    let (mut mounts, mut goes_on, mut relaxed) = (false, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--seeds" => seeds = value()?.parse()?,
            "--first" => first = value()?.parse()?,
            "--faults" => options.faults = value()?.parse()?,
            "--stale" => options.stale = true,
            "--mounts" => mounts = true,
            "--go-on" => goes_on = true,
            "--relaxed" => {
                relaxed = true;
                options.judged = "lock,guarded".parse()?;
            }
            "--rain" => rain = value()?.into(),
            "--only" => options.done = value()?.parse()?,
            "--unjudged" => options.judged = value()?.parse::<Parts>()?.others(),
            "--without" => options.without = value()?.parse()?,
            "--help" => {
                let _ = writeln!(std::io::stdout(), "arguments: {KNOWN}");
                return Ok(());
            }
            other => anyhow::bail!("unknown argument {other}; known are {KNOWN}"),
        }
    }
    ensure!(mounts || !relaxed, "--relaxed is for --mounts");
    ensure!(!(options.stale && mounts), "--stale is for clients: a mount has no such fault");
    let say = |text: String| {
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let (mut done, mut unknown, mut early, mut caught) = (0, 0, 0, 0);
    let mut violated = Vec::new();
    // One half runs with three voters, the other with five.
    for (nodes, from, to) in [(3, first, first + seeds / 2), (5, first + seeds / 2, first + seeds)] {
        if from == to {
            continue;
        }
        let mut cluster = Cluster::new(&rain, nodes, mounts, relaxed)?;
        for seed in from..to {
            let report = cluster.play(HistoryOptions { seed, ..options })?;
            done += report.done;
            unknown += report.unknown;
            early += report.acknowledged_early;
            let what = report.faults.join(", ");
            let (done, unknown, early) = (report.done, report.unknown, report.acknowledged_early);
            say(format!(
                "seed {seed} ({}): {done} operations, {unknown} unknown, {early} acknowledged early; {what}",
                report.began
            ));
            if options.stale {
                caught += u64::from(!report.violations.is_empty());
            } else if let Err(violation) = expect_linearizable(&report) {
                ensure!(goes_on, "{violation}");
                say(format!("violation: {violation}"));
                violated.extend(report.violations.iter().map(|(part, _)| *part));
            }
        }
    }
    if options.stale {
        ensure!(caught == seeds, "the check found the old answers in only {caught} of {seeds} histories");
        say(format!("the check found the deliberately old answers in all {seeds} histories"));
        return Ok(());
    }
    violated.sort_unstable();
    ensure!(violated.is_empty(), "{} violations in {seeds} histories: {violated:?}", violated.len());
    say(format!(
        "{seeds} histories, {done} operations, {unknown} with an unknown outcome, {early} acknowledged early: all are linearizable"
    ));
    Ok(())
}
