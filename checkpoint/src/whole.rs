//! Saves in one call: an epoch of one rank, at once or in the background.

use crate::error::Error;
use crate::job::Incarnation;
use crate::rank::PartSource;
use crate::save::Saved;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A save in the background.
#[derive(Debug)]
pub struct SavePending {
    saving: JoinHandle<Result<Saved, Error>>,
}

impl SavePending {
    /// Waits for the commit.
    pub async fn wait(self) -> Result<Saved, Error> {
        self.saving.await.unwrap_or_else(|error| Err(stopped(&error)))
    }

    /// Whether the save has ended, well or not.
    pub fn is_done(&self) -> bool {
        self.saving.is_finished()
    }
}

fn stopped(error: &tokio::task::JoinError) -> Error {
    Error::Source { rank: 0, part: "all".into(), why: format!("the save was stopped: {error}") }
}

impl Incarnation {
    /// Saves and commits an epoch of one rank. What was saved of it is removed if that fails.
    pub async fn save_all(&self, epoch: u64, parts: Vec<(String, PartSource)>) -> Result<Saved, Error> {
        let save = self.save(epoch, 1).await?;
        let saving = async {
            let rank = save.rank(0).await?;
            for (name, source) in parts {
                rank.save_part(&name, source).await?;
            }
            rank.finish().await?;
            save.commit(Duration::ZERO).await
        };
        let saved = saving.await;
        if saved.is_err()
            && let Err(error) = save.abandon().await
        {
            tracing::info!(%error, "a save that failed is not removed; the next incarnation removes it");
        }
        saved
    }

    /// As [`Incarnation::save_all`], in the background. Returns as soon as no earlier save of this incarnation is under
    /// way: `parts` are bytes that were copied, or that can be read while the caller goes on.
    pub async fn save_in_background(&self, epoch: u64, parts: Vec<(String, PartSource)>) -> SavePending {
        let turn = self.background.clone().acquire_owned().await;
        let incarnation = self.clone();
        let saving = tokio::spawn(async move {
            let _turn = turn;
            incarnation.save_all(epoch, parts).await
        });
        SavePending { saving }
    }
}
