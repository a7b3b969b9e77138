//! The epochs of a job: listed, pinned, and removed.

use crate::error::{Doing, Error};
use crate::folders;
use crate::job::Job;
use crate::layout::{Folder, PINNED};
use rain_client::Error as ClientError;
use rain_namespace::command::{RenameMode, XattrMode};
use rain_namespace::error::NsError;
use rain_types::Ino;
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An epoch in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EpochInfo {
    /// Number.
    pub epoch: u64,
    /// Incarnation that has saved it.
    pub incarnation: u64,
    /// Number of ranks.
    pub ranks: u32,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Bytes that were not in the epoch before, and were stored.
    pub stored_bytes: u64,
    /// Seconds since 1970 at which it was saved.
    pub saved_at: u64,
    /// `prune` keeps it.
    pub pinned: bool,
}

/// What `prune` keeps, besides the last epoch and those that are pinned. With several rules an epoch is kept that one of
/// them keeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// The newest so many epochs.
    pub newest: Option<u32>,
    /// Epochs that were saved within this time.
    pub younger_than: Option<Duration>,
}

impl Keep {
    fn keeps(&self, epoch: &EpochInfo, newer: usize, now_secs: u64) -> bool {
        let is_young =
            |within: Duration| Duration::from_secs(now_secs.saturating_sub(epoch.saved_at)) < within;
        epoch.pinned
            || newer == 0
            || self.newest.is_some_and(|newest| newer < newest as usize)
            || self.younger_than.is_some_and(is_young)
            || self.newest.is_none() && self.younger_than.is_none()
    }
}

impl Job {
    /// The committed epochs, ascending.
    pub async fn list(&self) -> Result<Vec<EpochInfo>, Error> {
        let mut listed = Vec::new();
        for epoch in self.epochs().await? {
            match self.info(epoch).await {
                // It was removed meanwhile.
                Err(Error::NotFound { .. }) => {}
                info => listed.push(info?),
            }
        }
        Ok(listed)
    }

    /// A committed epoch, as it is listed.
    pub async fn info(&self, epoch: u64) -> Result<EpochInfo, Error> {
        let checkpoint = self.open(Some(epoch)).await?;
        let manifest = checkpoint.manifest();
        Ok(EpochInfo {
            epoch,
            incarnation: manifest.incarnation,
            ranks: manifest.ranks.len() as u32,
            bytes: manifest.bytes,
            stored_bytes: manifest.stored_bytes,
            saved_at: manifest.saved_at,
            pinned: self.is_pinned(self.epoch_folder(epoch).await?).await?,
        })
    }

    async fn epoch_folder(&self, epoch: u64) -> Result<Ino, Error> {
        let what = || format!("epoch {epoch} of job {}", self.name);
        let found = folders::find(&self.volume, self.dir, &Folder::Epoch(epoch).name()).await;
        let found = found.doing(|| format!("looking for {}", what()))?;
        found.map(|attr| attr.ino).ok_or_else(|| Error::NotFound { what: what() })
    }

    async fn is_pinned(&self, folder: Ino) -> Result<bool, Error> {
        match self.volume.get_xattr(folder, PINNED).await {
            Ok(_) => Ok(true),
            Err(ClientError::Refused(NsError::NoAttribute)) => Ok(false),
            Err(source) => {
                Err(Error::Cluster { doing: format!("listing the epochs of job {}", self.name), source })
            }
        }
    }

    /// Has `prune` keep an epoch, or with `false` treat it as the others.
    pub async fn pin(&self, epoch: u64, pinned: bool) -> Result<(), Error> {
        let folder = self.epoch_folder(epoch).await?;
        let changed = if pinned {
            self.volume.set_xattr(folder, PINNED, b"1", XattrMode::Any, false).await
        } else {
            match self.volume.remove_xattr(folder, PINNED).await {
                Err(ClientError::Refused(NsError::NoAttribute)) => Ok(()),
                removed => removed,
            }
        };
        changed.doing(|| format!("pinning epoch {epoch} of job {}", self.name))
    }

    /// Removes the epochs that are not to be kept, oldest first, and what saves of earlier incarnations have left. Never
    /// the last epoch. Returns the numbers of the removed ones. `told` is called after each.
    pub async fn prune(&self, keep: Keep, mut told: impl FnMut(u64)) -> Result<Vec<u64>, Error> {
        let now_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let newest = self.incarnation().await?.unwrap_or(0);
        self.remove_leftovers(|incarnation| incarnation < newest).await?;
        let epochs = self.list().await?;
        let mut removed = Vec::new();
        for (at, epoch) in epochs.iter().enumerate() {
            if !keep.keeps(epoch, epochs.len() - 1 - at, now_secs) {
                self.remove(epoch.epoch).await?;
                removed.push(epoch.epoch);
                told(epoch.epoch);
            }
        }
        Ok(removed)
    }

    /// Removes an epoch: first its name, so that nobody sees half of it.
    async fn remove(&self, epoch: u64) -> Result<(), Error> {
        let doing = || format!("removing epoch {epoch} of job {}", self.name);
        let (name, hidden) = (Folder::Epoch(epoch).name(), Folder::Removing(epoch).name());
        let (dir, mode) = (self.dir, RenameMode::NoReplace);
        self.volume.rename(dir, name.as_bytes(), dir, hidden.as_bytes(), mode).await.doing(doing)?;
        folders::remove_all(&self.volume, dir, &hidden).await.doing(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: Keep, epochs: &[(u64, bool)]) -> Vec<u64> {
        let info = |saved_at: u64, pinned: bool| EpochInfo {
            epoch: saved_at,
            incarnation: 1,
            ranks: 1,
            bytes: 0,
            stored_bytes: 0,
            saved_at,
            pinned,
        };
        let infos: Vec<_> = epochs.iter().map(|(saved_at, pinned)| info(*saved_at, *pinned)).collect();
        let kept = infos.iter().enumerate().filter(|(at, info)| keep.keeps(info, infos.len() - 1 - at, 1000));
        kept.map(|(_, info)| info.epoch).collect()
    }

    #[test]
    fn what_is_kept() {
        let all = [(100, false), (200, true), (300, false), (900, false), (990, false)];
        assert_eq!(kept(Keep::default(), &all), [100, 200, 300, 900, 990], "no rule: everything");
        assert_eq!(kept(Keep { newest: Some(2), ..Keep::default() }, &all), [200, 900, 990]);
        assert_eq!(kept(Keep { newest: Some(0), ..Keep::default() }, &all), [200, 990], "never the last");
        let young = Some(Duration::from_secs(800));
        assert_eq!(kept(Keep { newest: Some(1), younger_than: young }, &all), [200, 300, 900, 990]);
    }
}
