//! A rank that is being saved, and its parts.
//!
//! A part is taken chunk by chunk. A chunk that the last epoch has at the same place is not stored: once the run of such
//! chunks ends, the part's file gets the blocks of the last epoch's file.

use crate::error::{Doing, Error};
use crate::folders;
use crate::hashes::{CHUNK_BYTES, ChunkHash, chunks_of, hash_chunk, root};
use crate::layout::{
    FORMAT, PartRecord, RankRecord, Slice, check_part_name, rank_folder, rank_hashes, rank_manifest,
};
use crate::open::OpenPart;
use crate::save::{Save, json};
use bytes::Bytes;
use parking_lot::Mutex;
use rain_client::{Error as ClientError, OpenFile};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_types::Ino;
use std::fmt::{Debug, Formatter};
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read from a source at once.
const SOURCE_BYTES: usize = 1 << 20;

/// How far the save of a part has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Epoch.
    pub epoch: u64,
    /// Rank.
    pub rank: u32,
    /// Part.
    pub part: String,
    /// Bytes taken.
    pub bytes: u64,
    /// Of these, bytes that are stored; the others are shared with the epoch before.
    pub stored_bytes: u64,
}

/// What is called with the progress.
#[derive(Clone, Default)]
pub(crate) struct OnProgress(pub(crate) Option<Arc<Told>>);

type Told = dyn Fn(&Progress) + Send + Sync;

impl Debug for OnProgress {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "OnProgress(set)" } else { "OnProgress(none)" })
    }
}

/// The bytes of a part.
pub enum PartSource {
    /// In memory.
    Bytes(Bytes),
    /// Read while it is saved.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl Debug for PartSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            PartSource::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            PartSource::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// A rank that is being saved.
#[derive(Debug, Clone)]
pub struct RankSave {
    save: Save,
    rank: u32,
    dir: Ino,
    done: Arc<Mutex<Done>>,
}

#[derive(Debug, Default)]
struct Done {
    parts: Vec<(PartRecord, Vec<ChunkHash>)>,
    unfinished: Vec<String>,
}

impl RankSave {
    pub(crate) fn new(save: Save, rank: u32, dir: Ino) -> RankSave {
        RankSave { save, rank, dir, done: Arc::default() }
    }

    /// The rank's number.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    fn wrong(&self, part: &str, why: impl Into<String>) -> Error {
        Error::Part { rank: self.rank, part: part.into(), why: why.into() }
    }

    /// Begins a part. Several parts may be saved at once.
    pub async fn part(&self, name: &str) -> Result<PartSave, Error> {
        self.begin_part(name, None).await
    }

    /// Begins a part that is a slice of an item which all ranks have together.
    pub async fn slice(&self, name: &str, slice: Slice) -> Result<PartSave, Error> {
        self.begin_part(name, Some(slice)).await
    }

    async fn begin_part(&self, name: &str, slice: Option<Slice>) -> Result<PartSave, Error> {
        check_part_name(name)?;
        let doing = || format!("beginning part {name} of rank {}, {}", self.rank, self.save.of());
        let file = match folders::create(self.save.volume(), self.dir, name).await {
            Err(ClientError::Refused(NsError::Exists)) => return Err(self.wrong(name, "the name is taken")),
            made => made.doing(doing)?,
        };
        let base = match &self.save.base {
            Some(base) => base.part_of(self.rank, name).await.ok().flatten(),
            None => None,
        };
        self.done.lock().unfinished.push(name.into());
        Ok(PartSave {
            rank: self.clone(),
            name: name.into(),
            slice,
            file,
            base,
            rest: Vec::new(),
            hashes: Vec::new(),
            first: None,
            bytes: 0,
            stored_bytes: 0,
            same: 0..0,
        })
    }

    /// Saves a whole part.
    pub async fn save_part(&self, name: &str, source: PartSource) -> Result<PartRecord, Error> {
        let mut part = self.part(name).await?;
        part.write_source(source).await?;
        part.finish().await
    }

    /// Saves a whole part that is a slice of an item which all ranks have together.
    pub async fn save_slice(
        &self,
        name: &str,
        slice: Slice,
        source: PartSource,
    ) -> Result<PartRecord, Error> {
        let mut part = self.slice(name, slice).await?;
        part.write_source(source).await?;
        part.finish().await
    }

    /// Removes what this rank has stored so far. It may then be saved anew.
    pub async fn abandon(self) -> Result<(), Error> {
        let (volume, dir, name) = (self.save.volume(), self.save.dir, rank_folder(self.rank));
        let doing = || format!("removing rank {} of {}", self.rank, self.save.of());
        let there = folders::find(volume, dir, &name).await.doing(doing)?;
        // Another process may have replaced it.
        match there.filter(|there| there.ino == self.dir) {
            Some(_) => folders::remove_all(volume, dir, &name).await.doing(doing),
            None => Ok(()),
        }
    }

    /// Ends the rank: everything is durable, and counts as saved. Fails while a part is not finished.
    pub async fn finish(self) -> Result<RankRecord, Error> {
        let (mut parts, unfinished) = {
            let done = &mut *self.done.lock();
            (std::mem::take(&mut done.parts), done.unfinished.first().cloned())
        };
        if let Some(part) = unfinished {
            return Err(self.wrong(&part, "it was not finished"));
        }
        parts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let hashes: Vec<u8> = parts.iter().flat_map(|(_, hashes)| hashes).flatten().copied().collect();
        let record = RankRecord {
            format: FORMAT,
            job: self.save.job().name.to_string(),
            epoch: self.save.epoch,
            incarnation: self.save.incarnation.number,
            rank: self.rank,
            ranks: self.save.ranks,
            saved_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            chunk_bytes: CHUNK_BYTES,
            hashes_blake3: blake3::hash(&hashes).to_hex().to_string(),
            parts: parts.into_iter().map(|(record, _)| record).collect(),
        };
        let (volume, dir) = (self.save.volume(), self.save.dir);
        let written = async {
            folders::write(volume, dir, &rank_hashes(self.rank), &hashes, RenameMode::Replace).await?;
            folders::write(volume, dir, &rank_manifest(self.rank), &json(&record), RenameMode::NoReplace)
                .await
        };
        match written.await {
            Ok(()) => Ok(record),
            Err(ClientError::Refused(NsError::Exists)) => {
                Err(Error::RankTwice { epoch: self.save.epoch, rank: self.rank })
            }
            Err(source) => {
                // Most likely another incarnation has taken over, and has removed this save.
                self.save.incarnation.check().await?;
                Err(Error::Cluster {
                    doing: format!("ending rank {} of {}", self.rank, self.save.of()),
                    source,
                })
            }
        }
    }
}

/// A part that is being saved.
#[derive(Debug)]
pub struct PartSave {
    rank: RankSave,
    name: String,
    slice: Option<Slice>,
    file: Arc<OpenFile>,
    /// The part of this name of the last epoch.
    base: Option<OpenPart>,
    /// Bytes that do not make a whole chunk yet.
    rest: Vec<u8>,
    hashes: Vec<ChunkHash>,
    /// The hash of the first chunk as the only one.
    first: Option<ChunkHash>,
    /// Bytes taken in whole chunks.
    bytes: u64,
    stored_bytes: u64,
    /// A range at the end that is the same in the last epoch, and not cloned yet.
    same: Range<u64>,
}

impl PartSave {
    fn doing(&self) -> String {
        format!("saving part {} of rank {}, {}", self.name, self.rank.rank, self.rank.save.of())
    }

    /// Appends bytes. Returns when they are taken: in the client's buffer, on their way to the nodes.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let whole = CHUNK_BYTES as usize;
        while !bytes.is_empty() {
            if self.rest.is_empty() && bytes.len() >= whole {
                let (chunk, left) = bytes.split_at(whole);
                self.take_chunk(chunk).await?;
                bytes = left;
                continue;
            }
            let (some, left) = bytes.split_at(bytes.len().min(whole - self.rest.len()));
            self.rest.extend_from_slice(some);
            bytes = left;
            if self.rest.len() == whole {
                let mut chunk = std::mem::take(&mut self.rest);
                self.take_chunk(&chunk).await?;
                chunk.clear();
                self.rest = chunk;
            }
        }
        Ok(())
    }

    /// Appends all bytes of a source.
    pub async fn write_source(&mut self, source: PartSource) -> Result<(), Error> {
        let mut reader = match source {
            PartSource::Bytes(bytes) => return self.write(&bytes).await,
            PartSource::Reader(reader) => reader,
        };
        let mut buffer = vec![0; SOURCE_BYTES];
        loop {
            let read = reader.read(&mut buffer).await.map_err(|error| Error::Source {
                rank: self.rank.rank,
                part: self.name.clone(),
                why: error.to_string(),
            })?;
            if read == 0 {
                return Ok(());
            }
            self.write(&buffer[..read]).await?;
        }
    }

    /// Takes the next chunk: notes it as the same as in the last epoch, or stores it.
    async fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let (index, offset, len) = (self.hashes.len() as u64, self.bytes, chunk.len() as u64);
        let hash = hash_chunk(index, chunk, false);
        if index == 0 {
            self.first = Some(hash_chunk(0, chunk, true));
        }
        let is_same = self.is_in_base(index, &hash, len).await;
        if is_same {
            if self.same.end != offset {
                self.clone_same().await?;
                self.same = offset..offset;
            }
            self.same.end += len;
        } else {
            self.clone_same().await?;
            self.file.write(offset, chunk).await.doing(|| self.doing())?;
            self.stored_bytes += len;
        }
        self.hashes.push(hash);
        self.bytes += len;
        if let Some(told) = &self.rank.save.incarnation.on_progress.0 {
            told(&Progress {
                epoch: self.rank.save.epoch,
                rank: self.rank.rank,
                part: self.name.clone(),
                bytes: self.bytes,
                stored_bytes: self.stored_bytes,
            });
        }
        Ok(())
    }

    async fn is_in_base(&mut self, index: u64, hash: &ChunkHash, len: u64) -> bool {
        let Some(base) = &self.base else { return false };
        if (index + 1) * CHUNK_BYTES > base.record.bytes && index * CHUNK_BYTES + len != base.record.bytes {
            return false;
        }
        match base.hashes().await {
            Ok(hashes) => {
                let there = hashes.get(index as usize);
                there == Some(hash)
                    || hashes.len() == 1 && there == self.first.as_ref().filter(|_| index == 0)
            }
            Err(error) => {
                tracing::warn!(%error, "the epoch before is damaged: everything is stored anew");
                self.base = None;
                false
            }
        }
    }

    /// Shares the blocks of a range that is the same in the last epoch.
    async fn clone_same(&mut self) -> Result<(), Error> {
        let same = std::mem::take(&mut self.same);
        let (Some(base), false) = (&self.base, same.is_empty()) else { return Ok(()) };
        let len = same.end - same.start;
        let copied =
            base.file.copy_range(same.start, &self.file, same.start, len).await.doing(|| self.doing())?;
        if copied != len {
            let why = "the epoch before is shorter than its manifest says; save again";
            return Err(self.rank.wrong(&self.name, why));
        }
        Ok(())
    }

    /// Ends the part: it is durable on return.
    pub async fn finish(mut self) -> Result<PartRecord, Error> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.take_chunk(&rest).await?;
        }
        self.clone_same().await?;
        self.file.flush().await.doing(|| self.doing())?;
        if let (1, Some(only)) = (self.hashes.len(), self.first) {
            self.hashes[0] = only;
        }
        debug_assert_eq!(self.hashes.len() as u64, chunks_of(self.bytes));
        let record = PartRecord {
            name: self.name.clone(),
            bytes: self.bytes,
            blake3: root(&self.hashes, self.bytes).to_hex().to_string(),
            slice: self.slice,
            stored_bytes: self.stored_bytes,
        };
        let done = &mut *self.rank.done.lock();
        done.unfinished.retain(|name| *name != self.name);
        done.parts.push((record.clone(), std::mem::take(&mut self.hashes)));
        Ok(record)
    }
}
