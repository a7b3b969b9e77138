//! What a run tells: while it goes on, at its end, and why it has failed.

use crate::error::Error;
use crate::runner::program::Failure;
use crate::save::Saved;
use std::time::Duration;
use thiserror::Error as ThisError;

/// What happens during a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// The program begins, from a checkpoint or, with none, from the start.
    Began(Option<Resumed>),
    /// An epoch cannot be restored; an earlier one is tried.
    Skipped {
        /// The epoch.
        epoch: u64,
        /// What is wrong with it.
        error: Error,
    },
    /// A save is committed.
    Saved {
        /// Steps that were done when the state was taken.
        steps: u64,
        /// The epoch.
        saved: Saved,
    },
    /// A save has failed. The last good epoch is as it was, and the program goes on.
    SaveFailed {
        /// The epoch.
        epoch: u64,
        /// Saves that have failed one after the other, this one included.
        failures: u32,
        /// Why.
        error: Error,
    },
    /// Older epochs were removed.
    Pruned(Vec<u64>),
    /// Older epochs could not be removed. The next save tries again.
    PruneFailed(Error),
}

/// Where a run has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// The epoch that was restored.
    pub epoch: u64,
    /// Steps that were done when it was saved.
    pub steps: u64,
}

/// What a run has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint that the run went on from; none: it began from the start.
    pub resumed: Option<Resumed>,
    /// Steps of the job, those before the checkpoint included.
    pub steps: u64,
    /// Steps that this run has done.
    pub steps_here: u64,
    /// The program is finished; false: it has paused.
    pub is_finished: bool,
    /// Committed saves.
    pub saves: u64,
    /// Saves that have failed.
    pub saves_failed: u64,
    /// The last committed epoch of this run.
    pub last_epoch: Option<u64>,
    /// Bytes of all parts of all ranks in this run's saves.
    pub bytes: u64,
    /// Of these, bytes that were not in the epoch before, and were stored.
    pub stored_bytes: u64,
    /// Time in which no step was done because of saves: taking the state, waiting for an earlier save, and the last
    /// save.
    pub held_up: Duration,
}

/// A run that has ended well.
#[derive(Debug)]
pub struct Finished<P> {
    /// The program in its last state.
    pub program: P,
    /// What was done.
    pub report: Report,
}

/// Why a run has ended before its program. Each leaves the last good epoch as it is.
#[derive(Debug, ThisError)]
pub enum RunError {
    /// The options of the runner contradict each other.
    #[error("the runner of job {job}: {why}")]
    Options {
        /// The job.
        job: String,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// Another process has taken over the job. This one has stopped, and must not be started again by itself.
    #[error("it has stopped after step {steps}: {source}")]
    Fenced {
        /// Steps that were done; those since the last save are lost to the job.
        steps: u64,
        /// [`Error::Fenced`], with the incarnations.
        source: Error,
    },
    /// The job could not be taken over, or its checkpoint not be read.
    #[error("the job does not begin: {0}")]
    Begin(#[source] Error),
    /// The program itself has failed.
    #[error("the program has failed {doing}, after step {steps}: {source}")]
    Program {
        /// What the program was doing: "to begin", "to restore epoch 7", "a step", "to take its state".
        doing: String,
        /// Steps that were done.
        steps: u64,
        /// The program's error.
        source: Failure,
    },
    /// Too many saves have failed one after the other.
    #[error("{failures} saves have failed one after the other, the last because: {source}")]
    Saves {
        /// The saves.
        failures: u32,
        /// Why the last one has failed.
        source: Error,
    },
    /// The program's thread could not be started, has panicked, or the async runtime was shut down.
    #[error("the program has stopped after step {steps}: {why}")]
    Stopped {
        /// Steps that were done, as far as is known.
        steps: u64,
        /// What has stopped it.
        why: String,
    },
}

impl RunError {
    /// The error of a job after so many steps that could not begin, or was replaced.
    pub(super) fn of(error: Error, steps: u64) -> RunError {
        match error {
            source @ Error::Fenced { .. } => RunError::Fenced { steps, source },
            error => RunError::Begin(error),
        }
    }
}
