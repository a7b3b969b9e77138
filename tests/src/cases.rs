//! The cases of `tests/cases`: scripts from outside that must end well on a mount.
//!
//! A case gets the mount points in its environment, and says by its exit code how it ended. [`KNOWN`] is the
//! one list of cases that are known to go wrong.

use crate::source::root;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Cases that are known to go wrong, each with what is missing. A case that is listed and ends well is an
/// error, so that the list stays true.
pub const KNOWN: &[(&str, &str)] = &[];

/// The exit code of a case that needs something that the machine lacks.
const SKIPPED: i32 = 77;

/// Begins the last line of a case that ended well without having tried all.
const NOT_ALL: &str = "note: not supported";

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was as it must be.
    Right,
    /// The machine lacks something that the case needs.
    Skipped(String),
    /// It went wrong, and is known to.
    Known(&'static str),
    /// It went wrong, or a known case went right.
    Wrong(String),
}

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Name of the script, without its ending.
    pub name: String,
    script: PathBuf,
}

impl Case {
    /// All cases of the repository, by name. Fails when the folder cannot be read or has none.
    pub fn all() -> anyhow::Result<Vec<Case>> {
        let folder = root().join("tests/cases");
        let mut cases = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let script = entry?.path();
            let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(|first: char| first.is_ascii_digit()) || name == "size_regress" {
                cases.push(Case { name, script });
            }
        }
        ensure!(!cases.is_empty(), "{} has no case", folder.display());
        cases.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(cases)
    }

    /// Starts the case on a mount, or on two. Its output goes to pipes.
    pub fn start(&self, mounts: &[&Path], variables: &[(&str, &str)]) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.script);
        if self.name == "size_regress" {
            let last = mounts.last().context("a case needs a mount")?;
            command.arg(last.join(format!("size-regress-{}", mounts.len()))).arg("4");
        }
        for (variable, mount) in ["M", "M2"].into_iter().zip(mounts) {
            command.env(variable, mount);
        }
        command.env("LAG", "0").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("starting {}", self.script.display()))
    }

    /// Waits for the end of a started case, and judges it.
    pub fn judge(&self, started: Child) -> anyhow::Result<Verdict> {
        let output = started.wait_with_output().context("waiting for a case")?;
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing is said").to_owned();
        let known = KNOWN.iter().find(|(name, _)| *name == self.name).map(|(_, why)| *why);
        Ok(match (output.status.code(), known) {
            (Some(SKIPPED), _) => Verdict::Skipped(last.trim_start_matches("SKIP: ").to_owned()),
            (Some(0), None) if !last.starts_with(NOT_ALL) => Verdict::Right,
            (Some(0), Some(_)) if !last.starts_with(NOT_ALL) => {
                Verdict::Wrong(format!("{} passes now: take it out of KNOWN", self.name))
            }
            (_, Some(why)) => Verdict::Known(why),
            (_, None) if self.name == "size_regress" => Verdict::Wrong(said.into_owned()),
            (_, None) => Verdict::Wrong(last),
        })
    }

    /// Runs the case on a mount, or on two.
    pub fn run(&self, mounts: &[&Path]) -> anyhow::Result<Verdict> {
        self.judge(self.start(mounts, &[])?)
    }
}
