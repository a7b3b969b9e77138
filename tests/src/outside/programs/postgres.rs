//! PostgreSQL with its data folder on a mount. It refuses to run as root, so root runs it as another user.

use super::{ProgramsOptions, without};
use crate::needs::is_root;
use crate::outside::process::{Running, find, last_lines, run};
use crate::outside::report::Ending;
use crate::outside::stage::Stage;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest time that one command of PostgreSQL may take.
const WITHIN: Duration = Duration::from_secs(180);

/// Pages of pgbench's tables: about 30 MB.
const SCALE: &str = "2";

/// The programs, and as whom they run.
struct Postgres {
    programs: PathBuf,
    user: Option<String>,
    /// Its folder on the local disk: the socket, its log, the logs of transactions.
    local: PathBuf,
}

impl Postgres {
    /// None where the machine has no PostgreSQL.
    fn found(stage: &Stage, name: &str) -> anyhow::Result<Option<Postgres>> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
            .unwrap_or_default();
        folders.sort();
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        let Some(program) = find("pg_amcheck", &folders) else { return Ok(None) };
        let programs = program.canonicalize()?.parent().context("the folder of pg_amcheck")?.to_owned();
        let programs = folders.last().map_or(programs, |newest| newest.to_path_buf());
        let known = run(Command::new("getent").args(["passwd", "postgres"]), WITHIN).is_ok();
        let user = is_root().then(|| if known { "postgres" } else { "nobody" }.to_owned());
        let local = stage.local().join(name);
        std::fs::create_dir(&local)?;
        let postgres = Postgres { programs, user, local };
        postgres.own(&postgres.local)?;
        Ok(Some(postgres))
    }

    fn own(&self, path: &Path) -> anyhow::Result<()> {
        match &self.user {
            Some(user) => run(Command::new("chown").arg(user).arg(path), WITHIN).map(drop),
            None => Ok(()),
        }
    }

    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = match &self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--clear-groups"]).arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .current_dir(&self.local)
            .env("PGHOST", &self.local)
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C");
        command
    }

    fn initdb(&self, data: &Path) -> anyhow::Result<()> {
        run(self.command("initdb").args(["-U", "postgres", "-A", "trust", "-D"]).arg(data), WITHIN).map(drop)
    }

    fn start(&self, data: &Path) -> anyhow::Result<Server<'_>> {
        let log = self.local.join("log");
        let options = format!("-k {} -c listen_addresses=", self.local.display());
        let mut command = self.command("pg_ctl");
        command.args(["-w", "start", "-o", &options, "-D"]).arg(data).arg("-l").arg(&log);
        if let Err(error) = run(&mut command, WITHIN) {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(error.context(last_lines(&said)));
        }
        let pid = std::fs::read_to_string(data.join("postmaster.pid"))?;
        let pid = pid.lines().next().context("an empty postmaster.pid")?.trim().parse()?;
        Ok(Server { postgres: self, data: data.to_owned(), pid })
    }

    fn sql(&self, sql: &str) -> anyhow::Result<String> {
        Ok(run(self.command("psql").args(["-Atqc", sql]), WITHIN)?.trim().to_owned())
    }

    fn pgbench(&self, seconds: u64) -> Command {
        let mut command = self.command("pgbench");
        command.args(["-c", "4", "-j", "2", "-l", "--log-prefix=transactions", "-T", &seconds.to_string()]);
        command
    }

    /// Transactions that pgbench logged as done.
    fn logged(&self) -> anyhow::Result<u64> {
        let mut lines = 0;
        for entry in std::fs::read_dir(&self.local)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("transactions") {
                lines += std::fs::read_to_string(entry.path())?.lines().count() as u64;
            }
        }
        Ok(lines)
    }

    /// Fails when a logged transaction is missing, when the sums differ, or when pg_amcheck finds something.
    /// Returns the number of transactions.
    fn check(&self) -> anyhow::Result<u64> {
        let sums = self.sql(
            "select (select count(*) from pgbench_history), (select coalesce(sum(delta), 0) from pgbench_history), \
             (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches)",
        )?;
        let sums: Vec<i64> =
            sums.split('|').map(str::parse).collect::<Result<_, _>>().context(sums.clone())?;
        let (logged, there) = (self.logged()?, sums[0] as u64);
        ensure!(there >= logged, "{there} transactions are there, and {logged} were acknowledged");
        ensure!(logged > 0, "no transaction was acknowledged");
        ensure!(sums[2..].iter().all(|sum| *sum == sums[1]), "the sums of the tables differ: {sums:?}");
        let mut check = self.command("pg_amcheck");
        let said =
            run(check.args(["--all", "--install-missing", "--heapallindexed", "--rootdescend"]), WITHIN)?;
        ensure!(said.trim().is_empty(), "pg_amcheck: {said}");
        Ok(there)
    }
}

/// A running server. Dropping it kills it.
struct Server<'a> {
    postgres: &'a Postgres,
    data: PathBuf,
    pid: i32,
}

impl Server<'_> {
    fn stop(self) -> anyhow::Result<()> {
        let mut command = self.postgres.command("pg_ctl");
        run(command.args(["-w", "-m", "fast", "stop", "-D"]).arg(&self.data), WITHIN).map(drop)
    }

    /// Ends the server without its data folder: a postmaster ends its backends on SIGQUIT.
    fn kill(&self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let begun = Instant::now();
        while rustix::process::test_kill_process(pid).is_ok() && begun.elapsed() < Duration::from_secs(20) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        if name.starts_with("postgres") {
            self.kill();
        }
    }
}

const PACKAGE: &str = "postgresql";

pub(super) fn initdb(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    let Some(postgres) = Postgres::found(stage, "initdb")? else { return without("pg_amcheck", PACKAGE) };
    let [folder, other] = stage.folders("initdb")?;
    postgres.own(&folder)?;
    let mut longest = Duration::ZERO;
    for number in 0..options.initdbs {
        let begun = Instant::now();
        postgres.initdb(&folder.join(format!("data-{number}")))?;
        longest = longest.max(begun.elapsed());
        // What one mount has made, a server on the other one runs.
        if number == 0 {
            let server = postgres.start(&other.join("data-0"))?;
            let answer = postgres.sql("select count(*) > 100 from pg_class")?;
            ensure!(answer == "t", "a fresh cluster answers {answer}");
            server.stop()?;
        }
    }
    Ok(Ending::Right(format!("{} clusters, the longest {longest:.1?}", options.initdbs)))
}

pub(super) fn pgbench(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    let Some(postgres) = Postgres::found(stage, "pgbench")? else { return without("pg_amcheck", PACKAGE) };
    let [folder, _] = stage.folders("pgbench")?;
    postgres.own(&folder)?;
    let data = folder.join("data");
    postgres.initdb(&data)?;
    let server = postgres.start(&data)?;
    run(postgres.command("pgbench").args(["-i", "-q", "-s", SCALE]), WITHIN)?;
    let said = run(&mut postgres.pgbench(options.seconds), WITHIN + Duration::from_secs(options.seconds))?;
    ensure!(said.contains("number of failed transactions: 0"), "pgbench: {}", last_lines(&said));
    let there = postgres.check()?;
    server.stop()?;
    Ok(Ending::Right(format!("{there} transactions")))
}

pub(super) fn mount_killed(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    let Some(postgres) = Postgres::found(stage, "mount-killed")? else {
        return without("pg_amcheck", PACKAGE);
    };
    let folders = stage.folders("mount-killed")?;
    postgres.own(&folders[0])?;
    let [data, other] = folders.map(|folder| folder.join("data"));
    postgres.initdb(&data)?;
    let server = postgres.start(&data)?;
    run(postgres.command("pgbench").args(["-i", "-q", "-s", SCALE]), WITHIN)?;
    let load = Running::start(&mut postgres.pgbench(options.seconds))?;
    std::thread::sleep(Duration::from_secs(options.seconds / 2 + 1));
    stage.kill_mount(0)?;
    // The clients of pgbench end with their server.
    load.wait(WITHIN + Duration::from_secs(options.seconds))?;
    server.kill();
    drop(server);
    let begun = Instant::now();
    let server = postgres.start(&other)?;
    let recovered = begun.elapsed();
    let there = postgres.check();
    let stopped = server.stop();
    stage.mount_again(0)?;
    stopped?;
    Ok(Ending::Right(format!("{} transactions, up again after {recovered:.1?}", there?)))
}
