//! What a run is asked for, and what it found.

use super::work::FILE_MODE;
use anyhow::bail;
use rain_sim::history::{Event, Violation, linearize};
use rain_sim::model::{
    ClientState, LinksModel, LockModel, LogModel, NamesModel, Op, Part, Parts, Reply, SHEET_PLACES,
    SheetModel, ValueModel,
};
use std::str::FromStr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How often an operation is chosen anew that is not to be done. The rarest are one in thirty.
const CHOICES_MAX: usize = 1000;

/// Options of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct HistoryOptions {
    /// Seed of the choices of operations and faults.
    pub seed: u64,
    /// Number of faults, one after the other.
    pub faults: u32,
    /// Whether one client answers lookups from memory. The check must find such answers.
    pub stale: bool,
    /// The parts whose operations are done.
    pub done: Parts,
    /// The parts that are checked.
    pub judged: Parts,
    /// The operations that are not done.
    pub without: Without,
}

/// Operations that clients do not do, to look for one fault where another is known. They look instead.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// No renames.
    pub renames: bool,
    /// No reads of files of values.
    pub reads: bool,
    /// No cuts of these.
    pub cuts: bool,
}

impl FromStr for Without {
    type Err = anyhow::Error;

    /// Reads the names of the operations, with commas between them.
    fn from_str(text: &str) -> anyhow::Result<Without> {
        let mut without = Without::default();
        for name in text.split(',') {
            match name {
                "renames" => without.renames = true,
                "reads" => without.reads = true,
                "cuts" => without.cuts = true,
                _ => bail!("{name}: these can be left out: renames, reads, cuts"),
            }
        }
        Ok(without)
    }
}

impl HistoryOptions {
    /// Chooses the next operation of a client among those that are to be done. `roll` returns a random number below
    /// its argument. None: the client has no such operations.
    pub(super) fn choose(&self, known: ClientState<'_>, mut roll: impl FnMut(u64) -> u64) -> Option<Op> {
        for _ in 0..CHOICES_MAX {
            let op = match Op::choose(known, &mut roll) {
                Op::Rename(from, _) if self.without.renames => Op::Lookup(from),
                Op::Read(sheet, _, way) if self.without.reads => Op::Length(sheet, way),
                Op::Cut(sheet, _, way) if self.without.cuts => Op::Length(sheet, way),
                op => op,
            };
            if self.done.has(op.part()) {
                return Some(op);
            }
        }
        None
    }
}

/// Results of one run.
#[derive(Debug)]
pub struct HistoryReport {
    /// Seed of the run.
    pub seed: u64,
    /// The time of day at which it began. All times of operations and faults count from it.
    pub began: String,
    /// Which clients there are.
    pub who: String,
    /// Faults that were made, with their times.
    pub faults: Vec<String>,
    /// Operations that got a reply.
    pub done: usize,
    /// Operations without a reply: they may have been done or not.
    pub unknown: usize,
    /// Changes that clients of the library acknowledged early: before the namespace had them.
    pub acknowledged_early: u64,
    /// Parts of the history that no order explains.
    pub violations: Vec<(Part, Violation)>,
}

impl HistoryReport {
    /// The report of a history, which is checked here.
    pub(super) fn of(
        options: &HistoryOptions,
        (began, who): (SystemTime, String),
        faults: Vec<String>,
        history: &[Event<Op, Reply>],
    ) -> HistoryReport {
        let unknown = history.iter().filter(|event| event.reply.is_none()).count();
        HistoryReport {
            seed: options.seed,
            began: time_of_day(began),
            who,
            faults,
            done: history.len() - unknown,
            unknown,
            acknowledged_early: 0,
            violations: violations(options, history),
        }
    }
}

fn violations(options: &HistoryOptions, history: &[Event<Op, Reply>]) -> Vec<(Part, Violation)> {
    let check = |part: Part| {
        let of: Vec<_> = history.iter().filter(|event| event.op.part() == part).cloned().collect();
        match part {
            Part::Names => linearize(NamesModel::default(), &of),
            Part::Value => linearize(ValueModel::default(), &of),
            Part::Log => linearize(LogModel::of(&of), &of),
            Part::Mode => linearize(ValueModel(FILE_MODE.into()), &of),
            Part::Lock => linearize(LockModel::default(), &of),
            Part::Direct | Part::Buffered => linearize(SheetModel::default(), &of),
            Part::Mapped => linearize(SheetModel::of_zeros(SHEET_PLACES), &of),
            Part::Links => linearize(LinksModel::default(), &of),
            Part::Guarded => linearize(ValueModel::default(), &of),
        }
    };
    let judged = Part::ALL.into_iter().filter(|part| options.judged.has(*part));
    judged.filter_map(|part| check(part).err().map(|found| (part, found))).collect()
}

/// Fails with the violations of a history, if there are any.
pub fn expect_linearizable(report: &HistoryReport) -> anyhow::Result<()> {
    let HistoryReport { seed, began, faults, violations, .. } = report;
    if violations.is_empty() {
        return Ok(());
    }
    let shown: String =
        violations.iter().map(|(part, violation)| format!("\n{part:?}: {violation}")).collect();
    bail!("seed {seed}, begun at {began}, {}\n{}{shown}", faults.join(", "), report.who)
}

/// A time of day, as the daemons' logs give it.
pub(super) fn time_of_day(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs() % 86_400, since.subsec_micros());
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Runs a fault, and says when it was.
pub(super) fn timed(
    start: Instant,
    fault: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let begun = start.elapsed().as_millis();
    let what = fault()?;
    Ok(format!("{what} ({begun} to {} ms)", start.elapsed().as_millis()))
}
