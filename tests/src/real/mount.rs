//! A real mount: `rain mount -f` in a child process.

use super::TestCluster;
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A mounted volume. Dropping it unmounts.
#[derive(Debug)]
pub struct TestMount {
    path: PathBuf,
    child: Option<Child>,
    log: PathBuf,
}

impl TestMount {
    /// Mounts the volume `main`.
    pub fn new(cluster: &TestCluster, name: &str) -> anyhow::Result<TestMount> {
        TestMount::start(cluster, "main", name, "rw")
    }

    /// Mounts a volume.
    pub fn of_volume(cluster: &TestCluster, volume: &str, name: &str) -> anyhow::Result<TestMount> {
        TestMount::start(cluster, volume, name, "rw")
    }

    /// Mounts the volume `main` with mount options, in the form of `-o`.
    pub fn with_options(cluster: &TestCluster, name: &str, options: &str) -> anyhow::Result<TestMount> {
        TestMount::start(cluster, "main", name, options)
    }

    fn start(cluster: &TestCluster, volume: &str, name: &str, options: &str) -> anyhow::Result<TestMount> {
        let path = cluster.folder().join(name);
        std::fs::create_dir_all(&path)?;
        let log = cluster.folder().join(format!("{name}.log"));
        let source = format!("{}:/{volume}", cluster.addresses());
        let child = cluster
            .command(0)
            .args(["mount", "-f", "-o", options, &source])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .context("starting the mount")?;
        let mut mount = TestMount { path, child: Some(child), log };
        let begun = Instant::now();
        while !mount.is_mounted() {
            if let Some(status) = mount.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("the mount ended ({:?}): {}", status?, mount.log());
            }
            ensure!(begun.elapsed() < Duration::from_secs(10), "not mounted after 10 s: {}", mount.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(mount)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Process id of the mount; none after its end.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The log of the mount's process so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn is_mounted(&self) -> bool {
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return false };
        let path = self.path.display().to_string();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(path.as_str()))
    }

    /// Kills the mount's process with SIGKILL, and removes the dead mount.
    pub fn kill(mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the mount has ended")?;
        child.kill()?;
        child.wait()?;
        self.detach();
        Ok(())
    }

    /// Stops the mount's process with SIGTERM. Fails when it does not end within 40 s, ends with an error, or
    /// leaves the mount point mounted.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the mount has ended")?;
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(40) {
                child.kill()?;
                self.detach();
                bail!("the mount does not end on SIGTERM: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "the mount ended with {status}: {}", self.log());
        ensure!(!self.is_mounted(), "the mount ended and left its mount point mounted");
        Ok(())
    }

    fn detach(&self) {
        let user = Command::new("fusermount3").arg("-uz").arg(&self.path).stderr(Stdio::null()).status();
        if !user.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() || std::env::var_os("RAIN_TEST_LOGS").is_some() {
                eprintln!("--- log of the mount\n{}", self.log());
            }
            let _ = child.kill();
            let _ = child.wait();
            self.detach();
        }
    }
}

/// Runs a program and returns its standard output. Fails with its standard error when it exits with an error.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed ({}): {stderr}", args.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
