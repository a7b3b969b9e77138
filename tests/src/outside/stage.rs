//! A cluster of six nodes, 4+2, with two mounts: where programs from outside play.
//!
//! Probes work on every mount all the time, so that a stall is found although the program under test only gets
//! slower by it.

use crate::real::{ClusterOptions, TestCluster, TestMount};
use anyhow::{Context, ensure};
use parking_lot::Mutex;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An operation longer than this is a hang.
pub const HANG: Duration = Duration::from_secs(10);

/// How long a node stays killed, and how long it then runs before the next one is killed. The mounts wait up to
/// five seconds for a leader, so several nodes die within one such wait.
const DOWN_FOR: Duration = Duration::from_millis(1500);
const UP_FOR: Duration = Duration::from_millis(1500);

/// Time between two operations of a probe.
const PROBE_EVERY: Duration = Duration::from_millis(150);

/// The cluster and its mounts.
#[derive(Debug)]
pub struct Stage {
    // The mounts end before the cluster.
    mounts: [Option<TestMount>; 2],
    cluster: Arc<Mutex<TestCluster>>,
}

impl Stage {
    /// Starts the cluster, and mounts its volume twice.
    pub fn start(rain: &Path) -> anyhow::Result<Stage> {
        let cluster = TestCluster::start(ClusterOptions::new(rain))?;
        cluster.wait_settled(5, Duration::from_secs(30))?;
        // Programs run as other users, too.
        std::fs::set_permissions(cluster.folder(), Permissions::from_mode(0o755))?;
        let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?].map(Some);
        Ok(Stage { mounts, cluster: Arc::new(Mutex::new(cluster)) })
    }

    /// A mount point: 0 or 1.
    pub fn mount(&self, mount: usize) -> PathBuf {
        self.cluster.lock().folder().join(["m1", "m2"][mount % 2])
    }

    /// A new folder of the volume, as both mounts show it.
    pub fn folders(&self, name: &str) -> anyhow::Result<[PathBuf; 2]> {
        let folders = [self.mount(0).join(name), self.mount(1).join(name)];
        std::fs::create_dir(&folders[0]).with_context(|| format!("making {}", folders[0].display()))?;
        Ok(folders)
    }

    /// A folder of the local disk that lasts as long as the cluster.
    pub fn local(&self) -> PathBuf {
        self.cluster.lock().folder().to_owned()
    }

    /// Kills the leader, and other nodes, until `count` nodes are down.
    pub fn kill_nodes(&mut self, count: u32) -> anyhow::Result<()> {
        let mut cluster = self.cluster.lock();
        for _ in 0..count {
            let leader = cluster.wait_led(Duration::from_secs(20))?;
            cluster.kill(leader)?;
        }
        cluster.wait_led(Duration::from_secs(20)).map(|_| ())
    }

    /// Kills a mount with SIGKILL, and removes what is left of it.
    pub fn kill_mount(&mut self, mount: usize) -> anyhow::Result<()> {
        self.mounts[mount].take().context("the mount was killed before")?.kill()
    }

    /// Mounts again where a mount was killed.
    pub fn mount_again(&mut self, mount: usize) -> anyhow::Result<()> {
        let again = TestMount::new(&self.cluster.lock(), ["m1", "m2"][mount])?;
        self.mounts[mount] = Some(again);
        Ok(())
    }

    /// Runs something while the probes work and, with `kills`, nodes are killed one after the other. Fails when
    /// it fails, or when a probe met an error or a hang.
    pub fn watched<T>(
        &mut self,
        kills: bool,
        run: impl FnOnce(&mut Stage) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let probes = Probes::start(&[self.mount(0), self.mount(1)])?;
        let killer = kills.then(|| Killer::start(&self.cluster));
        let ran = run(self);
        let killed = killer.map_or(Ok(0), Killer::end);
        let probed = probes.end();
        let ran = ran?;
        killed.context("killing nodes one after the other")?;
        probed?;
        Ok(ran)
    }

    /// Starts all nodes again, waits until no share is missing, and has every node check its namespace.
    pub fn check(&mut self) -> anyhow::Result<String> {
        let mut cluster = self.cluster.lock();
        cluster.restart_all()?;
        cluster.wait_settled(5, Duration::from_secs(60))?;
        cluster.wait_repaired(Duration::from_secs(300))?;
        cluster.rain(&["fsck"])?;
        Ok("no share is missing; the namespace is sound".into())
    }

    /// Unmounts. Fails when a mount does not end well.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.mounts.iter_mut().filter_map(Option::take).try_for_each(TestMount::unmount)
    }
}

/// Kills nodes one after the other, until it is ended.
struct Killer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<u32>>,
}

impl Killer {
    fn start(cluster: &Arc<Mutex<TestCluster>>) -> Killer {
        let stop = Arc::new(AtomicBool::new(false));
        let (cluster, stopped) = (cluster.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut kills = 0;
            while !stopped.load(Ordering::Relaxed) {
                let node = kills % 6 + 1;
                cluster.lock().kill(node)?;
                kills += 1;
                std::thread::sleep(DOWN_FOR);
                cluster.lock().restart(node)?;
                let up = Instant::now();
                while up.elapsed() < UP_FOR && !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Ok(kills)
        });
        Killer { stop, thread }
    }

    fn end(self) -> anyhow::Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that kills nodes has panicked"))?
    }
}

/// What a probe has met.
#[derive(Debug, Default)]
struct Met {
    since: Option<Instant>,
    worst: Duration,
    error: Option<String>,
}

/// Small operations on every mount, all the time.
struct Probes {
    stop: Arc<AtomicBool>,
    probes: Vec<(PathBuf, Arc<Mutex<Met>>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Probes {
    fn start(mounts: &[PathBuf]) -> anyhow::Result<Probes> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut probes, mut threads) = (Vec::new(), Vec::new());
        for mount in mounts {
            // A probe that hung may still be at work in an earlier folder.
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let folder = mount.join(format!("probe-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
            let met = Arc::new(Mutex::new(Met::default()));
            probes.push((mount.clone(), met.clone()));
            let stopped = stop.clone();
            threads.push(std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    met.lock().since = Some(Instant::now());
                    let result = probe(&folder);
                    let mut met = met.lock();
                    let took = met.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    met.worst = met.worst.max(took);
                    // A killed mount is the test's own doing.
                    if let Err(error) = result
                        && !is_of_dead_mount(&error)
                        && folder.exists()
                    {
                        met.error.get_or_insert_with(|| error.to_string());
                    }
                    drop(met);
                    std::thread::sleep(PROBE_EVERY);
                }
            }));
        }
        Ok(Probes { stop, probes, threads })
    }

    /// Waits for the probes' last operations. A probe that hangs is left behind: its thread ends with its mount.
    fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) && begun.elapsed() < HANG {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (mount, met) in &self.probes {
            let met = met.lock();
            let worst = met.since.map_or(met.worst, |since| met.worst.max(since.elapsed()));
            let at = mount.display();
            if let Some(error) = &met.error {
                anyhow::bail!("a small operation on {at} gave an error meanwhile: {error}");
            }
            ensure!(worst < HANG, "a small operation on {at} took {worst:?} meanwhile");
        }
        Ok(())
    }
}

/// Whether an error says that the process of the mount has ended.
fn is_of_dead_mount(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::NOTCONN, Errno::CONNABORTED].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Writes a file, reads it, renames it and removes it. The error names the call.
fn probe(folder: &Path) -> io::Result<()> {
    let call = |name: &'static str| {
        move |error: io::Error| match is_of_dead_mount(&error) {
            true => error,
            false => io::Error::other(format!("{name}: {error}")),
        }
    };
    let (made, renamed) = (folder.join("made"), folder.join("renamed"));
    let bytes = vec![7; 6000];
    std::fs::write(&made, &bytes).map_err(call("creating and writing"))?;
    std::fs::File::open(&made).map_err(call("open"))?.sync_all().map_err(call("fsync"))?;
    std::fs::rename(&made, &renamed).map_err(call("rename"))?;
    if std::fs::read(&renamed).map_err(call("reading"))? != bytes {
        return Err(io::Error::other("other bytes than were written"));
    }
    std::fs::remove_file(&renamed).map_err(call("unlink"))
}
