//! A committed epoch, as it is read.
//!
//! Invariants: the manifests are checked against each other when the epoch is opened, a part's chunk hashes against the
//! part's BLAKE3 before its first read, and every chunk against its hash before the caller gets a byte of it.

use crate::error::{Doing, Error};
use crate::folders;
use crate::hashes::{CHUNK_BYTES, ChunkHash, HASH_BYTES, chunks_of, hash_chunk, root};
use crate::job::Job;
use crate::layout::{
    CHECKPOINTS, FORMAT, Folder, MANIFEST, Manifest, PartRecord, RankEntry, RankRecord, check_ranks,
    rank_folder, rank_hashes, rank_manifest,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rain_client::{OpenFile, Volume};
use rain_types::Ino;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Chunks of one read: long enough that whole blocks are read.
const CHUNKS_AT_ONCE: u64 = 16;

/// Manifests that are read at a time.
const MANIFESTS_AT_ONCE: usize = 16;

/// A committed epoch.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(crate) volume: Arc<Volume>,
    job: Arc<str>,
    dir: Ino,
    manifest: Arc<Manifest>,
    ranks: Arc<Vec<RankRecord>>,
}

fn damaged(path: String, why: impl Into<String>) -> Error {
    Error::Damaged { path, why: why.into() }
}

fn parsed<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| damaged(path.into(), error.to_string()))
}

impl Checkpoint {
    pub(crate) async fn open(job: &Job, epoch: u64) -> Result<Checkpoint, Error> {
        let folder = Folder::Epoch(epoch).name();
        let doing = || format!("opening epoch {epoch} of job {}", job.name);
        let not_found = || Error::NotFound { what: format!("epoch {epoch} of job {}", job.name) };
        let dir = folders::find(&job.volume, job.dir, &folder).await.doing(doing)?.ok_or_else(not_found)?.ino;
        let path = format!("{CHECKPOINTS}/{}/{folder}", job.name);
        let epoch_folder = EpochFolder { volume: job.volume.clone(), dir, path };
        let (bytes, path) = epoch_folder.read(MANIFEST).await?;
        let manifest: Manifest = parsed(&path, &bytes)?;
        if (manifest.format, manifest.job.as_str(), manifest.epoch) != (FORMAT, &*job.name, epoch) {
            let of = (manifest.format, manifest.job, manifest.epoch);
            return Err(damaged(path, format!("it is of format, job and epoch {of:?}")));
        }
        let records = futures::stream::iter(manifest.ranks.clone());
        let records =
            records.map(|entry| read_record(epoch_folder.clone(), entry)).buffered(MANIFESTS_AT_ONCE);
        let ranks: Vec<RankRecord> = records.try_collect().await?;
        check_ranks(&job.name, epoch, manifest.incarnation, &ranks).map_err(|why| damaged(path, why))?;
        let (manifest, ranks) = (Arc::new(manifest), Arc::new(ranks));
        Ok(Checkpoint { volume: job.volume.clone(), job: job.name.clone(), dir, manifest, ranks })
    }

    /// The epoch's number.
    pub fn epoch(&self) -> u64 {
        self.manifest.epoch
    }

    /// What belongs to the epoch.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What each rank has saved.
    pub fn ranks(&self) -> &[RankRecord] {
        &self.ranks
    }

    fn not_found(&self, what: String) -> Error {
        Error::NotFound { what: format!("{what} in epoch {} of job {}", self.epoch(), self.job) }
    }

    /// A part of one rank.
    pub async fn part(&self, rank: u32, name: &str) -> Result<Item, Error> {
        match self.part_of(rank, name).await? {
            Some(part) => Ok(Item { bytes: part.record.bytes, parts: vec![(0, Arc::new(part))] }),
            None => Err(self.not_found(format!("part {name} of rank {rank}"))),
        }
    }

    /// An item by its name: the slices of all ranks one after the other, or the only part of this name.
    pub async fn item(&self, name: &str) -> Result<Item, Error> {
        let mut parts = Vec::new();
        let mut are_slices = true;
        for rank in self.ranks.iter().map(|rank| rank.rank) {
            if let Some(part) = self.part_of(rank, name).await? {
                are_slices &= part.record.slice.is_some();
                parts.push((part.record.slice.map_or(0, |slice| slice.offset), Arc::new(part)));
            }
        }
        if parts.is_empty() {
            return Err(self.not_found(format!("item {name}")));
        }
        if !are_slices && parts.len() > 1 {
            let what = format!("item {name} of all ranks (each has a part of this name: name the rank)");
            return Err(self.not_found(what));
        }
        parts.sort_by_key(|(offset, part)| (*offset, part.record.bytes));
        let bytes = parts.iter().map(|(_, part)| part.record.bytes).sum();
        Ok(Item { bytes, parts })
    }

    /// A part that is read; none: the rank has none of this name.
    pub(crate) async fn part_of(&self, rank: u32, name: &str) -> Result<Option<OpenPart>, Error> {
        let Some(rank_record) = self.ranks.get(rank as usize) else { return Ok(None) };
        let Ok(at) = rank_record.parts.binary_search_by(|part| part.name.as_str().cmp(name)) else {
            return Ok(None);
        };
        let first_hash = rank_record.parts[..at].iter().map(|part| chunks_of(part.bytes)).sum();
        let folder = Folder::Epoch(self.epoch()).name();
        let path = format!("{CHECKPOINTS}/{}/{folder}/{}/{name}", self.job, rank_folder(rank));
        let doing = || format!("opening {path}");
        let gone = || damaged(path.clone(), "it is not there");
        let dir =
            folders::find(&self.volume, self.dir, &rank_folder(rank)).await.doing(doing)?.ok_or_else(gone)?;
        let file = folders::find(&self.volume, dir.ino, name).await.doing(doing)?.ok_or_else(gone)?;
        let file = self.volume.open(file.ino).await.doing(doing)?;
        let record = rank_record.parts[at].clone();
        if file.size() != record.bytes {
            return Err(damaged(path, format!("it has {} bytes, not {}", file.size(), record.bytes)));
        }
        let hashes =
            HashFile { volume: self.volume.clone(), dir: self.dir, name: rank_hashes(rank), first_hash };
        let part = OpenPart { rank, record, path, file, hash_file: hashes, hashes: OnceCell::new() };
        Ok(Some(part))
    }
}

/// The directory of an epoch.
#[derive(Clone)]
struct EpochFolder {
    volume: Arc<Volume>,
    dir: Ino,
    path: String,
}

impl EpochFolder {
    /// Reads a small file. Returns its bytes and its path.
    async fn read(&self, name: &str) -> Result<(Vec<u8>, String), Error> {
        let path = format!("{}/{name}", self.path);
        let doing = || format!("reading {path}");
        let found = folders::find(&self.volume, self.dir, name).await.doing(doing)?;
        let found = found.ok_or_else(|| damaged(path.clone(), "it is not there"))?;
        let bytes = folders::read(&self.volume, found.ino).await.doing(doing)?;
        Ok((bytes, path))
    }
}

async fn read_record(folder: EpochFolder, entry: RankEntry) -> Result<RankRecord, Error> {
    let (bytes, path) = folder.read(&rank_manifest(entry.rank)).await?;
    if blake3::hash(&bytes).to_hex().as_str() != entry.blake3 {
        return Err(damaged(path, "its BLAKE3 is another"));
    }
    parsed(&path, &bytes)
}

#[derive(Debug)]
struct HashFile {
    volume: Arc<Volume>,
    dir: Ino,
    name: String,
    /// Number of the part's first hash in the file.
    first_hash: u64,
}

/// A part that is read.
#[derive(Debug)]
pub(crate) struct OpenPart {
    rank: u32,
    pub(crate) record: PartRecord,
    path: String,
    pub(crate) file: Arc<OpenFile>,
    hash_file: HashFile,
    hashes: OnceCell<Vec<ChunkHash>>,
}

impl OpenPart {
    /// The chunks' hashes, checked against the part's.
    pub(crate) async fn hashes(&self) -> Result<&[ChunkHash], Error> {
        let hashes = self.hashes.get_or_try_init(|| async {
            let HashFile { volume, dir, name, first_hash } = &self.hash_file;
            let doing = || format!("reading the hashes of {}", self.path);
            let gone = || damaged(self.path.clone(), format!("{name} is not there"));
            let file = folders::find(volume, *dir, name).await.doing(doing)?.ok_or_else(gone)?;
            let file = volume.open(file.ino).await.doing(doing)?;
            let (offset, len) =
                (first_hash * HASH_BYTES as u64, chunks_of(self.record.bytes) * HASH_BYTES as u64);
            let bytes = folders::read_range(&file, offset, len).await.doing(doing)?;
            let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
            let is_whole = bytes.len() as u64 == len;
            if !is_whole || root(hashes, self.record.bytes).to_hex().as_str() != self.record.blake3 {
                return Err(damaged(
                    self.path.clone(),
                    format!("its hashes in {name} are not those of its manifest"),
                ));
            }
            Ok(hashes.to_vec())
        });
        Ok(hashes.await?)
    }

    /// Reads whole chunks, checked.
    async fn read_chunks(&self, chunks: Range<u64>) -> Result<Bytes, Error> {
        let hashes = self.hashes().await?;
        let start = chunks.start * CHUNK_BYTES;
        let len = (chunks.end * CHUNK_BYTES).min(self.record.bytes) - start;
        let doing = || format!("reading {}, rank {}, bytes {start}+{len}", self.path, self.rank);
        let bytes = folders::read_range(&self.file, start, len).await.doing(doing)?;
        let mut pieces = bytes.chunks(CHUNK_BYTES as usize);
        for chunk in chunks {
            let is_only = hashes.len() == 1;
            let is_right = |piece: &[u8]| hash_chunk(chunk, piece, is_only) == hashes[chunk as usize];
            if !pieces.next().is_some_and(is_right) {
                let at = chunk * CHUNK_BYTES;
                return Err(damaged(
                    self.path.clone(),
                    format!("the bytes from {at} on are not those that were saved"),
                ));
            }
        }
        Ok(bytes.into())
    }
}

/// Bytes that can be restored: a part, or an item of several ranks.
#[derive(Debug, Clone)]
pub struct Item {
    bytes: u64,
    /// Parts with their offsets in the item, in order and without a gap.
    parts: Vec<(u64, Arc<OpenPart>)>,
}

impl Item {
    /// The length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a range, piece by piece, each at most 4 MiB. What lies past the end is left out.
    pub fn read(&self, range: Range<u64>) -> Restored {
        let mut pieces = VecDeque::new();
        for (offset, part) in &self.parts {
            let from = range.start.max(*offset) - offset;
            let to = range.end.min(offset + part.record.bytes).saturating_sub(*offset);
            if from < to {
                pieces.push_back((part.clone(), from..to));
            }
        }
        Restored { pieces }
    }

    /// Reads a range into memory.
    pub async fn read_all(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let len = range.end.min(self.bytes).saturating_sub(range.start);
        let mut all = Vec::with_capacity(len as usize);
        let mut restored = self.read(range);
        while let Some(piece) = restored.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

/// A range that is being restored.
#[derive(Debug)]
pub struct Restored {
    pieces: VecDeque<(Arc<OpenPart>, Range<u64>)>,
}

impl Restored {
    /// The next piece; none: the range has ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some((part, range)) = self.pieces.front_mut() else { return Ok(None) };
        let first = range.start / CHUNK_BYTES;
        let last = chunks_of(range.end).min(first + CHUNKS_AT_ONCE);
        let bytes = part.read_chunks(first..last).await?;
        let begin = first * CHUNK_BYTES;
        let end = range.end.min(begin + bytes.len() as u64);
        let piece = bytes.slice((range.start - begin) as usize..(end - begin) as usize);
        range.start = end;
        if range.is_empty() {
            self.pieces.pop_front();
        }
        Ok(Some(piece))
    }
}
