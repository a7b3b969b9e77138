//! The jobs of a volume, one job, and its incarnations.
//!
//! A job is a directory. Its newest incarnation is an extended attribute of it, which only grows: whoever takes over
//! changes it from the value that it has to the next one, in one step of the namespace. So of two processes that take
//! over at once one gets the number, and the other the next.

use crate::error::{Doing, Error};
use crate::folders;
use crate::layout::{self, CHECKPOINTS, Folder, INCARNATION};
use crate::open::Checkpoint;
use crate::rank::{OnProgress, Progress};
use crate::save::Save;
use rain_client::{Error as ClientError, Guard, Volume};
use rain_namespace::error::NsError;
use rain_namespace::record::FileKind;
use rain_types::Ino;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The checkpoints of a volume.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    pub(crate) volume: Arc<Volume>,
}

/// A job that has a directory: its epochs can be listed, restored, pinned and pruned.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) volume: Arc<Volume>,
    pub(crate) name: Arc<str>,
    pub(crate) dir: Ino,
}

/// An incarnation of a job: it saves epochs as long as no later one has taken over.
#[derive(Debug, Clone)]
pub struct Incarnation {
    pub(crate) job: Job,
    pub(crate) number: u64,
    pub(crate) on_progress: OnProgress,
    /// One save in the background at a time, so that there is one copy of the state in memory.
    pub(crate) background: Arc<Semaphore>,
}

impl Checkpoints {
    /// The checkpoints of a volume.
    pub fn new(volume: Arc<Volume>) -> Checkpoints {
        Checkpoints { volume }
    }

    /// The names of the jobs, in byte order.
    pub async fn jobs(&self) -> Result<Vec<String>, Error> {
        let doing = || "listing the jobs".to_owned();
        let root = folders::find(&self.volume, self.volume.root(), CHECKPOINTS).await.doing(doing)?;
        let Some(root) = root else { return Ok(Vec::new()) };
        let entries = folders::list(&self.volume, root.ino).await.doing(doing)?;
        let jobs = entries.into_iter().filter(|(_, attr)| attr.kind == FileKind::Directory);
        let names = jobs.filter_map(|(name, _)| String::from_utf8(name).ok());
        Ok(names.filter(|name| layout::check_job_name(name).is_ok()).collect())
    }

    /// A job that has been saved. Fails with `NotFound`.
    pub async fn job(&self, name: &str) -> Result<Job, Error> {
        layout::check_job_name(name)?;
        let doing = || format!("looking for job {name}");
        let root = folders::find(&self.volume, self.volume.root(), CHECKPOINTS).await.doing(doing)?;
        let dir = match root {
            Some(root) => folders::find(&self.volume, root.ino, name).await.doing(doing)?,
            None => None,
        };
        let dir = dir.filter(|attr| attr.kind == FileKind::Directory);
        let not_found =
            || Error::NotFound { what: format!("job {name} in volume {}", self.volume.record().name) };
        let dir = dir.ok_or_else(not_found)?.ino;
        Ok(Job { volume: self.volume.clone(), name: name.into(), dir })
    }

    async fn make_job(&self, name: &str) -> Result<Job, Error> {
        layout::check_job_name(name)?;
        let doing = || format!("making the directory of job {name}");
        let (root, _) = folders::make(&self.volume, self.volume.root(), CHECKPOINTS).await.doing(doing)?;
        let (dir, _) = folders::make(&self.volume, root, name).await.doing(doing)?;
        Ok(Job { volume: self.volume.clone(), name: name.into(), dir })
    }

    /// Takes over a job, which need not exist: from here on earlier incarnations commit nothing. What they have left
    /// half-saved is removed.
    pub async fn take_over(&self, name: &str) -> Result<Incarnation, Error> {
        let job = self.make_job(name).await?;
        let number = loop {
            let now = job.incarnation().await?;
            let next = now.unwrap_or(0) + 1;
            let value = now.map(|now| now.to_string().into_bytes());
            let guard = Guard { ino: job.dir, name: INCARNATION, value: value.as_deref() };
            match job.volume.change_xattr(guard, next.to_string().as_bytes()).await {
                Ok(()) => break next,
                Err(ClientError::Refused(NsError::GuardFailed)) => {}
                Err(source) => {
                    return Err(Error::Cluster { doing: format!("taking over job {name}"), source });
                }
            }
        };
        job.remove_leftovers(|incarnation| incarnation < number).await?;
        Ok(Incarnation::new(job, number))
    }

    /// Joins the newest incarnation of a job, which another rank has begun. Fails with `Fenced` if a later one has
    /// taken over.
    pub async fn join(&self, name: &str, number: u64) -> Result<Incarnation, Error> {
        let incarnation = Incarnation::new(self.make_job(name).await?, number);
        incarnation.check().await?;
        Ok(incarnation)
    }
}

impl Job {
    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest incarnation; none: the job was never taken over.
    pub async fn incarnation(&self) -> Result<Option<u64>, Error> {
        let value = match self.volume.get_xattr(self.dir, INCARNATION).await {
            Ok(value) => value,
            Err(ClientError::Refused(NsError::NoAttribute)) => return Ok(None),
            Err(source) => {
                return Err(Error::Cluster {
                    doing: format!("asking for the incarnation of job {}", self.name),
                    source,
                });
            }
        };
        let number = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let damaged = || Error::Damaged {
            path: format!("{CHECKPOINTS}/{}", self.name),
            why: format!("its attribute {} is no number", String::from_utf8_lossy(INCARNATION)),
        };
        number.map(Some).ok_or_else(damaged)
    }

    /// The directories of the job.
    pub(crate) async fn folders(&self) -> Result<Vec<(Folder, Ino)>, Error> {
        let entries = folders::list(&self.volume, self.dir).await;
        let entries = entries.doing(|| format!("listing the epochs of job {}", self.name))?;
        let entries = entries.into_iter().filter(|(_, attr)| attr.kind == FileKind::Directory);
        Ok(entries.filter_map(|(name, attr)| Some((Folder::parse(&name)?, attr.ino))).collect())
    }

    /// The numbers of the committed epochs, ascending.
    pub async fn epochs(&self) -> Result<Vec<u64>, Error> {
        let folders = self.folders().await?;
        let mut epochs: Vec<u64> = folders
            .into_iter()
            .filter_map(|(folder, _)| match folder {
                Folder::Epoch(epoch) => Some(epoch),
                _ => None,
            })
            .collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Opens a committed epoch, or with `None` the last one.
    pub async fn open(&self, epoch: Option<u64>) -> Result<Checkpoint, Error> {
        let epoch = match epoch {
            Some(epoch) => Some(epoch),
            None => self.epochs().await?.last().copied(),
        };
        let none = || Error::NotFound { what: format!("committed epoch of job {}", self.name) };
        Checkpoint::open(self, epoch.ok_or_else(none)?).await
    }

    /// Removes what saves and removals have left half-done. `is_over`: whether an incarnation saves no more.
    pub(crate) async fn remove_leftovers(&self, is_over: impl Fn(u64) -> bool) -> Result<(), Error> {
        for (folder, _) in self.folders().await? {
            let goes = match folder {
                Folder::Epoch(_) => false,
                Folder::Saving { incarnation, .. } => is_over(incarnation),
                Folder::Removing(_) => true,
            };
            if goes {
                let removed = folders::remove_all(&self.volume, self.dir, &folder.name()).await;
                removed.doing(|| format!("removing {} of job {}", folder.name(), self.name))?;
            }
        }
        Ok(())
    }
}

impl Incarnation {
    fn new(job: Job, number: u64) -> Incarnation {
        Incarnation {
            job,
            number,
            on_progress: OnProgress::default(),
            background: Arc::new(Semaphore::new(1)),
        }
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The number of the incarnation. Other ranks join it by this number ([`Checkpoints::join`]).
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Calls `told` while saves go on: after every chunk of a part, on the task that saves.
    pub fn on_progress(mut self, told: impl Fn(&Progress) + Send + Sync + 'static) -> Incarnation {
        self.on_progress = OnProgress(Some(Arc::new(told)));
        self
    }

    /// Fails with `Fenced` if another incarnation has taken over.
    pub async fn check(&self) -> Result<(), Error> {
        match self.job.incarnation().await? {
            Some(current) if current == self.number => Ok(()),
            current => Err(self.fenced(current.unwrap_or(0))),
        }
    }

    pub(crate) fn fenced(&self, current: u64) -> Error {
        Error::Fenced { job: self.job.name.to_string(), mine: self.number, current }
    }

    /// Begins to save an epoch of `ranks` ranks, or takes part in it. The epoch must be after the last committed one.
    pub async fn save(&self, epoch: u64, ranks: u32) -> Result<Save, Error> {
        Save::begin(self, epoch, ranks).await
    }
}
