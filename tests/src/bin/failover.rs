//! `cargo xtask failover`: the longest stalls that programs see while parts of a cluster fail, as a table or JSON.

use anyhow::Context;
use rain_tests::failover::{Fault, Met, Outcome, Stage};
use std::io::Write;
use std::path::PathBuf;

/// The command line, small enough to be read by hand.
struct Asked {
    rain: PathBuf,
    json: bool,
    rounds: u32,
    only: Option<String>,
}

fn asked() -> anyhow::Result<Asked> {
    let mut asked = Asked { rain: PathBuf::new(), json: false, rounds: 1, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rain" => asked.rain = args.next().context("--rain needs a path")?.into(),
            "--rounds" => asked.rounds = args.next().context("--rounds needs a number")?.parse()?,
            "--only" => asked.only = Some(args.next().context("--only needs a part of a name")?),
            "--json" => asked.json = true,
            other => anyhow::bail!("{other} is not understood; --rain PATH, --rounds N, --only TEXT, --json"),
        }
    }
    Ok(asked)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn as_json(cluster: &str, round: u32, outcome: &Outcome) -> serde_json::Value {
    let met = |met: &Met| {
        serde_json::json!({
            "done": met.done, "worst_ms": met.worst.as_millis() as u64, "errors": met.errors,
            "first_error": met.first_error,
        })
    };
    let targets =
        outcome.fault.targets().map(|(reads, writes)| (reads.as_millis() as u64, writes.as_millis() as u64));
    serde_json::json!({
        "cluster": cluster, "round": round, "fault": outcome.fault.name(),
        "small_reads": met(&outcome.small_reads), "small_writes": met(&outcome.small_writes),
        "large_reads": met(&outcome.large_reads), "large_writes": met(&outcome.large_writes),
        "well_after_ms": outcome.well_after.as_millis() as u64,
        "target_reads_ms": targets.map(|(reads, _)| reads), "target_writes_ms": targets.map(|(_, writes)| writes),
    })
}

fn main() -> anyhow::Result<()> {
    let asked = asked()?;
    let mut rows = Vec::new();
    for (cluster, pair) in [("six nodes, 4+2", false), ("two nodes and a witness, 1+1", true)] {
        let mut stage = Stage::new(&asked.rain, pair)?;
        if !asked.json {
            say(&format!("\n{cluster}; the longest in ms (small, 1 MiB)"));
            say(&format!(
                "{:<42} {:>16} {:>16} {:>8} {:>12} {:>14}",
                "fault", "reads", "writes", "errors", "well again", "targets"
            ));
        }
        for round in 1..=asked.rounds {
            for fault in Fault::all(if pair { 3 } else { 6 }) {
                let wanted = |only: &String| only.split(',').any(|part| fault.name().contains(part));
                if !asked.only.as_ref().is_none_or(wanted) {
                    continue;
                }
                let outcome = stage.play(fault).with_context(|| fault.name())?;
                if asked.json {
                    rows.push(as_json(cluster, round, &outcome));
                    continue;
                }
                let two = |a: &Met, b: &Met| format!("{}, {}", a.worst.as_millis(), b.worst.as_millis());
                let targets = outcome
                    .fault
                    .targets()
                    .map_or("none".to_owned(), |(r, w)| format!("{}, {}", r.as_millis(), w.as_millis()));
                say(&format!(
                    "{:<42} {:>16} {:>16} {:>8} {:>9} ms {:>14}",
                    fault.name(),
                    two(&outcome.small_reads, &outcome.large_reads),
                    two(&outcome.small_writes, &outcome.large_writes),
                    outcome.errors(),
                    outcome.well_after.as_millis(),
                    targets
                ));
                for (kind, met) in outcome.all().iter().filter(|(_, met)| met.errors > 0) {
                    say(&format!(
                        "    {kind}: {} errors of {}, the first: {}",
                        met.errors, met.done, met.first_error
                    ));
                }
            }
        }
        stage.end()?;
    }
    if asked.json {
        say(&serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}
