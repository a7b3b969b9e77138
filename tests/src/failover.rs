//! Measures what programs on a mount see while parts of the cluster fail: the longest read, the longest
//! write, errors.
//!
//! The nodes are real processes in network namespaces, with a real mount. Four programs work all the time:
//! - small reads: open, read 4 KiB, close;
//! - small writes: create, write 4 KiB, fsync, close;
//! - reads of 1 MiB of a large file that stays open;
//! - writes of 1 MiB with fdatasync to a large file that stays open.
//!
//! `cargo xtask failover` prints the table.

use crate::real::{ClusterOptions, TestCluster, TestMount};
use anyhow::{Context, ensure};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Length of a large file, bytes: 32 pieces, so that a piece is used again only after all others.
const LARGE: u64 = 32 << 20;

/// Length of a large read or write, bytes: one block.
const PIECE: usize = 1 << 20;

/// Undisturbed time before a fault and after it.
const CALM: Duration = Duration::from_millis(1500);

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault: the durations of undisturbed operations.
    None,
    /// A follower is killed and started again.
    FollowerKilled,
    /// The leader is killed and started again.
    LeaderKilled,
    /// A follower is cut off: its packets vanish silently.
    FollowerCut,
    /// The leader is cut off: its packets vanish silently.
    LeaderCut,
    /// The switch splits; the smaller side has m followers, which is as many as the code tolerates.
    PartitionFollowers,
    /// The switch splits; the smaller side has m nodes, among them the leader.
    PartitionLeader,
    /// The switch splits into halves; neither side has enough nodes.
    PartitionHalves,
    /// The first of a follower's two cables is pulled.
    FollowerLink,
    /// The first of the leader's two cables is pulled.
    LeaderLink,
    /// A follower is paused for ten seconds.
    FollowerPaused,
    /// The leader is paused for ten seconds.
    LeaderPaused,
    /// All nodes are restarted, one after the other.
    RollingRestart,
}

impl Fault {
    /// All faults that a cluster of this many nodes can have.
    pub fn all(nodes: u32) -> Vec<Fault> {
        use Fault::*;
        let mut all = vec![None, FollowerKilled, LeaderKilled, FollowerCut, LeaderCut];
        if nodes >= 6 {
            all.extend([PartitionFollowers, PartitionLeader, PartitionHalves]);
        }
        all.extend([FollowerLink, LeaderLink, FollowerPaused, LeaderPaused, RollingRestart]);
        all
    }

    /// Name of the fault in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Fault::None => "nothing",
            Fault::FollowerKilled => "a follower killed",
            Fault::LeaderKilled => "the leader killed",
            Fault::FollowerCut => "a follower cut off silently",
            Fault::LeaderCut => "the leader cut off silently",
            Fault::PartitionFollowers => "a partition, the leader with the most",
            Fault::PartitionLeader => "a partition, the leader with the fewer",
            Fault::PartitionHalves => "a partition into halves",
            Fault::FollowerLink => "one of two links of a follower cut",
            Fault::LeaderLink => "one of two links of the leader cut",
            Fault::FollowerPaused => "a follower paused for 10 s",
            Fault::LeaderPaused => "the leader paused for 10 s",
            Fault::RollingRestart => "a rolling restart of all",
        }
    }

    /// Targets: the longest allowed read and write. None where no side can go on.
    pub fn targets(self) -> Option<(Duration, Duration)> {
        let ms = Duration::from_millis;
        match self {
            Fault::PartitionHalves => None,
            Fault::FollowerKilled => Some((ms(50), ms(300))),
            Fault::FollowerLink | Fault::LeaderLink => Some((ms(50), ms(300))),
            _ => Some((ms(100), ms(500))),
        }
    }
}

/// Figures of one kind of operation.
#[derive(Debug, Clone, Default)]
pub struct OperationStats {
    /// Operations done.
    pub done: u64,
    /// Duration of the longest one.
    pub worst: Duration,
    /// Number of errors.
    pub errors: u64,
    /// Text of the first error; empty without one.
    pub first_error: String,
}

impl OperationStats {
    fn of(kind: &str, ops: &[Operation], from: Instant) -> OperationStats {
        let mut met = OperationStats::default();
        for op in ops.iter().filter(|op| op.kind == kind && op.begun + op.took >= from) {
            met.done += 1;
            met.worst = met.worst.max(op.took);
            if let Some(error) = &op.error {
                met.errors += 1;
                if met.first_error.is_empty() {
                    met.first_error.clone_from(error);
                }
            }
        }
        met
    }
}

/// Figures of one fault.
#[derive(Debug, Clone)]
pub struct FaultReport {
    /// The fault.
    pub fault: Fault,
    /// Small reads.
    pub small_reads: OperationStats,
    /// Small writes.
    pub small_writes: OperationStats,
    /// Reads of 1 MiB.
    pub large_reads: OperationStats,
    /// Writes of 1 MiB.
    pub large_writes: OperationStats,
    /// Time from the end of the fault until every kind of operation has succeeded again.
    pub well_after: Duration,
}

impl FaultReport {
    /// Duration of the longest read.
    pub fn reads(&self) -> Duration {
        self.small_reads.worst.max(self.large_reads.worst)
    }

    /// Duration of the longest write.
    pub fn writes(&self) -> Duration {
        self.small_writes.worst.max(self.large_writes.worst)
    }

    /// Errors of all kinds of operations.
    pub fn errors(&self) -> u64 {
        self.all().iter().map(|(_, met)| met.errors).sum()
    }

    /// Figures by kind of operation.
    pub fn all(&self) -> [(&'static str, &OperationStats); 4] {
        [
            ("small reads", &self.small_reads),
            ("small writes", &self.small_writes),
            ("1 MiB reads", &self.large_reads),
            ("1 MiB writes", &self.large_writes),
        ]
    }
}

/// One operation of a program.
struct Operation {
    kind: &'static str,
    begun: Instant,
    took: Duration,
    error: Option<String>,
}

/// The programs at work.
struct Workload {
    stop: Arc<AtomicBool>,
    ops: Arc<Mutex<Vec<Operation>>>,
    threads: Vec<JoinHandle<()>>,
}

type Work = Box<dyn FnMut(u64) -> Result<(), (&'static str, io::Error)> + Send>;

impl Workload {
    fn start(dir: &Path) -> anyhow::Result<Workload> {
        let dir = dir.join("failover");
        std::fs::create_dir_all(&dir)?;
        for name in ["small", "large"] {
            let len = if name == "small" { 4 << 20 } else { LARGE };
            let file = File::create(dir.join(name))?;
            for piece in 0..len / PIECE as u64 {
                file.write_all_at(&vec![piece as u8; PIECE], piece * PIECE as u64)?;
            }
            file.sync_all()?;
        }
        let (stop, ops) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let kinds: [(&'static str, Work); 4] = [
            ("small reads", small_reads(dir.join("small"))),
            ("small writes", small_writes(dir.clone())),
            ("1 MiB reads", large_reads(&dir.join("large"))?),
            ("1 MiB writes", large_writes(&dir.join("written"))?),
        ];
        let threads = kinds.into_iter().map(|(kind, mut work)| {
            let (stop, ops) = (stop.clone(), ops.clone());
            std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let result = work(number);
                    number += 1;
                    let error = result.err().map(|(what, error)| format!("{what}: {error}"));
                    let failed = error.is_some();
                    let op = Operation { kind, begun, took: begun.elapsed(), error };
                    ops.lock().push(op);
                    if failed {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    // Four programs and all nodes share this machine. The pause keeps their queues from
                    // causing stalls.
                    std::thread::sleep(Duration::from_millis(4));
                }
            })
        });
        let threads = threads.collect();
        Ok(Workload { stop, ops, threads })
    }

    /// Waits until an operation of every kind that began after `since` has succeeded. Returns the time from
    /// `since`.
    fn wait_well(&self, since: Instant, within: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let well = {
                let ops = self.ops.lock();
                let first = |kind: &str| {
                    let good = |op: &&Operation| op.kind == kind && op.begun >= since && op.error.is_none();
                    ops.iter().find(good).map(|op| op.begun + op.took)
                };
                let all: Option<Vec<Instant>> =
                    ["small reads", "small writes", "1 MiB reads", "1 MiB writes"]
                        .into_iter()
                        .map(first)
                        .collect();
                all.and_then(|all| all.into_iter().max())
            };
            if let Some(at) = well {
                return Ok(at.duration_since(since));
            }
            ensure!(begun.elapsed() < within, "some kinds of operations still fail after {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn drop_cached_pages(file: &File) {
    // Otherwise the kernel's page cache would answer the read.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

fn small_reads(path: PathBuf) -> Work {
    Box::new(move |number| {
        let file = File::open(&path).map_err(|error| ("open", error))?;
        drop_cached_pages(&file);
        let mut bytes = [0; 4096];
        let at = number * 12_289 % (4 << 20) / 4096 * 4096;
        file.read_exact_at(&mut bytes, at).map_err(|error| ("read", error))?;
        if bytes.iter().any(|byte| *byte != (at >> 20) as u8) {
            return Err(("read", io::Error::other("other bytes than were written")));
        }
        Ok(())
    })
}

fn small_writes(dir: PathBuf) -> Work {
    Box::new(move |number| {
        let file = File::create(dir.join(format!("w{}", number % 50))).map_err(|error| ("create", error))?;
        file.write_all_at(&[number as u8; 4096], 0).map_err(|error| ("write", error))?;
        file.sync_all().map_err(|error| ("fsync", error))
    })
}

fn large_reads(path: &Path) -> anyhow::Result<Work> {
    let file = File::open(path)?;
    Ok(Box::new(move |number| {
        drop_cached_pages(&file);
        let mut bytes = vec![0; PIECE];
        let piece = number % (LARGE / PIECE as u64);
        file.read_exact_at(&mut bytes, piece * PIECE as u64).map_err(|error| ("read", error))?;
        if bytes.iter().any(|byte| *byte != piece as u8) {
            return Err(("read", io::Error::other("other bytes than were written")));
        }
        Ok(())
    }))
}

fn large_writes(path: &Path) -> anyhow::Result<Work> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    Ok(Box::new(move |number| {
        let at = number % (LARGE / PIECE as u64) * PIECE as u64;
        file.write_all_at(&vec![number as u8; PIECE], at).map_err(|error| ("write", error))?;
        file.sync_data().map_err(|error| ("fsync", error))
    }))
}

/// A mounted cluster on a LAN of its own, with programs at work.
pub struct FailoverCluster {
    workload: Workload,
    mount: TestMount,
    cluster: TestCluster,
    nodes: u32,
    voters: usize,
}

impl FailoverCluster {
    /// Starts six nodes with 4+2, or with `pair` two nodes and a witness with 1+1.
    pub fn new(rain: &Path, pair: bool) -> anyhow::Result<FailoverCluster> {
        let six = ClusterOptions { cables: 2, ..ClusterOptions::new(rain) };
        let options =
            if pair { ClusterOptions { nodes: 3, witnesses: vec![3], code: "1+1", ..six } } else { six };
        let (nodes, voters) = if pair { (3, 3) } else { (6, 5) };
        let cluster = TestCluster::start(options)?;
        cluster.wait_settled(voters, Duration::from_secs(20))?;
        let mount = TestMount::new(&cluster, "mnt")?;
        let workload = Workload::start(mount.path())?;
        Ok(FailoverCluster { workload, mount, cluster, nodes, voters })
    }

    /// Makes a fault while the programs work, ends it, and waits until all kinds of operations succeed again.
    pub fn play(&mut self, fault: Fault) -> anyhow::Result<FaultReport> {
        self.cluster.wait_settled(self.voters, Duration::from_secs(40))?;
        self.workload.wait_well(Instant::now(), Duration::from_secs(30))?;
        std::thread::sleep(CALM);
        let leader = self.cluster.leader()?;
        // A fault of a node with shares affects more than one of the witness, node 3.
        let mut others: Vec<u32> = (1..=self.nodes).filter(|node| *node != leader).collect();
        if self.nodes == 3 {
            others.retain(|node| *node != 3);
            if others.len() > 1 {
                others.truncate(1);
            }
        }
        let follower = *others.first().context("a follower")?;
        self.workload.ops.lock().clear();
        let begun = Instant::now();
        self.strike(fault, leader, follower, &others)?;
        let mended = Instant::now();
        let well_after = self.workload.wait_well(mended, Duration::from_secs(40))?;
        std::thread::sleep(CALM);
        let ops = self.workload.ops.lock();
        let met = |kind| OperationStats::of(kind, &ops, begun);
        Ok(FaultReport {
            fault,
            small_reads: met("small reads"),
            small_writes: met("small writes"),
            large_reads: met("1 MiB reads"),
            large_writes: met("1 MiB writes"),
            well_after,
        })
    }

    fn strike(&mut self, fault: Fault, leader: u32, follower: u32, others: &[u32]) -> anyhow::Result<()> {
        let secs = Duration::from_secs;
        let cut = |cluster: &TestCluster, node: u32, pulled: bool| -> anyhow::Result<()> {
            (0..2).try_for_each(|cable| cluster.lan()?.pull(node, cable, pulled))
        };
        let cluster = &mut self.cluster;
        match fault {
            Fault::None => std::thread::sleep(secs(3)),
            Fault::FollowerKilled | Fault::LeaderKilled => {
                let victim = if fault == Fault::LeaderKilled { leader } else { follower };
                cluster.kill(victim)?;
                std::thread::sleep(secs(3));
                cluster.restart(victim)?;
            }
            Fault::FollowerCut | Fault::LeaderCut => {
                let victim = if fault == Fault::LeaderCut { leader } else { follower };
                cut(cluster, victim, true)?;
                std::thread::sleep(secs(4));
                cut(cluster, victim, false)?;
            }
            Fault::PartitionFollowers => {
                cluster.lan()?.split(&others[others.len() - 2..])?;
                std::thread::sleep(secs(4));
                cluster.lan()?.split(&[])?;
            }
            Fault::PartitionLeader => {
                cluster.lan()?.split(&[leader, follower])?;
                std::thread::sleep(secs(4));
                cluster.lan()?.split(&[])?;
            }
            Fault::PartitionHalves => {
                cluster.lan()?.split(&others[..3])?;
                std::thread::sleep(secs(4));
                cluster.lan()?.split(&[])?;
            }
            Fault::FollowerLink | Fault::LeaderLink => {
                let victim = if fault == Fault::LeaderLink { leader } else { follower };
                cluster.lan()?.pull(victim, 0, true)?;
                std::thread::sleep(secs(4));
                cluster.lan()?.pull(victim, 0, false)?;
            }
            Fault::FollowerPaused | Fault::LeaderPaused => {
                let victim = if fault == Fault::LeaderPaused { leader } else { follower };
                cluster.pause(victim, true)?;
                std::thread::sleep(secs(10));
                cluster.pause(victim, false)?;
            }
            Fault::RollingRestart => {
                for node in 1..=self.nodes {
                    cluster.stop(node)?;
                    cluster.restart(node)?;
                    std::thread::sleep(secs(1));
                }
            }
        }
        Ok(())
    }

    /// Ends the programs, the mount and the cluster.
    pub fn end(self) -> anyhow::Result<()> {
        self.workload.end();
        if std::env::var_os("RAIN_TEST_LOGS").is_some() {
            eprintln!("--- log of the mount\n{}", self.mount.log());
        }
        self.mount.unmount()
    }
}
