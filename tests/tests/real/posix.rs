//! POSIX beyond names and data: ACLs, set-id bits, capabilities, files without a name, whiteouts, birth times
//! and file handles; on one mount and on two.

use crate::Promise;
use crate::sharing::small;
use anyhow::{Context, ensure};
use rain_tests::needs::Need;
use rain_tests::real::{TestCluster, TestMount, run};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, statvfs};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("modes_acls_and_capabilities_are_those_of_tmpfs_for_every_user", &[Need::Mount, Need::Root], compared),
    ("a_file_without_a_name_gets_one_with_its_data_or_is_freed", &[Need::Mount], unnamed),
    ("a_birth_time_stays_and_is_the_same_on_every_mount", &[Need::Mount], born),
    ("an_overlay_on_a_mount_lives_while_others_change_names", &[Need::Mount, Need::Overlay], overlay),
    ("a_file_handle_outlives_caches_renames_and_the_mount", &[Need::Mount, Need::Root], handles),
];

/// The calls, in Python: users and file handles need system calls that only libc has.
const PROGRAM: &str = include_str!("posix.py");

/// Seeds of one run; the variable `RAIN_TEST_SEEDS` asks for more. Seed 5 is one in which a directory is looked up
/// that is delegated to the mount while its parent is not.
const SEEDS: u64 = 6;

fn python(words: &[&str]) -> anyhow::Result<String> {
    run("python3", &[&["-c", PROGRAM], words].concat())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// The same calls on a tmpfs, through one mount, and through two mounts in turns.
fn compared() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?];
    let memory = tempfile::tempdir_in("/dev/shm")?;
    let seeds = std::env::var("RAIN_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let calls = |name: &str, first: &Path, second: &Path| -> anyhow::Result<Vec<String>> {
            let folders = [first, second].map(|top| top.join(format!("{name}{seed}")));
            fs::create_dir(&folders[0])?;
            let told = python(&["compare", &seed.to_string(), text(&folders[0])?, text(&folders[1])?])?;
            Ok(told.lines().map(str::to_owned).collect())
        };
        let expected = calls("on", memory.path(), memory.path())?;
        ensure!(expected.len() > 1000, "the program has told only {} lines", expected.len());
        for (how, second) in [("one", &mounts[0]), ("two", &mounts[1])] {
            let got = calls(how, mounts[0].path(), second.path())?;
            let pairs = expected.iter().zip(&got).enumerate();
            let mut call = "";
            for (at, (expected, got)) in pairs {
                if !got.starts_with(' ') {
                    call = got;
                }
                ensure!(
                    expected == got,
                    "seed {seed}, {how}, line {at}, after {call:?}:\n tmpfs: {expected}\n RAIN:  {got}"
                );
            }
            ensure!(expected.len() == got.len(), "seed {seed}, {how}: {} lines", got.len());
        }
    }
    Ok(())
}

/// Inodes in use, as statfs(2) counts them.
fn inodes(mount: &TestMount) -> anyhow::Result<u64> {
    let stat = statvfs(mount.path())?;
    Ok(stat.f_files - stat.f_ffree)
}

fn open_unnamed(folder: &Path) -> anyhow::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    Ok(openat(CWD, folder, flags, Mode::from_raw_mode(0o640)).context("O_TMPFILE")?.into())
}

fn unnamed() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?];
    let folders = mounts.each_ref().map(|mount| mount.path().join("d"));
    fs::create_dir(&folders[0])?;
    let data: Vec<u8> = (0..300_000u32).map(|at| (at * 7 + at / 251) as u8).collect();
    // Names made before let the directory be delegated: the link is decided in another way then.
    for (round, before) in [("first", 0), ("delegated", 5)] {
        for at in 0..before {
            fs::write(folders[0].join(format!("{round}-{at}")), b"")?;
        }
        let file = open_unnamed(&folders[0])?;
        ensure!(file.metadata()?.nlink() == 0 && file.metadata()?.mode() & 0o777 == 0o640);
        file.write_all_at(&data[..200_000], 0)?;
        // Long enough for the leader to look for files that nobody has open.
        std::thread::sleep(Duration::from_secs(5));
        file.write_all_at(&data[200_000..], 200_000)?;
        let name = folders[0].join(round);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        linkat(CWD, &path, CWD, &name, AtFlags::SYMLINK_FOLLOW).context("linkat")?;
        ensure!(fs::read(folders[1].join(round))? == data, "{round}: not what was written");
        ensure!(file.metadata()?.nlink() == 1);
        file.write_all_at(b"late", 0)?;
        drop(file);
        ensure!(fs::read(folders[1].join(round))?[..5] == [b"late", &data[4..5]].concat()[..]);
        std::thread::sleep(Duration::from_secs(6));
        ensure!(fs::read(&name)?.len() == data.len(), "{round}: a file with a name is freed");
        fs::remove_file(folders[1].join(round))?;
    }
    // Without a name it is gone some seconds after its close.
    let (file, begun) = (open_unnamed(&folders[0])?, Instant::now());
    file.write_all_at(&data, 0)?;
    file.sync_all()?;
    let names = fs::read_dir(&folders[0])?.count() as u64;
    drop(file);
    // The root, the directory, and the names.
    while inodes(&mounts[0])? > names + 2 {
        ensure!(begun.elapsed() < Duration::from_secs(30), "{} inodes are left", inodes(&mounts[0])?);
        std::thread::sleep(Duration::from_millis(500));
    }
    mounts.into_iter().try_for_each(TestMount::unmount)
}

fn born() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mounts = [TestMount::new(&cluster, "m1")?, TestMount::new(&cluster, "m2")?];
    let [here, there] = mounts.each_ref().map(|mount| mount.path().join("file"));
    let before = std::time::SystemTime::now() - Duration::from_secs(1);
    fs::write(&here, b"x")?;
    let born = fs::metadata(&here)?.created().context("statx gives no birth time")?;
    ensure!(born >= before && born <= std::time::SystemTime::now());
    std::thread::sleep(Duration::from_millis(1200));
    fs::write(&there, b"other")?;
    fs::set_permissions(&here, Permissions::from_mode(0o600))?;
    let moved = here.with_file_name("moved");
    fs::rename(&here, &moved)?;
    for path in [&moved, &there.with_file_name("moved")] {
        let now = fs::metadata(path)?;
        ensure!(now.created()? == born, "{}: another birth time", path.display());
        ensure!(now.modified()? > born + Duration::from_secs(1));
    }
    Ok(())
}

/// What a program does in an overlay whose upper layer is on a mount, and which is mounted on it, too.
const IN_OVERLAY: &str = r#"
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
cd "$2/merged"
echo more >>file
rm gone
rm -r dir
mkdir dir new
mv new moved
for at in $(seq 40); do
    grep -q " $2/merged overlay " /proc/mounts
    cd "$2/merged"
    echo "$at" >"dir/$at"
    mv "dir/$at" "moved/$at"
    ls "$3/upper/dir" >/dev/null
    test "$(cat file)" = "$(printf 'low\nmore')"
    rm -f "moved/$((at - 1))"
    sleep 0.1
done
test "$(ls moved)" = 40
test ! -e gone
test -z "$(ls dir)"
"#;

/// Makes, renames and removes names in a directory, and lists it, until it is to stop.
fn stir(directory: &Path, own: &str, stop: &AtomicBool) -> anyhow::Result<u32> {
    let at = |name: String| directory.join(name);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let (first, second) = (at(format!("{own}{rounds}")), at(format!("{own}{rounds}-renamed")));
        fs::write(&first, b"contents")?;
        fs::rename(&first, &second)?;
        for entry in fs::read_dir(directory)? {
            // Another mount may remove it meanwhile.
            let _ = entry?.metadata();
        }
        fs::remove_file(&second)?;
        rounds += 1;
    }
    Ok(rounds)
}

fn overlay() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mount = TestMount::new(&cluster, "m1")?;
    let other = TestMount::new(&cluster, "m2")?;
    let memory = tempfile::tempdir()?;
    let (low, top) = (memory.path().join("low"), mount.path());
    for folder in [&low, &low.join("dir"), &top.join("merged"), &top.join("upper"), &top.join("work")] {
        fs::create_dir(folder)?;
    }
    for (name, contents) in [("file", "low\n"), ("gone", ""), ("dir/below", "")] {
        fs::write(low.join(name), contents)?;
    }
    let words = [text(&low)?, text(top)?, text(other.path())?];
    let stop = AtomicBool::new(false);
    // Several on each: then a directory is mostly locked by an operation that waits for the other mount.
    let stirrers = [(top, "a"), (top, "b"), (other.path(), "c"), (other.path(), "d")];
    std::thread::scope(|scope| {
        let stirring: Vec<_> =
            stirrers.iter().map(|(directory, own)| scope.spawn(|| stir(directory, own, &stop))).collect();
        let ran = run("unshare", &[&["-m", "sh", "-c", IN_OVERLAY, "sh"][..], &words].concat());
        stop.store(true, Ordering::Relaxed);
        let rounds = stirring.into_iter().map(|stirrer| stirrer.join().expect("no stirrer panics"));
        let rounds = rounds.collect::<anyhow::Result<Vec<_>>>();
        ran?;
        let rounds = rounds?;
        ensure!(rounds.iter().all(|rounds| *rounds > 10), "too few rounds of changes: {rounds:?}");
        anyhow::Ok(())
    })?;
    let whiteout = fs::symlink_metadata(other.path().join("upper/gone"))?;
    ensure!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "no whiteout");
    ensure!(fs::read(other.path().join("upper/file"))? == b"low\nmore\n");
    Ok(())
}

fn drop_caches() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping the kernel's caches")
}

fn handles() -> anyhow::Result<()> {
    let cluster = TestCluster::start(small())?;
    let mut mount = TestMount::new(&cluster, "m1")?;
    let other = TestMount::new(&cluster, "m2")?;
    let top = mount.path().to_owned();
    let at = |name: &str| top.join(name);
    fs::create_dir_all(at("dir/sub"))?;
    fs::write(at("dir/sub/file"), b"contents")?;
    fs::write(at("gone"), b"gone")?;
    let handle = |path: &Path| Ok::<_, anyhow::Error>(python(&["handle", text(path)?])?.trim().to_owned());
    let (file, dir, gone) = (handle(&at("dir/sub/file"))?, handle(&at("dir/sub"))?, handle(&at("gone"))?);
    let open =
        |handle: &str| Ok::<_, anyhow::Error>(python(&["open", text(&top)?, handle])?.trim().to_owned());
    let check = |when: &str, name: &str| {
        drop_caches()?;
        let found = (open(&file)?, open(&dir)?);
        ensure!(found == ("contents".to_owned(), name.to_owned()), "{when}: {found:?}");
        Ok(())
    };
    check("at first", "file")?;
    fs::rename(at("dir/sub/file"), at("dir/sub/renamed"))?;
    fs::rename(at("dir/sub"), at("moved"))?;
    check("after renames", "renamed")?;
    fs::rename(other.path().join("moved/renamed"), other.path().join("moved/again"))?;
    check("after a rename on another mount", "again")?;
    mount.unmount()?;
    mount = TestMount::new(&cluster, "m1")?;
    check("after the next mount", "again")?;
    fs::remove_file(at("gone"))?;
    drop_caches()?;
    ensure!(open(&gone)? == "ESTALE", "a removed file: {}", open(&gone)?);
    fs::remove_file(other.path().join("moved/again"))?;
    fs::remove_dir(other.path().join("moved"))?;
    drop_caches()?;
    ensure!((open(&file)?, open(&dir)?) == ("ESTALE".to_owned(), "ESTALE".to_owned()));
    ensure!(fs::metadata(at("moved")).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    mount.unmount()
}
