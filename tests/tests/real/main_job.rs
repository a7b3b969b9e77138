//! The main job: a real tree of files is on a mount while nodes die, and programs notice nothing.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount, run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("a_real_tree_is_the_same_after_it_was_copied_in_and_builds_there", &[Need::Mount, Need::Git], real_tree),
    ("reading_and_writing_go_on_while_two_nodes_are_killed", &[Need::Mount], two_killed),
    ("a_third_node_killed_is_eio_within_two_seconds_and_heals_by_itself", &[Need::Mount], third_killed),
    ("memory_stays_bounded_whatever_the_files_size", &[Need::Mount], memory),
    ("deleted_space_comes_back", &[Need::Mount], space_comes_back),
];

/// The crates' sources that cargo has unpacked to build RAIN: a real tree on every machine that can run this
/// test.
fn sources() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registry = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let first = fs::read_dir(&registry).with_context(|| registry.display().to_string())?.next();
    Ok(first.context("no crate was ever unpacked")??.path())
}

/// Copies crates until there are enough files and bytes.
fn gather_tree(to: &Path, files_wanted: u64, bytes_wanted: u64) -> anyhow::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut crates: Vec<PathBuf> =
        fs::read_dir(sources()?)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    crates.sort();
    fs::create_dir_all(to)?;
    for (round, krate) in (0..4).flat_map(|round| crates.iter().map(move |krate| (round, krate))) {
        let name = format!("{}-{round}", krate.file_name().context("a name")?.to_string_lossy());
        run("cp", &["-a", &krate.display().to_string(), &to.join(&name).display().to_string()])?;
        count(&to.join(&name), &mut files, &mut bytes)?;
        if files >= files_wanted && bytes >= bytes_wanted {
            return Ok((files, bytes));
        }
    }
    anyhow::bail!("only {files} files with {bytes} bytes were found")
}

fn count(folder: &Path, files: &mut u64, bytes: &mut u64) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        if kind.is_dir() {
            count(&entry.path(), files, bytes)?;
        } else {
            *files += 1;
            *bytes += kind.len();
        }
    }
    Ok(())
}

fn real_tree() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let local = cluster.folder().join("tree");
    let (files, bytes) = gather_tree(&local, 3000, 100 << 20)?;
    ensure!(files >= 3000 && bytes >= 100 << 20, "{files} files, {bytes} bytes");
    let (here, there) = (local.display().to_string(), mount.path().join("tree").display().to_string());
    run("cp", &["-a", &here, &there])?;
    run("diff", &["-r", "--no-dereference", &here, &there])?;

    let git = |args: &[&str]| {
        let mut all = vec![
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@example.org",
            "-c",
            "gc.auto=0",
            "-C",
            &there,
        ];
        all.extend(args);
        run("git", &all)
    };
    git(&["init", "-q"])?;
    git(&["add", "-Af", "."])?;
    git(&["commit", "-qm", "everything"])?;
    let again = mount.path().join("clone").display().to_string();
    run("git", &["clone", "-q", "--no-local", &format!("file://{there}"), &again])?;
    for repository in [&there, &again] {
        run("git", &["-C", repository, "fsck", "--full", "--strict"])
            .or_else(|_| run("git", &["-C", repository, "fsck", "--full"]))?;
        let changed = run("git", &["-C", repository, "status", "--porcelain"])?;
        ensure!(changed.is_empty(), "git status in {repository}: {changed}");
    }

    // A part of RAIN is built on the mount and its tests run there. This exercises sources, artefacts of
    // dependencies, incremental state, mapped libraries and executables.
    let project = mount.path().join("project");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for entry in fs::read_dir(&ours)? {
        let entry = entry?;
        if !["target", ".git"].iter().any(|name| entry.file_name() == *name) {
            fs::create_dir_all(&project)?;
            run("cp", &["-a", &entry.path().display().to_string(), &project.display().to_string()])?;
        }
    }
    let built = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--locked", "-p", "rain-types", "--lib"])
        .current_dir(&project)
        .env_remove("CARGO_TARGET_DIR")
        .output()?;
    ensure!(built.status.success(), "cargo inside the mount: {}", String::from_utf8_lossy(&built.stderr));
    let said = String::from_utf8_lossy(&built.stdout);
    ensure!(said.contains("test result: ok"), "what was built inside the mount says {said}");
    mount.unmount()
}

/// A reader and a writer that record every error and their longest wait.
struct Busy {
    stop: AtomicBool,
    read: AtomicU64,
    written: AtomicU64,
}

const READ_SEED: u64 = 1;
const READ_BYTES: u64 = 24 << 20;
const WRITTEN_BYTES: u64 = 3 << 20;

fn two_killed() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().to_owned();
    write_file(&path.join("big"), READ_SEED, READ_BYTES)?;
    let busy = Busy { stop: AtomicBool::new(false), read: AtomicU64::new(0), written: AtomicU64::new(0) };
    let (reader, writer) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let reader = scope.spawn(|| read_for_long(&path, &busy));
        let writer = scope.spawn(|| write_for_long(&path, &busy));
        let mut kills = || -> anyhow::Result<()> {
            std::thread::sleep(Duration::from_millis(700));
            cluster.kill(3)?;
            std::thread::sleep(Duration::from_millis(700));
            cluster.kill(5)?;
            std::thread::sleep(Duration::from_millis(2500));
            cluster.restart_all()?;
            std::thread::sleep(Duration::from_millis(700));
            Ok(())
        };
        let killed = kills();
        busy.stop.store(true, Relaxed);
        let ended = (reader.join().expect("the reader"), writer.join().expect("the writer"));
        killed?;
        Ok(ended)
    })?;
    let (reads, written) = (reader?, writer?);
    ensure!(reads > 20 && written > 3, "{reads} reads and {written} files are too few to say anything");

    // Everything is repaired, then every choice of four shares gives the right bytes. Node 1 keeps the
    // namespace: its shares are switched off instead.
    cluster.wait_repaired(Duration::from_secs(60))?;
    mount.unmount()?;
    for first in 1..=6 {
        for second in first + 1..=6 {
            for node in [first, second] {
                if node == 1 {
                    cluster.rain(&["node", "shares", "off", "1"])?;
                } else {
                    cluster.kill(node)?;
                }
            }
            // A new mount has an empty cache.
            let mount = TestMount::new(&cluster, "mnt")?;
            let check = || -> anyhow::Result<()> {
                data::check(&mount.path().join("big"), READ_SEED, READ_BYTES)?;
                for number in 0..written {
                    data::check(&mount.path().join(format!("w{number}")), 1000 + number, WRITTEN_BYTES)?;
                }
                Ok(())
            };
            check().with_context(|| format!("without nodes {first} and {second}"))?;
            mount.unmount()?;
            cluster.restart_all()?;
            cluster.rain(&["node", "shares", "on", "1"])?;
        }
    }
    Ok(())
}

fn write_file(path: &Path, seed: u64, len: u64) -> anyhow::Result<()> {
    let file = fs::File::create(path)?;
    let mut offset = 0;
    while offset < len {
        let now = (len - offset).min(300_000) as usize;
        file.write_all_at(&data::bytes(seed, offset, now), offset)?;
        offset += now as u64;
    }
    file.sync_all().with_context(|| format!("fsync of {}", path.display()))
}

fn read_for_long(path: &Path, busy: &Busy) -> anyhow::Result<u64> {
    while !busy.stop.load(Relaxed) {
        let number = busy.read.fetch_add(1, Relaxed);
        let file = fs::File::open(path.join("big"))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        let offset = number * 1_234_567 % (READ_BYTES - 200_000);
        let mut piece = vec![0; 100_000];
        file.read_exact_at(&mut piece, offset).with_context(|| format!("read {number}"))?;
        ensure!(
            piece == data::bytes(READ_SEED, offset, piece.len()),
            "read {number} at {offset}: wrong bytes"
        );
    }
    Ok(busy.read.load(Relaxed))
}

fn write_for_long(path: &Path, busy: &Busy) -> anyhow::Result<u64> {
    while !busy.stop.load(Relaxed) {
        let number = busy.written.load(Relaxed);
        write_file(&path.join(format!("w{number}")), 1000 + number, WRITTEN_BYTES)
            .with_context(|| format!("file {number}"))?;
        busy.written.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(busy.written.load(Relaxed))
}

fn third_killed() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().join("file");
    write_file(&path, 7, 4 << 20)?;
    for node in [2, 4, 6] {
        cluster.kill(node)?;
    }
    let file = fs::File::open(&path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let begun = Instant::now();
    let error = file.read_exact_at(&mut vec![0; 1 << 20], 0).expect_err("four of six shares are needed");
    let waited = begun.elapsed();
    ensure!(error.raw_os_error() == Some(5), "reading gives {error}, not EIO");
    ensure!(waited < Duration::from_secs(2), "the read's EIO took {waited:?}");

    let begun = Instant::now();
    let fresh = fs::File::create(mount.path().join("fresh"))?;
    fresh.write_all_at(&data::bytes(8, 0, 1 << 20), 0)?;
    let error = fresh.sync_all().expect_err("four of six shares are needed");
    let waited = begun.elapsed();
    ensure!(error.raw_os_error() == Some(5), "fsync gives {error}, not EIO");
    ensure!(waited < Duration::from_secs(2), "the write's EIO took {waited:?}");

    let said = String::from_utf8(cluster.rain_output(&["status"])?.stdout)?;
    let status = cluster.status()?;
    let down: Vec<u64> = status["nodes"]
        .as_array()
        .context("nodes")?
        .iter()
        .filter(|node| node["state"] != "up")
        .filter_map(|node| node["id"].as_u64())
        .collect();
    ensure!(down == [2, 4, 6], "status says these are down: {down:?}");
    ensure!(said.lines().next().is_some_and(|line| line.starts_with("failed")), "the headline: {said}");
    let log = mount.log();
    ensure!(
        [2, 4, 6].iter().all(|node| log.contains(&format!("node={node}"))),
        "the mount's log names the nodes: {log}"
    );

    cluster.restart(4)?;
    // The mount works without a remount, and still has the data that it could not store.
    let begun = Instant::now();
    while let Err(error) = fresh.sync_all() {
        ensure!(begun.elapsed() < Duration::from_secs(5), "fsync still fails: {error}");
        std::thread::sleep(Duration::from_millis(100));
    }
    data::check(&path, 7, 4 << 20)?;
    drop((fresh, file));
    data::check(&mount.path().join("fresh"), 8, 1 << 20)?;
    cluster.restart_all()?;
    cluster.wait_repaired(Duration::from_secs(30))?;
    mount.unmount()
}

/// Memory of a process, bytes: at present (VmRSS), or the most so far (VmHWM).
fn resident(pid: u32, which: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(which)).context("the process's memory")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib << 10)
}

fn memory() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    std::thread::sleep(Duration::from_secs(1));
    for node in 1..=6 {
        let idle = resident(cluster.pid(node).context("runs")?, "VmRSS:")?;
        ensure!(idle < 64 << 20, "node {node} idle: {} MiB", idle >> 20);
    }
    let mount = TestMount::new(&cluster, "mnt")?;
    write_file(&mount.path().join("big"), 9, 700 << 20)?;
    data::check(&mount.path().join("big"), 9, 700 << 20)?;
    let of_mount = resident(mount.pid().context("runs")?, "VmHWM:")?;
    ensure!(of_mount < 512 << 20, "the mount under load: {} MiB", of_mount >> 20);
    for node in 1..=6 {
        let loaded = resident(cluster.pid(node).context("runs")?, "VmHWM:")?;
        ensure!(loaded < 512 << 20, "node {node} under load: {} MiB", loaded >> 20);
    }
    mount.unmount()
}

fn space_comes_back() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let used = || -> anyhow::Result<u64> {
        let status = cluster.status()?;
        let nodes = status["nodes"].as_array().context("nodes")?.clone();
        Ok(nodes.iter().filter_map(|node| node["payload_bytes"].as_u64()).sum())
    };
    for number in 0..4 {
        write_file(&mount.path().join(format!("f{number}")), number, 8 << 20)?;
    }
    ensure!(used()? >= 48 << 20, "32 MiB in 4+2 take 48 MiB");
    for number in 0..4 {
        fs::remove_file(mount.path().join(format!("f{number}")))?;
    }
    let begun = Instant::now();
    while used()? > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(30), "{} bytes of shares are left", used()?);
        std::thread::sleep(Duration::from_millis(300));
    }
    mount.unmount()
}
