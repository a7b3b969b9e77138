//! Crashes and damage: data acknowledged by fsync is there, and no file is half written.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("what_fsync_acknowledged_survives_the_death_of_every_process", &[Need::Mount], all_killed),
    ("a_lost_or_damaged_index_is_made_anew_from_the_shares", &[Need::Mount], index_lost),
    (
        "a_flipped_bit_is_found_answered_from_the_others_counted_logged_and_repaired",
        &[Need::Mount],
        flipped_bit,
    ),
    ("a_killed_mount_leaves_a_sound_volume", &[Need::Mount], mount_killed),
];

fn all_killed() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    for round in 0..3u64 {
        let mount = TestMount::new(&cluster, "mnt")?;
        let folder = mount.path().join(format!("round{round}"));
        fs::create_dir(&folder)?;
        let acknowledged = Mutex::new(Vec::new());
        std::thread::scope(|scope| -> anyhow::Result<()> {
            for writer in 0..3u64 {
                let (folder, acknowledged) = (&folder, &acknowledged);
                scope.spawn(move || write_until_it_fails(folder, round, writer, acknowledged));
            }
            std::thread::sleep(Duration::from_millis(900 + 400 * round));
            cluster.kill_all()
        })?;
        mount.kill()?;
        cluster.restart_all()?;
        let mount = TestMount::new(&cluster, "mnt")?;
        let acknowledged = acknowledged.into_inner().expect("no writer panicked");
        ensure!(acknowledged.len() > 5, "only {} files were acknowledged", acknowledged.len());
        for (name, seed, len) in &acknowledged {
            let path = mount.path().join(format!("round{round}")).join(name);
            data::check(&path, *seed, *len).with_context(|| format!("round {round}"))?;
        }
        // No file is half written: a renamed file is whole, and an overwritten one has its old or its new
        // content.
        for entry in fs::read_dir(mount.path().join(format!("round{round}")))? {
            let name = entry?.file_name().into_string().expect("UTF-8");
            let Some(numbers) = name.strip_prefix("whole-") else { continue };
            let (seed, len) = numbers.split_once('-').context("a name of ours")?;
            data::check(
                &mount.path().join(format!("round{round}")).join(&name),
                seed.parse()?,
                len.parse()?,
            )?;
        }
        mount.unmount()?;
    }
    Ok(())
}

/// Writes files: some in place with fsync, some under a temporary name that is renamed.
fn write_until_it_fails(
    folder: &Path,
    round: u64,
    writer: u64,
    acknowledged: &Mutex<Vec<(String, u64, u64)>>,
) {
    for number in 0.. {
        let seed = round * 1_000_000 + writer * 10_000 + number;
        let len = [100, 5000, 70_000, 1_500_000][(number % 4) as usize];
        let write = || -> std::io::Result<String> {
            let whole = number % 2 == 0;
            let name = if whole { format!("whole-{seed}-{len}") } else { format!("plain-{seed}") };
            let first = if whole { format!("temporary-{seed}") } else { name.clone() };
            let mut file = fs::File::create(folder.join(&first))?;
            file.write_all(&data::bytes(seed, 0, len as usize))?;
            file.sync_all()?;
            if whole {
                fs::rename(folder.join(&first), folder.join(&name))?;
                // An fsync of the directory makes the name durable.
                fs::File::open(folder)?.sync_all()?;
            }
            Ok(name)
        };
        match write() {
            Ok(name) => acknowledged.lock().expect("no writer panicked").push((name, seed, len)),
            Err(_) => return,
        }
    }
}

/// The folder of a node's index within its data folder.
fn index_folder(cluster: &TestCluster, node: u32) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(cluster.data(node).join("shares"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index-")) {
            return Ok(path);
        }
    }
    anyhow::bail!("node {node} has no index")
}

fn index_lost() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    for number in 0..20 {
        fs::write(mount.path().join(format!("f{number}")), data::bytes(number, 0, 300_000))?;
    }
    mount.unmount()?;
    let shares_of = |cluster: &TestCluster, node: u32| -> anyhow::Result<u64> {
        let status = cluster.status()?;
        let nodes = status["nodes"].as_array().context("nodes")?;
        let found = nodes.iter().find(|found| found["id"] == node).context("the node")?;
        found["shares"].as_u64().context("shares")
    };
    let before = [shares_of(&cluster, 2)?, shares_of(&cluster, 3)?];
    ensure!(before.iter().all(|shares| *shares >= 20), "shares before: {before:?}");
    // Node 2 loses its index; that of node 3 is overwritten with nonsense.
    cluster.kill(2)?;
    cluster.kill(3)?;
    fs::remove_dir_all(index_folder(&cluster, 2)?)?;
    damage_every_file(&index_folder(&cluster, 3)?)?;
    cluster.restart_all()?;
    let after = [shares_of(&cluster, 2)?, shares_of(&cluster, 3)?];
    ensure!(before == after, "shares before {before:?}, after {after:?}");
    // Two other nodes are killed, so that the shares of nodes 2 and 3 are needed.
    cluster.kill(5)?;
    cluster.kill(6)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    for number in 0..20 {
        data::check(&mount.path().join(format!("f{number}")), number, 300_000)?;
    }
    mount.unmount()
}

fn damage_every_file(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            damage_every_file(&path)?;
        } else {
            let len = fs::metadata(&path)?.len() as usize;
            fs::write(&path, data::bytes(99, 0, len))?;
        }
    }
    Ok(())
}

/// Flips one bit in every occurrence of these bytes in a node's segments. Returns the number of occurrences.
fn flip_where(folder: &Path, needle: &[u8]) -> anyhow::Result<u64> {
    let mut flipped = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let mut content = Vec::new();
        let mut file = fs::File::options().read(true).write(true).open(&path)?;
        file.read_to_end(&mut content)?;
        for at in content
            .windows(needle.len())
            .enumerate()
            .filter(|(_, window)| *window == needle)
            .map(|(at, _)| at)
        {
            file.seek(SeekFrom::Start(at as u64 + 5))?;
            file.write_all(&[needle[5] ^ 1])?;
            flipped += 1;
        }
        file.sync_all()?;
    }
    Ok(flipped)
}

fn flipped_bit() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().join("file");
    let file = fs::File::create(&path)?;
    file.write_all_at(&data::bytes(3, 0, 1 << 20), 0)?;
    file.sync_all()?;
    drop(file);
    mount.unmount()?;
    // The first bytes of the file are in the first data share; any node may have it.
    let needle = data::bytes(3, 4096, 64);
    let mut damaged = Vec::new();
    for node in 1..=6 {
        let flipped = flip_where(&cluster.data(node).join("shares/segments"), &needle)?;
        damaged.extend((flipped > 0).then_some(node));
    }
    ensure!(damaged.len() == 1, "the bytes lie on nodes {damaged:?}");
    let node = damaged[0];
    let mount = TestMount::new(&cluster, "mnt")?;
    data::check(&mount.path().join("file"), 3, 1 << 20)?;
    let log = cluster.log(node);
    ensure!(log.contains("damaged share") && log.contains("block="), "the node's log: {log}");
    let said = mount.log();
    ensure!(
        said.contains("damaged share") && said.contains(&format!("node={node}")),
        "the mount's log: {said}"
    );
    let status = cluster.status()?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let counted = nodes.iter().find(|found| found["id"] == node).map(|found| found["damaged_found"].as_u64());
    ensure!(counted.flatten().is_some_and(|count| count >= 1), "the status counts {counted:?}");
    mount.unmount()?;
    // The damage is repaired: the file is readable with two other nodes gone.
    let begun = Instant::now();
    let explained = loop {
        let explained = cluster.rain(&["explain", "/main/file", "--json"])?;
        if !explained.contains("damaged") {
            break explained;
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "not repaired: {explained}");
        std::thread::sleep(Duration::from_millis(300));
    };
    ensure!(explained.matches("\"present\"").count() == 6, "every share is present: {explained}");
    let others: Vec<u32> = (2..=6).filter(|other| *other != node).take(2).collect();
    for other in others {
        cluster.kill(other)?;
    }
    let mount = TestMount::new(&cluster, "mnt")?;
    data::check(&mount.path().join("file"), 3, 1 << 20)?;
    mount.unmount()
}

fn mount_killed() -> anyhow::Result<()> {
    let mut options = ClusterOptions::new(RAIN);
    options.args = vec!["--session-ttl".into(), "5".into()];
    let cluster = TestCluster::start(options)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let kept = mount.path().join("kept");
    let file = fs::File::create(&kept)?;
    file.write_all_at(&data::bytes(1, 0, 2 << 20), 0)?;
    file.sync_all()?;
    // A file that is open and removed, and data without an fsync.
    let path = mount.path().join("removed");
    let removed = fs::File::options().read(true).write(true).create_new(true).open(path)?;
    removed.write_all_at(&data::bytes(2, 0, 6 << 20), 0)?;
    removed.sync_all()?;
    fs::remove_file(mount.path().join("removed"))?;
    let mut back = vec![0; 1000];
    removed.read_exact_at(&mut back, 3 << 20)?;
    ensure!(back == data::bytes(2, 3 << 20, 1000), "a removed file that is open is still readable");
    // An fsync of the directory makes the removal durable.
    fs::File::open(mount.path())?.sync_all()?;
    mount.kill()?;
    drop((file, removed));
    let mount = TestMount::new(&cluster, "mnt")?;
    data::check(&mount.path().join("kept"), 1, 2 << 20)?;
    ensure!(!mount.path().join("removed").exists());
    // The dead session's unlinked open file is freed, and its blocks that were never committed are deleted as
    // stray shares.
    let begun = Instant::now();
    loop {
        let status = cluster.status()?;
        let bytes: u64 = status["nodes"]
            .as_array()
            .context("nodes")?
            .iter()
            .filter_map(|node| node["payload_bytes"].as_u64())
            .sum();
        if bytes <= 3 << 20 {
            break;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "{bytes} bytes of shares are left for 2 MiB of data: {status}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    mount.unmount()
}
