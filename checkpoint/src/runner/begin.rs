//! The beginning of a run: the newest good checkpoint, or the start.

use crate::error::Error;
use crate::open::Checkpoint;
use crate::runner::background::Background;
use crate::runner::drive::{Drive, OWN_PART, OwnPart};
use crate::runner::program::{Program, Reads, Restoring};
use crate::runner::report::{Event, Resumed, RunError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Times that the cluster is asked when a run begins, and the pause before each but the first. A job is often started
/// again because a node has just died, and a new leader takes seconds.
const TRIES_MAX: u32 = 10;
const TRY_PAUSE: Duration = Duration::from_secs(2);

/// Asks the cluster again while it does not answer.
pub(super) async fn again<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(Error::Cluster { .. }) if tries < TRIES_MAX => tries += 1,
            answer => return answer,
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
}

/// Restores the first of the epochs that is good, or else begins from the start. `is_given`: the caller has named the
/// epoch, so nothing else will do.
pub(super) fn begin<P: Program>(
    drive: &mut Drive<P, Background>,
    runtime: &Handle,
    epochs: &[u64],
    is_given: bool,
) -> Result<(), RunError> {
    for epoch in epochs {
        match restore(drive, runtime, *epoch)? {
            Tried::Good(own) => {
                let resumed = Resumed { epoch: *epoch, steps: own.steps };
                drive.report.resumed = Some(resumed);
                (drive.report.steps, drive.report.is_finished) = (own.steps, own.is_finished);
                (drive.told)(&Event::Began(Some(resumed)));
                return Ok(());
            }
            Tried::Bad(error) if is_given => return Err(RunError::Begin(error)),
            Tried::Bad(error) => {
                Arc::make_mut(&mut drive.saver.skipped).insert(*epoch);
                (drive.told)(&Event::Skipped { epoch: *epoch, error });
            }
        }
    }
    let (rank, ranks) = (drive.saver.rank, drive.saver.ranks);
    drive.program.init(rank, ranks).map_err(|why| drive.failed("to begin", why))?;
    (drive.told)(&Event::Began(None));
    Ok(())
}

/// What has come of an epoch.
enum Tried {
    /// It is restored.
    Good(OwnPart),
    /// It is damaged or gone.
    Bad(Error),
}

fn restore<P: Program>(
    drive: &mut Drive<P, Background>,
    runtime: &Handle,
    epoch: u64,
) -> Result<Tried, RunError> {
    let reads = Reads::new(runtime.clone());
    let job = drive.saver.incarnation.job().clone();
    let opening = reads.wait(async move {
        let checkpoint = again(|| job.open(Some(epoch))).await?;
        let own = again(|| read_own(&checkpoint)).await?;
        Ok((checkpoint, own))
    });
    let (checkpoint, own) = match opening {
        // All ranks read the same here, so all of them go on to the same epoch.
        Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => return Ok(Tried::Bad(error)),
        opened => opened.map_err(RunError::Begin)?,
    };
    reads.take_failed();
    let (rank, ranks) = (drive.saver.rank, drive.saver.ranks);
    let from = Restoring { checkpoint, rank, ranks, steps: own.steps, reads: reads.clone() };
    let mut tries = 1;
    loop {
        let Err(why) = drive.program.restore(&from) else { return Ok(Tried::Good(own)) };
        match reads.take_failed() {
            Some(damaged @ Error::Damaged { .. }) if ranks == 1 => return Ok(Tried::Bad(damaged)),
            Some(damaged @ Error::Damaged { .. }) => return Err(RunError::Begin(damaged)),
            Some(Error::Cluster { .. }) if tries < TRIES_MAX => tries += 1,
            // The bytes are those that were saved. An earlier epoch of the same program would not be better.
            _ => return Err(drive.failed(format!("to restore epoch {epoch}"), why)),
        }
        std::thread::sleep(TRY_PAUSE);
    }
}

/// What the runner has saved of its own with the first rank. An epoch that no runner has saved has nothing.
async fn read_own(checkpoint: &Checkpoint) -> Result<OwnPart, Error> {
    let bytes = match checkpoint.part(0, OWN_PART).await {
        Err(Error::NotFound { .. }) => return Ok(OwnPart::default()),
        part => part?.read_all(0..u64::MAX).await?,
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
        path: format!("{OWN_PART} of epoch {}", checkpoint.epoch()),
        why: error.to_string(),
    })
}
