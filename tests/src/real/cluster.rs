//! A cluster of real `storaged` processes, with its data in a temporary folder. It runs on free ports of
//! loopback, or on a LAN of network namespaces.

use super::lan::{self, Lan};
use super::run;
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Options of a test cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The command under test.
    pub rain: PathBuf,
    /// Number of nodes, including witnesses.
    pub nodes: u32,
    /// Ids of the nodes that are witnesses.
    pub witnesses: Vec<u32>,
    /// Number of nodes that are not members at first: the last ones ([`TestCluster::start_later`] starts
    /// them).
    pub later: u32,
    /// Code of the volume `main`.
    pub code: &'static str,
    /// Additional arguments for every node.
    pub args: Vec<String>,
    /// Nodes with their data on a tmpfs of their own, each with its size in MiB. Takes root.
    pub disks: Vec<(u32, u32)>,
    /// Cables of each node on a LAN of network namespaces, which takes root; 0 puts all nodes on loopback.
    pub cables: u32,
}

impl ClusterOptions {
    /// Six nodes on loopback, and the code 4+2.
    pub fn new(rain: impl Into<PathBuf>) -> ClusterOptions {
        ClusterOptions {
            rain: rain.into(),
            nodes: 6,
            witnesses: Vec::new(),
            later: 0,
            code: "4+2",
            args: Vec::new(),
            disks: Vec::new(),
            cables: 0,
        }
    }
}

/// A running cluster. Dropping it kills every process.
#[derive(Debug)]
pub struct TestCluster {
    options: ClusterOptions,
    lan: Option<Lan>,
    folder: TempDir,
    ports: Vec<u16>,
    children: Vec<Option<Child>>,
}

impl TestCluster {
    /// Starts the nodes, waits until all have joined, and creates the volume `main`.
    pub fn start(options: ClusterOptions) -> anyhow::Result<TestCluster> {
        let cluster = TestCluster::start_without_volume(options)?;
        let code = cluster.options.code;
        cluster.rain(&["volume", "create", "main", "--code", code])?;
        Ok(cluster)
    }

    /// Starts the nodes and waits until all have joined.
    pub fn start_without_volume(options: ClusterOptions) -> anyhow::Result<TestCluster> {
        let ports = free_ports(options.nodes as usize)?;
        let folder = tempfile::Builder::new().prefix("rain-test-").tempdir()?;
        let children = (0..options.nodes).map(|_| None).collect();
        let lan = (options.cables > 0).then(|| Lan::new(options.nodes, options.cables)).transpose()?;
        let mut cluster = TestCluster { options, lan, folder, ports, children };
        for (node, mib) in &cluster.options.disks {
            let at = cluster.data(*node);
            std::fs::create_dir(&at)?;
            run(
                "mount",
                &["-t", "tmpfs", "-o", &format!("size={mib}m"), "rain-test", &at.to_string_lossy()],
            )?;
        }
        let first = cluster.options.nodes - cluster.options.later;
        for node in 1..=first {
            cluster.spawn(node, &[])?;
        }
        for node in 1..=first {
            cluster.wait_ready(node)?;
        }
        Ok(cluster)
    }

    /// The temporary folder with all data, logs and mount points.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command under test.
    pub fn binary(&self) -> &Path {
        &self.options.rain
    }

    /// Data folder of a node.
    pub fn data(&self, node: u32) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// Address of a node, `HOST:PORT`.
    pub fn address(&self, node: u32) -> String {
        if self.lan.is_some() {
            return format!("{}:7400", lan::address(node, 0));
        }
        format!("127.0.0.1:{}", self.ports[node as usize - 1])
    }

    /// The LAN of the cluster. Fails on loopback.
    pub fn lan(&self) -> anyhow::Result<&Lan> {
        self.lan.as_ref().context("the cluster is on loopback")
    }

    /// A `rain` command on the machine of a node; machine 0 is the client.
    pub(super) fn command(&self, machine: u32) -> Command {
        match &self.lan {
            Some(lan) => lan.on(machine, &self.options.rain),
            None => Command::new(&self.options.rain),
        }
    }

    /// Addresses of all first members, for `--cluster` and `--peers`.
    pub fn addresses(&self) -> String {
        (1..=self.options.nodes - self.options.later)
            .map(|node| self.address(node))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Fills the disk of a node until `mib_left` MiB are free; 0 takes the last byte. The node must be one of
    /// `disks`.
    pub fn fill_disk(&self, node: u32, mib_left: u64) -> anyhow::Result<()> {
        let file = File::create(self.data(node).join("ballast"))?;
        let mut tries = 0;
        loop {
            // The file keeps its present length; the node may write in between, so this takes several tries.
            let stat = rustix::fs::statvfs(self.data(node))?;
            let free = (stat.f_bavail * stat.f_frsize).saturating_sub(mib_left << 20);
            let ballast = file.metadata()?.len() + free;
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ballast) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::NOSPC) if tries < 50 => tries += 1,
                Err(error) => return Err(error).context("filling a disk"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the file with which [`TestCluster::fill_disk`] filled the disk.
    pub fn free_disk(&self, node: u32) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.data(node).join("ballast"))?)
    }

    /// Process id of a node; none while it does not run.
    pub fn pid(&self, node: u32) -> Option<u32> {
        self.children[node as usize - 1].as_ref().map(Child::id)
    }

    /// The log of a node, of all its starts.
    pub fn log(&self, node: u32) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("node-{node}.log"))).unwrap_or_default()
    }

    fn spawn(&mut self, node: u32, more: &[&str]) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("node-{node}.log")))?;
        let mut command = self.command(node);
        command.arg("storaged").args(["--node-id", &node.to_string(), "--listen", &self.address(node)]);
        if self.lan.is_some() {
            let rings: Vec<String> =
                (0..self.options.cables).map(|cable| format!("{}:7400", lan::address(node, cable))).collect();
            command.args(["--insecure", "--ring-listen", &rings.join(",")]);
        }
        command.arg("--data").arg(self.data(node)).arg("--exit-with-parent");
        command.args(["--peers", &self.addresses()]);
        if self.options.witnesses.contains(&node) {
            command.arg("--witness");
        }
        command.args(&self.options.args).args(more);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn();
        self.children[node as usize - 1] = Some(child.context("starting a node")?);
        Ok(())
    }

    /// Starts a node that is not a member, and waits until it logs the command that adds it.
    pub fn start_later(&mut self, node: u32) -> anyhow::Result<()> {
        self.spawn(node, &[])?;
        let begun = Instant::now();
        while !self.log(node).contains("node add") {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "node {node} does not log how to add it: {}",
                self.log(node)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Gives a node the port of another node, from its next start on.
    pub fn put_in_place(&mut self, node: u32, of: u32) {
        self.ports[node as usize - 1] = self.ports[of as usize - 1];
    }

    /// Gives all nodes other ports, from their next start on.
    pub fn move_ports(&mut self) -> anyhow::Result<()> {
        self.ports = free_ports(self.ports.len())?;
        Ok(())
    }

    /// Waits until a node reports that it has joined.
    pub fn wait_ready(&mut self, node: u32) -> anyhow::Result<()> {
        let child = self.children[node as usize - 1].as_mut().context("the node was not started")?;
        if let Some(stdout) = child.stdout.take() {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            if line.starts_with("ready ") {
                return Ok(());
            }
        }
        bail!("node {node} did not become ready: {}", self.log(node));
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, node: u32) -> anyhow::Result<()> {
        let mut child = self.children[node as usize - 1].take().context("the node does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Kills all nodes with SIGKILL, at once.
    pub fn kill_all(&mut self) -> anyhow::Result<()> {
        for child in self.children.iter_mut().flatten() {
            child.kill()?;
        }
        for child in &mut self.children {
            if let Some(mut child) = child.take() {
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Pauses a node with SIGSTOP, or resumes it with SIGCONT.
    pub fn pause(&self, node: u32, paused: bool) -> anyhow::Result<()> {
        let child = self.children[node as usize - 1].as_ref().context("the node does not run")?;
        let signal = if paused { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        Ok(rustix::process::kill_process(rustix::process::Pid::from_child(child), signal)?)
    }

    /// Id of the leader of the metadata service. Fails when there is none.
    pub fn leader(&self) -> anyhow::Result<u32> {
        let status = self.status()?;
        let leader = status["namespace"]["leader"].as_u64();
        Ok(leader.with_context(|| format!("there is no leader: {status}"))? as u32)
    }

    /// Waits until there are `voters` voters and a leader, and all nodes are in one primary ring.
    pub fn wait_settled(&self, voters: usize, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            let votes = status["namespace"]["voters"].as_array().map_or(0, Vec::len);
            let members = status["ring"]["members"].as_array().map_or(0, Vec::len);
            let led = status["namespace"]["leader"].is_u64() && status["ring"]["primary"] == true;
            if votes == voters && members == self.options.nodes as usize && led {
                return Ok(());
            }
            ensure!(begun.elapsed() < within, "not settled after {within:?}: {status}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a running node leads the metadata service. Returns its id.
    pub fn wait_led(&self, within: Duration) -> anyhow::Result<u32> {
        let begun = Instant::now();
        loop {
            let leader = self.leader();
            // For a moment the followers still name the leader that was killed.
            if let Some(leader) = leader.as_ref().ok().filter(|leader| self.pid(**leader).is_some()) {
                return Ok(*leader);
            }
            ensure!(begun.elapsed() < within, "no running node leads after {within:?}: {leader:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Stops a node with SIGTERM, and waits for its end. Fails after 10 s.
    pub fn stop(&mut self, node: u32) -> anyhow::Result<()> {
        let mut child = self.children[node as usize - 1].take().context("the node does not run")?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "node {node} does not stop on SIGTERM: {}",
                self.log(node)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts a node again and waits until it has joined.
    pub fn restart(&mut self, node: u32) -> anyhow::Result<()> {
        self.restart_with(node, &[])
    }

    /// Starts a node again with additional arguments, and waits until it has joined.
    pub fn restart_with(&mut self, node: u32, more: &[&str]) -> anyhow::Result<()> {
        self.spawn(node, more)?;
        self.wait_ready(node)
    }

    /// Starts all nodes that do not run, and waits until they have joined.
    pub fn restart_all(&mut self) -> anyhow::Result<()> {
        let down: Vec<u32> =
            (1..=self.options.nodes).filter(|node| self.children[*node as usize - 1].is_none()).collect();
        for node in &down {
            self.spawn(*node, &[])?;
        }
        for node in down {
            self.wait_ready(node)?;
        }
        Ok(())
    }

    /// Runs a `rain` command against this cluster and returns its standard output. Fails with its standard
    /// error when the command fails.
    pub fn rain(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.rain_output(args)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rain {} failed ({}): {stderr}", args.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a `rain` command against this cluster, and returns its output and exit status.
    pub fn rain_output(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = self.command(0);
        command.args(["--cluster", &self.addresses()]).args(args).stdin(Stdio::null());
        command.output().context("running rain")
    }

    /// The output of `rain status --json`.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.rain(&["status", "--json"])?).context("reading the status")
    }

    /// Waits until no share is missing.
    pub fn wait_repaired(&self, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            let missing = status["missing"]["shares"].as_u64().context("missing.shares in the status")?;
            if missing == 0 {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < within,
                "{missing} shares are still missing after {within:?}: {status}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
        }
        for child in self.children.iter_mut().flatten() {
            let _ = child.wait();
        }
        for (node, _) in &self.options.disks {
            let _ = Command::new("umount").arg("-l").arg(self.data(*node)).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() || std::env::var_os("RAIN_TEST_LOGS").is_some() {
            for node in 1..=self.options.nodes {
                eprintln!("--- log of node {node}\n{}", self.log(node));
            }
        }
    }
}

/// Returns ports that are free for TCP and UDP. They are below the system's ephemeral ports, so no other
/// program is given one of them before the nodes bind them.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = Vec::new();
    for _ in 0..10_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (12_000 + (std::process::id().wrapping_mul(97).wrapping_add(step)) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    bail!("fewer than {count} ports are free")
}
