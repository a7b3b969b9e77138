//! What the README promises a newcomer: `rain dev` starts, explains itself, and leaves nothing behind.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::needs::Need;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("dev_is_ready_within_five_seconds_and_leaves_nothing_behind", &[Need::Mount], dev),
    ("dev_finds_its_data_again", &[Need::Mount], dev_again),
    ("dev_says_what_is_wrong_with_a_mount_point", &[Need::Mount], dev_wrong),
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

fn stop(mut dev: Dev) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(&dev.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let begun = Instant::now();
    loop {
        if let Some(status) = dev.child.try_wait()? {
            ensure!(status.success(), "dev ended with {status}");
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(15), "dev does not stop on SIGINT");
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
    ensure!(
        took < Duration::from_secs(10),
        "ready after {took:?}: other tests run beside this one, alone it is under 5 s"
    );
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
    stop(first)?;
    let second = start(&mountpoint, &data)?;
    ensure!(fs::read(mountpoint.join("kept"))? == vec![7; 2_000_000]);
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
    let pattern = format!("--data {}", folder.path().display());
    let left = Command::new("pgrep").args(["-f", "--", &pattern]).output().context("pgrep")?;
    let left = String::from_utf8_lossy(&left.stdout);
    ensure!(left.is_empty(), "processes are left: {left}");
    Ok(())
}
