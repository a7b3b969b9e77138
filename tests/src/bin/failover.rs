//! `cargo xtask failover`: prints the longest stalls that programs see while parts of a cluster fail, as a
//! table or JSON.

use anyhow::Context;
use rain_tests::failover::{FailoverCluster, Fault, FaultReport, OperationStats};
use std::io::Write;
use std::path::PathBuf;

/// The command line. `cargo xtask failover` is the one with a help text.
struct Arguments {
    rain: PathBuf,
    json: bool,
    rounds: u32,
    only: Option<String>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut arguments = Arguments { rain: PathBuf::new(), json: false, rounds: 1, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rain" => arguments.rain = args.next().context("--rain needs a path")?.into(),
            "--rounds" => arguments.rounds = args.next().context("--rounds needs a number")?.parse()?,
            "--only" => arguments.only = Some(args.next().context("--only needs a part of a name")?),
            "--json" => arguments.json = true,
            other => anyhow::bail!(
                "unknown argument {other}; known are --rain PATH, --rounds N, --only TEXT, --json"
            ),
        }
    }
    Ok(arguments)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn as_json(shape: &str, round: u32, report: &FaultReport) -> serde_json::Value {
    let met = |met: &OperationStats| {
        serde_json::json!({
            "done": met.done, "worst_ms": met.worst.as_millis() as u64, "errors": met.errors,
            "first_error": met.first_error,
        })
    };
    let targets =
        report.fault.targets().map(|(reads, writes)| (reads.as_millis() as u64, writes.as_millis() as u64));
    serde_json::json!({
        "cluster": shape, "round": round, "fault": report.fault.name(),
        "small_reads": met(&report.small_reads), "small_writes": met(&report.small_writes),
        "large_reads": met(&report.large_reads), "large_writes": met(&report.large_writes),
        "well_after_ms": report.well_after.as_millis() as u64,
        "target_reads_ms": targets.map(|(reads, _)| reads), "target_writes_ms": targets.map(|(_, writes)| writes),
    })
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let mut rows = Vec::new();
    for (shape, pair) in [("six nodes, 4+2", false), ("two nodes and a witness, 1+1", true)] {
        let mut cluster = FailoverCluster::new(&arguments.rain, pair)?;
        if !arguments.json {
            say(&format!("\n{shape}: longest operation in ms (small, 1 MiB)"));
            say(&format!(
                "{:<42} {:>16} {:>16} {:>8} {:>12} {:>14}",
                "fault", "reads", "writes", "errors", "well again", "targets"
            ));
        }
        for round in 1..=arguments.rounds {
            for fault in Fault::all(if pair { 3 } else { 6 }) {
                let wanted = |only: &String| only.split(',').any(|part| fault.name().contains(part));
                if !arguments.only.as_ref().is_none_or(wanted) {
                    continue;
                }
                let report = cluster.play(fault).with_context(|| fault.name())?;
                if arguments.json {
                    rows.push(as_json(shape, round, &report));
                    continue;
                }
                let two = |a: &OperationStats, b: &OperationStats| {
                    format!("{}, {}", a.worst.as_millis(), b.worst.as_millis())
                };
                let targets = report
                    .fault
                    .targets()
                    .map_or("none".to_owned(), |(r, w)| format!("{}, {}", r.as_millis(), w.as_millis()));
                say(&format!(
                    "{:<42} {:>16} {:>16} {:>8} {:>9} ms {:>14}",
                    fault.name(),
                    two(&report.small_reads, &report.large_reads),
                    two(&report.small_writes, &report.large_writes),
                    report.errors(),
                    report.well_after.as_millis(),
                    targets
                ));
                for (kind, met) in report.all().iter().filter(|(_, met)| met.errors > 0) {
                    say(&format!(
                        "    {kind}: {} errors of {}, the first: {}",
                        met.errors, met.done, met.first_error
                    ));
                }
            }
        }
        cluster.end()?;
    }
    if arguments.json {
        say(&serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}
