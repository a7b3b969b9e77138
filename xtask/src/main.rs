//! Tasks of RAIN's development: `cargo xtask TASK`.

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Run a task of RAIN's development.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask ci\n  cargo xtask bench-fs --size-mb 512\n  cargo xtask bench-codec --json\n  cargo xtask sim ring --seeds 1000\n  cargo xtask demo ring"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run what CI runs: format, lints, dependency checks, all tests.
    Ci,
    /// Compare the speed of RAIN's codes with ISA-L and other libraries.
    ///
    /// ISA-L is built from source, which takes nasm, autoconf, automake and libtool. The system's ISA-L
    /// (Debian: libisal2) is measured too, where it is installed.
    BenchCodec {
        /// Measure all of RAIN's codes, not only the default code of each shape.
        #[arg(long)]
        all: bool,
        /// Number of rounds; each measures every library once.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// Print one JSON object for each row.
        #[arg(long)]
        json: bool,
    },
    /// Run the codec's tests on emulated AArch64.
    ///
    /// This takes the target's standard library (`rustup target add aarch64-unknown-linux-gnu`) and Debian's
    /// packages gcc-aarch64-linux-gnu and qemu-user.
    CodecAarch64 {
        /// Run only tests whose name contains this text. All tests take ten minutes.
        #[arg(default_value = "native")]
        filter: String,
    },
    /// Run a simulation by seed: the token ring or the namespace.
    Sim {
        /// `ring` or `namespace`, and its options; `ring --help` and `namespace --help` list them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Play a demonstration to follow a paper with.
    Demo {
        /// The demonstration to play.
        #[arg(value_parser = ["ring"])]
        which: String,
    },
    /// Run the model checker up to a number of states.
    Model {
        /// The model to check.
        #[arg(value_parser = ["ring"])]
        which: String,
        /// Number of states that each run explores.
        #[arg(long, default_value_t = 5_000_000)]
        states: u64,
    },
    /// Test the token ring on a LAN of network namespaces: detection times, costs, a busy machine. Takes
    /// root.
    RingLan {
        /// Number of rounds of kill, cut and partition.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Length of the test with all cores busy, seconds.
        #[arg(long, default_value_t = 600)]
        busy_seconds: u32,
    },
    /// Kill all processes of a cluster at random moments under a load of metadata changes.
    ///
    /// Fails if an acknowledged change is missing after the restart, or if the tree is inconsistent.
    PowerLoss {
        /// Number of kills.
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Check that the history of four clients on a real cluster with failing nodes and links is linearizable.
    /// Takes root.
    History {
        /// Number of histories; each has a seed of its own.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// First seed.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Let one client answer from memory. Fails if the check accepts a history.
        #[arg(long)]
        stale: bool,
        /// Let programs on three mounts work instead of clients of the library; one of the mounts dies at times.
        #[arg(long, conflicts_with = "stale")]
        mounts: bool,
    },
    /// Measure the longest stalls of programs on a mount while nodes and links fail. Takes root.
    Failover {
        /// Number of times that each fault is made.
        #[arg(long, default_value_t = 1)]
        rounds: u32,
        /// Make only faults whose name contains one of these texts.
        #[arg(long, value_name = "TEXT,TEXT")]
        only: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run pjdfstest, fsx, one file by turns through two mounts, and the filesystem stressors of stress-ng, on a
    /// fresh cluster of six nodes. Takes root.
    ///
    /// pjdfstest (which takes Debian's libacl1-dev) and fsx are installed from crates.io into target/tools when
    /// they are missing there.
    Posix {
        /// Number of nodes that are killed before the suites run, the leader first.
        #[arg(long, default_value_t = 0)]
        nodes_down: u32,
        /// Number of seeds of fsx, and of the file by turns.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Operations of fsx for each seed.
        #[arg(long, default_value_t = 100_000)]
        ops: u64,
        /// Calls on the file by turns for each seed.
        #[arg(long, default_value_t = 3000)]
        calls: u64,
        /// Minutes of stress-ng.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Run only rows whose name contains one of these texts.
        #[arg(long, value_name = "TEXT,TEXT")]
        only: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run programs that people use on two mounts, while nodes are killed one after the other: PostgreSQL,
    /// SQLite, git, rsync, qemu-img, make, deliveries of mail, servers, and the cases of tests/cases.
    ///
    /// A program that is not installed is a row that says so.
    Programs {
        /// Seconds of each program's work, where it can be chosen.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Number of times that PostgreSQL's initdb runs.
        #[arg(long, default_value_t = 5)]
        initdbs: u32,
        /// Kill no nodes.
        #[arg(long)]
        calm: bool,
        /// Run only rows whose name contains one of these texts.
        #[arg(long, value_name = "TEXT,TEXT")]
        only: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure the processor time of mirroring 10,000 shared items over the ring, beside the figure of
    /// Raincore's paper.
    BenchRing {
        /// Seconds of measurement for each row.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure the filesystem on a fresh six-node cluster, and then a plain folder of the same disk.
    BenchFs {
        /// Length of the large file, MiB.
        #[arg(long, default_value_t = 256)]
        size_mb: u64,
        /// Number of small files.
        #[arg(long, default_value_t = 2000)]
        files: usize,
        /// Seconds of measurement for each row of random reads and writes.
        #[arg(long, default_value_t = 3)]
        runtime: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The folder with build results.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Ci => run(Command::new("bash").arg(root().join(".ci/run"))),
        Task::BenchCodec { all, rounds, json } => {
            let mut command = Command::new(env!("CARGO"));
            command.current_dir(root().join("benches/codec")).args(["run", "--release", "--locked", "--"]);
            command.args(["--rounds", &rounds.to_string()]);
            command.args(all.then_some("--all")).args(json.then_some("--json"));
            run(&mut command)
        }
        Task::CodecAarch64 { filter } => {
            let target = "AARCH64_UNKNOWN_LINUX_GNU";
            let mut command = cargo();
            command.env(format!("CARGO_TARGET_{target}_LINKER"), "aarch64-linux-gnu-gcc");
            command.env(format!("CARGO_TARGET_{target}_RUNNER"), "qemu-aarch64 -L /usr/aarch64-linux-gnu");
            command.args(["test", "--release", "--locked", "-p", "rain-codec"]);
            run(command.args(["--target", "aarch64-unknown-linux-gnu", &filter]))
        }
        Task::Sim { args } => {
            let mut command = cargo();
            if args.first().is_some_and(|what| what == "namespace") {
                // Tokio's random choices can be seeded only with this flag. A folder of its own keeps the
                // other builds.
                command
                    .env("RUSTFLAGS", "--cfg tokio_unstable")
                    .env("CARGO_TARGET_DIR", target().join("sim"));
            }
            run(command.args(["run", "--release", "--locked", "-p", "rain-sim", "--"]).args(args))
        }
        Task::Demo { .. } => {
            run(cargo().args(["run", "--release", "--locked", "-p", "rain-sim", "--", "demo"]))
        }
        Task::Model { states, .. } => {
            let mut command = cargo();
            command.env("RAIN_MODEL_STATES", states.to_string());
            command.args(["test", "--locked", "-p", "rain-ring", "--test", "model", "--test", "link", "--"]);
            run(command.args(["--nocapture", "--test-threads", "1"]))
        }
        Task::RingLan { rounds, busy_seconds } => {
            let mut command = cargo();
            command.env("RAIN_RING_ROUNDS", rounds.to_string());
            command.env("RAIN_RING_BUSY_SECONDS", busy_seconds.to_string());
            command.args(["test", "--locked", "-p", "rain-tests", "--test", "real", "--", "ring_"]);
            run(command.args(["--nocapture", "--test-threads", "1"]))
        }
        Task::PowerLoss { rounds } => {
            let mut command = cargo();
            command.env("RAIN_POWER_ROUNDS", rounds.to_string());
            command.args(["test", "--locked", "-p", "rain-tests", "--test", "real", "--"]);
            run(command.args(["killed_at_random_moments", "--nocapture", "--test-threads", "1"]))
        }
        Task::History { seeds, first, stale, mounts } => {
            let (seeds, first) = (seeds.to_string(), first.to_string());
            let args = ["--seeds", &seeds, "--first", &first].into_iter();
            let args = args.chain(stale.then_some("--stale")).chain(mounts.then_some("--mounts"));
            run_with_rain("history", args)
        }
        Task::Failover { rounds, only, json } => {
            let rounds = rounds.to_string();
            let only = only.iter().flat_map(|only| ["--only", only.as_str()]);
            run_with_rain(
                "failover",
                ["--rounds", &rounds].into_iter().chain(only).chain(json.then_some("--json")),
            )
        }
        Task::Posix { nodes_down, seeds, ops, calls, minutes, only, json } => {
            let numbers = [
                ("--nodes-down", nodes_down.into()),
                ("--seeds", seeds),
                ("--ops", ops),
                ("--calls", calls),
                ("--minutes", minutes),
            ];
            run_with_rain("posix", options(&numbers, only, json).iter().map(String::as_str))
        }
        Task::Programs { seconds, initdbs, calm, only, json } => {
            let args = options(&[("--seconds", seconds), ("--initdbs", initdbs.into())], only, json);
            let args = args.iter().map(String::as_str).chain(calm.then_some("--calm"));
            run_with_rain("programs", args)
        }
        Task::BenchRing { seconds, json } => {
            let mut command = cargo();
            command.args(["run", "--release", "--locked", "-p", "rain-benches", "--bin", "ring", "--"]);
            run(command.args(["--seconds", &seconds.to_string()]).args(json.then_some("--json")))
        }
        Task::BenchFs { size_mb, files, runtime, json } => {
            run(cargo().args(["build", "--release", "--package", "rain"]))?;
            let mut args = vec!["--size-mb".into(), size_mb.to_string(), "--files".into(), files.to_string()];
            args.extend(["--runtime".into(), runtime.to_string()]);
            args.extend(json.then(|| "--json".into()));
            bench_fs(&args)
        }
    }
}

/// The arguments of a program: numbers by their options, the rows, the form.
fn options(numbers: &[(&str, u64)], only: Option<String>, json: bool) -> Vec<String> {
    let mut args: Vec<String> =
        numbers.iter().flat_map(|(option, number)| [(*option).to_owned(), number.to_string()]).collect();
    args.extend(only.into_iter().flat_map(|only| ["--only".to_owned(), only]));
    args.extend(json.then(|| "--json".to_owned()));
    args
}

/// Builds `rain`, and runs a program of the tests with it. Fails when either does.
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

/// A running `rain dev`. Dropping it stops the cluster, also after an error.
struct DevCluster(Child);

impl Drop for DevCluster {
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
    let stdout = child.stdout.take().context("the standard output of rain dev")?;
    let dev = DevCluster(child);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    ensure!(
        lines.by_ref().map_while(Result::ok).any(|line| line.contains("Ctrl-C")),
        "the cluster did not start; see its message above"
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
