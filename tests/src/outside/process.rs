//! Programs with a limit of time. What a program starts ends with it.

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of a program's output that an error tells.
const LINES_TOLD: usize = 15;

/// A program that runs in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    said: std::fs::File,
    begun: Instant,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    what: String,
    /// The exit status.
    pub status: ExitStatus,
    /// What it printed, standard output and standard error in their order.
    pub said: String,
}

impl Running {
    /// Starts a program.
    pub fn start(command: &mut Command) -> anyhow::Result<Running> {
        let what = format!("{command:?}");
        let said = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {what}"))?;
        Ok(Running { what, child, said, begun: Instant::now() })
    }

    /// Waits for the end. Fails, and kills the program, when it has not ended `within` this time of its start.
    pub fn wait(mut self, within: Duration) -> anyhow::Result<Ended> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.begun.elapsed() > within {
                let said = self.said()?;
                bail!("{} has not ended after {within:?}: {}", self.what, last_lines(&said));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ok(Ended { what: self.what.clone(), status, said: self.said()? })
    }

    /// Process id, which is the group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn said(&mut self) -> anyhow::Result<String> {
        let mut said = Vec::new();
        self.said.rewind()?;
        self.said.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also after its end: what it has started is in its group.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.try_wait();
    }
}

impl Ended {
    /// What it printed. Fails when it ended with an error.
    pub fn right(self) -> anyhow::Result<String> {
        ensure!(
            self.status.success(),
            "{} ended with {}: {}",
            self.what,
            self.status,
            last_lines(&self.said)
        );
        Ok(self.said)
    }
}

/// The last lines of an output.
pub fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
}

/// Runs a program to its end. Returns what it printed. Fails when it ends with an error, or not in time.
pub fn run(command: &mut Command, within: Duration) -> anyhow::Result<String> {
    Running::start(command)?.wait(within)?.right()
}

/// Where a program is: in PATH, in /usr/sbin, or in one of these folders.
pub fn find(program: &str, folders: &[&Path]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let all = all.chain(folders.iter().map(|folder| folder.to_path_buf()));
    all.map(|folder| folder.join(program)).find(|path| path.is_file())
}
