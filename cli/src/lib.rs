//! The command `rain`. Each verb has a file under [`verbs`]; [`output`] prints for people and for scripts.
//!
//! The exit status is 0 (done), 1 (failed, with one sentence on standard error) or 2 (wrong usage). The same
//! program is `mount.rain` (for mount(8) and fstab), and runs itself again as a node daemon (`rain
//! storaged`).

mod output;
mod source;
mod verbs;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use rain_client::{Client, Options};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

const EXAMPLES: &str = "Examples:
  rain dev /tmp/rain                       six nodes on this machine, mounted
  rain status                              nodes, volumes, missing shares
  rain mount a:7400,b:7400:/main /mnt      mount a volume of a real cluster
  rain put movie.mkv /main/movie.mkv       store a file without a mount";

/// RAIN: a shared filesystem that a handful of machines make together and that outlives any of them.
#[derive(Debug, Parser)]
#[command(name = "rain", version, about, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    /// Addresses of nodes; one that answers is enough to find the cluster. By default the nodes of your last
    /// `rain dev` here.
    #[arg(long, global = true, env = "RAIN_CLUSTER", value_name = "A:PORT,B:PORT")]
    cluster: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Dev(verbs::dev::Dev),
    Mount(verbs::mount::Mount),
    Umount(verbs::mount::Umount),
    #[command(subcommand)]
    Volume(verbs::volume::Volume),
    Checkpoint(verbs::checkpoint::Checkpoint),
    Put(verbs::files::Put),
    Get(verbs::files::Get),
    Ls(verbs::names::Ls),
    Rm(verbs::names::Rm),
    Stat(verbs::names::Stat),
    Status(verbs::status::Status),
    Explain(verbs::explain::Explain),
    Fsck(verbs::fsck::Fsck),
    #[command(subcommand)]
    Node(verbs::node::Node),
    #[command(subcommand)]
    Bench(verbs::bench::Bench),
    Completions(Completions),
}

/// Print shell completions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  rain completions bash > /etc/bash_completion.d/rain")]
struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// The file in which the last `rain dev` of this user wrote the addresses of its nodes.
fn dev_cluster_file() -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("rain-dev-{}.cluster", rustix::process::getuid().as_raw()))
}

/// The addresses to use: the given ones, else those of the last `rain dev`, else the first port that `rain
/// dev` uses.
fn addresses(given: Option<&str>) -> Vec<String> {
    let text = given.map(str::to_owned).or_else(|| std::fs::read_to_string(dev_cluster_file()).ok());
    let text = text.unwrap_or_else(|| "127.0.0.1:7401".into());
    text.trim().split(',').filter(|address| !address.is_empty()).map(str::to_owned).collect()
}

/// A connected client with a session, for a verb. Fails when no node answers or the namespace has no leader.
async fn connect(given: Option<&str>, label: &str) -> anyhow::Result<Arc<Client>> {
    let options =
        Options { label: format!("rain {label}, pid {}", std::process::id()), ..Options::default() };
    Ok(Client::connect(&addresses(given), options).await?)
}

/// A client that only reads: it opens no session and needs no leader of the namespace.
async fn observe(given: Option<&str>, label: &str) -> anyhow::Result<Arc<Client>> {
    let label = format!("rain {label}, pid {}", std::process::id());
    let options = Options { label, observe: true, ..Options::default() };
    Ok(Client::connect(&addresses(given), options).await?)
}

/// The program, by any of its names: `rain`, `mount.rain`, `mount.fuse.rain`.
pub fn main_entry() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|verb| verb == "storaged") {
        return storaged::main_from(args.split_off(1));
    }
    if let [_, verb, daemon] = args.as_slice()
        && verb == verbs::mount::GUARD
    {
        return status(verbs::mount::run_guard(&daemon.to_string_lossy()));
    }
    let called = args.first().and_then(|name| PathBuf::from(name).file_name()?.to_str().map(str::to_owned));
    let as_helper = called.is_some_and(|name| name == "mount.rain" || name == "mount.fuse.rain");
    let looks_like_source = args.get(1).and_then(|arg| arg.to_str()).is_some_and(|arg| arg.contains(":/"));
    if as_helper || looks_like_source {
        args.insert(1, "mount".into());
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    status(run(cli))
}

/// The exit status for a result, after an error was printed.
fn status(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let cluster = cli.cluster.as_deref();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let done = match cli.verb {
        Verb::Dev(dev) => dev.run(&runtime),
        Verb::Mount(mount) => mount.run(&runtime),
        Verb::Umount(umount) => umount.run(),
        Verb::Volume(volume) => runtime.block_on(volume.run(cluster)),
        Verb::Checkpoint(checkpoint) => runtime.block_on(checkpoint.run(cluster)),
        Verb::Put(put) => runtime.block_on(put.run(cluster)),
        Verb::Get(get) => runtime.block_on(get.run(cluster)),
        Verb::Ls(ls) => runtime.block_on(ls.run(cluster)),
        Verb::Rm(rm) => runtime.block_on(rm.run(cluster)),
        Verb::Stat(stat) => runtime.block_on(stat.run(cluster)),
        Verb::Fsck(fsck) => runtime.block_on(fsck.run(cluster)),
        Verb::Status(status) => runtime.block_on(status.run(cluster)),
        Verb::Explain(explain) => runtime.block_on(explain.run(cluster)),
        Verb::Node(node) => runtime.block_on(node.run(cluster)),
        Verb::Bench(bench) => bench.run(cluster, &runtime),
        Verb::Completions(completions) => {
            clap_complete::generate(completions.shell, &mut Cli::command(), "rain", &mut std::io::stdout());
            Ok(())
        }
    };
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if command.get_subcommands().next().is_none() {
                assert!(help.contains("Example"), "rain {} has no example", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn given_addresses_come_first() {
        assert_eq!(addresses(Some("a:1,b:2")), ["a:1", "b:2"]);
    }
}
