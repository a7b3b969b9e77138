//! The errors of checkpoints: one sentence each, with job, epoch, rank and part, and what to do.

use std::time::Duration;
use thiserror::Error;

/// Why a checkpoint could not be saved, committed or restored. The last good epoch is untouched by each of them.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// A name that a job or a part cannot have.
    #[error("{what} cannot be named {name:?}: {why}")]
    Name {
        /// "a job" or "a part".
        what: &'static str,
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// There is no such job, epoch or part.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The epoch is not after the last one.
    #[error("epoch {epoch} of job {job} is not after its last one, {latest}; save a later epoch")]
    EpochGoesBack {
        /// The job.
        job: String,
        /// The epoch that was to be saved.
        epoch: u64,
        /// The last committed epoch.
        latest: u64,
    },
    /// Another incarnation of the job has taken over.
    #[error("job {job}: incarnation {mine} was replaced by {current}; this process must stop")]
    Fenced {
        /// The job.
        job: String,
        /// The incarnation of this process.
        mine: u64,
        /// The newest one.
        current: u64,
    },
    /// A rank's number is not below the number of ranks.
    #[error("rank {rank} of {ranks}: ranks are numbered from 0")]
    NoSuchRank {
        /// The rank.
        rank: u32,
        /// The number of ranks.
        ranks: u32,
    },
    /// Two processes save one rank, or one saves it twice.
    #[error(
        "rank {rank} of epoch {epoch} is saved already; a rank that was started again takes `Save::replace_rank`, or a new incarnation"
    )]
    RankTwice {
        /// The epoch.
        epoch: u64,
        /// The rank.
        rank: u32,
    },
    /// A part's name comes twice in one rank, or a part was not finished.
    #[error("rank {rank}, part {part}: {why}")]
    Part {
        /// The rank.
        rank: u32,
        /// The part.
        part: String,
        /// What is wrong.
        why: String,
    },
    /// The ranks did not all come in time.
    #[error(
        "epoch {epoch} of job {job} is not committed: after {after:?} ranks {} of {ranks} are missing",
        missing.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    )]
    MissingRanks {
        /// The job.
        job: String,
        /// The epoch.
        epoch: u64,
        /// The ranks that have not been saved.
        missing: Vec<u32>,
        /// The number of ranks.
        ranks: u32,
        /// The deadline that passed.
        after: Duration,
    },
    /// What the ranks have saved does not make one checkpoint.
    #[error("epoch {epoch} is not committed: {why}")]
    Mismatch {
        /// The epoch.
        epoch: u64,
        /// What does not fit.
        why: String,
    },
    /// A file of a checkpoint is not what its manifest says.
    #[error("{path} is damaged: {why}; restore an earlier epoch")]
    Damaged {
        /// The file, in the volume.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The source of a part failed.
    #[error("rank {rank}, part {part}: reading the state: {why}")]
    Source {
        /// The rank.
        rank: u32,
        /// The part.
        part: String,
        /// The error.
        why: String,
    },
    /// The cluster refused, or did not answer.
    #[error("{doing}: {source}")]
    Cluster {
        /// What was being done: job, epoch, rank, part.
        doing: String,
        /// The error, which names nodes.
        source: rain_client::Error,
    },
}

/// Adds what was being done to a client's error.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, rain_client::Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Cluster { doing: doing(), source })
    }
}
