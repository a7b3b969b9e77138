//! Programs from outside: each script of `tests/cases` ends well, on one mount and on two.
//!
//! A script is a test for itself. Those that only need mounts share one cluster, which ends with the last of
//! them. Those that stop servers or fill a disk have clusters of their own.

use crate::RAIN;
use anyhow::{Context, bail};
use libtest_mimic::{Completion, Failed, Trial};
use rain_tests::cases::{Case, Verdict};
use rain_tests::needs::{self, Need};
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Size of the disks of the case that fills the volume, MiB. A node leaves 32 MiB free, and keeps its log.
const SMALL_DISK: u32 = 100;

/// Cases that take seconds. They run on two mounts only, as the suite has to be quick, and everything that
/// they do on one mount they do there, too.
const LONG: &[&str] = &["29", "31", "32", "38", "41", "46", "48", "52", "56"];

/// The cluster that cases share, with two mounts. Nothing runs before the first case asks for it.
#[derive(Default)]
struct Shared(Mutex<Option<World>>);

struct World {
    // The mounts end before the cluster.
    mounts: [TestMount; 2],
    _cluster: TestCluster,
}

impl World {
    fn start(options: ClusterOptions) -> anyhow::Result<World> {
        let cluster = TestCluster::start(options)?;
        let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?];
        Ok(World { mounts, _cluster: cluster })
    }

    fn paths(&self) -> [PathBuf; 2] {
        self.mounts.each_ref().map(|mount| mount.path().to_owned())
    }
}

impl Shared {
    fn paths(&self) -> anyhow::Result<[PathBuf; 2]> {
        let mut world = self.0.lock().expect("no case panics while the cluster starts");
        if world.is_none() {
            *world = Some(World::start(ClusterOptions::new(RAIN))?);
        }
        Ok(world.as_ref().context("the cluster has just been started")?.paths())
    }
}

/// A test for each case.
pub(crate) fn trials() -> anyhow::Result<Vec<Trial>> {
    let shared = Arc::new(Shared::default());
    let mut trials = Vec::new();
    for case in Case::all()? {
        let own = case.name.chars().take(2).collect::<String>();
        match own.as_str() {
            "53" => {
                trials.push(trial(format!("case_{}", case.name), &[], move || servers_stop(&case, false)))
            }
            "54" => trials.push(trial(format!("case_{}", case.name), &[], move || servers_stop(&case, true))),
            "55" => trials.push(trial(format!("case_{}", case.name), &[Need::Root], move || full(&case))),
            _ => {
                for count in if LONG.contains(&own.as_str()) { 2 } else { 1 }..=2 {
                    let (case, shared) = (case.clone(), shared.clone());
                    let name = format!("case_{}_on_{}", case.name, ["one_mount", "two_mounts"][count - 1]);
                    trials.push(trial(name, &[], move || {
                        let paths = shared.paths()?;
                        let paths = paths.each_ref().map(PathBuf::as_path);
                        case.run(&paths[..count])
                    }));
                }
            }
        }
    }
    Ok(trials)
}

fn trial(
    name: String,
    wanted: &[Need],
    run: impl FnOnce() -> anyhow::Result<Verdict> + Send + 'static,
) -> Trial {
    let missing = [Need::Mount].iter().chain(wanted).find_map(|need| needs::missing(*need));
    if let Some(why) = missing {
        return Trial::test(format!("{name} [skipped: {why}]"), || Ok(())).with_ignored_flag(true);
    }
    Trial::ignorable_test(name, move || match run() {
        Ok(Verdict::Right) => Ok(Completion::Completed),
        Ok(Verdict::Skipped(why)) => Ok(Completion::ignored_with(why)),
        Ok(Verdict::Known(why)) => Ok(Completion::ignored_with(format!("known: {why}"))),
        Ok(Verdict::Wrong(why)) => Err(Failed::from(why)),
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    })
}

/// A case that asks for servers to be stopped and started: its commands ask by files in a folder, and wait
/// until the files are gone.
fn servers_stop(case: &Case, all: bool) -> anyhow::Result<Verdict> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?];
    let asked = cluster.folder().join("asked");
    std::fs::create_dir(&asked)?;
    let ask = |what: &str| {
        let file = asked.join(what).display().to_string();
        format!("touch '{file}'; while [ -e '{file}' ]; do sleep 0.05; done")
    };
    let (kill, revive) = (ask("kill"), ask("revive"));
    let (kill_name, revive_name) =
        if all { ("KILL_ALL_CMD", "REVIVE_ALL_CMD") } else { ("KILL_CMD", "REVIVE_CMD") };
    let paths = mounts.each_ref().map(TestMount::path);
    let mut started = case.start(&paths, &[(kill_name, &kill), (revive_name, &revive)])?;
    while started.try_wait()?.is_none() {
        for what in ["kill", "revive"] {
            if !asked.join(what).exists() {
                continue;
            }
            let done = match (what, all) {
                ("kill", true) => cluster.kill_all(),
                ("kill", false) => cluster.leader().and_then(|leader| cluster.kill(leader)),
                _ => cluster.restart_all(),
            };
            if let Err(error) = done {
                let _ = started.kill();
                bail!("{what}: {error:#}");
            }
            std::fs::remove_file(asked.join(what))?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    case.judge(started)
}

/// The case that fills the volume, on disks that are small.
fn full(case: &Case) -> anyhow::Result<Verdict> {
    let disks = (1..=6).map(|node| (node, SMALL_DISK)).collect();
    let world = World::start(ClusterOptions { disks, ..ClusterOptions::new(RAIN) })?;
    let paths = world.paths();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    case.run(&paths)
}
