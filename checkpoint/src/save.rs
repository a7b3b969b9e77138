//! A save under way: ranks, their parts, and the commit.
//!
//! ```text
//!   begin -> directory .EPOCH.INCARNATION.saving
//!   rank  -> directory rank-N (exclusive)   part -> file, chunk by chunk: stored, or shared with the last epoch
//!   rank finished -> rank-N.hashes, then rank-N.json under its name
//!   commit -> all rank-N.json there and right? -> manifest.json -> one guarded rename to EPOCH
//! ```
//!
//! Any process may commit, also several at once: they write the same manifest, and one rename wins.

use crate::error::{Doing, Error};
use crate::folders;
use crate::job::{Incarnation, Job};
use crate::layout::{
    FORMAT, Folder, INCARNATION, MANIFEST, Manifest, PartRecord, RankEntry, RankRecord, check_ranks,
    rank_folder, rank_manifest,
};
use crate::open::Checkpoint;
use crate::rank::RankSave;
use rain_client::{Error as ClientError, Guard, Volume};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_types::Ino;
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pauses between two looks for the ranks that are missing: short at first, because ranks mostly end together.
const LOOK_AGAIN: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(200);

/// Most ranks of an epoch.
const RANKS_MAX: u32 = 100_000;

/// A committed save.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Epoch.
    pub epoch: u64,
    /// Number of ranks.
    pub ranks: u32,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Bytes that were not in the epoch before, and were stored.
    pub stored_bytes: u64,
}

impl Saved {
    fn of(manifest: &Manifest) -> Saved {
        let Manifest { epoch, bytes, stored_bytes, .. } = *manifest;
        Saved { epoch, ranks: manifest.ranks.len() as u32, bytes, stored_bytes }
    }
}

impl Incarnation {
    /// Commits an epoch that others save, as [`Save::commit`]. An epoch that this incarnation has committed is as good.
    pub async fn commit(&self, epoch: u64, ranks: u32, within: Duration) -> Result<Saved, Error> {
        match self.save(epoch, ranks).await {
            Err(goes_back @ Error::EpochGoesBack { .. }) => match self.job.open(Some(epoch)).await {
                Ok(there) if there.manifest().incarnation == self.number => Ok(Saved::of(there.manifest())),
                _ => Err(goes_back),
            },
            save => save?.commit(within).await,
        }
    }
}

/// A save of an epoch.
#[derive(Debug, Clone)]
pub struct Save {
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: u64,
    pub(crate) ranks: u32,
    folder: Folder,
    pub(crate) dir: Ino,
    /// The last epoch, whose chunks need not be stored again.
    pub(crate) base: Option<Arc<Checkpoint>>,
}

impl Save {
    pub(crate) async fn begin(incarnation: &Incarnation, epoch: u64, ranks: u32) -> Result<Save, Error> {
        let job = &incarnation.job;
        if ranks == 0 || ranks > RANKS_MAX {
            return Err(Error::NoSuchRank { rank: 0, ranks });
        }
        incarnation.check().await?;
        let latest = job.epochs().await?.last().copied();
        check_order(job, epoch, latest)?;
        let base = match latest {
            // An epoch that cannot be read, or is being removed, spares nothing.
            Some(latest) => job.open(Some(latest)).await.ok().map(Arc::new),
            None => None,
        };
        let folder = Folder::Saving { epoch, incarnation: incarnation.number };
        let made = folders::make(&job.volume, job.dir, &folder.name()).await;
        let (dir, _) = made.doing(|| format!("beginning to save epoch {epoch} of job {}", job.name))?;
        Ok(Save { incarnation: incarnation.clone(), epoch, ranks, folder, dir, base })
    }

    pub(crate) fn job(&self) -> &Job {
        &self.incarnation.job
    }

    pub(crate) fn volume(&self) -> &Arc<Volume> {
        &self.job().volume
    }

    pub(crate) fn of(&self) -> String {
        format!("epoch {} of job {}", self.epoch, self.job().name)
    }

    /// Begins to save a rank. Fails with `RankTwice` if another process has.
    pub async fn rank(&self, rank: u32) -> Result<RankSave, Error> {
        if rank >= self.ranks {
            return Err(Error::NoSuchRank { rank, ranks: self.ranks });
        }
        let made = folders::make(self.volume(), self.dir, &rank_folder(rank)).await;
        match made.doing(|| format!("beginning to save rank {rank} of {}", self.of()))? {
            (dir, true) => Ok(RankSave::new(self.clone(), rank, dir)),
            (_, false) => Err(Error::RankTwice { epoch: self.epoch, rank }),
        }
    }

    /// Begins to save a rank anew, in place of a process that has died while it saved the rank. Fails with `RankTwice`
    /// if the rank is saved.
    pub async fn replace_rank(&self, rank: u32) -> Result<RankSave, Error> {
        let doing = || format!("replacing rank {rank} of {}", self.of());
        let saved = folders::find(self.volume(), self.dir, &rank_manifest(rank)).await.doing(doing)?;
        if saved.is_some() {
            return Err(Error::RankTwice { epoch: self.epoch, rank });
        }
        folders::remove_all(self.volume(), self.dir, &rank_folder(rank)).await.doing(doing)?;
        self.rank(rank).await
    }

    /// Removes what this save has stored so far. Other ranks' saves of the epoch fail.
    pub async fn abandon(&self) -> Result<(), Error> {
        let removed = folders::remove_all(self.volume(), self.job().dir, &self.folder.name()).await;
        removed.doing(|| format!("removing the save of {}", self.of()))
    }

    /// Commits the epoch once all ranks are saved, at the latest after `within`. On return the epoch is there, whole and
    /// durable, whichever process has committed it. An error leaves what is saved as it is, so `commit` may be called
    /// again.
    pub async fn commit(&self, within: Duration) -> Result<Saved, Error> {
        let records = match self.wait_for_ranks(within).await {
            // Another rank may have committed, and moved the directory away.
            Err(error) => return self.committed_by_another().await?.ok_or(error),
            Ok(records) => records,
        };
        let (job, number) = (self.job(), self.incarnation.number);
        let why = check_ranks(
            &job.name,
            self.epoch,
            number,
            &records.iter().map(|r| r.0.clone()).collect::<Vec<_>>(),
        );
        why.map_err(|why| Error::Mismatch { epoch: self.epoch, why })?;
        let sum =
            |of: fn(&PartRecord) -> u64| records.iter().flat_map(|(record, _)| &record.parts).map(of).sum();
        let manifest = Manifest {
            format: FORMAT,
            job: job.name.to_string(),
            epoch: self.epoch,
            incarnation: number,
            saved_at: records.iter().map(|(record, _)| record.saved_at).max().unwrap_or(0),
            bytes: sum(|part| part.bytes),
            stored_bytes: sum(|part| part.stored_bytes),
            ranks: records
                .iter()
                .map(|(record, blake3)| RankEntry { rank: record.rank, blake3: blake3.clone() })
                .collect(),
        };
        let latest = job.epochs().await?.last().copied();
        if latest != Some(self.epoch) {
            check_order(job, self.epoch, latest)?;
        }
        let renamed = async {
            let bytes = json(&manifest);
            folders::write(self.volume(), self.dir, MANIFEST, &bytes, RenameMode::Replace).await?;
            let value = number.to_string().into_bytes();
            let guard = Guard { ino: job.dir, name: INCARNATION, value: Some(&value) };
            let (from, to) = (self.folder.name(), Folder::Epoch(self.epoch).name());
            let (from, to) = ((job.dir, from.as_bytes()), (job.dir, to.as_bytes()));
            self.volume().rename_guarded(guard, from, to, RenameMode::NoReplace).await
        };
        match renamed.await {
            Ok(()) => {}
            Err(ClientError::Refused(NsError::GuardFailed)) => {
                self.incarnation.check().await?;
                return Err(self.incarnation.fenced(0));
            }
            Err(source) => {
                let doing = || format!("committing {}", self.of());
                return self.committed_by_another().await?.ok_or(Error::Cluster { doing: doing(), source });
            }
        }
        self.remove_older_saves().await;
        Ok(Saved::of(&manifest))
    }

    /// The epoch, if another process of this incarnation has committed it.
    async fn committed_by_another(&self) -> Result<Option<Saved>, Error> {
        match self.job().open(Some(self.epoch)).await {
            Ok(there) if there.manifest().incarnation == self.incarnation.number => {
                Ok(Some(Saved::of(there.manifest())))
            }
            Ok(_) | Err(Error::NotFound { .. }) => {
                self.incarnation.check().await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes saves of epochs before this one, which can commit no more.
    async fn remove_older_saves(&self) {
        let Ok(folders) = self.job().folders().await else { return };
        for (folder, _) in folders {
            if matches!(folder, Folder::Saving { epoch, .. } if epoch <= self.epoch)
                && let Err(error) = folders::remove_all(self.volume(), self.job().dir, &folder.name()).await
            {
                tracing::info!(%error, folder = folder.name(), "an old save is not removed; the next commit tries again");
            }
        }
    }

    /// The records of all ranks, each with the BLAKE3 of its file.
    async fn wait_for_ranks(&self, within: Duration) -> Result<Vec<(RankRecord, String)>, Error> {
        let begun = Instant::now();
        let mut pause = LOOK_AGAIN.start;
        let mut records: Vec<Option<(RankRecord, String)>> = vec![None; self.ranks as usize];
        loop {
            for (rank, record) in records.iter_mut().enumerate().filter(|(_, record)| record.is_none()) {
                *record = self.read_rank(rank as u32).await?;
            }
            let missing = records.iter().enumerate().filter(|(_, record)| record.is_none());
            let missing: Vec<u32> = missing.map(|(rank, _)| rank as u32).collect();
            if missing.is_empty() {
                return Ok(records.into_iter().flatten().collect());
            }
            let left = within.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let (job, epoch, ranks) = (self.job().name.to_string(), self.epoch, self.ranks);
                return Err(Error::MissingRanks { job, epoch, missing, ranks, after: within });
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LOOK_AGAIN.end);
            // A process that waits for ranks which never come learns that it was replaced.
            self.incarnation.check().await?;
            let still_there = folders::find(self.volume(), self.job().dir, &self.folder.name()).await;
            if still_there.doing(|| format!("waiting for the ranks of {}", self.of()))?.is_none() {
                return Err(Error::NotFound { what: format!("save of {} any more", self.of()) });
            }
        }
    }

    async fn read_rank(&self, rank: u32) -> Result<Option<(RankRecord, String)>, Error> {
        let doing = || format!("reading what rank {rank} of {} has saved", self.of());
        let found = folders::find(self.volume(), self.dir, &rank_manifest(rank)).await.doing(doing)?;
        let Some(found) = found else { return Ok(None) };
        let bytes = folders::read(self.volume(), found.ino).await.doing(doing)?;
        let record = serde_json::from_slice(&bytes).map_err(|error| Error::Mismatch {
            epoch: self.epoch,
            why: format!("the manifest of rank {rank} cannot be read: {error}"),
        })?;
        Ok(Some((record, blake3::hash(&bytes).to_hex().to_string())))
    }
}

fn check_order(job: &Job, epoch: u64, latest: Option<u64>) -> Result<(), Error> {
    match latest {
        Some(latest) if latest >= epoch => {
            Err(Error::EpochGoesBack { job: job.name.to_string(), epoch, latest })
        }
        _ => Ok(()),
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("numbers and strings");
    bytes.push(b'\n');
    bytes
}
