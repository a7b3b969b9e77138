//! RAIN's chores: `cargo xtask VERB`.

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The only task runner.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask ci\n  cargo xtask bench-fs --size-mb 512\n  cargo xtask bench-codec --json"
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
        Verb::BenchFs { size_mb, files, runtime, json } => {
            run(Command::new(env!("CARGO")).current_dir(root()).args([
                "build",
                "--release",
                "--package",
                "rain",
            ]))?;
            let mut args = vec!["--size-mb".into(), size_mb.to_string(), "--files".into(), files.to_string()];
            args.extend(["--runtime".into(), runtime.to_string()]);
            args.extend(json.then(|| "--json".into()));
            bench_fs(&args)
        }
    }
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
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let rain = target.join("release/rain");
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
