//! `rain dev`: a whole cluster of real processes on this machine, mounted, for trials and for tests.
//!
//! All processes that it starts end with it: on a signal, on an error, and, because the nodes watch their
//! standard input, also when it is killed.

use super::mount::{EndSignals, start_log, stay_mounted};
use super::{open_volume, volume};
use crate::{dev_cluster_file, output};
use anyhow::{Context, bail, ensure};
use clap::Args;
use parking_lot::Mutex;
use rain_client::{Client, Error, Options};
use rain_fuse::MountOptions;
use rain_namespace::error::NsError;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The port of the first node by default.
const FIRST_PORT: u16 = 7401;

/// How long a node may take to be ready. Usually it takes less than a second, on a loaded machine more.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How many times the nodes are started, if other programs take their ports meanwhile.
const START_ATTEMPTS_MAX: u32 = 5;

/// How long the nodes may take to stop before they are killed. Longer than a healthy node takes.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Start a cluster of real nodes on this machine and mount it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain dev /tmp/rain")]
pub(crate) struct Dev {
    /// The directory to mount at; it is created if it does not exist.
    #[arg(required_unless_present = "no_mount")]
    mountpoint: Option<PathBuf>,
    /// The directory for the nodes' data; a later `rain dev` uses it again. By default one of your own in the
    /// temporary directory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The number of nodes.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// The code of the volume.
    #[arg(long, default_value = "4+2")]
    code: String,
    /// The port of the first node; the ports of the others follow. By default 7401, or the next free ones.
    #[arg(long)]
    port: Option<u16>,
    /// Start the nodes without mounting.
    #[arg(long)]
    no_mount: bool,
}

/// The processes of the nodes; None for one that has ended. Dropping it stops them all.
struct Nodes {
    children: Vec<Option<Child>>,
}

impl Nodes {
    /// Asks all nodes to stop, and kills those that have not after [`STOP_TIMEOUT`].
    fn stop(&mut self) {
        for child in self.children.iter().flatten() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(child),
                rustix::process::Signal::TERM,
            );
        }
        let begun = Instant::now();
        for child in &mut self.children {
            let Some(mut child) = child.take() else { continue };
            while matches!(child.try_wait(), Ok(None)) {
                if begun.elapsed() > STOP_TIMEOUT {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A mount point that this program has created; dropping it removes the directory.
struct CreatedMountpoint(Option<PathBuf>);

impl Drop for CreatedMountpoint {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Chooses ports for the nodes: those in `wanted` (of the last run) where they are free, else free ones from
/// `first` on. With `exact` the ports are `first` and those after it. Fails with the port that is taken.
fn choose_ports(
    count: usize,
    wanted: &[u16],
    first: u16,
    exact: bool,
    is_free: impl Fn(u16) -> bool,
) -> Result<Vec<u16>, u16> {
    let mut chosen: Vec<u16> = Vec::new();
    let mut used = BTreeSet::new();
    let mut next = first;
    for node in 0..count {
        let preferred = wanted.get(node).copied().filter(|_| !exact);
        let port = match preferred.filter(|port| is_free(*port) && !used.contains(port)) {
            Some(port) => port,
            None => loop {
                if is_free(next)
                    && !used.contains(&next)
                    && !wanted[(node + 1).min(wanted.len())..].contains(&next)
                {
                    break next;
                }
                if exact || next == u16::MAX {
                    return Err(next);
                }
                next += 1;
            },
        };
        used.insert(port);
        chosen.push(port);
        if next == port {
            next = next.checked_add(1).ok_or(port)?;
        }
    }
    Ok(chosen)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn node_folder(data: &Path, node: usize) -> PathBuf {
    data.join(format!("node-{node}"))
}

fn node_args(data: &Path, node: usize, ports: &[u16]) -> Vec<String> {
    let mut args: Vec<String> = ["storaged", "--node-id"].map(str::to_owned).to_vec();
    args.push(node.to_string());
    args.extend(["--listen".into(), format!("127.0.0.1:{}", ports[node - 1])]);
    args.extend(["--data".into(), node_folder(data, node).display().to_string()]);
    let peers: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    args.extend(["--peers".into(), peers.join(",")]);
    args
}

fn spawn(data: &Path, node: usize, ports: &[u16]) -> anyhow::Result<Child> {
    let folder = node_folder(data, node);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    Command::new(std::env::current_exe().context("finding this program")?)
        .args(node_args(data, node, ports))
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // A terminal's Ctrl-C goes to the whole group: the nodes must outlive the mount's last flush.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting node {node}"))
}

/// Waits until a node prints that it is ready. Fails with the last line of its log, or after
/// [`READY_TIMEOUT`].
fn wait_ready(child: &mut Child, data: &Path, node: usize) -> anyhow::Result<()> {
    let stdout = child.stdout.take().context("reading from the node")?;
    let (send, ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(line);
    });
    match ready.recv_timeout(READY_TIMEOUT) {
        Ok(line) if line.starts_with("ready ") => Ok(()),
        Ok(_) => {
            let log = fs::read_to_string(node_folder(data, node).join("log")).unwrap_or_default();
            let last =
                log.lines().last().unwrap_or("its log is empty").trim_start_matches("storaged: ").to_owned();
            bail!("node {node} did not start: {last}")
        }
        Err(_) => bail!(
            "node {node} was not ready within {READY_TIMEOUT:?}; its log is {}",
            node_folder(data, node).join("log").display()
        ),
    }
}

impl Dev {
    /// Chooses the ports and records them for the next run.
    fn ports(&self, data: &Path) -> anyhow::Result<Vec<u16>> {
        let file = data.join("ports");
        let remembered = fs::read_to_string(&file).unwrap_or_default();
        let remembered: Vec<u16> =
            remembered.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        let first = self.port.unwrap_or(FIRST_PORT);
        let chosen = choose_ports(self.nodes.into(), &remembered, first, self.port.is_some(), is_free);
        let ports = chosen.map_err(|port| {
            anyhow::anyhow!(
                "port {port} is taken by another program: give another --port, or none to use free ones"
            )
        })?;
        let text = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(ports)
    }

    /// Starts the nodes. Another program (such as another `rain dev` that starts at the same time) may take a
    /// port before its node has it. Then all nodes start again on other ports.
    fn start_nodes(&self, data: &Path) -> anyhow::Result<(Nodes, Vec<u16>)> {
        let mut attempt = 1;
        loop {
            let ports = self.ports(data)?;
            let mut nodes = Nodes { children: Vec::new() };
            for node in 1..=usize::from(self.nodes) {
                nodes.children.push(Some(spawn(data, node, &ports)?));
            }
            let ready = nodes.children.iter_mut().enumerate().try_for_each(|(at, child)| {
                wait_ready(child.as_mut().context("just started")?, data, at + 1)
            });
            match ready {
                Ok(()) => return Ok((nodes, ports)),
                Err(error) => {
                    nodes.stop();
                    // The own nodes are stopped, so a port that is taken belongs to another program.
                    let lost = self.port.is_none() && ports.iter().any(|port| !is_free(*port));
                    if !lost || attempt == START_ATTEMPTS_MAX {
                        return Err(error);
                    }
                    attempt += 1;
                }
            }
        }
    }

    pub(crate) fn run(self, runtime: &Runtime) -> anyhow::Result<()> {
        let spec = volume::code(&self.code, None)?;
        ensure!(
            spec.n() <= usize::from(self.nodes),
            "code {} needs {} nodes, --nodes is {}",
            self.code,
            spec.n(),
            self.nodes
        );
        let mut created = CreatedMountpoint(None);
        if let Some(mountpoint) = self.mountpoint.as_ref().filter(|_| !self.no_mount) {
            if let Err(error) = fs::symlink_metadata(mountpoint)
                && error.kind() == std::io::ErrorKind::NotFound
            {
                fs::create_dir_all(mountpoint)
                    .with_context(|| format!("creating {}", mountpoint.display()))?;
                created.0 = Some(mountpoint.clone());
            }
            rain_fuse::check_mountpoint(mountpoint)?;
        }
        let uid = rustix::process::getuid().as_raw();
        let data = self.data.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("rain-dev-{uid}")));
        fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        let data = fs::canonicalize(&data)?;
        let lock = File::create(data.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!(
                "another `rain dev` runs with its data in {}: stop it, or give another --data",
                data.display()
            );
        }
        let (nodes, ports) = self.start_nodes(&data)?;
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        fs::write(dev_cluster_file(), addresses.join(","))
            .with_context(|| dev_cluster_file().display().to_string())?;
        start_log_to(&data)?;
        let label = format!("rain dev, pid {}", std::process::id());
        let (client, volume) = runtime.block_on(async {
            let client = Client::connect(
                &addresses,
                Options { label, write_back: true, caches: true, ..Options::default() },
            )
            .await?;
            let root = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            match client.create_volume("main", spec, root.0, root.1, 0o755).await {
                Ok(_) | Err(Error::Refused(NsError::Exists)) => {}
                Err(error) => return Err(error.into()),
            }
            let volume = open_volume(&client, "main").await?;
            anyhow::Ok((client, volume))
        })?;
        self.explain(&nodes, &data, &addresses)?;
        let nodes = Arc::new(Mutex::new(nodes));
        watch(&nodes, &data, &ports);
        let done = match self.mountpoint.as_ref().filter(|_| !self.no_mount) {
            Some(mountpoint) => {
                let options = MountOptions {
                    source: format!("{}:/main", addresses.join(",")),
                    ..MountOptions::default()
                };
                stay_mounted(runtime, &client, &volume, mountpoint, options, || {
                    output::line(format!(
                        "mounted at {}. Ctrl-C unmounts and stops everything.",
                        mountpoint.display()
                    ))
                })
            }
            None => {
                let said = output::line("Ctrl-C stops everything.");
                runtime.block_on(async {
                    EndSignals::catch()?.wait().await;
                    anyhow::Ok(())
                })?;
                runtime.block_on(client.close());
                said
            }
        };
        nodes.lock().stop();
        drop(lock);
        drop(created);
        done
    }

    /// Prints the nodes and what to try.
    fn explain(&self, nodes: &Nodes, data: &Path, addresses: &[String]) -> anyhow::Result<()> {
        let mut rows = vec![["node", "pid", "address", "folder"].map(str::to_owned).to_vec()];
        let pid = |node: usize| nodes.children[node - 1].as_ref().map_or(0, Child::id);
        for (at, address) in addresses.iter().enumerate() {
            let folder = node_folder(data, at + 1).display().to_string();
            rows.push(vec![(at + 1).to_string(), pid(at + 1).to_string(), address.clone(), folder]);
        }
        output::table(&rows)?;
        let count = addresses.len();
        let (one, two) = (pid(count.div_ceil(2).max(1)), pid(count));
        let kill = format!("kill -9 {one} {two}");
        let mount =
            self.mountpoint.as_ref().map_or_else(|| "the mount".into(), |path| path.display().to_string());
        let copy = format!("cp -r /usr/include {mount}/");
        output::line(format!(
            "\nvolume main, code {}. Try:\n  \
             {copy:<38} copy a tree in\n  \
             {kill:<38} kill two nodes; reads and writes go on; then: rain status\n  \
             rain explain /main/include/stdio.h     the nodes that have the file's bytes (or: cargo run --release -- explain ...)\n\
             To start a killed node again, type its number here: start 3\n",
            self.code
        ))
    }
}

/// Starts the log of the mount: `mount.log` in the data directory, or standard error if RAIN_LOG is set.
fn start_log_to(data: &Path) -> anyhow::Result<()> {
    let path = data.join("mount.log");
    let file =
        File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    if std::env::var_os("RAIN_LOG").is_some() {
        start_log();
        return Ok(());
    }
    let filter = tracing_subscriber::EnvFilter::new("info");
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(false)
        // tracing-subscriber writes through a mutex of std only.
        .with_writer(std::sync::Mutex::new(file));
    let _ = log.try_init();
    Ok(())
}

/// Prints when a node has ended, and starts the nodes that are asked for on standard input. Polls three times
/// a second.
fn watch(nodes: &Arc<Mutex<Nodes>>, data: &Path, ports: &[u16]) {
    let (watched, folder) = (nodes.clone(), data.to_owned());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let mut nodes = watched.lock();
            for (at, slot) in nodes.children.iter_mut().enumerate() {
                let Some(child) = slot else { continue };
                if let Ok(Some(status)) = child.try_wait() {
                    *slot = None;
                    let node = at + 1;
                    output::say(format!(
                        "node {node} has ended ({status}); type `start {node}` to start it again (its log: {})",
                        node_folder(&folder, node).join("log").display()
                    ));
                }
            }
        }
    });
    let (nodes, data, ports) = (nodes.clone(), data.to_owned(), ports.to_vec());
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let asked = line.trim().strip_prefix("start ").and_then(|node| node.trim().parse::<usize>().ok());
            let Some(node) = asked.filter(|node| (1..=ports.len()).contains(node)) else {
                if !line.trim().is_empty() {
                    output::say(format!(
                        "unknown command; type `start 1` to `start {}`, or Ctrl-C",
                        ports.len()
                    ));
                }
                continue;
            };
            let mut nodes = nodes.lock();
            if nodes.children[node - 1].is_some() {
                output::say(format!("node {node} is running"));
                continue;
            }
            let started = spawn(&data, node, &ports).and_then(|mut child| {
                wait_ready(&mut child, &data, node)?;
                Ok(child)
            });
            match started {
                Ok(child) => {
                    output::say(format!("node {node} is running again, pid {}", child.id()));
                    nodes.children[node - 1] = Some(child);
                }
                Err(error) => output::say(format!("{error:#}")),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_last_time_or_free_ones() {
        let all = |_| true;
        assert_eq!(choose_ports(3, &[], 7401, false, all), Ok(vec![7401, 7402, 7403]));
        assert_eq!(choose_ports(3, &[9001, 9002, 9003], 7401, false, all), Ok(vec![9001, 9002, 9003]));
        let taken = |port| port != 7402 && port != 9002;
        assert_eq!(choose_ports(3, &[], 7401, false, taken), Ok(vec![7401, 7403, 7404]));
        assert_eq!(choose_ports(3, &[9001, 9002, 9003], 7401, false, taken), Ok(vec![9001, 7401, 9003]));
        assert_eq!(choose_ports(3, &[], 7401, true, taken), Err(7402));
        assert_eq!(choose_ports(2, &[7401, 7402], 7401, false, |port| port != 7401), Ok(vec![7403, 7402]));
    }
}
