//! Suites that test a filesystem: pjdfstest, fsx, one file by turns through two mounts, the filesystem
//! stressors of stress-ng, and the Linux Test Project.
//!
//! pjdfstest and fsx are installed from crates.io. What else the machine lacks is a row that says so.

use super::process::{self, Running, find, last_lines};
use super::report::{Ending, Report};
use super::stage::Stage;
use crate::needs::python;
use crate::source::root;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What to run, and for how long.
#[derive(Debug)]
pub struct PosixOptions {
    /// The command under test.
    pub rain: PathBuf,
    /// The folder into which missing suites are installed.
    pub tools: PathBuf,
    /// Nodes that are killed before the suites run, the leader first.
    pub nodes_down: u32,
    /// Seeds of fsx, and of the file by turns.
    pub seeds: u64,
    /// Operations of fsx for each seed.
    pub ops: u64,
    /// Calls of the file by turns for each seed.
    pub calls: u64,
    /// Minutes of stress-ng.
    pub minutes: u64,
    /// Only rows whose names contain one of these texts, separated by commas.
    pub only: Option<String>,
    /// Print JSON.
    pub json: bool,
}

/// The two users that pjdfstest acts as besides root, with their groups: its own, or those of every Debian.
const USERS: [[(&str, &str); 2]; 2] =
    [[("pjdfstest", "pjdfstest"), ("tests", "tests")], [("nobody", "nogroup"), ("daemon", "daemon")]];

/// Stressors of stress-ng's class `filesystem` that say nothing of a mounted filesystem, or that need what a
/// filesystem in user space cannot have: files of the system, block devices, files that are verified or made
/// immutable.
const STRESSORS_LEFT_OUT: &str = "binderfs,chattr,fanotify,fiemap,fpunch,verity,sysbadaddr";

/// Runs the suites. The exit code is a failure when a row is wrong.
pub fn run(options: PosixOptions) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(options.only.clone(), options.json);
    let mut stage = Stage::start(&options.rain)?;
    let down = match options.nodes_down {
        0 => String::new(),
        down => format!(", {down} nodes down"),
    };
    stage.kill_nodes(options.nodes_down)?;
    report.row(&format!("pjdfstest{down}"), || stage.watched(false, |stage| pjdfstest(stage, &options)));
    for seed in 1..=options.seeds {
        let name = format!("fsx, seed {seed}{down}");
        report.row(&name, || stage.watched(false, |stage| fsx(stage, &options, seed)));
    }
    for seed in 1..=options.seeds {
        let name = format!("one file by turns, seed {seed}{down}");
        report.row(&name, || stage.watched(false, |stage| turns(stage, &options, seed)));
    }
    report.row(&format!("stress-ng{down}"), || stage.watched(false, |stage| stress(stage, &options)));
    report.row(&format!("ltp{down}"), || {
        Ok(Ending::Skipped("Debian has no package of the Linux Test Project".into()))
    });
    report.row(&format!("the cluster at the end{down}"), || stage.check().map(Ending::Right));
    report.row(&format!("unmounting{down}"), || stage.end().map(|()| Ending::Right(String::new())));
    Ok(report.finish())
}

/// Installs a suite from crates.io unless it is there. None, with the reason: it cannot be installed.
fn installed(options: &PosixOptions, name: &str, version: &str) -> anyhow::Result<Result<PathBuf, String>> {
    let program = options.tools.join("bin").join(name);
    if !program.exists() {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["install", "--quiet", "--locked", name, "--version", version, "--root"]);
        let ended = Running::start(command.arg(&options.tools))?.wait(Duration::from_secs(1800))?;
        if !ended.status.success() {
            let needs = if name == "pjdfstest" { " (Debian: libacl1-dev)" } else { "" };
            return Ok(Err(format!("cannot be installed{needs}: {}", last_lines(&ended.said))));
        }
    }
    Ok(Ok(program))
}

fn exists(kind: &str, name: &str) -> bool {
    process::run(Command::new("getent").args([kind, name]), Duration::from_secs(10)).is_ok()
}

fn pjdfstest(stage: &Stage, options: &PosixOptions) -> anyhow::Result<Ending> {
    if !crate::needs::is_root() {
        return Ok(Ending::Skipped("not root".into()));
    }
    let all_there = |users: &[(&str, &str); 2]| {
        users.iter().all(|(user, group)| exists("passwd", user) && exists("group", group))
    };
    let Some(users) = USERS.iter().find(|users| all_there(users)) else {
        return Ok(Ending::Skipped("no users to act as: useradd --user-group pjdfstest, and tests".into()));
    };
    let program = match installed(options, "pjdfstest", "0.2.2")? {
        Ok(program) => program,
        Err(why) => return Ok(Ending::Skipped(why)),
    };
    let entries = users.map(|(user, group)| format!("[\"{user}\", \"{group}\"]")).join(", ");
    let config = stage.local().join("pjdfstest.toml");
    std::fs::write(
        &config,
        format!(
            "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutimensat = {{}}\nutime_now = {{}}\n\
             [settings]\nnaptime = 0.02\n[dummy_auth]\nentries = [{entries}]\n"
        ),
    )?;
    let [folder, _] = stage.folders("pjdfstest")?;
    let mut command = Command::new(program);
    command.arg("-c").arg(config).arg("-p").arg(&folder).env("NO_COLOR", "1");
    let said = Running::start(&mut command)?.wait(Duration::from_secs(1800))?.said;
    let summary = said.lines().rfind(|line| line.starts_with("Summary")).context(last_lines(&said))?;
    let failed: Vec<&str> = said.lines().filter(|line| line.trim_end().ends_with("FAILED")).collect();
    ensure!(failed.is_empty(), "{summary}\n{}", failed.join("\n"));
    Ok(Ending::Right(summary.trim_start_matches("Summary: ").into()))
}

/// fsx on one mount. Every other seed has a file of several blocks, and the others one of the default length.
fn fsx(stage: &Stage, options: &PosixOptions, seed: u64) -> anyhow::Result<Ending> {
    let program = match installed(options, "fsx", "0.3.2")? {
        Ok(program) => program,
        Err(why) => return Ok(Ending::Skipped(why)),
    };
    let (flen, most) = if seed.is_multiple_of(2) { (3 << 20, 300_000) } else { (256 << 10, 65536) };
    let config = stage.local().join(format!("fsx-{seed}.toml"));
    std::fs::write(
        &config,
        format!(
            "flen = {flen}\n[opsize]\nmin = 1\nmax = {most}\n[weights]\nclose_open = 2\ninvalidate = 1\n\
             mapread = 10\nmapwrite = 10\nread = 10\nwrite = 10\ntruncate = 5\nfsync = 0.5\nfdatasync = 0.5\n\
             posix_fallocate = 2\npunch_hole = 2\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 2\n"
        ),
    )?;
    let [folder, _] = stage.folders(&format!("fsx-{seed}"))?;
    let mut command = Command::new(program);
    command.args(["-S", &seed.to_string(), "-N", &options.ops.to_string(), "-f"]).arg(config);
    command.arg("-P").arg(stage.local()).arg(folder.join("file"));
    process::run(&mut command, Duration::from_secs(60 + options.ops / 20))?;
    Ok(Ending::Right(format!("{} operations", options.ops)))
}

fn turns(stage: &Stage, options: &PosixOptions, seed: u64) -> anyhow::Result<Ending> {
    let folders = stage.folders(&format!("turns-{seed}"))?;
    let mut command = Command::new(python());
    command.arg(root().join("tests/programs/file_turns.py")).args(folders);
    command.args([seed.to_string(), options.calls.to_string()]);
    let said = process::run(&mut command, Duration::from_secs(60 + options.calls / 5))?;
    Ok(Ending::Right(said.trim().into()))
}

fn stress(stage: &Stage, options: &PosixOptions) -> anyhow::Result<Ending> {
    let Some(program) = find("stress-ng", &[] as &[&Path]) else {
        return Ok(Ending::Skipped("no stress-ng (Debian: stress-ng)".into()));
    };
    let listed = Command::new(&program).args(["--class", "filesystem?"]).output()?;
    let listed = String::from_utf8_lossy(&[listed.stdout, listed.stderr].concat()).into_owned();
    let stressors = listed.split_whitespace().count().saturating_sub(3).max(1) as u64;
    let each = (options.minutes * 60 / stressors).max(1);
    let [folder, _] = stage.folders("stress")?;
    let mut command = Command::new(program);
    command.args(["--class", "filesystem", "--sequential", "1", "--verify", "--exclude", STRESSORS_LEFT_OUT]);
    command.args(["--timeout", &format!("{each}s"), "--temp-path"]).arg(folder);
    let ended = Running::start(&mut command)?.wait(Duration::from_secs(300 + options.minutes * 180))?;
    let wrong: Vec<&str> =
        ended.said.lines().filter(|line| line.contains("fail:") || line.contains("error:")).collect();
    ensure!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
    // 3: a stressor found no room for its needs; 4: one is not made for this machine.
    ensure!(matches!(ended.status.code(), Some(0 | 3 | 4)), "{}: {}", ended.status, last_lines(&ended.said));
    Ok(Ending::Right(format!("{stressors} stressors, {each} s each")))
}
