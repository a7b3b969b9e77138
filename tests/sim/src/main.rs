//! `rain-sim`: runs the simulations. `cargo xtask sim` and `cargo xtask demo` call it.

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use parking_lot::Mutex;
use rain_sim::names;
use rain_sim::ring::{self, RingRun};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
#[command(
    name = "rain-sim",
    after_help = "Examples:\n  cargo xtask sim ring --seeds 1000\n  cargo xtask sim ring --seed 17 --trace\n  cargo xtask sim ring --table\n  cargo xtask sim namespace --seeds 300\n  cargo xtask sim namespace --seed 17"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows step by step how the ring replaces a lost token.
    Demo,
    /// Simulates the namespace under Raft, with 3 or 5 nodes and four clients.
    ///
    /// Faults: power losses with torn writes, partitions, lost messages, slow disks. Fails if no order of the
    /// operations explains the replies, or if the nodes end with different states.
    Namespace {
        /// Number of seeds to run.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// First seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Run only this seed, twice, and fail if the two runs differ.
        #[arg(long)]
        seed: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Simulates the token ring, with 3 to 50 nodes.
    ///
    /// Faults: crashes, partitions (also of one direction), stalls, packet loss, clock drift.
    Ring {
        /// Number of seeds to run.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// First seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Run only this seed, to see a failure again.
        #[arg(long)]
        seed: Option<u64>,
        /// Print every step (with --seed).
        #[arg(long)]
        trace: bool,
        /// Print the times of a round and of detection for 3 to 100 nodes instead.
        #[arg(long)]
        table: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A duration of a run.
type Measure = fn(&RingRun) -> Duration;

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Demo => rain_sim::demo::play(say).map_err(|failure| anyhow::anyhow!("{}", failure.what)),
        Verb::Namespace { seed: Some(seed), .. } => run_namespace_again(seed),
        Verb::Namespace { seeds, from, json, .. } => run_namespace(from, seeds, json),
        Verb::Ring { table: true, json, .. } => print_table(json),
        Verb::Ring { seed: Some(seed), trace, .. } => match ring::run(seed, trace) {
            Ok(run) => {
                say(&format!("seed {seed}: {run:?}"));
                Ok(())
            }
            Err(failure) => bail!("seed {seed}, at {:.6} s: {}", failure.at.as_secs_f64(), failure.what),
        },
        Verb::Ring { seeds, from, json, .. } => run_many(from, seeds, json),
    }
}

/// Runs seeds on all cores, and returns their results in the order of the seeds.
fn on_all_cores<T: Send>(from: u64, seeds: u64, run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let next = AtomicU64::new(from);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let result = run(seed);
                    results.lock().push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|(seed, _)| *seed);
    results
}

fn run_namespace_again(seed: u64) -> anyhow::Result<()> {
    let first = names::run(seed).with_context(|| format!("seed {seed}"))?;
    say(&format!("seed {seed}: {first:?}"));
    let again = names::run(seed).with_context(|| format!("seed {seed}, again"))?;
    ensure!(first == again, "seed {seed} gave another run the second time: {again:?}");
    say("the second run is the same");
    Ok(())
}

fn run_namespace(from: u64, seeds: u64, json: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let results = on_all_cores(from, seeds, |seed| {
        let run = names::run(seed)?;
        // Every tenth seed runs twice, because a failure can be examined only if it comes again.
        if seed % 10 == 0 {
            let again = names::run(seed)?;
            ensure!(run == again, "the second run differs: {run:?}, {again:?}");
        }
        Ok(run)
    });
    let runs: Vec<&names::NamespaceRun> =
        results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let failed: Vec<String> = results
        .iter()
        .filter_map(|(seed, result)| Some(format!("seed {seed}: {:#}", result.as_ref().err()?)))
        .collect();
    let total = |what: fn(&names::NamespaceRun) -> u64| runs.iter().map(|run| what(run)).sum::<u64>();
    let virtual_s: f64 = runs.iter().map(|run| run.time.as_secs_f64()).sum();
    let (done, losses) = (total(|run| run.done as u64), total(|run| run.power_losses.into()));
    let (cuts, slow) = (total(|run| run.partitions.into()), total(|run| run.slow_disks.into()));
    let took = begun.elapsed().as_secs_f64();
    if json {
        let found = serde_json::json!({
            "seeds": seeds, "failed": failed, "operations": done, "power_losses": losses, "partitions": cuts,
            "slow_disks": slow, "virtual_seconds": virtual_s, "seconds": took,
        });
        say(&found.to_string());
    } else {
        say(&format!(
            "{seeds} seeds, {virtual_s:.0} virtual seconds in {took:.0} s: {done} operations, {losses} power losses, {cuts} partitions, {slow} slow disks"
        ));
        for line in &failed {
            say(&format!("FAILED {line}"));
        }
    }
    ensure!(failed.is_empty(), "{} of {seeds} seeds failed; run one again with --seed N", failed.len());
    Ok(())
}

fn run_many(from: u64, seeds: u64, json: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let results = on_all_cores(from, seeds, |seed| ring::run(seed, false));
    let runs: Vec<(u64, &RingRun)> =
        results.iter().filter_map(|(seed, result)| Some((*seed, result.as_ref().ok()?))).collect();
    let failed: Vec<String> = results
        .iter()
        .filter_map(|(seed, result)| Some((seed, result.as_ref().err()?)))
        .map(|(seed, failure)| format!("seed {seed}, at {:.3} s: {}", failure.at.as_secs_f64(), failure.what))
        .collect();
    let small: Vec<(u64, &RingRun)> = runs.iter().copied().filter(|(_, run)| run.nodes <= 16).collect();
    let worst = |what: Measure, runs: &[(u64, &RingRun)]| {
        let worst = runs.iter().max_by_key(|(_, run)| what(run));
        worst.map_or((0, Duration::ZERO), |(seed, run)| (*seed, what(run)))
    };
    let total = |what: fn(&RingRun) -> u64| runs.iter().map(|(_, run)| what(run)).sum::<u64>();
    let rows: [(&str, Measure); 5] = [
        ("a killed node is out of every view", |run| run.killed_out),
        ("a node cut off silently is out of every view", |run| run.cut_out),
        ("a node started again is in every view", |run| run.rejoined_in),
        ("two halves are one view again", |run| run.merged_in),
        ("one view after all faults have ended", |run| run.agreed_in),
    ];
    let virtual_s: f64 = runs.iter().map(|(_, run)| run.time.as_secs_f64()).sum();
    if json {
        let times: serde_json::Map<String, serde_json::Value> = rows
            .iter()
            .map(|(name, what)| {
                let (few, all) = (worst(*what, &small), worst(*what, &runs));
                let value = serde_json::json!({
                    "worst_ms_to_16_nodes": few.1.as_millis() as u64,
                    "worst_ms": all.1.as_millis() as u64,
                    "seed": all.0,
                });
                ((*name).to_owned(), value)
            })
            .collect();
        say(&serde_json::json!({
            "seeds": seeds, "failed": failed, "times": times, "tokens": total(|run| run.tokens),
            "regenerated": total(|run| run.regenerated), "delivered": total(|run| run.delivered),
            "virtual_seconds": virtual_s, "seconds": begun.elapsed().as_secs_f64(),
        })
        .to_string());
    } else {
        say(&format!(
            "{seeds} seeds, {virtual_s:.0} virtual seconds in {:.0} s: {} tokens, {} regenerated after a loss, {} multicasts delivered",
            begun.elapsed().as_secs_f64(),
            total(|run| run.tokens),
            total(|run| run.regenerated),
            total(|run| run.delivered),
        ));
        say(&format!(
            "{:<40} {:>14} {:>14}   {}",
            "longest time until", "to 16 nodes", "to 50 nodes", "seed"
        ));
        for (name, what) in rows {
            let (few, all) = (worst(what, &small), worst(what, &runs));
            say(&format!("{name:<40} {:>11} ms {:>11} ms   {}", few.1.as_millis(), all.1.as_millis(), all.0));
        }
        for line in &failed {
            say(&format!("FAILED {line}"));
        }
    }
    ensure!(
        failed.is_empty(),
        "{} of {seeds} seeds failed; run one again with --seed N --trace",
        failed.len()
    );
    Ok(())
}

fn print_table(json: bool) -> anyhow::Result<()> {
    say(
        "| nodes | round, ms | killed: out of every view, ms | silent: out, ms | rejoined, ms | merged, ms | formed, ms |\n|---|---|---|---|---|---|---|",
    );
    for nodes in [3, 4, 6, 8, 10, 16, 24, 32, 50, 100] {
        let row = ring::table_row(nodes, 20)
            .map_err(|failure| anyhow::anyhow!("{nodes} nodes, at {:?}: {}", failure.at, failure.what))?;
        let ms = |time: Duration| time.as_millis() as u64;
        if json {
            say(&serde_json::json!({
                "nodes": nodes, "round_ms": ms(row.round), "killed_ms": ms(row.killed_out), "cut_ms": ms(row.cut_out),
                "rejoined_ms": ms(row.rejoined_in), "merged_ms": ms(row.merged_in), "formed_ms": ms(row.formed),
            }).to_string());
        } else {
            say(&format!(
                "| {nodes} | {} | {} | {} | {} | {} | {} |",
                ms(row.round),
                ms(row.killed_out),
                ms(row.cut_out),
                ms(row.rejoined_in),
                ms(row.merged_in),
                ms(row.formed)
            ));
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "standard output is the result")]
fn say(line: &str) {
    println!("{line}");
}
