//! The steps of a program with their saves, on the program's thread.
//!
//! Invariants: at most one save is under way ([`Drive::save`] is only called without one). No step is done after the
//! run was ended from outside. Epochs are numbered by attempts, so all ranks of an incarnation, which do the same steps,
//! give an attempt the same number.

use crate::error::Error;
use crate::runner::program::{Failure, Part, Program, Step};
use crate::runner::report::{Event, Report, RunError};
use crate::save::{Saved, json};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::AbortHandle;

/// The part of every rank that the runner adds.
pub(super) const OWN_PART: &str = "rain-runner.json";

/// Longest pause between two tries of the last save.
const LAST_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the runner saves of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnPart {
    /// Steps of the job.
    pub(super) steps: u64,
    /// The program is finished.
    pub(super) is_finished: bool,
}

/// When saves are due, and how many may fail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cadence {
    /// A save is due after every so many steps of the job.
    pub(super) every_steps: Option<u64>,
    /// A save is due so long after the last one was begun.
    pub(super) every: Option<Duration>,
    /// A save that is due waits for the one under way, and is not put off: all ranks save after the same steps.
    pub(super) is_exact: bool,
    /// The run ends when so many saves have failed one after the other.
    pub(super) failures_max: u32,
    /// Pause before the last save is tried again; twice as long each time.
    pub(super) last_pause: Duration,
}

impl Cadence {
    fn is_due(&self, steps: u64, last: Instant) -> bool {
        self.every_steps.is_some_and(|every| steps.is_multiple_of(every))
            || self.every.is_some_and(|every| last.elapsed() >= every)
    }
}

/// Saves in the background.
pub(super) trait Saver: Send {
    /// Begins to save an epoch, and returns where its result will come. The receiver is closed without a result if
    /// the save was stopped from outside.
    fn begin(&mut self, epoch: u64, parts: Vec<Part>) -> oneshot::Receiver<Result<Saved, Error>>;
}

/// Ends a run from outside of the program's thread.
#[derive(Debug, Default)]
pub(super) struct Control {
    is_ended: AtomicBool,
    /// Steps of the job, for those outside.
    steps: AtomicU64,
    ended: Mutex<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    /// Nobody waits for the run any more.
    is_dropped: bool,
    /// Another process has taken over.
    fenced: Option<Error>,
    /// The save under way.
    save: Option<AbortHandle>,
}

impl Control {
    /// Another process has taken over: no further step is done.
    pub(super) fn fence(&self, fenced: Error) {
        self.ended.lock().fenced = Some(fenced);
        self.is_ended.store(true, Relaxed);
    }

    /// Nobody waits for the run any more: no further step is done, and the save under way is stopped.
    pub(super) fn drop_run(&self) {
        let mut ended = self.ended.lock();
        ended.is_dropped = true;
        if let Some(save) = ended.save.take() {
            save.abort();
        }
        self.is_ended.store(true, Relaxed);
    }

    /// Begins a save, which `drop_run` stops; none: the run was dropped already.
    pub(super) fn begin_save(&self, begin: impl FnOnce() -> AbortHandle) {
        let mut ended = self.ended.lock();
        if !ended.is_dropped {
            ended.save = Some(begin());
        }
    }

    /// Steps of the job so far.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Fails if the run was ended.
    fn check(&self) -> Result<(), RunError> {
        if !self.is_ended.load(Relaxed) {
            return Ok(());
        }
        let steps = self.steps();
        match &self.ended.lock().fenced {
            Some(fenced) => Err(RunError::of(fenced.clone(), steps)),
            None => Err(RunError::Stopped { steps, why: "nobody waits for the run any more".into() }),
        }
    }
}

/// What is called with the events of a run.
pub(super) type Told = Arc<dyn Fn(&Event) + Send + Sync>;

/// A program that has begun.
pub(super) struct Drive<P, S> {
    pub(super) program: P,
    pub(super) saver: S,
    pub(super) cadence: Cadence,
    pub(super) control: Arc<Control>,
    pub(super) told: Told,
    /// The number of the next attempt to save.
    pub(super) next_epoch: u64,
    pub(super) report: Report,
    pending: Option<Pending>,
    failures: u32,
}

/// A save under way.
struct Pending {
    epoch: u64,
    steps: u64,
    result: oneshot::Receiver<Result<Saved, Error>>,
}

impl<P: Program, S: Saver> Drive<P, S> {
    pub(super) fn new(
        program: P,
        saver: S,
        cadence: Cadence,
        control: Arc<Control>,
        told: Told,
        next_epoch: u64,
    ) -> Drive<P, S> {
        let (report, pending, failures) = (Report::default(), None, 0);
        Drive { program, saver, cadence, control, told, next_epoch, report, pending, failures }
    }

    pub(super) fn failed(&self, doing: impl Into<String>, why: Failure) -> RunError {
        RunError::Program { doing: doing.into(), steps: self.report.steps, source: why }
    }

    /// Does all steps and saves, from the state that the program has.
    pub(super) fn run_steps(&mut self) -> Result<(), RunError> {
        self.control.steps.store(self.report.steps, Relaxed);
        if self.report.is_finished {
            return Ok(());
        }
        let mut last = Instant::now();
        let mut is_due = false;
        loop {
            self.control.check()?;
            let step = match self.program.step() {
                Ok(step) => step,
                Err(why) => return Err(self.end_failed(why)),
            };
            self.report.steps += 1;
            self.report.steps_here += 1;
            self.control.steps.store(self.report.steps, Relaxed);
            self.look()?;
            if step != Step::More {
                return self.save_last(step == Step::Finished);
            }
            is_due |= self.cadence.is_due(self.report.steps, last);
            if is_due && (self.pending.is_none() || self.cadence.is_exact) {
                let begun = Instant::now();
                self.wait()?;
                let saved = self.save(false);
                self.report.held_up += begun.elapsed();
                saved?;
                (is_due, last) = (false, Instant::now());
            }
        }
    }

    /// The error of a step, once the save under way has ended: what is saved before the error is worth its bytes.
    fn end_failed(&mut self, why: Failure) -> RunError {
        let failed = self.failed("in a step", why);
        match self.wait() {
            Err(fenced @ RunError::Fenced { .. }) => fenced,
            _ => self.control.check().err().unwrap_or(failed),
        }
    }

    /// Saves the last state, and waits for it.
    fn save_last(&mut self, is_finished: bool) -> Result<(), RunError> {
        let begun = Instant::now();
        self.wait()?;
        // The last save has its own number of tries: nothing after it makes up for it.
        self.failures = 0;
        let mut pause = self.cadence.last_pause;
        loop {
            self.save(is_finished)?;
            self.wait()?;
            if self.failures == 0 {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE_MAX);
            self.control.check()?;
        }
        self.report.is_finished = is_finished;
        self.report.held_up += begun.elapsed();
        Ok(())
    }

    /// Takes the state, and begins to save it. There is no save under way.
    fn save(&mut self, is_finished: bool) -> Result<(), RunError> {
        debug_assert!(self.pending.is_none());
        let mut parts = self.program.snapshot().map_err(|why| self.failed("to take its state", why))?;
        if parts.iter().any(|part| part.name == OWN_PART) {
            let why = format!("a part has the name {OWN_PART}, which is the runner's");
            return Err(self.failed("to take its state", why.into()));
        }
        let (epoch, steps) = (self.next_epoch, self.report.steps);
        parts.push(Part::new(OWN_PART, json(&OwnPart { steps, is_finished })));
        self.next_epoch += 1;
        self.pending = Some(Pending { epoch, steps, result: self.saver.begin(epoch, parts) });
        Ok(())
    }

    /// Takes the result of the save under way if it is there.
    fn look(&mut self) -> Result<(), RunError> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        match pending.result.try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Closed) => Err(self.stopped()),
            Ok(result) => self.ended(result),
        }
    }

    /// Waits for the save under way.
    fn wait(&mut self) -> Result<(), RunError> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let (_, closed) = oneshot::channel();
        match std::mem::replace(&mut pending.result, closed).blocking_recv() {
            Err(_) => Err(self.stopped()),
            Ok(result) => self.ended(result),
        }
    }

    fn stopped(&self) -> RunError {
        let why = || "the save under way was stopped: the async runtime was shut down, or it has panicked";
        let stopped = || RunError::Stopped { steps: self.report.steps, why: why().into() };
        self.control.check().err().unwrap_or_else(stopped)
    }

    /// Notes the result of the save under way.
    fn ended(&mut self, result: Result<Saved, Error>) -> Result<(), RunError> {
        let Some(Pending { epoch, steps, .. }) = self.pending.take() else { return Ok(()) };
        match result {
            Ok(saved) => {
                self.failures = 0;
                self.report.saves += 1;
                self.report.last_epoch = Some(epoch);
                self.report.bytes += saved.bytes;
                self.report.stored_bytes += saved.stored_bytes;
                (self.told)(&Event::Saved { steps, saved });
                Ok(())
            }
            Err(fenced @ Error::Fenced { .. }) => Err(RunError::of(fenced, self.report.steps)),
            Err(error) => {
                self.failures += 1;
                self.report.saves_failed += 1;
                let failures = self.failures;
                (self.told)(&Event::SaveFailed { epoch, failures, error: error.clone() });
                if failures >= self.cadence.failures_max {
                    return Err(RunError::Saves { failures, source: error });
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
