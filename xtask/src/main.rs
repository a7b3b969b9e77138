//! RAIN's chores: `cargo xtask VERB`.

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The only task runner.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask ci\n  cargo xtask bench-fs --size-mb 512\n  cargo xtask bench-codec --json\n  cargo xtask sim ring --seeds 1000\n  cargo xtask demo ring"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What CI runs.
    Ci,
    /// The codes beside ISA-L and others, in one run. ISA-L is built from source: it takes nasm, autoconf, automake, libtool;
    /// the system's own (Debian: libisal2) is measured, too, where there is one.
    BenchCodec {
        /// RAIN's other codes, too, not only the default one for each shape.
        #[arg(long)]
        all: bool,
        /// Rounds, interleaved.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// One object for each row.
        #[arg(long)]
        json: bool,
    },
    /// The codec's tests on AArch64, emulated: it takes the target's standard library (`rustup target add
    /// aarch64-unknown-linux-gnu`) and Debian's gcc-aarch64-linux-gnu and qemu-user.
    CodecAarch64 {
        /// Only tests with this in their name: all take ten minutes there.
        #[arg(default_value = "native")]
        filter: String,
    },
    /// Simulation by seed.
    Sim {
        /// What: `ring`, and its options; `ring --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// A story to follow a paper with.
    Demo {
        /// Which.
        #[arg(value_parser = ["ring"])]
        which: String,
    },
    /// The model checker, for as many states as there is patience for.
    Model {
        /// Of what.
        #[arg(value_parser = ["ring"])]
        which: String,
        /// States of each run.
        #[arg(long, default_value_t = 5_000_000)]
        states: u64,
    },
    /// The token ring on a LAN of network namespaces (as root): detection times, costs, a busy machine.
    RingLan {
        /// Rounds of kill, cut and partition.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Seconds with all cores busy.
        #[arg(long, default_value_t = 600)]
        busy_seconds: u32,
    },
    /// Kills all processes of a cluster at random moments under a metadata-heavy load, again and again: nothing acknowledged is missing, and
    /// the tree is sound.
    PowerLoss {
        /// How often.
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Four clients at once on a real cluster while nodes and links fail (as root), again and again: whether what each saw can have happened
    /// one after the other.
    History {
        /// How many histories.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// One client answers from memory: every history must be found wrong.
        #[arg(long)]
        stale: bool,
    },
    /// The longest stalls that programs on a mount see while nodes and links fail: real processes in network namespaces (as root).
    Failover {
        /// How often each fault is made.
        #[arg(long, default_value_t = 1)]
        rounds: u32,
        /// Only faults whose name has one of these in it.
        #[arg(long, value_name = "TEXT,TEXT")]
        only: Option<String>,
        /// For scripts.
        #[arg(long)]
        json: bool,
    },
    /// Raincore's figure: processor time of mirroring 10,000 shared items, beside the paper's.
    BenchRing {
        /// Seconds for each row.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// For scripts.
        #[arg(long)]
        json: bool,
    },
    /// The filesystem's rows on a fresh six-node cluster and on a plain folder of the same disk, one after the other.
    BenchFs {
        /// Length of the large file, MiB.
        #[arg(long, default_value_t = 256)]
        size_mb: u64,
        /// Small files.
        #[arg(long, default_value_t = 2000)]
        files: usize,
        /// Seconds for each row of random reads and writes.
        #[arg(long, default_value_t = 3)]
        runtime: u64,
        /// For scripts.
        #[arg(long)]
        json: bool,
    },
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Where things are built.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Ci => run(Command::new("bash").arg(root().join(".ci/run"))),
        Verb::BenchCodec { all, rounds, json } => {
            let mut command = Command::new(env!("CARGO"));
            command.current_dir(root().join("benches/codec")).args(["run", "--release", "--locked", "--"]);
            command.args(["--rounds", &rounds.to_string()]);
            command.args(all.then_some("--all")).args(json.then_some("--json"));
            run(&mut command)
        }
        Verb::CodecAarch64 { filter } => {
            let target = "AARCH64_UNKNOWN_LINUX_GNU";
            let mut command = cargo();
            command.env(format!("CARGO_TARGET_{target}_LINKER"), "aarch64-linux-gnu-gcc");
            command.env(format!("CARGO_TARGET_{target}_RUNNER"), "qemu-aarch64 -L /usr/aarch64-linux-gnu");
            command.args(["test", "--release", "--locked", "-p", "rain-codec"]);
            run(command.args(["--target", "aarch64-unknown-linux-gnu", &filter]))
        }
        Verb::Sim { args } => {
            let mut command = cargo();
            if args.first().is_some_and(|what| what == "namespace") {
                // Tokio's own dice can be seeded only so; what is built that way does not displace what is not.
                command
                    .env("RUSTFLAGS", "--cfg tokio_unstable")
                    .env("CARGO_TARGET_DIR", target().join("sim"));
            }
            run(command.args(["run", "--release", "--locked", "-p", "rain-sim", "--"]).args(args))
        }
        Verb::Demo { .. } => {
            run(cargo().args(["run", "--release", "--locked", "-p", "rain-sim", "--", "demo"]))
        }
        Verb::Model { states, .. } => {
            let mut command = cargo();
            command.env("RAIN_MODEL_STATES", states.to_string());
            command.args(["test", "--locked", "-p", "rain-ring", "--test", "model", "--test", "link", "--"]);
            run(command.args(["--nocapture", "--test-threads", "1"]))
        }
        Verb::RingLan { rounds, busy_seconds } => {
            let mut command = cargo();
            command.env("RAIN_RING_ROUNDS", rounds.to_string());
            command.env("RAIN_RING_BUSY_SECONDS", busy_seconds.to_string());
            command.args(["test", "--locked", "-p", "rain-tests", "--test", "real", "--", "ring_"]);
            run(command.args(["--nocapture", "--test-threads", "1"]))
        }
        Verb::PowerLoss { rounds } => {
            let mut command = cargo();
            command.env("RAIN_POWER_ROUNDS", rounds.to_string());
            command.args(["test", "--locked", "-p", "rain-tests", "--test", "real", "--"]);
            run(command.args(["killed_at_random_moments", "--nocapture", "--test-threads", "1"]))
        }
        Verb::History { seeds, first, stale } => {
            let (seeds, first) = (seeds.to_string(), first.to_string());
            let args = ["--seeds", &seeds, "--first", &first].into_iter().chain(stale.then_some("--stale"));
            run_with_rain("history", args)
        }
        Verb::Failover { rounds, only, json } => {
            let rounds = rounds.to_string();
            let only = only.iter().flat_map(|only| ["--only", only.as_str()]);
            run_with_rain(
                "failover",
                ["--rounds", &rounds].into_iter().chain(only).chain(json.then_some("--json")),
            )
        }
        Verb::BenchRing { seconds, json } => {
            let mut command = cargo();
            command.args(["run", "--release", "--locked", "-p", "rain-benches", "--bin", "ring", "--"]);
            run(command.args(["--seconds", &seconds.to_string()]).args(json.then_some("--json")))
        }
        Verb::BenchFs { size_mb, files, runtime, json } => {
            run(cargo().args(["build", "--release", "--package", "rain"]))?;
            let mut args = vec!["--size-mb".into(), size_mb.to_string(), "--files".into(), files.to_string()];
            args.extend(["--runtime".into(), runtime.to_string()]);
            args.extend(json.then(|| "--json".into()));
            bench_fs(&args)
        }
    }
}

/// Builds the command, and runs a program of the tests on it.
fn run_with_rain<'a>(program: &str, args: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
    run(cargo().args(["build", "--release", "--locked", "-p", "rain"]))?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "rain-tests", "--bin", program, "--", "--rain"]);
    run(command.arg(target().join("release/rain")).args(args))
}

fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Stops the cluster also after an error.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn bench_fs(args: &[String]) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let rain = target().join("release/rain");
    let mountpoint = folder.path().join("mnt");
    let mut child = Command::new(&rain)
        .arg("dev")
        .arg(&mountpoint)
        .arg("--data")
        .arg(folder.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", rain.display()))?;
    let said = child.stdout.take().context("its output")?;
    let dev = Dev(child);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(said));
    ensure!(
        lines.by_ref().map_while(Result::ok).any(|line| line.contains("Ctrl-C")),
        "the cluster did not start; see the line above"
    );
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain)?;
    for measured in [&mountpoint, &plain] {
        eprintln!("== {}", measured.display());
        run(Command::new(&rain).args(["bench", "fs"]).arg(measured).args(args))?;
    }
    drop(dev);
    Ok(())
}
