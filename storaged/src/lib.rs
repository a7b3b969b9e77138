//! RAIN's node daemon. It stores shares on this machine's disk and serves them, replicates the namespace
//! together with the other nodes, and, on the leader, runs the workers that repair, move and delete.
//!
//! From top to bottom. A part uses only parts below it (`a_part_imports_only_parts_of_lower_rungs`):
//!
//! | part | what it is |
//! |---|---|
//! | `node` | a node's life: puts the parts together |
//! | `service`, `worker` | the gRPC services; the background work of the leader |
//! | `own_client`, `ring_feed` | the node's own client; facts for the ring |
//! | `inode_leases` | the leases of clients on inodes and names, on the leader |
//! | `joined` | the parts of a node that has joined a cluster |
//! | `bootstrap`, `transport` | how a node finds its cluster; gRPC between members |
//! | `config` | settings |
//! | `ring`, `metadata`, `share` | the driver of the token ring; the replicated namespace; the share store |
//! | `obeyed` | the newest leader whose work this node has done |
//! | `sessions`, `open_files`, `share_gate`, `counters`, `addresses` | small states of services and workers |
//! | `identity`, `disk` | the owner of the data folder; the way to the disk |
//!
//! The crate knows nothing of FUSE or of the command line of `rain`.

mod addresses;
mod bootstrap;
pub mod config;
mod counters;
pub mod disk;
mod identity;
mod inode_leases;
mod joined;
pub mod metadata;
pub mod node;
mod obeyed;
mod open_files;
mod own_client;
pub mod ring;
mod ring_feed;
mod service;
mod sessions;
pub mod share;
mod share_gate;
mod transport;
mod worker;

use clap::Parser;
use config::{Cli, Config, LogFormat};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the program: reads flags and the config file, then runs a node until it is told to stop.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    // Huge pages would back the allocator's arenas with unused memory: 54 MiB instead of 4 on an idle node.
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
        // One line for the parent process; a closed standard output is no reason to stop.
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
    // A program that embeds a node may have set a log; that one stays.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "storaged: {error:#}");
    ExitCode::from(code)
}
