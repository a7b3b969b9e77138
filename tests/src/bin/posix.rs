//! `cargo xtask posix`: suites that test a filesystem, on a cluster of their own.

use anyhow::Context;
use rain_tests::outside::posix::{PosixOptions, run};
use rain_tests::source::root;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let tools = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let mut options = PosixOptions {
        rain: "rain".into(),
        tools: tools.join("tools"),
        nodes_down: 0,
        seeds: 20,
        ops: 100_000,
        calls: 3000,
        minutes: 10,
        only: None,
        json: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--json" {
            options.json = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--rain" => options.rain = value.into(),
            "--nodes-down" => options.nodes_down = value.parse()?,
            "--seeds" => options.seeds = value.parse()?,
            "--ops" => options.ops = value.parse()?,
            "--calls" => options.calls = value.parse()?,
            "--minutes" => options.minutes = value.parse()?,
            "--only" => options.only = Some(value),
            other => anyhow::bail!(
                "unknown argument {other}; known are --rain PATH, --nodes-down N, --seeds N, --ops N, --calls N, --minutes N, --only TEXT, --json"
            ),
        }
    }
    run(options)
}
