//! What a run is asked for, and what it found.

use super::work::FILE_MODE;
use anyhow::ensure;
use rain_sim::history::{Event, Violation, linearize};
use rain_sim::model::{LockModel, LogModel, NamesModel, Op, Part, Reply, ValueModel};

/// Options of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct HistoryOptions {
    /// Seed of the choices of operations and faults.
    pub seed: u64,
    /// Number of faults, one after the other.
    pub faults: u32,
    /// Whether one client answers lookups from memory. The check must find such answers.
    pub stale: bool,
}

/// Results of one run.
#[derive(Debug)]
pub struct HistoryReport {
    /// Seed of the run.
    pub seed: u64,
    /// Faults that were made.
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
    pub(super) fn of(seed: u64, faults: Vec<String>, history: &[Event<Op, Reply>]) -> HistoryReport {
        let unknown = history.iter().filter(|event| event.reply.is_none()).count();
        HistoryReport {
            seed,
            faults,
            done: history.len() - unknown,
            unknown,
            acknowledged_early: 0,
            violations: violations(history),
        }
    }
}

fn violations(history: &[Event<Op, Reply>]) -> Vec<(Part, Violation)> {
    let of =
        |part: Part| -> Vec<_> { history.iter().filter(|event| event.op.part() == part).cloned().collect() };
    let checked = [
        (Part::Names, linearize(NamesModel::default(), &of(Part::Names))),
        (Part::Value, linearize(ValueModel::default(), &of(Part::Value))),
        (Part::Log, linearize(LogModel::default(), &of(Part::Log))),
        (Part::Mode, linearize(ValueModel(FILE_MODE.into()), &of(Part::Mode))),
        (Part::Lock, linearize(LockModel::default(), &of(Part::Lock))),
    ];
    checked.into_iter().filter_map(|(part, found)| found.err().map(|found| (part, found))).collect()
}

/// Fails with the violations of a history, if there are any.
pub fn expect_linearizable(report: &HistoryReport) -> anyhow::Result<()> {
    let HistoryReport { seed, faults, violations, .. } = report;
    ensure!(
        violations.is_empty(),
        "seed {seed}, {faults:?}: no order of the operations explains {violations:#?}"
    );
    Ok(())
}
