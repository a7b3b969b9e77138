//! Tests of RAIN's promises with real processes, real mounts and real kills. Each test has a cluster of its
//! own, on free ports, in a temporary folder. A test whose requirements the machine does not meet is reported
//! as ignored, with the reason in its name.
//!
//! `cargo test -p rain-tests --test real -- NAME` runs one; RAIN_TEST_LOGS=1 prints the nodes' logs.

mod bad_input;
mod cases;
mod checkpoints;
mod coherence;
mod crashes;
mod failover;
mod history;
mod main_job;
mod posix;
mod programs;
mod quickstart;
mod rebalance;
mod ring;
mod sharing;
mod sizes;
mod write_back;

use libtest_mimic::{Arguments, Trial};
use rain_tests::needs::{self, Need};
use std::process::ExitCode;

/// A test: its promise, its requirements, its function.
pub(crate) type Promise = (&'static str, &'static [Need], fn() -> anyhow::Result<()>);

/// The command under test.
pub(crate) const RAIN: &str = env!("CARGO_BIN_EXE_rain-under-test");

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test runs seven processes or more, so a small machine runs two tests at a time.
    arguments.test_threads.get_or_insert(2);
    let promises = [
        main_job::PROMISES,
        crashes::PROMISES,
        bad_input::PROMISES,
        programs::PROMISES,
        quickstart::PROMISES,
        ring::PROMISES,
        failover::PROMISES,
        rebalance::PROMISES,
        sharing::PROMISES,
        coherence::PROMISES,
        sizes::PROMISES,
        write_back::PROMISES,
        posix::PROMISES,
        history::PROMISES,
        checkpoints::PROMISES,
    ];
    let cases = match cases::trials() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("the cases cannot be listed: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = promises.into_iter().flatten().map(|(name, wanted, run)| {
        let missing = wanted.iter().find_map(|need| needs::missing(*need));
        let shown = missing.map_or_else(|| (*name).to_owned(), |why| format!("{name} [skipped: {why}]"));
        Trial::test(shown, move || run().map_err(|error| format!("{error:#}").into()))
            .with_ignored_flag(missing.is_some())
    });
    libtest_mimic::run(&arguments, trials.chain(cases).collect()).exit_code()
}
