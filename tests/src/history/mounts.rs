//! Three mounts with programs on them: makes faults while the programs work, and checks their history.

use super::faults::strike;
use super::program::{Program, prepare};
use super::report::{HistoryOptions, HistoryReport, timed};
use crate::real::{ClusterOptions, TestCluster, TestMount};
use anyhow::Context;
use fastrand::Rng;
use rain_sim::history::Event;
use rain_sim::model::{Files, Op, Reply};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The options of each mount. The last one dies at times: with `sync`, what its programs were told is durable.
const MOUNTS: &[&str] = &["rw", "rw", "sync"];

/// The number of the mount on which each program works.
const PROGRAMS: &[usize] = &[0, 0, 1, 1, 2];

/// The mount that dies.
const MORTAL: usize = 2;

/// A cluster with three mounts, for many runs. Dropping it ends all of them.
pub struct MountHistory {
    // The mounts end before the cluster.
    mounts: Vec<Option<TestMount>>,
    cluster: TestCluster,
    nodes: u32,
    /// Whether the mounts keep no leases.
    relaxed: bool,
}

fn mount(cluster: &TestCluster, number: usize, relaxed: bool) -> anyhow::Result<TestMount> {
    let options = format!("{}{}", MOUNTS[number], if relaxed { ",relaxed" } else { "" });
    TestMount::with_options(cluster, &format!("m{}", number + 1), &options)
}

/// Which programs there are, for a reader of a history.
fn who() -> String {
    let on =
        |mount: usize| -> Vec<usize> { (0..PROGRAMS.len()).filter(|at| PROGRAMS[*at] == mount).collect() };
    let mounts = MOUNTS.iter().enumerate();
    let mounts: Vec<_> =
        mounts.map(|(at, options)| format!("m{} ({options}): {:?}", at + 1, on(at))).collect();
    format!(
        "programs on each mount: {}; after the death of its mount a program goes on as its number + {}",
        mounts.join(", "),
        PROGRAMS.len()
    )
}

impl MountHistory {
    /// Starts a cluster of three or five voters, and mounts its volume three times. Mounts that are `relaxed` keep no
    /// leases: of these only locks, and what they guard, are to be judged.
    pub fn new(rain: &Path, nodes: u32, relaxed: bool) -> anyhow::Result<MountHistory> {
        let code = if nodes >= 5 { "3+2" } else { "2+1" };
        let cluster =
            TestCluster::start(ClusterOptions { nodes, code, cables: 2, ..ClusterOptions::new(rain) })?;
        cluster.wait_settled(nodes as usize, Duration::from_secs(30))?;
        let mounts = (0..MOUNTS.len()).map(|number| mount(&cluster, number, relaxed).map(Some));
        let mounts = mounts.collect::<anyhow::Result<_>>()?;
        Ok(MountHistory { mounts, cluster, nodes, relaxed })
    }

    /// Records one history and checks it.
    ///
    /// A violation is part of the report. Fails when the cluster does not settle, when a fault cannot be made, or
    /// when a program cannot open its files at the start.
    pub fn play(&mut self, options: HistoryOptions) -> anyhow::Result<HistoryReport> {
        self.cluster.restart_all()?;
        self.cluster.wait_settled(self.nodes as usize, Duration::from_secs(40))?;
        let mut rng = Rng::with_seed(options.seed);
        let folder = format!("history-{}", options.seed);
        let paths: Vec<PathBuf> = self.mounts.iter().flatten().map(|mount| mount.path().to_owned()).collect();
        prepare(&paths[0], &folder)?;
        let (start, began, stop) = (Instant::now(), SystemTime::now(), AtomicBool::new(false));
        let programs: Vec<Program> = PROGRAMS
            .iter()
            .enumerate()
            .map(|(number, on)| Program {
                number: number as u32,
                of: PROGRAMS.len() as u32,
                mount: paths[*on].clone(),
                folder: folder.clone(),
                options,
                has: if PROGRAMS[..number].contains(on) { Files::Shared } else { Files::All },
                maps: *on != MORTAL,
                start,
            })
            .collect();
        let (faults, history) = std::thread::scope(|scope| -> anyhow::Result<_> {
            let working: Vec<_> =
                programs.iter().map(|program| scope.spawn(|| program.work(&stop))).collect();
            std::thread::sleep(Duration::from_millis(300));
            let faults = self.strike_some(start, &mut rng, options.faults);
            stop.store(true, Ordering::Relaxed);
            let mut history: Vec<Event<Op, Reply>> = Vec::new();
            for program in working {
                history.extend(program.join().expect("a program that panics fails the test")?);
            }
            Ok((faults?, history))
        })?;
        Ok(HistoryReport::of(&options, (began, who()), faults, &history))
    }

    fn strike_some(&mut self, start: Instant, rng: &mut Rng, count: u32) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        for _ in 0..count {
            faults.push(timed(start, || match rng.u64(..4) {
                0 => self.kill_mount(rng),
                _ => strike(&mut self.cluster, self.nodes, rng),
            })?);
            std::thread::sleep(Duration::from_millis(200 + rng.u64(..500)));
        }
        if count == 0 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        Ok(faults)
    }

    fn kill_mount(&mut self, rng: &mut Rng) -> anyhow::Result<String> {
        self.mounts[MORTAL].take().context("the mount is there")?.kill()?;
        std::thread::sleep(Duration::from_millis(rng.u64(..1000)));
        self.mounts[MORTAL] = Some(mount(&self.cluster, MORTAL, self.relaxed)?);
        Ok("a mount killed".to_owned())
    }
}
