//! `rain checkpoint`: the epochs of a job, saved and restored from a shell.

use super::open_volume;
use crate::source::volume_and_path;
use crate::{connect, output};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use parking_lot::Mutex;
use rain_checkpoint::{Checkpoints, Incarnation, Job, Keep, PartSource, Saved};
use rain_client::Client;
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Save the state of a job, restore it, and look at what is there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain checkpoint save /main/train model.bin optimizer.bin\n  \
    rain checkpoint list /main/train\n  rain checkpoint restore /main/train --to state\n  \
    rain checkpoint prune /main/train --newest 3\n\nA job is /VOLUME/NAME. Its epochs are ordinary files: \
    /VOLUME/.checkpoints/NAME/EPOCH.")]
pub(crate) struct Checkpoint {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Save(Save),
    List(List),
    Show(Show),
    Restore(Restore),
    Pin(Pin),
    Unpin(Pin),
    Prune(Prune),
    TakeOver(TakeOver),
}

/// Save files as an epoch. The epoch is there once all of it is durable, or not at all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain checkpoint save /main/train model.bin\n  \
    ./state | rain checkpoint save /main/train state=-\n\nEight processes that save together:\n  \
    I=$(rain checkpoint take-over /main/train)\n  \
    rain checkpoint save /main/train --incarnation $I --epoch 7 --rank 3 --ranks 8 part.bin")]
struct Save {
    /// /VOLUME/JOB.
    job: String,
    /// Files; each is a part of its own name, or NAME=FILE. FILE - is standard input.
    #[arg(required = true)]
    parts: Vec<String>,
    /// The epoch's number. Default: the last one and 1.
    #[arg(long)]
    epoch: Option<u64>,
    /// The number of this process, from 0.
    #[arg(long, default_value_t = 0)]
    rank: u32,
    /// The number of processes that save this epoch together.
    #[arg(long, default_value_t = 1)]
    ranks: u32,
    /// The incarnation to save as (rain checkpoint take-over). Default: take over the job.
    #[arg(long)]
    incarnation: Option<u64>,
    /// Replace what a process of this rank has left that died while it saved.
    #[arg(long)]
    replace: bool,
    /// Wait so many seconds for the other ranks.
    #[arg(long, default_value_t = 600)]
    wait: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// List the jobs of a volume, or the epochs of a job.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain checkpoint list /main\n  rain checkpoint list /main/train --json")]
struct List {
    /// /VOLUME or /VOLUME/JOB.
    job: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Show what an epoch has: its ranks and their parts.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain checkpoint show /main/train --epoch 42")]
struct Show {
    /// /VOLUME/JOB.
    job: String,
    /// The epoch. Default: the last one.
    #[arg(long)]
    epoch: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Restore an epoch into a directory. Every byte is checked against what was saved.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain checkpoint restore /main/train --to state\n  \
    rain checkpoint restore /main/train --part model.bin --to - > model.bin\n\n\
    With several ranks each has a directory of its own, rank-00000 and so on; slices of one item become one file.")]
struct Restore {
    /// /VOLUME/JOB.
    job: String,
    /// The epoch. Default: the last one.
    #[arg(long)]
    epoch: Option<u64>,
    /// Restore only this part, or item of several ranks.
    #[arg(long)]
    part: Option<String>,
    /// Restore only this rank's parts.
    #[arg(long)]
    rank: Option<u32>,
    /// A directory, which is made; - for standard output, with --part.
    #[arg(long)]
    to: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Have prune keep an epoch, or with unpin treat it as the others.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain checkpoint pin /main/train 42")]
struct Pin {
    /// /VOLUME/JOB.
    job: String,
    /// The epoch.
    epoch: u64,
}

/// Remove old epochs, and what saves have left that were broken off. The last epoch and pinned ones stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain checkpoint prune /main/train --newest 3\n  \
    rain checkpoint prune /main/train --newest 1 --younger-than 7d")]
struct Prune {
    /// /VOLUME/JOB.
    job: String,
    /// Keep the newest so many.
    #[arg(long)]
    newest: Option<u32>,
    /// Keep what was saved within this time: 90s, 30m, 12h, 7d.
    #[arg(long, value_parser = age)]
    younger_than: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Take over a job: earlier incarnations commit nothing from here on. Prints the new incarnation's number.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  I=$(rain checkpoint take-over /main/train)")]
struct TakeOver {
    /// /VOLUME/JOB.
    job: String,
}

/// Parses `7d`.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not of the form 90s, 30m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(count.saturating_mul(secs)))
}

/// A time for people: how long ago.
fn ago(saved_at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{} ago", output::duration(Duration::from_secs(now.saturating_sub(saved_at).max(1))))
}

async fn checkpoints(client: &Arc<Client>, job: &str) -> anyhow::Result<(Checkpoints, String)> {
    let (volume, name) = volume_and_path(job)?;
    Ok((Checkpoints::new(open_volume(client, volume).await?), name.trim_end_matches('/').to_owned()))
}

async fn job_of(client: &Arc<Client>, job: &str) -> anyhow::Result<Job> {
    let (checkpoints, name) = checkpoints(client, job).await?;
    ensure!(!name.is_empty(), "{job} is a volume; a job is /VOLUME/NAME");
    Ok(checkpoints.job(&name).await?)
}

impl Checkpoint {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "checkpoint").await?;
        let done = match self.verb {
            Verb::Save(save) => save.run(&client).await,
            Verb::List(list) => list.run(&client).await,
            Verb::Show(show) => show.run(&client).await,
            Verb::Restore(restore) => restore.run(&client).await,
            Verb::Pin(pin) => pin.run(&client, true).await,
            Verb::Unpin(pin) => pin.run(&client, false).await,
            Verb::Prune(prune) => prune.run(&client).await,
            Verb::TakeOver(take_over) => take_over.run(&client).await,
        };
        client.close().await;
        done
    }
}

/// A file to save, with its name as a part.
fn named(part: &str) -> anyhow::Result<(String, PathBuf)> {
    match part.split_once('=') {
        Some((name, path)) => Ok((name.into(), path.into())),
        None if part == "-" => bail!("standard input needs a name: NAME=-"),
        None => {
            let name = Path::new(part).file_name().and_then(|name| name.to_str());
            Ok((
                name.with_context(|| format!("{part:?} has no name for a part; give NAME={part}"))?.into(),
                part.into(),
            ))
        }
    }
}

async fn source(path: &Path) -> anyhow::Result<(PartSource, Option<u64>)> {
    if path == Path::new("-") {
        let input = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        return Ok((PartSource::Reader(Box::new(tokio::fs::File::from_std(input.into()))), None));
    }
    let file = tokio::fs::File::open(path).await.with_context(|| path.display().to_string())?;
    let attr = file.metadata().await.with_context(|| path.display().to_string())?;
    ensure!(
        attr.is_file(),
        "{} is no file; a directory is saved as an archive: tar c DIR | ... NAME=-",
        path.display()
    );
    Ok((PartSource::Reader(Box::new(file)), Some(attr.len())))
}

/// Moves a bar along with what all parts of a save have.
fn follow(incarnation: Incarnation, bar: &ProgressBar) -> Incarnation {
    let (bar, done) = (bar.clone(), Mutex::new(HashMap::new()));
    incarnation.on_progress(move |progress| {
        let mut done = done.lock();
        done.insert(progress.part.clone(), progress.bytes);
        bar.set_position(done.values().sum());
    })
}

impl Save {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        let (checkpoints, name) = checkpoints(client, &self.job).await?;
        let mut parts = Vec::new();
        let mut total = Some(0);
        for part in &self.parts {
            let (name, path) = named(part)?;
            let (source, bytes) = source(&path).await?;
            total = total.zip(bytes).map(|(total, bytes)| total + bytes);
            parts.push((name, source));
        }
        ensure!(
            self.ranks == 1 || self.incarnation.is_some(),
            "several ranks need the number of their incarnation: --incarnation $(rain checkpoint take-over {})",
            self.job
        );
        let incarnation = match self.incarnation {
            Some(number) => checkpoints.join(&name, number).await?,
            None => checkpoints.take_over(&name).await?,
        };
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => incarnation.job().epochs().await?.last().map_or(0, |last| last + 1),
        };
        let bar = output::progress(total);
        let saved = self.save(&follow(incarnation, &bar), epoch, parts).await;
        bar.finish_and_clear();
        let saved = saved?;
        if self.json {
            return output::json(&saved);
        }
        let (bytes, stored) = (output::bytes(saved.bytes), output::bytes(saved.stored_bytes));
        output::line(format!("epoch {} of {}: {bytes}, of which {stored} were stored", saved.epoch, self.job))
    }

    async fn save(
        &self,
        incarnation: &Incarnation,
        epoch: u64,
        parts: Vec<(String, PartSource)>,
    ) -> anyhow::Result<Saved> {
        if self.ranks == 1 && !self.replace {
            return Ok(incarnation.save_all(epoch, parts).await?);
        }
        let save = incarnation.save(epoch, self.ranks).await?;
        let rank =
            if self.replace { save.replace_rank(self.rank).await? } else { save.rank(self.rank).await? };
        for (name, source) in parts {
            rank.save_part(&name, source).await?;
        }
        rank.finish().await?;
        Ok(save.commit(Duration::from_secs(self.wait)).await?)
    }
}

impl List {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        let (checkpoints, name) = checkpoints(client, &self.job).await?;
        if name.is_empty() {
            let jobs = checkpoints.jobs().await?;
            return if self.json { output::json(&jobs) } else { jobs.iter().try_for_each(output::line) };
        }
        let epochs = checkpoints.job(&name).await?.list().await?;
        if self.json {
            return output::json(&epochs);
        }
        let head = ["EPOCH", "SAVED", "RANKS", "SIZE", "STORED", ""].map(str::to_owned).to_vec();
        let rows = epochs.iter().map(|epoch| {
            vec![
                epoch.epoch.to_string(),
                ago(epoch.saved_at),
                epoch.ranks.to_string(),
                output::bytes(epoch.bytes),
                output::bytes(epoch.stored_bytes),
                if epoch.pinned { "pinned".into() } else { String::new() },
            ]
        });
        output::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
    }
}

impl Show {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        let checkpoint = job_of(client, &self.job).await?.open(self.epoch).await?;
        let (manifest, ranks) = (checkpoint.manifest(), checkpoint.ranks());
        if self.json {
            return output::json(&json!({ "manifest": manifest, "ranks": ranks }));
        }
        output::line(format!(
            "epoch {} of {}, saved {} by incarnation {}: {}, of which {} were stored",
            manifest.epoch,
            self.job,
            ago(manifest.saved_at),
            manifest.incarnation,
            output::bytes(manifest.bytes),
            output::bytes(manifest.stored_bytes)
        ))?;
        let head = ["RANK", "PART", "SIZE", "SLICE", "BLAKE3"].map(str::to_owned).to_vec();
        let rows = ranks.iter().flat_map(|rank| {
            rank.parts.iter().map(|part| {
                let slice = part.slice.map(|slice| format!("from {} of {}", slice.offset, slice.total));
                vec![
                    rank.rank.to_string(),
                    part.name.clone(),
                    output::bytes(part.bytes),
                    slice.unwrap_or_default(),
                    part.blake3.clone(),
                ]
            })
        });
        output::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
    }
}

impl Restore {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        let checkpoint = job_of(client, &self.job).await?.open(self.epoch).await?;
        let to_stdout = self.to == Path::new("-");
        ensure!(!to_stdout || self.part.is_some(), "standard output takes one part: name it by --part");
        // Files in the directory, each with its rank if it is a part of one.
        let mut files: Vec<(Option<u32>, String, PathBuf)> = Vec::new();
        let single = checkpoint.ranks().len() == 1;
        for rank in checkpoint.ranks() {
            for part in &rank.parts {
                let is_wanted = self.part.as_ref().is_none_or(|wanted| *wanted == part.name)
                    && self.rank.is_none_or(|wanted| wanted == rank.rank);
                let is_slice = part.slice.is_some() && self.rank.is_none();
                let rank = (!is_slice).then_some(rank.rank);
                let folder = rank.filter(|_| !single && self.part.is_none());
                let folder = folder.map_or_else(PathBuf::new, |rank| format!("rank-{rank:05}").into());
                let file = (rank, part.name.clone(), folder.join(&part.name));
                if is_wanted && !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        ensure!(!files.is_empty(), "epoch {} of {} has no such part", checkpoint.epoch(), self.job);
        let parts = files.iter().filter(|(_, name, _)| Some(name) == self.part.as_ref()).count();
        ensure!(parts <= 1, "several ranks have a part of this name: name one by --rank");
        let mut items = Vec::new();
        for (rank, name, path) in files {
            let item = match rank {
                Some(rank) => checkpoint.part(rank, &name).await?,
                None => checkpoint.item(&name).await?,
            };
            items.push((item, path));
        }
        let bar = output::progress(Some(items.iter().map(|(item, _)| item.bytes()).sum()));
        let mut restored_files = Vec::new();
        for (item, path) in items {
            let path = self.to.join(path);
            let mut local = if to_stdout { None } else { Some(create(&path)?) };
            let mut restored = item.read(0..item.bytes());
            while let Some(piece) = restored.next().await? {
                match &mut local {
                    Some(file) => file.write_all(&piece).with_context(|| path.display().to_string())?,
                    None => output::raw(&piece)?,
                }
                bar.inc(piece.len() as u64);
            }
            if let Some(file) = local {
                file.sync_all().with_context(|| path.display().to_string())?;
            }
            restored_files.push(path);
        }
        bar.finish_and_clear();
        match to_stdout {
            true => Ok(()),
            false if self.json => {
                output::json(&json!({ "epoch": checkpoint.epoch(), "files": restored_files }))
            }
            false => {
                let (count, epoch) = (restored_files.len(), checkpoint.epoch());
                output::line(format!("epoch {epoch} of {}: {count} files in {}", self.job, self.to.display()))
            }
        }
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    File::create(path).with_context(|| path.display().to_string())
}

impl Pin {
    async fn run(self, client: &Arc<Client>, pinned: bool) -> anyhow::Result<()> {
        Ok(job_of(client, &self.job).await?.pin(self.epoch, pinned).await?)
    }
}

impl Prune {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        ensure!(
            self.newest.is_some() || self.younger_than.is_some(),
            "say what to keep: --newest COUNT, --younger-than TIME, or both"
        );
        let job = job_of(client, &self.job).await?;
        let keep = Keep { newest: self.newest, younger_than: self.younger_than };
        let removed = job.prune(keep, |epoch| output::say(format!("removed epoch {epoch}"))).await?;
        if self.json {
            return output::json(&json!({ "removed": removed }));
        }
        let list: Vec<String> = removed.iter().map(u64::to_string).collect();
        output::line(if list.is_empty() {
            "nothing to remove".into()
        } else {
            format!("removed epochs {}", list.join(", "))
        })
    }
}

impl TakeOver {
    async fn run(self, client: &Arc<Client>) -> anyhow::Result<()> {
        let (checkpoints, name) = checkpoints(client, &self.job).await?;
        output::line(checkpoints.take_over(&name).await?.number().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(age("").is_err() && age("7").is_err() && age("d").is_err() && age("7w").is_err());
    }

    #[test]
    fn a_part_is_named_by_its_file() {
        assert_eq!(named("a/model.bin").expect("a name"), ("model.bin".into(), "a/model.bin".into()));
        assert_eq!(named("m=-").expect("a name"), ("m".into(), "-".into()));
        assert!(named("-").is_err() && named("a/..").is_err());
    }
}
