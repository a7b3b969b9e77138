//! `rain mount` and `rain umount`; mount(8) calls the former as `mount.rain`.
//!
//! To mount in the background, the program runs itself again with `-f` and waits until that process prints
//! that the volume is mounted. So success means mounted.

use super::open_volume;
use crate::output;
use crate::source::Source;
use anyhow::{Context, bail};
use clap::Args;
use rain_client::{Client, Error, Options, ReadPolicy, Volume};
use rain_fuse::{DaemonEnd, MountOptions, Mounted};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long a mount waits for servers that do not answer, by default: two minutes, as NFS does in the
/// foreground.
const RETRY_DEFAULT: Duration = Duration::from_secs(120);

/// The time between two attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long a mount waits for servers before it says so: longer than a mount takes whose servers answer.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// Mount a volume.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rain mount a:7400,b:7400:/main /mnt\n  rain mount -o ro,log=/var/log/rain.log a:/main /mnt\n  \
    In /etc/fstab, with /sbin/mount.rain a link to rain:\n    a,b:/main /mnt rain _netdev 0 0"
)]
pub(crate) struct Mount {
    /// HOST:PORT,HOST:PORT:/VOLUME; a port of 7400 may be left out.
    source: Source,
    /// An empty directory.
    mountpoint: PathBuf,
    /// Options: ro, allow_other, log=FILE, timeout=MILLISECONDS (an operation that needs nodes which do not
    /// answer fails after this), fail-fast (do not wait for servers that do not answer), retry=SECONDS (how
    /// long to wait for them, by default 120), sync (every change is durable when its call returns, not only
    /// at fsync), relaxed (other mounts' changes may be seen a second late); unknown options are ignored.
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground and log to standard error.
    #[arg(short)]
    foreground: bool,
    /// Flags that mount(8) may add.
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'r', hide = true)]
    read_only: bool,
    #[arg(short = 'w', hide = true)]
    read_write: bool,
}

/// Unmount a volume.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain umount /mnt")]
pub(crate) struct Umount {
    /// The directory at which the volume is mounted.
    mountpoint: PathBuf,
}

impl Umount {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = self.mountpoint;
        if rustix::process::geteuid().is_root() {
            let done = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty());
            return done.with_context(|| {
                format!(
                    "unmounting {} failed: a program may be using it, or it is not mounted",
                    path.display()
                )
            });
        }
        let status = Command::new("fusermount3").arg("-u").arg(&path).status();
        match status.context("running fusermount3: install the package fuse3, or run as root")?.success() {
            true => Ok(()),
            false => bail!(
                "fusermount3 could not unmount {}: a program may be using it, or it is not mounted",
                path.display()
            ),
        }
    }
}

/// Starts the log of a program that keeps running: on standard error, with the filter in RAIN_LOG (default:
/// info).
pub(super) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RAIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let _ = log.try_init();
}

impl Mount {
    pub(crate) fn run(self, runtime: &Runtime) -> anyhow::Result<()> {
        let mut options = MountOptions { read_only: self.read_only, ..MountOptions::default() };
        options.source = format!("{}:/{}", self.source.addresses.join(","), self.source.volume);
        let (mut log, mut timeout, mut policy, mut retry) = (None, None, None, RETRY_DEFAULT);
        let (mut write_back, mut caches) = (true, true);
        for text in &self.options {
            for unknown in options.parse(text)? {
                match unknown.split_once('=') {
                    Some(("log", file)) => log = Some(PathBuf::from(file)),
                    Some(("timeout", millis)) => {
                        let millis = millis.parse().with_context(|| {
                            format!("timeout={millis}: give whole milliseconds, such as 1200")
                        })?;
                        timeout = Some(Duration::from_millis(millis));
                    }
                    Some(("retry", secs)) => {
                        let secs = secs
                            .parse()
                            .with_context(|| format!("retry={secs}: give whole seconds, such as 120"))?;
                        retry = Duration::from_secs(secs);
                    }
                    None if unknown == "fail-fast" => retry = Duration::ZERO,
                    None if unknown == "sync" => (write_back, options.sync) = (false, true),
                    None if unknown == "dirsync" => write_back = false,
                    None if unknown == "async" => (write_back, options.sync) = (true, false),
                    None if unknown == "relaxed" => caches = false,
                    None if unknown == "strict" => caches = true,
                    Some(("read_policy", word)) => {
                        let word: ReadPolicy =
                            word.parse().map_err(anyhow::Error::msg).context("read_policy")?;
                        policy = Some(word);
                    }
                    _ => {}
                }
            }
        }
        rain_fuse::check_mountpoint(&self.mountpoint)?;
        if !self.foreground {
            return self.in_background(log);
        }
        start_log();
        let label = format!("mount at {}, pid {}", self.mountpoint.display(), std::process::id());
        let mut client = Options { label, write_back, caches, ..Options::default() };
        client.dead_after = timeout.unwrap_or(client.dead_after);
        client.read_policy = policy.unwrap_or(client.read_policy);
        let (client, volume) = runtime.block_on(self.connect(client, retry))?;
        stay_mounted(runtime, &client, &volume, &self.mountpoint, options, || output::line("mounted"))
    }

    /// Connects and opens the volume. Waits at most `retry` for servers that do not answer, or have no
    /// majority yet, as NFS does.
    async fn connect(&self, options: Options, retry: Duration) -> anyhow::Result<(Arc<Client>, Arc<Volume>)> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            let client = match Client::connect(&self.source.addresses, options.clone()).await {
                Ok(client) => client,
                Err(error) => {
                    let may_come = matches!(
                        error,
                        Error::NoCluster { .. } | Error::Unreachable { .. } | Error::NoMajority { .. }
                    );
                    if !may_come || begun.elapsed() >= retry {
                        return Err(error.into());
                    }
                    if !said {
                        tracing::warn!(%error, "the cluster cannot be used yet; waiting at most {retry:?}");
                        said = true;
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
            };
            let volume = open_volume(&client, &self.source.volume).await?;
            return Ok((client, volume));
        }
    }

    /// Runs this program again as a process in the foreground of its own, and waits until it prints that the
    /// volume is mounted. Fails with the last line of that process's log.
    fn in_background(self, log: Option<PathBuf>) -> anyhow::Result<()> {
        let log = log.unwrap_or_else(|| {
            let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
            folder.join(format!("rain-mount-{}.log", std::process::id()))
        });
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let begins_at = file.metadata()?.len();
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["mount", "-f"]);
        for options in &self.options {
            command.args(["-o", options]);
        }
        if self.read_only {
            command.arg("-r");
        }
        command.arg(format!("{}:/{}", self.source.addresses.join(","), self.source.volume));
        // The process runs in /, so that it keeps no directory busy.
        command.arg(std::path::absolute(&self.mountpoint)?).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).process_group(0);
        let mut child = command.spawn().context("starting the mount")?;
        let stdout = child.stdout.take().context("reading from the mount")?;
        let (send, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut word = String::new();
            let _ = BufReader::new(stdout).read_line(&mut word);
            let _ = send.send(word);
        });
        let word = match said.recv_timeout(SAY_AFTER) {
            Ok(word) => word,
            Err(_) => {
                let servers = self.source.addresses.join(", ");
                output::say(format!("rain: waiting for {servers} (-o fail-fast does not wait)"));
                said.recv().unwrap_or_default()
            }
        };
        if word.trim() == "mounted" {
            return Ok(());
        }
        let _ = child.wait();
        let said = std::fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(said.get(begins_at as usize..).unwrap_or_default()).into_owned();
        let why = said
            .lines()
            .last()
            .unwrap_or("the mount process ended without a message")
            .trim_start_matches("rain: ")
            .to_owned();
        bail!("{why}");
    }
}

/// Mounts, calls `say`, and blocks until the volume is unmounted or a signal asks the program to end. Then
/// all written data is stored and the client's session ends.
pub(super) fn stay_mounted(
    runtime: &Runtime,
    client: &Client,
    volume: &Arc<Volume>,
    mountpoint: &Path,
    options: MountOptions,
    say: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Before there is a mount: a signal must not leave a dead one.
    let mut signals = runtime.block_on(async { EndSignals::catch() }).context("signals")?;
    let mounted = rain_fuse::mount(volume.clone(), mountpoint, options, runtime.handle().clone())?;
    if let Err(error) = start_guard(&mounted) {
        tracing::info!(
            error = format!("{error:#}"),
            "no guard: if this process is killed, programs may hang"
        );
    }
    let unmounter = mounted.unmounter();
    let flushed = volume.clone();
    runtime.spawn(async move {
        signals.wait().await;
        if let Err(error) = flushed.flush_all().await {
            tracing::error!(%error, "some written data could not be stored");
        }
        let unmounted = tokio::task::spawn_blocking(move || unmounter.unmount()).await;
        if let Ok(Err(error)) = unmounted {
            tracing::error!(%error, "unmounting failed");
        }
    });
    let said = say();
    mounted.wait();
    runtime.block_on(client.close());
    said
}

/// The first argument with which this program runs itself as the guard of a mount. The second is the process id of
/// the mount daemon; standard input is the file by which the connection can be aborted.
pub(crate) const GUARD: &str = "mount-guard";

/// Starts the guard of a mount of this process; see [`rain_fuse::guard`]. It ends with this process.
fn start_guard(mounted: &Mounted) -> anyhow::Result<()> {
    let abort = mounted.abort_file().context("opening the file that aborts the connection")?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args([GUARD, &std::process::id().to_string()]).current_dir("/").process_group(0);
    // Its standard error is the log of the mount.
    command.stdin(Stdio::from(abort)).stdout(Stdio::null());
    command.spawn().context("starting the guard")?;
    Ok(())
}

/// The program of the guard.
pub(crate) fn run_guard(daemon: &str) -> anyhow::Result<()> {
    let daemon = daemon.parse().context("the process id of the mount daemon")?;
    // What ends the daemon may take long, and the guard ends with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
    let _inside = runtime.enter();
    let _caught = EndSignals::catch().context("signals")?;
    let abort = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    if rain_fuse::guard(daemon, File::from(abort))? == DaemonEnd::Aborted {
        output::say(format!(
            "rain: the mount daemon {daemon} was killed, and a thread of it could not exit; its mount was ended"
        ));
    }
    Ok(())
}

/// The signals that ask a program to end. Once they are caught they do not end it.
pub(super) struct EndSignals([Signal; 3]);

impl EndSignals {
    /// Catches them from here on. It must be called in a runtime.
    pub(super) fn catch() -> std::io::Result<EndSignals> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        Ok(EndSignals([terminate?, interrupt?, hangup?]))
    }

    /// Waits for the first that has come since they are caught.
    pub(super) async fn wait(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
