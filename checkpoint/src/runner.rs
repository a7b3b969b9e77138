//! Runs a program with saves in the background, and resumes it from its newest good checkpoint.
//!
//! Invariants:
//! 1. One save of a run is under way at a time, so there is one copy of the state. With one rank a save that falls due
//!    meanwhile is put off to the first step after the save has ended, and the program goes on computing. With many
//!    ranks it waits, so that all ranks save after the same steps.
//! 2. A process that was replaced does no step after it has learned that: from a save, or from a look at the
//!    incarnation at intervals ([`Runner::check_every`]). It commits nothing from the moment it was replaced.
//! 3. A failed save changes nothing: the last good epoch is there, and the next interval tries again.
//! 4. The program has its own thread. A step that computes for long holds up neither the async runtime nor its end.
//! 5. Every wait ends: tries to begin, to commit, and failed saves have a limit.
//!
//! Left out: a program that is started again on another node, saves of many ranks by time (their clocks do not
//! agree; the steps do), and a step that never ends, which nothing can stop but the end of the process.

mod background;
mod begin;
mod drive;
mod program;
mod report;

pub use program::{Failure, Part, PartReader, Program, Restoring, Step};
pub use report::{Event, Finished, Report, Resumed, RunError};

use crate::error::Error;
use crate::job::{Checkpoints, Incarnation};
use crate::prune::Keep;
use background::Background;
use begin::{again, begin};
use drive::{Cadence, Control, Drive, Told};
use std::collections::BTreeSet;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// First pause before the last save is tried again: a leader that has died is replaced within seconds.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Runs a program of a job. It has one rank unless [`Runner::rank`] says otherwise, and takes over the job unless it
/// joins an incarnation ([`Runner::incarnation`]).
#[derive(Clone)]
#[must_use = "a runner does nothing before `run`"]
pub struct Runner {
    checkpoints: Checkpoints,
    job: String,
    incarnation: Option<u64>,
    rank: u32,
    ranks: u32,
    every_steps: Option<u64>,
    every: Option<Duration>,
    keep: Option<Keep>,
    failures_max: u32,
    ranks_within: Duration,
    check_every: Duration,
    resume_from: Option<u64>,
    told: Told,
}

impl Debug for Runner {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Runner { job, rank, ranks, incarnation, every_steps, every, .. } = self;
        write!(f, "Runner({job}, rank {rank} of {ranks}, {incarnation:?}, {every_steps:?}, {every:?})")
    }
}

impl Runner {
    /// A runner of a job, which need not exist. How often it saves is to be said: [`Runner::every_steps`],
    /// [`Runner::every`], or both.
    pub fn new(checkpoints: Checkpoints, job: &str) -> Runner {
        Runner {
            checkpoints,
            job: job.into(),
            incarnation: None,
            rank: 0,
            ranks: 1,
            every_steps: None,
            every: None,
            keep: None,
            failures_max: 10,
            ranks_within: Duration::from_secs(600),
            check_every: Duration::from_secs(10),
            resume_from: None,
            told: Arc::new(|_| ()),
        }
    }

    /// Joins an incarnation that another process has begun ([`Checkpoints::take_over`]), instead of taking over.
    pub fn incarnation(mut self, number: u64) -> Runner {
        self.incarnation = Some(number);
        self
    }

    /// This process is rank `rank`, from 0, of `ranks`. All ranks have the same incarnation and interval, and do the
    /// same number of steps. A rank that has died is replaced by an incarnation with all ranks.
    pub fn rank(mut self, rank: u32, ranks: u32) -> Runner {
        (self.rank, self.ranks) = (rank, ranks);
        self
    }

    /// Saves after every so many steps of the job.
    pub fn every_steps(mut self, steps: u64) -> Runner {
        self.every_steps = Some(steps);
        self
    }

    /// Saves so long after the last save was begun. Only with one rank.
    pub fn every(mut self, interval: Duration) -> Runner {
        self.every = Some(interval);
        self
    }

    /// Removes older epochs after each save. Rank 0 does it. Without, all stay.
    pub fn keep(mut self, keep: Keep) -> Runner {
        self.keep = Some(keep);
        self
    }

    /// Ends the run when so many saves have failed one after the other. 10: a leader of the namespace that has died is
    /// replaced long before, and a full volume is noticed.
    pub fn failures_max(mut self, failures: u32) -> Runner {
        self.failures_max = failures;
        self
    }

    /// A save fails when not all ranks have saved within this time of this rank's end. 10 minutes.
    pub fn ranks_within(mut self, within: Duration) -> Runner {
        self.ranks_within = within;
        self
    }

    /// Looks at this interval whether the job was taken over by another process. 10 s. Saves look as well.
    pub fn check_every(mut self, interval: Duration) -> Runner {
        self.check_every = interval;
        self
    }

    /// Resumes from this epoch, and from no other. Without, from the newest one that is good.
    pub fn resume_from(mut self, epoch: u64) -> Runner {
        self.resume_from = Some(epoch);
        self
    }

    /// Calls `told` with what happens, on the program's thread or on a task of the runtime: it must not wait.
    pub fn on_event(mut self, told: impl Fn(&Event) + Send + Sync + 'static) -> Runner {
        self.told = Arc::new(told);
        self
    }

    /// Why the options cannot be run with; none: they can.
    fn contradiction(&self) -> Option<&'static str> {
        match self {
            _ if self.rank >= self.ranks => Some("the rank is not below the number of ranks"),
            _ if self.every_steps.is_none() && self.every.is_none() => {
                Some("it is not said how often it saves; `every_steps` or `every` says it")
            }
            _ if self.every_steps == Some(0) => Some("it cannot save after every 0 steps"),
            _ if self.ranks > 1 && self.every.is_some() => {
                Some("many ranks save after the same steps, not by their clocks; use `every_steps` alone")
            }
            _ if self.ranks > 1 && self.incarnation.is_none() => {
                Some("many ranks have one incarnation: one process takes over, and all join by its number")
            }
            _ if self.failures_max == 0 => Some("0 failed saves would end it before the first one"),
            _ if self.check_every.is_zero() => Some("it cannot look at the incarnation all the time"),
            _ => None,
        }
    }

    /// Runs a program until it pauses, is finished, or fails.
    ///
    /// It begins from the newest epoch that is good. A damaged epoch is left where it is, told, and an earlier one
    /// tried; with none left the program begins from the start. With many ranks a damaged part of one rank is an error
    /// instead, because the ranks would begin from different epochs ([`Runner::resume_from`] names one for all).
    ///
    /// If the future is dropped, the save under way is stopped and the program does at most the rest of its step.
    pub async fn run<P: Program>(self, program: P) -> Result<Finished<P>, RunError> {
        if let Some(why) = self.contradiction() {
            return Err(RunError::Options { job: self.job, why });
        }
        let (checkpoints, job) = (&self.checkpoints, &self.job);
        let incarnation = match self.incarnation {
            Some(number) => again(|| checkpoints.join(job, number)).await,
            None => again(|| checkpoints.take_over(job)).await,
        };
        let incarnation = incarnation.map_err(|error| RunError::of(error, 0))?;
        let epochs = again(|| incarnation.job().epochs()).await.map_err(RunError::Begin)?;
        let control = Arc::new(Control::default());
        let watching = tokio::spawn(watch(incarnation.clone(), control.clone(), self.check_every));
        let guard = StopOnDrop { control: control.clone(), watching: watching.abort_handle() };
        let runtime = Handle::current();
        let background = Background {
            runtime: runtime.clone(),
            incarnation: incarnation.clone(),
            control: control.clone(),
            told: self.told.clone(),
            rank: self.rank,
            ranks: self.ranks,
            ranks_within: self.ranks_within,
            keep: self.keep.filter(|_| self.rank == 0),
            skipped: Arc::new(BTreeSet::new()),
        };
        let cadence = Cadence {
            every_steps: self.every_steps,
            every: self.every,
            is_exact: self.ranks > 1,
            failures_max: self.failures_max,
            last_pause: LAST_PAUSE,
        };
        // After a damaged epoch as well: an epoch that is not after the last one is refused.
        let next_epoch = epochs.last().map_or(0, |last| last.saturating_add(1));
        let candidates = match self.resume_from {
            Some(epoch) => vec![epoch],
            None => epochs.into_iter().rev().collect(),
        };
        let (send, receive) = oneshot::channel();
        let (told, is_given) = (self.told.clone(), self.resume_from.is_some());
        let run = move || {
            let mut drive = Drive::new(program, background, cadence, control, told, next_epoch);
            let run = begin(&mut drive, &runtime, &candidates, is_given).and_then(|()| drive.run_steps());
            let Drive { program, report, .. } = drive;
            // Nobody may wait any more.
            let _ = send.send(run.map(|()| Finished { program, report }));
        };
        let stopped = |why: String| RunError::Stopped { steps: guard.control.steps(), why };
        let thread = std::thread::Builder::new().name("rain-program".into()).spawn(run);
        thread.map_err(|error| stopped(format!("its thread cannot be started: {error}")))?;
        receive.await.unwrap_or_else(|_| Err(stopped("it has panicked".into())))
    }
}

/// Ends what a run has begun when nobody waits for the run any more.
struct StopOnDrop {
    control: Arc<Control>,
    watching: AbortHandle,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.control.drop_run();
        self.watching.abort();
    }
}

/// Looks whether another process has taken over.
async fn watch(incarnation: Incarnation, control: Arc<Control>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        // A cluster that does not answer says nothing about who has the job.
        if let Err(fenced @ Error::Fenced { .. }) = incarnation.check().await {
            return control.fence(fenced);
        }
    }
}
