//! One save of one rank, on a task of the runtime.

use crate::error::Error;
use crate::job::Incarnation;
use crate::prune::Keep;
use crate::runner::drive::{Control, Saver, Told};
use crate::runner::program::Part;
use crate::runner::report::Event;
use crate::save::{Save, Saved};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Times that a commit is tried whose result is not known, and the pause before each but the first. Together longer
/// than the namespace takes for a new leader.
const COMMITS_MAX: u32 = 5;
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// Saves a rank.
#[derive(Clone)]
pub(super) struct Background {
    pub(super) runtime: Handle,
    pub(super) incarnation: Incarnation,
    pub(super) control: Arc<Control>,
    pub(super) told: Told,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) ranks_within: Duration,
    /// What is kept when this rank removes older epochs; none: it removes none.
    pub(super) keep: Option<Keep>,
    /// Epochs that were damaged: nothing is shared with them.
    pub(super) skipped: Arc<BTreeSet<u64>>,
}

impl Saver for Background {
    fn begin(&mut self, epoch: u64, parts: Vec<Part>) -> oneshot::Receiver<Result<Saved, Error>> {
        let (send, receive) = oneshot::channel();
        let saving = self.clone();
        self.control.begin_save(|| {
            let task = self.runtime.spawn(async move {
                let mut saved = saving.save(epoch, parts).await;
                if saved.is_err()
                    && let Err(fenced @ Error::Fenced { .. }) = saving.incarnation.check().await
                {
                    // The new incarnation has removed this save: the error before is only what follows from it.
                    saved = Err(fenced);
                }
                // Its part of the save, so that two never remove at once.
                if saved.is_ok() {
                    saving.prune().await;
                }
                // Nobody may wait any more.
                let _ = send.send(saved);
            });
            task.abort_handle()
        });
        receive
    }
}

impl Background {
    async fn save(&self, epoch: u64, parts: Vec<Part>) -> Result<Saved, Error> {
        let mut save = self.incarnation.save(epoch, self.ranks).await?;
        save.base.take_if(|base| self.skipped.contains(&base.epoch()));
        self.save_rank(&save, parts).await?;
        let mut tries = 1;
        loop {
            match save.commit(self.ranks_within).await {
                // It may be committed, or be committed yet. So what is saved is not removed here.
                Err(Error::Cluster { .. }) if tries < COMMITS_MAX => {
                    tries += 1;
                    tokio::time::sleep(COMMIT_PAUSE).await;
                }
                committed => return committed,
            }
        }
    }

    /// Saves the parts. What is stored of them is removed if that fails: the volume may be full. When only the end of
    /// the rank fails nothing is removed, because the rank may count as saved, and another commit it.
    async fn save_rank(&self, save: &Save, parts: Vec<Part>) -> Result<(), Error> {
        let rank = save.rank(self.rank).await?;
        let saving = async {
            for Part { name, source, slice } in parts {
                match slice {
                    None => rank.save_part(&name, source).await?,
                    Some(slice) => rank.save_slice(&name, slice, source).await?,
                };
            }
            Ok(())
        };
        if let Err(error) = saving.await {
            if let Err(error) = rank.abandon().await {
                tracing::info!(%error, epoch = save.epoch, "a failed save is left; the next commit removes it");
            }
            return Err(error);
        }
        rank.finish().await.map(|_| ())
    }

    async fn prune(&self) {
        let Some(keep) = self.keep else { return };
        match self.incarnation.job().prune(keep, |_| ()).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => (self.told)(&Event::Pruned(removed)),
            Err(error) => (self.told)(&Event::PruneFailed(error)),
        }
    }
}
