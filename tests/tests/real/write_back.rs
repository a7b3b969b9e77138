//! Write-back: a mount that works in a directory is delegated it, and other mounts see every change as if it
//! were not.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_namespace::record::FileKind;
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

pub(crate) const PROMISES: &[Promise] = &[
    ("another_mount_sees_at_once_what_this_one_has_told_its_programs", &[Need::Mount], seen_at_once),
    ("two_mounts_that_work_in_one_directory_lose_nothing", &[Need::Mount], one_directory),
    (
        "what_a_mount_has_done_in_its_directory_it_sees_where_others_work_around_it",
        &[Need::Mount],
        among_others,
    ),
    ("what_fsync_said_of_names_survives_the_death_of_everything", &[Need::Mount], all_killed),
    ("a_dead_or_sleeping_mount_holds_nobody_up_for_long", &[Need::Mount], away),
    ("a_mount_with_sync_has_everything_durable_when_a_call_returns", &[Need::Mount], synchronous),
    ("a_thousand_names_cost_a_few_entries_of_the_log", &[], few_entries),
    ("closing_a_client_loses_no_change_of_a_volume_that_was_dropped", &[], dropped_volume),
    (
        "a_tree_made_behind_the_caller_is_the_same_after_the_leader_dies_and_on_another_mount",
        &[Need::Mount],
        tree,
    ),
];

fn small() -> ClusterOptions {
    let mut options = ClusterOptions::new(RAIN);
    (options.nodes, options.code) = (3, "2+1");
    options
}

fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Creates a directory and works in it, so that the mount is delegated the directory.
fn delegated(mount: &TestMount, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let dir = mount.path().join(name);
    fs::create_dir(&dir)?;
    for at in 0..5 {
        fs::write(dir.join(format!("warm{at}")), b"")?;
        fs::remove_file(dir.join(format!("warm{at}")))?;
    }
    Ok(dir)
}

/// A mount is delegated directories of its own, and asks the leader about the names above them, because another
/// mount works there.
fn among_others() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let (one, two) = (TestMount::new(&cluster, "one")?, TestMount::new(&cluster, "two")?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let other = scope.spawn(|| -> anyhow::Result<()> {
            let name = two.path().join("other");
            while !stop.load(Relaxed) {
                fs::write(&name, b"")?;
                fs::remove_file(&name)?;
            }
            Ok(())
        });
        let run = || -> anyhow::Result<()> {
            for round in 0..40 {
                let dir = one.path().join(format!("mine-{round}"));
                fs::create_dir(&dir)?;
                for count in 1..=8 {
                    fs::write(dir.join(format!("f{count}")), b"")?;
                    let size = fs::metadata(&dir)?.len();
                    ensure!(size == count, "round {round}: {size} names, after {count} were made");
                }
                let below = dir.join("below");
                fs::create_dir(&below)?;
                let open = File::open(&below)?;
                fs::remove_dir(&below)?;
                let links = open.metadata()?.nlink();
                ensure!(links == 0, "round {round}: {links} links of a removed directory");
                fs::create_dir(&below)?;
                fs::create_dir(dir.join("moved"))?;
                let open = File::open(&below)?;
                fs::rename(dir.join("moved"), &below)?;
                let links = open.metadata()?.nlink();
                ensure!(links == 0, "round {round}: {links} links of a directory that was renamed over");
            }
            Ok(())
        };
        let ran = run();
        stop.store(true, Relaxed);
        other.join().expect("the other mount's program")?;
        ran
    })?;
    one.unmount()?;
    two.unmount()
}

fn seen_at_once() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let (one, two) = (TestMount::new(&cluster, "one")?, TestMount::new(&cluster, "two")?);
    for round in 0..12u64 {
        let name = format!("d{round}");
        let (here, there) = (delegated(&one, &name)?, two.path().join(&name));
        let long = 3000 * round as usize;
        for at in 0..40 {
            fs::write(here.join(format!("f{at:02}")), data::bytes(round, at, long))?;
        }
        fs::rename(here.join("f00"), here.join("moved"))?;
        fs::remove_file(here.join("f01"))?;
        fs::create_dir(here.join("sub"))?;
        fs::write(here.join("sub/deep"), b"deep")?;
        symlink("moved", here.join("link"))?;
        fs::set_permissions(here.join("f02"), fs::Permissions::from_mode(0o600))?;
        // The first access of the other mount sees all changes.
        match round % 4 {
            0 => {
                let found = names(&there)?;
                ensure!(found.len() == 41 && found.contains(&"moved".into()), "{found:?}");
            }
            1 => ensure!(fs::read(there.join("sub/deep"))? == b"deep"),
            2 => ensure!(!there.join("f01").exists(), "a removed name"),
            _ => File::create_new(there.join("f01")).map(drop)?,
        }
        data::check(&there.join("link"), round, long as u64)?;
        for at in 2..40 {
            let held = fs::read(there.join(format!("f{at:02}")))?;
            ensure!(held == data::bytes(round, at, long), "round {round}: f{at:02} has other bytes");
        }
        ensure!(there.join("f02").metadata()?.permissions().mode() & 0o777 == 0o600);
        // The first mount sees the changes of the other.
        fs::remove_dir_all(there.join("sub"))?;
        let begun = Instant::now();
        while here.join("sub").exists() {
            // The kernel caches a name for a second.
            ensure!(begun.elapsed() < Duration::from_secs(2), "a removed directory is still seen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn one_directory() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = [TestMount::new(&cluster, "one")?, TestMount::new(&cluster, "two")?];
    fs::create_dir(mounts[0].path().join("d"))?;
    const EACH: usize = 300;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let dir = mounts[worker % 2].path().join("d");
                scope.spawn(move || -> anyhow::Result<()> {
                    for at in 0..EACH {
                        let (new, name) =
                            (dir.join(format!("{worker}-{at}.new")), dir.join(format!("{worker}-{at}")));
                        fs::write(&new, format!("{worker} {at}"))?;
                        fs::rename(&new, &name)?;
                        if at % 3 == 0 {
                            fs::remove_file(&name)?;
                        }
                        if at % 50 == 0 {
                            // A pause, so that each mount is delegated the directory at times.
                            std::thread::sleep(Duration::from_millis(100 * (1 + worker as u64)));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let mut expected = Vec::new();
    for worker in 0..4 {
        expected.extend((0..EACH).filter(|at| at % 3 != 0).map(|at| format!("{worker}-{at}")));
    }
    expected.sort();
    for mount in &mounts {
        let dir = mount.path().join("d");
        let found = names(&dir)?;
        ensure!(found == expected, "{} names, not {}", found.len(), expected.len());
        for name in &expected {
            ensure!(fs::read_to_string(dir.join(name))? == name.replace('-', " "), "{name}");
        }
    }
    Ok(())
}

fn all_killed() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(small())?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let dir = delegated(&mount, "d")?;
    let mut expected = Vec::new();
    for at in 0..60u64 {
        let name = format!("f{at}");
        fs::write(dir.join(format!("{name}.new")), data::bytes(7, at, 9000))?;
        fs::rename(dir.join(format!("{name}.new")), dir.join(&name))?;
        expected.push(name);
        if at % 20 == 19 {
            fs::remove_file(dir.join("f0")).or_else(|error| if at == 19 { Err(error) } else { Ok(()) })?;
            expected.retain(|name| name != "f0");
        }
    }
    fs::create_dir(dir.join("sub"))?;
    // An fsync of the directory covers every name in it; one of a file covers every earlier change.
    File::open(&dir)?.sync_all()?;
    let last = File::create(dir.join("sub/last"))?;
    (&last).write_all(b"last")?;
    last.sync_all()?;
    cluster.kill_all()?;
    mount.kill()?;
    cluster.restart_all()?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let dir = mount.path().join("d");
    expected.push("sub".into());
    expected.sort();
    ensure!(names(&dir)? == expected, "{:?}", names(&dir)?);
    ensure!(fs::read(dir.join("sub/last"))? == b"last");
    // The files were closed without an fsync of their own, but their names were fsynced. Files that were
    // overwritten or renamed have all of their data or none.
    for name in expected.iter().filter(|name| *name != "sub") {
        let held = fs::read(dir.join(name))?;
        let whole = data::bytes(7, name[1..].parse()?, 9000);
        ensure!(held == whole || held.is_empty(), "{name} has {} bytes, and others", held.len());
    }
    Ok(())
}

fn signal(mount: &TestMount, signal: rustix::process::Signal) -> anyhow::Result<()> {
    let pid = mount.pid().context("it runs")?;
    let pid = rustix::process::Pid::from_raw(pid as i32).context("a number")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

fn away() -> anyhow::Result<()> {
    use rustix::process::Signal;
    let cluster = TestCluster::start(small())?;
    let (one, two) = (TestMount::new(&cluster, "one")?, TestMount::new(&cluster, "two")?);
    let here = delegated(&one, "d")?;
    for at in 0..20 {
        fs::write(here.join(format!("before{at}")), b"x")?;
    }
    std::thread::sleep(Duration::from_millis(600));
    // A paused mount: the other waits for it, but not for long.
    signal(&one, Signal::STOP)?;
    let begun = Instant::now();
    let made = fs::write(two.path().join("d/theirs"), b"theirs");
    let waited = begun.elapsed();
    let found = names(&two.path().join("d"));
    signal(&one, Signal::CONT)?;
    made?;
    ensure!(waited < Duration::from_secs(8), "waited {waited:?} for a paused mount");
    ensure!(found?.len() == 21, "acknowledged names are missing");
    // The resumed mount sees the changes made in the meantime, and goes on.
    let begun = Instant::now();
    while !here.join("theirs").exists() {
        ensure!(begun.elapsed() < Duration::from_secs(5), "the resumed mount does not see the other's file");
        std::thread::sleep(Duration::from_millis(50));
    }
    for at in 0..20 {
        fs::write(here.join(format!("after{at}")), b"y")?;
    }
    ensure!(names(&two.path().join("d"))?.len() == 41);
    // The same with a dead mount.
    let here = delegated(&one, "e")?;
    fs::write(here.join("last"), b"last")?;
    File::open(here.join("last"))?.sync_all()?;
    one.kill()?;
    let begun = Instant::now();
    ensure!(fs::read(two.path().join("e/last"))? == b"last");
    fs::write(two.path().join("e/more"), b"more")?;
    ensure!(begun.elapsed() < Duration::from_secs(8), "waited {:?} for a dead mount", begun.elapsed());
    Ok(())
}

fn synchronous() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mount = TestMount::with_options(&cluster, "mnt", "sync")?;
    let dir = mount.path().join("d");
    fs::create_dir(&dir)?;
    for at in 0..30 {
        fs::write(dir.join(format!("f{at}")), format!("{at}"))?;
    }
    fs::rename(dir.join("f0"), dir.join("moved"))?;
    mount.kill()?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let dir = mount.path().join("d");
    ensure!(names(&dir)?.len() == 30);
    ensure!(fs::read(dir.join("moved"))? == b"0" && fs::read(dir.join("f29"))? == b"29");
    Ok(())
}

fn few_entries() -> anyhow::Result<()> {
    use rain_client::{Client, NewInode, Options};
    let cluster = TestCluster::start(small())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
    runtime.block_on(async {
        let mut sent = Vec::new();
        for write_back in [false, true] {
            let options = Options { label: "test".into(), write_back, ..Options::default() };
            let client = Client::connect(&addresses, options).await?;
            let volume = client.volume("main").await?;
            let new = |kind| NewInode::new(kind, 0o755, 0, 0);
            let name = format!("behind-{write_back}");
            let dir = volume.make(volume.root(), name.as_bytes(), new(FileKind::Directory)).await?.ino;
            for at in 0..1000 {
                volume.make(dir, format!("f{at}").as_bytes(), new(FileKind::File)).await?;
            }
            volume.drain().await?;
            sent.push(client.stats().commands);
            let (entries, _) = volume.read_directory(dir, None, 4096).await?;
            ensure!(entries.len() == 1000, "{} names", entries.len());
            client.close().await;
        }
        ensure!(sent[0] > 1000, "without, each is one of its own: {sent:?}");
        ensure!(sent[1] < 100, "1000 names took {} calls", sent[1]);
        Ok(())
    })
}

fn dropped_volume() -> anyhow::Result<()> {
    use rain_client::{Client, NewInode, Options};
    let cluster = TestCluster::start(small())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
    let connect = |write_back| {
        let options = Options { label: "test".into(), write_back, ..Options::default() };
        Client::connect(&addresses, options)
    };
    runtime.block_on(async {
        let new = |kind| NewInode::new(kind, 0o755, 0, 0);
        for round in 0..5 {
            let client = connect(true).await?;
            let volume = client.volume("main").await?;
            let name = format!("dropped-{round}");
            let dir = volume.make(volume.root(), name.as_bytes(), new(FileKind::Directory)).await?.ino;
            for at in 0..100 {
                volume.make(dir, format!("f{at}").as_bytes(), new(FileKind::File)).await?;
            }
            ensure!(client.stats().acknowledged_early > 50, "nothing was written back");
            // The queue is gathered for 40 ms; the volume goes before it is sent.
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(volume);
            client.close().await;
            let other = connect(false).await?;
            let volume = other.volume("main").await?;
            let (entries, _) = volume.read_directory(dir, None, 4096).await?;
            ensure!(entries.len() == 100, "round {round}: {} names of 100", entries.len());
            other.close().await;
        }
        Ok(())
    })
}

/// Describes a tree, one line per name: kind, mode, links, size, time, content.
fn describe(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    let mut to_look = vec![root.to_owned()];
    while let Some(dir) = to_look.pop() {
        for name in names(&dir)? {
            let path = dir.join(&name);
            let meta = path.symlink_metadata()?;
            let what = if meta.is_dir() {
                to_look.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                fs::read_link(&path)?.display().to_string()
            } else {
                let mut hasher = DefaultHasher::new();
                fs::read(&path)?.hash(&mut hasher);
                format!("{:x}", hasher.finish())
            };
            let shown = path.strip_prefix(root)?.display().to_string();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let (mode, nlink, mtime) = (meta.mode(), meta.nlink(), (meta.mtime(), meta.mtime_nsec()));
            said.push(format!("{shown} {mode:o} {nlink} {size} {mtime:?} {what}"));
        }
    }
    said.sort();
    Ok(said)
}

fn tree() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(small())?;
    cluster.wait_settled(3, Duration::from_secs(30))?;
    let (one, two) = (TestMount::new(&cluster, "one")?, TestMount::new(&cluster, "two")?);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let root = one.path().join("tree");
    fs::create_dir(&root)?;
    for branch in 0..6u64 {
        let dir = root.join(format!("branch{branch}"));
        fs::create_dir(&dir)?;
        if branch == 3 {
            let leader = cluster.leader()?;
            cluster.kill(leader)?;
        }
        for at in 0..40u64 {
            let path = dir.join(format!("leaf{at}"));
            let mut file = File::create(&path)?;
            // Files stored inline, in one block, and by several writes.
            let len = [100, 5000, 70_000, 1_500_000][(at % 4) as usize] / if at % 8 == 3 { 1 } else { 10 };
            file.write_all(&data::bytes(branch, at, len))?;
            file.write_at(b"again", len as u64 / 2)?;
            if at % 3 == 0 {
                file.set_modified(long_ago)?;
            }
            if at % 5 == 0 {
                file.set_permissions(fs::Permissions::from_mode(0o640))?;
            }
            drop(file);
            match at % 10 {
                1 => fs::rename(&path, dir.join(format!("moved{at}")))?,
                2 => fs::hard_link(&path, dir.join(format!("linked{at}")))?,
                3 => symlink(format!("leaf{at}"), dir.join(format!("symlink{at}")))?,
                4 => fs::remove_file(&path)?,
                6 => fs::rename(&path, root.join(format!("up-{branch}-{at}")))?,
                _ => {}
            }
        }
        if branch % 2 == 1 {
            fs::rename(&dir, root.join(format!("renamed{branch}")))?;
        }
    }
    let here = describe(&root)?;
    ensure!(here.len() > 6 * 38, "{} names", here.len());
    let there = describe(&two.path().join("tree"))?;
    let differs = here.iter().zip(&there).find(|(here, there)| here != there);
    ensure!(here == there, "{} and {} names; first difference {differs:?}", here.len(), there.len());
    cluster.restart_all()?;
    one.unmount()?;
    let again = TestMount::new(&cluster, "one")?;
    ensure!(describe(&again.path().join("tree"))? == here, "after a new mount");
    Ok(())
}
