//! Nodes join and leave, and the data moves with them while programs go on.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("a_node_that_goes_takes_no_data_with_it_and_no_program_sees_an_error", &[Need::Mount], goes),
    ("a_new_node_is_given_its_part_and_the_others_room_again", &[Need::Mount], comes),
    (
        "who_moves_blocks_may_die_and_plans_may_change_without_a_loss_or_a_remainder",
        &[Need::Mount],
        interrupted,
    ),
    ("a_lost_server_of_a_pair_is_replaced_and_the_other_may_be_lost_then", &[Need::Mount], replaced),
];

/// Lengths of files, bytes: from inline to many blocks.
const LENGTHS: [usize; 6] = [100, 5_000, 70_000, 1 << 20, 3_000_001, 9 << 20];

fn fill(dir: &Path, seeds: std::ops::Range<u64>) -> anyhow::Result<()> {
    for seed in seeds {
        let path = dir.join(format!("f{seed}"));
        fs::write(&path, data::bytes(seed, 0, LENGTHS[seed as usize % LENGTHS.len()]))?;
        File::open(&path)?.sync_all()?;
    }
    Ok(File::open(dir)?.sync_all()?)
}

fn check(dir: &Path, seeds: std::ops::Range<u64>) -> anyhow::Result<()> {
    for seed in seeds {
        let held = fs::read(dir.join(format!("f{seed}"))).with_context(|| format!("reading f{seed}"))?;
        ensure!(
            held == data::bytes(seed, 0, LENGTHS[seed as usize % LENGTHS.len()]),
            "f{seed} has other bytes"
        );
    }
    Ok(())
}

/// Number of shares on each node, and number of blocks.
fn shares(cluster: &TestCluster) -> anyhow::Result<(Vec<u64>, u64)> {
    let status = cluster.status()?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let shares = nodes.iter().map(|node| node["shares"].as_u64().unwrap_or(0)).collect();
    Ok((shares, status["blocks"].as_u64().context("blocks")?))
}

/// A program that writes and reads files until it is stopped.
struct Work {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<(u64, Duration)>>,
}

impl Work {
    fn begin(dir: &Path) -> Work {
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, stopped) = (dir.to_owned(), stop.clone());
        Work { stop, thread: std::thread::spawn(move || work(&dir, &stopped)) }
    }

    /// Stops the program. Returns the number of files that it wrote, and the longest time that one took.
    fn end(self) -> anyhow::Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn work(dir: &Path, stop: &AtomicBool) -> anyhow::Result<(u64, Duration)> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let path = dir.join(format!("work{}", count % 20));
        let wanted = data::bytes(count, 0, 200_000);
        let begun = Instant::now();
        fs::write(&path, &wanted).with_context(|| format!("writing {}", path.display()))?;
        File::open(&path)?.sync_all()?;
        ensure!(fs::read(&path)? == wanted, "{} has other bytes", path.display());
        longest = longest.max(begun.elapsed());
        count += 1;
    }
    Ok((count, longest))
}

fn goes() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 4, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    fill(mount.path(), 0..18)?;
    let long = data::bytes(99, 0, 32 << 20);
    fs::write(mount.path().join("long"), &long)?;
    File::open(mount.path().join("long"))?.sync_all()?;
    // Another mount has the file open all the time, with the former placement of its blocks.
    let other = TestMount::new(&cluster, "other")?;
    let open = File::open(other.path().join("long"))?;
    let mut some = vec![0; 4096];
    open.read_exact_at(&mut some, 0)?;
    let work = Work::begin(mount.path());
    std::thread::sleep(Duration::from_millis(500));
    // The leader is removed, because that changes the most.
    let goes = cluster.leader()?;
    let said = cluster.rain(&["node", "remove", &goes.to_string()])?;
    ensure!(said.contains("no longer of the cluster"), "{said}");
    ensure!(cluster.rain(&["node", "list"])?.lines().count() == 4);
    cluster.kill(goes)?;
    std::thread::sleep(Duration::from_secs(1));
    let (worked, longest) = work.end()?;
    ensure!(worked > 10, "only {worked} files were written meanwhile");
    // The removed node was the leader, so another is elected (measured: 0.25 s).
    ensure!(longest < Duration::from_secs(3), "one file took {longest:?}");
    // The pause is long enough for the nodes to delete the former shares.
    std::thread::sleep(Duration::from_secs(11));
    for at in (0..long.len() - 4096).step_by(777_777) {
        open.read_exact_at(&mut some, at as u64).with_context(|| format!("reading at {at}"))?;
        ensure!(some == long[at..at + 4096], "at {at}");
    }
    other.unmount()?;
    mount.unmount()?;
    ensure!(cluster.status()?["missing"]["shares"] == 0, "{}", cluster.status()?);
    let checked = cluster.rain(&["fsck"])?;
    ensure!(checked.contains("3 of 3 nodes checked: sound"), "{checked}");
    // Redundancy is complete again, so one more node may fail.
    let next = (1..=4).find(|node| *node != goes).context("three are left")?;
    cluster.kill(next)?;
    let mount = TestMount::new(&cluster, "again")?;
    check(mount.path(), 0..18)?;
    ensure!(fs::read(mount.path().join("long"))? == long);
    mount.unmount()
}

fn comes() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 4, later: 1, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    let mount = TestMount::new(&cluster, "mnt")?;
    fill(mount.path(), 0..24)?;
    let (before, blocks) = shares(&cluster)?;
    ensure!(before.iter().sum::<u64>() == 3 * blocks, "{before:?} for {blocks} blocks");
    cluster.start_later(4)?;
    cluster.rain(&["node", "add", &cluster.address(4)])?;
    let begun = Instant::now();
    loop {
        let (now, blocks) = shares(&cluster)?;
        // The new node has about a quarter, and no other node keeps moved shares.
        if now.len() == 4 && now[3] * 8 > blocks * 3 && now.iter().sum::<u64>() == 3 * blocks {
            break;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "{now:?} for {blocks} blocks: {}",
            cluster.status()?
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    // New data goes to the new node too, without a new mount.
    fill(mount.path(), 24..48)?;
    let (after, blocks) = shares(&cluster)?;
    ensure!(after[3] * 8 > blocks * 3, "{after:?} for {blocks} blocks");
    // The new node is removed again.
    cluster.rain(&["node", "remove", "4"])?;
    cluster.kill(4)?;
    cluster.kill(1)?;
    mount.unmount()?;
    let mount = TestMount::new(&cluster, "again")?;
    check(mount.path(), 0..48)?;
    mount.unmount()
}

/// Nodes are drained and then kept, while the leader that moves the blocks is killed in between. No data is
/// lost, and no share is left over.
fn interrupted() -> anyhow::Result<()> {
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: 5, code: "2+1", ..ClusterOptions::new(RAIN) })?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    fill(mount.path(), 0..36)?;
    let work = Work::begin(mount.path());
    // All blocks of a node move away and back before the shares that they left behind are deleted.
    let begun = Instant::now();
    cluster.rain(&["node", "drain", "2"])?;
    while cluster.status()?["leaving"][0]["groups"] != 0 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{}", cluster.status()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.rain(&["node", "drain", "--cancel", "2"])?;
    std::thread::sleep(Duration::from_secs(21).saturating_sub(begun.elapsed()));
    for round in 0..6u32 {
        let node = (round % 5 + 1).to_string();
        cluster.rain(&["node", "drain", &node])?;
        std::thread::sleep(Duration::from_millis(u64::from(150 + 230 * (round % 4))));
        let leader = cluster.leader()?;
        cluster.kill(leader)?;
        std::thread::sleep(Duration::from_millis(400));
        if round % 2 == 0 {
            cluster.rain(&["node", "drain", "--cancel", &node])?;
            cluster.restart(leader)?;
        } else {
            cluster.restart(leader)?;
            cluster.rain(&["node", "drain", "--cancel", &node])?;
        }
    }
    work.end()?;
    mount.unmount()?;
    cluster.wait_repaired(Duration::from_secs(30))?;
    // All shares are at their nodes and nowhere else: every new leader looks for stray shares.
    let begun = Instant::now();
    loop {
        let (now, blocks) = shares(&cluster)?;
        let status = cluster.status()?;
        if now.iter().sum::<u64>() == 3 * blocks
            && status["garbage"] == 0
            && status["moves"]["running"] == false
        {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{now:?} for {blocks} blocks: {status}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let checked = cluster.rain(&["fsck"])?;
    ensure!(checked.contains("5 of 5 nodes checked: sound"), "{checked}");
    cluster.kill(4)?;
    let mount = TestMount::new(&cluster, "again")?;
    check(mount.path(), 0..36)?;
    mount.unmount()
}

fn replaced() -> anyhow::Result<()> {
    let options =
        ClusterOptions { nodes: 4, witnesses: vec![3], later: 1, code: "1+1", ..ClusterOptions::new(RAIN) };
    let mut cluster = TestCluster::start(options)?;
    cluster.wait_repaired(Duration::from_secs(10))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    fill(mount.path(), 0..18)?;
    // The disk is lost for good.
    cluster.kill(2)?;
    fs::remove_dir_all(cluster.data(2))?;
    fill(mount.path(), 18..24)?;
    let refused = cluster.rain_output(&["node", "remove", "2"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("needs 2 nodes with shares"), "{said}");
    cluster.rain(&["node", "drain", "2"])?;
    let status = cluster.rain(&["status"])?;
    ensure!(status.contains("node 2 is to leave, but volume main"), "{status}");
    // The same machine with a new disk.
    cluster.put_in_place(4, 2);
    cluster.start_later(4)?;
    let said = cluster.rain(&["node", "replace", "2", &cluster.address(4)])?;
    ensure!(said.contains("node 4 at") && said.contains("node 2 is no longer of the cluster"), "{said}");
    cluster.wait_repaired(Duration::from_secs(20))?;
    let status = cluster.rain(&["status"])?;
    ensure!(status.contains("healthy"), "{status}");
    check(mount.path(), 0..24)?;
    fill(mount.path(), 24..30)?;
    mount.unmount()?;
    // Data written in the second before the mount learned of the replacement is repaired.
    cluster.wait_repaired(Duration::from_secs(20))?;
    // Then the other server is lost. The new server and the witness go on.
    let begun = Instant::now();
    while cluster.status()?["namespace"]["bears"] != 1 {
        ensure!(begun.elapsed() < Duration::from_secs(20), "{}", cluster.status()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.kill(1)?;
    let mount = TestMount::new(&cluster, "again")?;
    check(mount.path(), 0..30)?;
    fill(mount.path(), 30..33)?;
    mount.unmount()
}
