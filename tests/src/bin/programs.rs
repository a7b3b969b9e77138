//! `cargo xtask programs`: programs that people use, on two mounts, while nodes are killed.

use anyhow::Context;
use rain_tests::outside::programs::{ProgramsOptions, run};
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let (rain, seconds, initdbs) = ("rain".into(), 20, 5);
    let mut options = ProgramsOptions { rain, seconds, initdbs, calm: false, only: None, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--calm" => options.calm = true,
            _ => {
                let value = args.next().with_context(|| format!("{arg} needs a value"))?;
                match arg.as_str() {
                    "--rain" => options.rain = value.into(),
                    "--seconds" => options.seconds = value.parse()?,
                    "--initdbs" => options.initdbs = value.parse()?,
                    "--only" => options.only = Some(value),
                    other => anyhow::bail!(
                        "unknown argument {other}; known are --rain PATH, --seconds N, --initdbs N, --calm, --only TEXT, --json"
                    ),
                }
            }
        }
    }
    run(options)
}
