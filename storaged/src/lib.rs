//! RAIN's node daemon: keeps shares on this machine's disk and serves them, keeps the namespace together with the others, and, on
//! the node that leads, runs the workers that repair and reclaim.
//!
//! - `ring`: the driver of the token ring. `share`: the share store. `keeper`: the replicated namespace. `service`: what is answered over gRPC.
//!   `transport`: between keepers. `worker`: what goes on by itself. `forming`: how a node finds its cluster. `node`: a node's life.
//!   `config`: what it may be told.
//!
//! It knows nothing of FUSE or of the command line of `rain`.

mod bootstrap;
pub mod config;
pub mod disk;
mod identity;
pub mod metadata;
pub mod node;
pub mod ring;
mod service;
pub mod share;
mod transport;
mod worker;

use clap::Parser;
use config::{Cli, Config, LogFormat};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The program: reads flags and the config file, runs a node until it is told to stop.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    // Huge pages would back the allocator's arenas with memory that nobody uses: 54 MiB instead of 4 when idle.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let config = match cli.into_config() {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    start_log(config.log_format);
    match run_blocking(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn run_blocking(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .max_blocking_threads(16)
        .enable_all()
        .build()?;
    let done = runtime.block_on(node::run(config, move |node, address| {
        // One line for whoever started it; a closed standard output is no reason to stop.
        let _ = writeln!(std::io::stdout(), "ready node={node} address={address}");
        tracing::info!(%node, %address, "ready");
    }));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("RAIN_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A log that is set already, by a program that embeds a node, stays.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "storaged: {error:#}");
    ExitCode::from(code)
}
