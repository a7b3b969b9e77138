//! The README's promises to a newcomer: `rain dev` starts, explains itself, and leaves nothing behind.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::needs::Need;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("dev_is_ready_within_five_seconds_and_leaves_nothing_behind", &[Need::Mount], dev),
    ("dev_finds_its_data_again", &[Need::Mount], dev_again),
    ("dev_says_what_is_wrong_with_a_mount_point", &[Need::Mount], dev_wrong),
    ("dev_stops_though_a_shell_sits_in_the_mount", &[Need::Mount], dev_in_use),
    ("dev_says_which_port_is_taken_and_that_another_dev_runs", &[Need::Mount], dev_taken),
    ("dev_works_for_a_user_who_is_not_root", &[Need::Mount, Need::Root, Need::Fusermount], dev_as_user),
    ("dev_says_what_the_machine_lacks", &[Need::Mount, Need::Root], dev_lacks),
];

struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(mountpoint: &Path, data: &Path) -> anyhow::Result<Dev> {
    let mut child = Command::new(RAIN)
        .arg("dev")
        .arg(mountpoint)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()?;
    let stdout = child.stdout.take().context("stdout")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut dev = Dev { child, lines, said: Vec::new() };
    let begun = Instant::now();
    while !dev.said.iter().any(|line| line.contains("Ctrl-C")) {
        let left = Duration::from_secs(20).saturating_sub(begun.elapsed());
        let line = dev.lines.recv_timeout(left).with_context(|| format!("dev said only {:?}", dev.said))?;
        dev.said.push(line);
    }
    Ok(dev)
}

fn stop(dev: Dev) -> anyhow::Result<()> {
    stop_within(dev, Duration::from_secs(15))
}

fn stop_within(dev: Dev, longest: Duration) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(&dev.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    ended_within(dev, longest)
}

fn ended_within(mut dev: Dev, longest: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        if let Some(status) = dev.child.try_wait()? {
            ensure!(status.success(), "dev ended with {status}");
            return Ok(());
        }
        ensure!(begun.elapsed() < longest, "dev does not stop on SIGINT within {longest:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pids_of(said: &[String]) -> Vec<u32> {
    said.iter()
        .filter(|line| line.contains("127.0.0.1:"))
        .filter_map(|line| {
            line.split_whitespace().find_map(|word| word.parse().ok().filter(|pid| *pid > 100))
        })
        .collect()
}

fn dev() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mountpoint, data) = (folder.path().join("mnt"), folder.path().join("data"));
    let begun = Instant::now();
    let dev = start(&mountpoint, &data)?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(5), "ready only after {took:?}");
    let said = dev.said.join("\n");
    for needle in ["kill -9", "explain", "127.0.0.1:"] {
        ensure!(said.contains(needle), "dev does not print {needle:?}: {said}");
    }
    let pids = pids_of(&dev.said);
    ensure!(pids.len() >= 6, "six nodes with their pids: {said}");
    fs::write(mountpoint.join("hello"), "world")?;
    ensure!(fs::read(mountpoint.join("hello"))? == b"world");
    stop(dev)?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&mountpoint.display().to_string()), "still mounted");
    for pid in pids {
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    Ok(())
}

fn dev_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mountpoint, data) = (folder.path().join("mnt"), folder.path().join("data"));
    let first = start(&mountpoint, &data)?;
    fs::write(mountpoint.join("kept"), vec![7; 2_000_000])?;
    let mut open = fs::File::create(mountpoint.join("open"))?;
    std::io::Write::write_all(&mut open, &vec![9; 3_000_000])?;
    // A terminal's Ctrl-C reaches the whole process group. Data without an fsync must be stored all the same.
    let group = rustix::process::Pid::from_child(&first.child);
    rustix::process::kill_process_group(group, rustix::process::Signal::INT)?;
    ended_within(first, Duration::from_secs(15))?;
    let second = start(&mountpoint, &data)?;
    drop(open);
    ensure!(fs::read(mountpoint.join("kept"))? == vec![7; 2_000_000]);
    ensure!(fs::read(mountpoint.join("open"))? == vec![9; 3_000_000], "what was written before Ctrl-C");
    let said = second.said.join("\n");
    stop(second)?;
    ensure!(said.contains("node"), "{said}");
    Ok(())
}

fn dev_wrong() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let full = folder.path().join("full");
    fs::create_dir(&full)?;
    fs::write(full.join("something"), "x")?;
    let a_file = folder.path().join("file");
    fs::write(&a_file, "x")?;
    for (path, needle) in [(&full, "empty"), (&a_file, "directory")] {
        let output = Command::new(RAIN)
            .arg("dev")
            .arg(path)
            .arg("--data")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains(needle), "{}: {said}", output.status);
    }
    none_left(folder.path())
}

/// Fails when a process of a `rain dev` with its data in this folder is left.
fn none_left(folder: &Path) -> anyhow::Result<()> {
    let pattern = format!("--data {}", folder.display());
    let left = Command::new("pgrep").args(["-f", "--", &pattern]).output().context("pgrep")?;
    let left = String::from_utf8_lossy(&left.stdout);
    ensure!(left.is_empty(), "processes are left: {left}");
    Ok(())
}

fn dev_in_use() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mountpoint, data) = (folder.path().join("mnt"), folder.path().join("data"));
    let dev = start(&mountpoint, &data)?;
    let open = fs::File::create(mountpoint.join("open"))?;
    let mut shell = Command::new("sleep").arg("600").current_dir(&mountpoint).spawn()?;
    let stopped = stop_within(dev, Duration::from_secs(15));
    shell.kill()?;
    shell.wait()?;
    drop(open);
    stopped?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&mountpoint.display().to_string()), "still mounted");
    none_left(folder.path())
}

/// Runs `rain dev` where it must fail, and returns its error message of one line.
fn refused(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(RAIN).arg("dev").args(args).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.lines().count() == 1, "{}: {said}", output.status);
    Ok(said)
}

fn dev_taken() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let text = |name: &str| folder.path().join(name).display().to_string();
    let held = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = held.local_addr()?.port().to_string();
    let said = refused(&[&text("mnt"), "--data", &text("data"), "--port", &port])?;
    ensure!(said.contains(&format!("port {port} is taken")) && said.contains("--port"), "{said}");
    let first = start(&folder.path().join("mnt"), &folder.path().join("data"))?;
    let said = refused(&[&text("other"), "--data", &text("data")])?;
    ensure!(said.contains("another `rain dev` runs") && said.contains("--data"), "{said}");
    // A second one with data of its own finds other ports.
    let second = start(&folder.path().join("mnt2"), &folder.path().join("data2"))?;
    fs::write(folder.path().join("mnt2/x"), "two")?;
    ensure!(!folder.path().join("mnt/x").exists(), "the second `dev` is a cluster of its own");
    stop(second)?;
    stop(first)?;
    none_left(folder.path())
}

/// Runs a script as root in a mount namespace of its own, and returns its exit code and its output. The
/// command under test is copied to a folder where every user can run it.
fn in_namespace(folder: &Path, script: &str) -> anyhow::Result<(Option<i32>, String)> {
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let rain = folder.join("rain");
    fs::copy(RAIN, &rain)?;
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-euc", script])
        .env("RAIN", rain)
        .env("HERE", folder)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), said.into_owned()))
}

fn dev_as_user() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Where only root may open the device, as here, a user cannot mount at all. The namespace has a device
    // for all users.
    let script = r#"
        mknod "$HERE/device" c 10 229; chmod 666 "$HERE/device"; mount --bind "$HERE/device" /dev/fuse
        cat > "$HERE/as-user" <<'END'
        set -eu
        "$RAIN" dev "$HERE/mnt" --data "$HERE/data" > "$HERE/out" 2>&1 &
        dev=$!
        for _ in $(seq 200); do grep -q Ctrl-C "$HERE/out" && break; sleep 0.1; done
        grep Ctrl-C "$HERE/out" || { cat "$HERE/out"; exit 1; }
        echo kept > "$HERE/mnt/file"; mkdir "$HERE/mnt/dir"; cat "$HERE/mnt/file"
        stat -c 'owner %u' "$HERE/mnt/file"
        kill -INT $dev; wait $dev
        grep -q " $HERE/mnt " /proc/self/mounts && { echo still mounted; exit 1; }
        echo well
END
        exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent bash "$HERE/as-user"
    "#;
    let (code, said) = in_namespace(folder.path(), script)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    for needle in ["kept", "owner 65534", "well"] {
        ensure!(said.contains(needle), "{needle:?} is missing: {said}");
    }
    Ok(())
}

fn dev_lacks() -> anyhow::Result<()> {
    let dev = r#""$RAIN" dev "$HERE/mnt" --data "$HERE/data""#;
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    // The helper is found in the usual folders, whatever PATH is. A helper without execute permission counts
    // as missing.
    let no_helper =
        r#"touch "$HERE/none"; for at in $(which -a fusermount3); do mount --bind "$HERE/none" "$at"; done;"#;
    let open_device = r#"mknod "$HERE/d" c 10 229; chmod 666 "$HERE/d"; mount --bind "$HERE/d" /dev/fuse;"#;
    let cases = [
        (format!("mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; {dev}"), "modprobe fuse"),
        (format!("{no_helper} {open_device} {user} {dev}"), "install the package fuse3"),
        (format!(r#"chmod 711 "$HERE"; {user} {dev}"#), "ermission denied"),
        (format!(r#"mkdir "$HERE/mnt"; mount -t tmpfs none "$HERE/mnt"; {dev}"#), "is a mount point already"),
    ];
    for (script, needle) in cases {
        let folder = tempfile::tempdir()?;
        let (code, said) = in_namespace(folder.path(), &script)?;
        ensure!(code != Some(0) && said.contains(needle), "{script}: {code:?}: {said}");
        ensure!(said.lines().count() == 1, "one line, not {said}");
        none_left(folder.path())?;
    }
    Ok(())
}
