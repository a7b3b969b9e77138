//! Programs that people use, on two mounts, while nodes are killed one after the other. A wrong byte, a lost
//! record, an error to a program or a hang of ten seconds is wrong.

mod files;
mod postgres;
mod served;

use super::process::{find, run as run_program};
use super::report::{Ending, Report};
use super::stage::Stage;
use crate::cases::{Case, Verdict};
use crate::needs::python;
use crate::source::root;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What to run, and for how long.
#[derive(Debug)]
pub struct ProgramsOptions {
    /// The command under test.
    pub rain: PathBuf,
    /// Length of each program's work, seconds, where it can be chosen.
    pub seconds: u64,
    /// How often `initdb` makes a cluster of PostgreSQL.
    pub initdbs: u32,
    /// Kill no nodes.
    pub calm: bool,
    /// Only rows whose names contain one of these texts, separated by commas.
    pub only: Option<String>,
    /// Print JSON.
    pub json: bool,
}

type Play = fn(&mut Stage, &ProgramsOptions) -> anyhow::Result<Ending>;

const PLAYS: &[(&str, Play)] = &[
    ("PostgreSQL: initdb", postgres::initdb),
    ("PostgreSQL: pgbench", postgres::pgbench),
    ("PostgreSQL: pgbench, its mount killed", postgres::mount_killed),
    ("SQLite: rollback journal, two mounts", |stage, options| sqlite(stage, options, "delete")),
    ("SQLite: write-ahead log, one mount", |stage, options| sqlite(stage, options, "wal")),
    ("git: clone, commit, gc, fsck", files::git),
    ("rsync -aHAX, twice", files::rsync),
    ("qemu-img: create, convert, check", files::qemu_img),
    ("make -j4 on two mounts", files::make),
    ("Maildir: deliveries on two mounts", maildir),
    ("NFS-Ganesha over a mount", served::ganesha),
    ("Samba over a mount", served::samba),
];

/// Runs the programs. The exit code is a failure when a row is wrong.
pub fn run(options: ProgramsOptions) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(options.only.clone(), options.json);
    let mut stage = Stage::start(&options.rain)?;
    for (name, play) in PLAYS {
        report.row(name, || stage.watched(!options.calm, |stage| play(stage, &options)));
    }
    for case in Case::all()? {
        // Those from 53 to 55 ask for failures of their own.
        if ["53", "54", "55"].iter().any(|own| case.name.starts_with(own)) {
            continue;
        }
        report.row(&format!("case {}", case.name), || {
            let mounts = [stage.mount(0), stage.mount(1)];
            stage.watched(!options.calm, |_| match case.run(&mounts.each_ref().map(PathBuf::as_path))? {
                Verdict::Right => Ok(Ending::Right(String::new())),
                Verdict::Skipped(why) => Ok(Ending::Skipped(why)),
                Verdict::Known(why) => Ok(Ending::Skipped(format!("known: {why}"))),
                Verdict::Wrong(why) => Err(anyhow::Error::msg(why)),
            })
        });
    }
    report.row("the cluster at the end", || stage.check().map(Ending::Right));
    report.row("unmounting", || stage.end().map(|()| Ending::Right(String::new())));
    Ok(report.finish())
}

/// The row of a program that the machine lacks.
fn without(program: &str, package: &str) -> anyhow::Result<Ending> {
    Ok(Ending::Skipped(format!("no {program} (Debian: {package})")))
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(root().join("tests/programs").join(name));
    command
}

fn sqlite(stage: &mut Stage, options: &ProgramsOptions, journal: &str) -> anyhow::Result<Ending> {
    if run_program(Command::new(python()).args(["-c", "import sqlite3"]), Duration::from_secs(30)).is_err() {
        return without("Python with sqlite3", "python3");
    }
    let folders = stage.folders(&format!("sqlite-{journal}"))?;
    let mounts = if journal == "wal" { 1 } else { 2 };
    let mut command = script("sqlite_writers.py");
    command.args([journal, &options.seconds.to_string()]);
    command.args(folders.iter().take(mounts).map(|folder| folder.join("data.db")));
    run_program(&mut command, Duration::from_secs(120 + options.seconds))
        .map(|said| Ending::Right(said.trim().into()))
}

fn maildir(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    if find(&python(), &[] as &[&Path]).is_none() {
        return without("python3", "python3");
    }
    let mut command = script("maildir.py");
    command.arg(options.seconds.to_string()).args(stage.folders("maildir")?);
    run_program(&mut command, Duration::from_secs(120 + options.seconds))
        .map(|said| Ending::Right(said.trim().into()))
}
