//! No node is special: leaders die, minorities are cut off, clusters move, grow and shrink, and programs go
//! on.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("another_node_leads_when_the_leader_dies_and_no_program_sees_an_error", &[Need::Mount], leaders_die),
    ("without_a_majority_files_are_read_changes_are_erofs_and_all_resumes", &[Need::Mount], minority),
    ("two_servers_and_a_witness_survive_the_loss_of_any_one", &[Need::Mount], pair),
    ("nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_random_moments", &[Need::Mount], power),
    ("a_node_is_added_later_and_let_go_again", &[], add_and_remove),
    ("all_nodes_may_move_to_other_ports_at_once", &[], all_move),
    (
        "a_node_with_one_of_its_two_networks_goes_on_taking_shares",
        &[Need::Mount, Need::Namespaces],
        one_network,
    ),
    ("a_mount_waits_for_its_servers_unless_told_to_fail_fast", &[Need::Mount], mount_waits),
];

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Creates files until it is stopped. Returns their names, and the longest time that one took.
fn make_files(dir: PathBuf, stop: Arc<AtomicBool>) -> anyhow::Result<(Vec<String>, Duration)> {
    let (mut made, mut longest) = (Vec::new(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("f{}", made.len());
        let begun = Instant::now();
        fs::write(dir.join(&name), &name).with_context(|| format!("writing {name}"))?;
        fs::rename(dir.join(&name), dir.join(format!("{name}.done")))
            .with_context(|| format!("renaming {name}"))?;
        longest = longest.max(begun.elapsed());
        made.push(name);
    }
    Ok((made, longest))
}

fn check_files(dir: &Path, made: &[String]) -> anyhow::Result<()> {
    for name in made {
        let held = fs::read_to_string(dir.join(format!("{name}.done"))).with_context(|| name.clone())?;
        ensure!(held == *name, "{name} contains {held:?}");
    }
    Ok(())
}

fn leaders_die() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    cluster.wait_settled(5, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (dir, stopped) = (mount.path().to_owned(), stop.clone());
    let maker = std::thread::spawn(move || make_files(dir, stopped));
    let mut led = Vec::new();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1200));
        let leader = cluster.leader()?;
        led.push(leader);
        cluster.kill(leader)?;
        std::thread::sleep(Duration::from_millis(1500));
        ensure!(cluster.leader()? != leader, "node {leader} is dead and leads");
        cluster.restart(leader)?;
    }
    stop.store(true, Ordering::Relaxed);
    let (made, longest) = maker.join().expect("the maker did not panic")?;
    eprintln!("leaders {led:?} died; {} files made, the longest took {} ms", made.len(), longest.as_millis());
    // On a quiet machine the target is half a second (cargo xtask failover); here other tests run at the same
    // time.
    ensure!(longest < Duration::from_secs(4), "a program waited {longest:?}");
    check_files(mount.path(), &made)?;
    mount.unmount()?;
    // Every node has all names, even after a crash of the whole cluster.
    cluster.kill_all()?;
    cluster.restart_all()?;
    let mount = TestMount::new(&cluster, "mnt")?;
    check_files(mount.path(), &made)?;
    mount.unmount()
}

fn minority() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 3, code: "1+2", ..ClusterOptions::new(RAIN) })?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = |name: &str| mount.path().join(name);
    fs::write(path("before"), vec![7; 100_000])?;
    let leader = cluster.leader()?;
    // The state of a follower is old by up to a heartbeat.
    std::thread::sleep(Duration::from_millis(300));
    let left = (1..=3).find(|node| *node != leader).context("another node")?;
    for node in (1..=3).filter(|node| *node != left) {
        cluster.kill(node)?;
    }
    let begun = Instant::now();
    let first = fs::write(path("first"), "x").err().context("a change without a majority")?;
    ensure!([5, 30].contains(&errno(&first)), "{first}");
    ensure!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    // Once the mount knows that there is no majority, it fails at once.
    let begun = Instant::now();
    let second = fs::create_dir(path("second")).err().context("a change without a majority")?;
    ensure!(errno(&second) == 30, "{second}, not EROFS");
    ensure!(begun.elapsed() < Duration::from_millis(500), "it took {:?}", begun.elapsed());
    ensure!(fs::read(path("before"))? == vec![7; 100_000]);
    ensure!(fs::read_dir(mount.path())?.count() >= 1);
    let status = cluster.status()?;
    let headline = status["headline"].as_str().unwrap_or_default();
    ensure!(status["state"] == "failed" && headline.contains("nothing can be changed"), "{headline}");
    ensure!(status["namespace"]["leader"].is_null() && status["namespace"]["age_ms"].is_u64(), "{status}");
    cluster.restart(leader)?;
    let begun = Instant::now();
    while let Err(error) = fs::write(path("after"), "x") {
        ensure!(begun.elapsed() < Duration::from_secs(15), "a majority is back, and: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(fs::read(path("before"))? == vec![7; 100_000]);
    mount.unmount()
}

fn pair() -> anyhow::Result<()> {
    let options = ClusterOptions { nodes: 3, witnesses: vec![3], code: "1+1", ..ClusterOptions::new(RAIN) };
    let mut cluster = TestCluster::start(options)?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    for victim in 1..=3 {
        let path = |what: &str| mount.path().join(format!("{what}-{victim}"));
        fs::write(path("before"), vec![victim as u8; 300_000])?;
        cluster.kill(victim)?;
        fs::write(path("while"), vec![victim as u8; 300_000])
            .with_context(|| format!("without node {victim}"))?;
        ensure!(fs::read(path("before"))? == vec![victim as u8; 300_000]);
        let text = cluster.rain(&["status"])?;
        ensure!(text.contains("one more loss"), "{text}");
        cluster.restart(victim)?;
        cluster.wait_settled(3, Duration::from_secs(30))?;
        cluster.wait_repaired(Duration::from_secs(30))?;
    }
    let status = cluster.status()?;
    let witness = &status["nodes"][2];
    ensure!(witness["witness"] == true && witness["shares"] == 0, "{witness}");
    let resident = witness["resident_bytes"].as_u64().context("its memory")?;
    ensure!(resident < 64 << 20, "the witness has {} MiB", resident >> 20);
    mount.unmount()
}

/// Creates, renames, links and removes names, each durable before the next. Returns the names that must be
/// there, and those that must not.
fn churn(dir: &Path, stop: &AtomicBool, seed: u64) -> (Vec<String>, Vec<String>) {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    let synced = |path: &Path, text: &str| -> std::io::Result<()> {
        let mut file = fs::File::create(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    };
    // An fsync of the directory makes names durable.
    let settled = || fs::File::open(dir).and_then(|dir| dir.sync_all()).is_ok();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{seed}-{number}");
        let new = format!("{name}.new");
        let renamed =
            synced(&dir.join(&new), &name).and_then(|()| fs::rename(dir.join(&new), dir.join(&name)));
        if renamed.is_err() || !settled() {
            break;
        }
        there.push(name.clone());
        if number % 3 == 2 {
            let old = there.remove((number as usize / 3) % there.len());
            if fs::remove_file(dir.join(&old)).is_err() || !settled() {
                // The outcome is not known.
                break;
            }
            gone.push(old);
        }
    }
    (there, gone)
}

fn power() -> anyhow::Result<()> {
    let rounds: u64 = std::env::var("RAIN_POWER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 3, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let (mut total, mut dice) = (0, 88_172_645_463_325_252u64);
    for round in 0..rounds {
        let mount = TestMount::new(&cluster, "mnt")?;
        let dir = mount.path().join(format!("round{round}"));
        fs::create_dir(&dir)?;
        let stop = AtomicBool::new(false);
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let churned: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|seed| {
                    let (dir, stop) = (&dir, &stop);
                    scope.spawn(move || churn(dir, stop, seed))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100 + dice % 900));
            let killed = cluster.kill_all();
            stop.store(true, Ordering::Relaxed);
            killed.map(|()| workers.into_iter().map(|worker| worker.join().expect("no panic")).collect())
        })?;
        mount.kill()?;
        cluster.restart_all()?;
        let mount = TestMount::new(&cluster, "mnt")?;
        let dir = mount.path().join(format!("round{round}"));
        for (there, gone) in &churned {
            total += there.len() + gone.len();
            for name in there {
                let held = fs::read_to_string(dir.join(name));
                ensure!(
                    held.with_context(|| format!("round {round}: {name} is lost"))? == *name,
                    "round {round}: {name}"
                );
            }
            for name in gone {
                ensure!(!dir.join(name).exists(), "round {round}: {name} is back");
            }
        }
        mount.unmount()?;
        let checked = cluster.rain(&["fsck"])?;
        ensure!(checked.contains("3 of 3 nodes checked: sound"), "{checked}");
    }
    eprintln!("all nodes were killed {rounds} times; {total} names survived");
    ensure!(total as u64 > rounds * 10, "there was too little to lose: {total}");
    Ok(())
}

fn add_and_remove() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start_without_volume(ClusterOptions {
        nodes: 4,
        later: 1,
        ..ClusterOptions::new(RAIN)
    })?;
    let address = cluster.address(4);
    cluster.start_later(4)?;
    let said = cluster.rain(&["node", "add", &address])?;
    ensure!(said.contains("node 4 at") && said.contains("has joined"), "{said}");
    cluster.wait_ready(4)?;
    // Adding the same node again changes nothing.
    ensure!(cluster.rain(&["node", "add", &address])?.contains("node 4 at"));
    cluster.rain(&["volume", "create", "main", "--code", "2+2"])?;
    let refused = cluster.rain_output(&["node", "remove", "4"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success()
            && said.contains("volume main (rdp 2+2) needs 4 nodes with shares, and 3 would be left"),
        "{said}"
    );
    ensure!(cluster.rain(&["node", "list"])?.lines().count() == 5);
    // A node without shares can be removed.
    let mut cluster = TestCluster::start_without_volume(ClusterOptions {
        nodes: 4,
        witnesses: vec![4],
        later: 1,
        ..ClusterOptions::new(RAIN)
    })?;
    cluster.rain(&["volume", "create", "main", "--code", "2+1"])?;
    cluster.start_later(4)?;
    cluster.rain(&["node", "add", &cluster.address(4)])?;
    cluster.wait_ready(4)?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    cluster.rain(&["node", "remove", "4"])?;
    let list = cluster.rain(&["node", "list"])?;
    ensure!(!list.contains("witness"), "{list}");
    // Its id is not used again, and it does not come back by itself.
    cluster.kill(4)?;
    ensure!(cluster.restart(4).is_err() || !cluster.rain(&["node", "list"])?.contains("witness"));
    Ok(())
}

/// A cable of a node is pulled; data and metadata go over its other cable.
fn one_network() -> anyhow::Result<()> {
    let options = ClusterOptions { nodes: 3, code: "1+2", cables: 2, ..ClusterOptions::new(RAIN) };
    let cluster = TestCluster::start(options)?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let shares = |node: u32| -> anyhow::Result<u64> {
        let status = cluster.status()?;
        let found = status["nodes"].as_array().into_iter().flatten().find(|found| found["id"] == node);
        found.and_then(|found| found["shares"].as_u64()).with_context(|| format!("node {node}: {status}"))
    };
    let write = |name: &str| -> anyhow::Result<()> {
        for index in 0..20 {
            let path = mount.path().join(format!("{name}{index}"));
            fs::write(&path, vec![7; 50_000])?;
            fs::File::open(&path)?.sync_all()?;
        }
        Ok(())
    };
    let leads = cluster.leader()?;
    for cut in [leads % 3 + 1, leads] {
        cluster.lan()?.pull(cut, 0, true)?;
        write(&format!("at-once{cut}-"))?;
        // Shares that the node missed at first are rebuilt; after that it misses none.
        cluster.wait_repaired(Duration::from_secs(15))?;
        let before = shares(cut)?;
        write(&format!("then{cut}-"))?;
        // Shares arrive at once or, on a slow machine, by repair; both go over the other cable.
        let begun = Instant::now();
        while shares(cut)? < before + 20 {
            ensure!(
                begun.elapsed() < Duration::from_secs(15),
                "node {cut} had {before} shares: {}",
                mount.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        cluster.lan()?.pull(cut, 0, false)?;
        cluster.wait_settled(3, Duration::from_secs(30))?;
    }
    mount.unmount()
}

fn all_move() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 3, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    let file = cluster.folder().join("file");
    fs::write(&file, vec![3; 200_000])?;
    cluster.rain(&["put", &file.to_string_lossy(), "/main/file"])?;
    cluster.kill_all()?;
    cluster.move_ports()?;
    cluster.restart_all()?;
    let back = cluster.folder().join("back");
    let begun = Instant::now();
    while cluster.rain(&["get", "/main/file", &back.to_string_lossy()]).is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(15),
            "the moved cluster does not serve: {}",
            cluster.log(1)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(fs::read(&back)? == vec![3; 200_000]);
    let list = cluster.rain(&["node", "list"])?;
    for node in 1..=3 {
        ensure!(list.contains(&cluster.address(node)), "{list}");
    }
    Ok(())
}

fn mount_waits() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 3, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    cluster.kill_all()?;
    let source = format!("{}:/main", cluster.addresses());
    let folder = cluster.folder().join("fast");
    fs::create_dir(&folder)?;
    let begun = Instant::now();
    let mut fast = Command::new(RAIN);
    fast.args(["mount", "-o", "fail-fast", &source]).arg(&folder).stdin(Stdio::null());
    let output = fast.output()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(begun.elapsed() < Duration::from_secs(6), "it took {:?}", begun.elapsed());
    let slow = cluster.folder().join("slow");
    fs::create_dir(&slow)?;
    let log = cluster.folder().join("slow.log");
    let mut waiting = Command::new(RAIN);
    waiting.args(["mount", "-o", &format!("log={}", log.display()), &source]).arg(&slow).stdin(Stdio::null());
    let mut waiting = waiting.stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(waiting.try_wait()?.is_none(), "it does not wait");
    cluster.restart_all()?;
    let status = waiting.wait()?;
    ensure!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap_or_default());
    fs::write(slow.join("file"), "x")?;
    let unmounted = Command::new(RAIN).arg("umount").arg(&slow).status()?;
    ensure!(unmounted.success());
    Ok(())
}
