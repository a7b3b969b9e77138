//! Puts gathered under few fdatasyncs, verified reads, deletes that give space back.
//!
//! A put is queued; one committer thread takes all that wait, writes them, syncs each touched segment once, names
//! them in the index, and answers. Measured with 256 KiB shares on ext4 (docs/benchmarks.md): the sync is what
//! costs, and one serves all that wait.
//!
//! After a crash the index may be older than the shares; `recover` makes it right. A delete that a crash undoes
//! leaves a share that nobody asks for; the sweep of the node that keeps the namespace deletes it again.

use super::index::{Index, IndexFailed, Located};
use super::layout::{self, CHUNK_BYTES, Place, UNIT_BYTES, chunk_crc};
use super::recover::{self, RebuildReport};
use super::segments::Segments;
use super::space::Space;
use super::state::{State, StateFile};
use super::{GetError, PutError, ShareKey, ShareMeta, ShareRead, StoreError, io_error};
use crate::disk::{DiskMedia, Media};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The folder of segments within a store.
const SEGMENTS: &str = "segments";

/// Bytes of one gathered commit: what waits longer goes into the next.
const COMMIT_BYTES_MAX: usize = 32 << 20;

/// Left free on the disk: what the index needs to go on, and deletes with it.
const RESERVE_BYTES: u64 = 32 << 20;

/// Between checkpoints while shares are written: bounds what a start after a crash re-reads.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

/// Settings of a share store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Use at most so much disk; none: what the disk has.
    pub capacity_bytes: Option<u64>,
    /// Memory for the index's pages. 8 MiB.
    pub index_cache_bytes: u64,
    /// Length of a segment; a multiple of 4096, at least 16 MiB. 64 MiB: a start after a crash re-reads whole segments.
    pub segment_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { capacity_bytes: None, index_cache_bytes: 8 << 20, segment_bytes: 64 << 20 }
    }
}

impl StoreOptions {
    fn validate(&self) -> Result<(), StoreError> {
        if !self.segment_bytes.is_multiple_of(UNIT_BYTES)
            || self.segment_bytes < 1 << 20
            || self.segment_bytes > 1 << 40
        {
            return Err(StoreError::Options(format!("segments of {} bytes", self.segment_bytes)));
        }
        Ok(())
    }
}

/// What a store holds and has met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Shares.
    pub shares: u64,
    /// Their bytes.
    pub payload_bytes: u64,
    /// Bytes of disk they take, with headers and rounding.
    pub used_bytes: u64,
    /// Bytes of disk that are left.
    pub free_bytes: u64,
    /// Damaged shares met since the start.
    pub corrupt_found: u64,
    /// The last rebuild of the index since the start.
    pub rebuilt: Option<RebuildReport>,
}

type Done = Box<dyn FnOnce(Result<(), PutError>) + Send>;

struct Put {
    meta: ShareMeta,
    crcs: Vec<u64>,
    payload: Bytes,
    done: Done,
}

#[derive(Debug, Default)]
struct Counters {
    shares: AtomicU64,
    payload_bytes: AtomicU64,
    used_bytes: AtomicU64,
    corrupt_found: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    options: StoreOptions,
    folder: PathBuf,
    segments: Segments,
    key: [u8; 32],
    index: RwLock<Index>,
    /// Which folder it is in. Changes under the index's write lock.
    index_number: AtomicU64,
    space: Mutex<Space>,
    state: Mutex<StateFile>,
    next_segment: Mutex<u32>,
    next_sequence: AtomicU64,
    counters: Counters,
    rebuilt: Mutex<Option<RebuildReport>>,
    /// Held while shares are written and named, and during a checkpoint: a checkpoint never falls between.
    committing: Mutex<()>,
}

/// The share store of a node.
#[derive(Debug)]
pub struct ShareStore {
    inner: Arc<Inner>,
    queue: Mutex<Option<Sender<Put>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl ShareStore {
    /// Opens a store in a folder; makes it when it is not there.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<ShareStore, StoreError> {
        let segments = folder.join(SEGMENTS);
        std::fs::create_dir_all(&segments).map_err(io_error("making", &segments))?;
        ShareStore::open_on(Arc::new(DiskMedia), folder, options)
    }

    /// Opens a store whose segments are elsewhere than on a disk.
    pub fn open_on(
        media: Arc<dyn Media>,
        folder: &Path,
        options: StoreOptions,
    ) -> Result<ShareStore, StoreError> {
        options.validate()?;
        std::fs::create_dir_all(folder).map_err(io_error("making", folder))?;
        let key = recover::store_key(&folder.join("store-id"))?;
        let state = StateFile::open(&folder.join("state"))?;
        let segments = Segments::new(media, &folder.join(SEGMENTS));
        let found = recover::recover(folder, options.index_cache_bytes, &segments, &key, state.state())?;
        let all = segments.list()?;
        let inner = Arc::new(Inner {
            folder: folder.to_owned(),
            key,
            index: RwLock::new(found.index),
            space: Mutex::default(),
            state: Mutex::new(state),
            next_segment: Mutex::new(all.last().map_or(1, |last| last + 1)),
            next_sequence: AtomicU64::new(1),
            counters: Counters::default(),
            index_number: AtomicU64::new(found.number),
            rebuilt: Mutex::new(found.rebuilt),
            committing: Mutex::new(()),
            segments,
            options,
        });
        inner.take_stock(&all)?;
        if let Err(error) = inner.checkpoint() {
            tracing::warn!(%error, "no checkpoint of the share index; the next start makes it anew");
        }
        let (queue, puts) = mpsc::channel();
        let worker = inner.clone();
        let committer = std::thread::Builder::new()
            .name("share-commit".into())
            .spawn(move || worker.commit_for_ever(&puts))
            .map_err(|source| StoreError::Io {
                doing: "starting",
                path: "the committer's thread".into(),
                source,
            })?;
        Ok(ShareStore { inner, queue: Mutex::new(Some(queue)), committer: Mutex::new(Some(committer)) })
    }

    /// Keeps a share and calls `done` when it is durable, from the committer's thread. The caller bounds how many
    /// bytes wait.
    pub fn put_with(
        &self,
        meta: ShareMeta,
        chunk_crcs: Vec<u64>,
        payload: Bytes,
        done: impl FnOnce(Result<(), PutError>) + Send + 'static,
    ) {
        if let Err(error) = check_put(&meta, &chunk_crcs, &payload) {
            return done(Err(error));
        }
        let put = Put { meta, crcs: chunk_crcs, payload, done: Box::new(done) };
        let refused = match self.queue.lock().as_ref() {
            Some(queue) => queue.send(put).err().map(|error| error.0),
            None => Some(put),
        };
        if let Some(put) = refused {
            (put.done)(Err(PutError::Closed));
        }
    }

    /// Keeps a share; returns when it is durable.
    pub fn put(&self, meta: ShareMeta, chunk_crcs: &[u64], payload: &[u8]) -> Result<(), PutError> {
        let (send, receive) = mpsc::channel();
        self.put_with(meta, chunk_crcs.to_vec(), Bytes::copy_from_slice(payload), move |result| {
            let _ = send.send(result);
        });
        receive.recv().unwrap_or(Err(PutError::Closed))
    }

    /// Reads the whole chunks that cover a range, verified.
    pub fn get(&self, key: ShareKey, offset: u32, len: u32) -> Result<ShareRead, GetError> {
        self.inner.get(key, offset, len)
    }

    /// What is known of a share, if it is here.
    pub fn stat(&self, key: ShareKey) -> Result<Option<ShareMeta>, StoreError> {
        Ok(self.inner.with_index(|index| index.get(key))?.map(|located| located.meta))
    }

    /// Deletes shares and gives their space back; those that are not here are passed over.
    pub fn delete(&self, keys: &[ShareKey]) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for key in keys {
            if let Some(located) = self.inner.with_index(|index| index.remove(*key))? {
                self.inner.release(&located);
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// Shares in order of their keys, after one, at most so many.
    pub fn list(&self, after: Option<ShareKey>, limit: usize) -> Result<Vec<ShareMeta>, StoreError> {
        let found = self.inner.with_index(|index| index.list(after, limit))?;
        Ok(found.into_iter().map(|located| located.meta).collect())
    }

    /// What the store holds and has met.
    pub fn usage(&self) -> Usage {
        let counters = &self.inner.counters;
        let used_bytes = counters.used_bytes.load(Relaxed);
        Usage {
            shares: counters.shares.load(Relaxed),
            payload_bytes: counters.payload_bytes.load(Relaxed),
            used_bytes,
            free_bytes: self.inner.free_bytes(used_bytes),
            corrupt_found: counters.corrupt_found.load(Relaxed),
            rebuilt: self.inner.rebuilt.lock().clone(),
        }
    }

    /// Makes the index durable as it is, so that the next start has nothing to re-read.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.inner.checkpoint()
    }

    /// Finishes what waits and closes cleanly. Later puts are refused.
    pub fn shut_down(&self) -> Result<(), StoreError> {
        *self.queue.lock() = None;
        if let Some(committer) = self.committer.lock().take()
            && committer.join().is_err()
        {
            return Err(StoreError::Index(
                "the committer broke an invariant; the next start re-reads the segments".into(),
            ));
        }
        self.inner.checkpoint()
    }
}

impl Drop for ShareStore {
    fn drop(&mut self) {
        *self.queue.lock() = None;
        if let Some(committer) = self.committer.lock().take() {
            let _ = committer.join();
        }
    }
}

fn check_put(meta: &ShareMeta, crcs: &[u64], payload: &[u8]) -> Result<(), PutError> {
    let invalid = |why: String| Err(PutError::Invalid { key: meta.key, why });
    if payload.is_empty() || payload.len() != meta.share_len as usize {
        return invalid(format!("{} bytes for a share of {}", payload.len(), meta.share_len));
    }
    if crcs.len() != layout::chunks(meta.share_len) {
        return invalid(format!("{} checksums for {} chunks", crcs.len(), layout::chunks(meta.share_len)));
    }
    match payload.chunks(CHUNK_BYTES).zip(crcs).position(|(chunk, crc)| chunk_crc(chunk) != *crc) {
        Some(chunk) => invalid(format!("the checksum of chunk {chunk} does not hold")),
        None => Ok(()),
    }
}

impl Inner {
    /// Counts what the index names, and finds the free space between.
    fn take_stock(&self, segments: &[u32]) -> Result<(), StoreError> {
        let mut used: BTreeMap<u32, Vec<(u32, u32)>> =
            segments.iter().map(|segment| (*segment, Vec::new())).collect();
        for (place, share_len) in self.with_index(recover::places)? {
            self.count(place, share_len, true);
            used.entry(place.segment).or_default().push((place.unit, place.units));
        }
        let segment_units = (self.options.segment_bytes / UNIT_BYTES) as u32;
        let mut space = self.space.lock();
        for (segment, mut runs) in used {
            runs.sort_unstable();
            let mut at = 0;
            for (unit, units) in runs {
                if unit > at {
                    space.free(Place { segment, unit: at, units: unit - at });
                }
                at = at.max(unit + units);
            }
            if at < segment_units {
                space.free(Place { segment, unit: at, units: segment_units - at });
            }
        }
        drop(space);
        // Sequences only have to grow: the clock's microseconds do over restarts, whatever was written before.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.next_sequence.store(now.as_micros() as u64, Relaxed);
        Ok(())
    }

    fn count(&self, place: Place, share_len: u32, add: bool) {
        let counters = &self.counters;
        for (counter, amount) in [
            (&counters.shares, 1),
            (&counters.payload_bytes, u64::from(share_len)),
            (&counters.used_bytes, place.bytes()),
        ] {
            if add {
                counter.fetch_add(amount, Relaxed);
            } else {
                counter.fetch_sub(amount, Relaxed);
            }
        }
    }

    fn free_bytes(&self, used: u64) -> u64 {
        let disk = self.segments.free_bytes().unwrap_or(0).saturating_sub(RESERVE_BYTES);
        self.options.capacity_bytes.map_or(disk, |capacity| capacity.saturating_sub(used).min(disk))
    }

    /// Uses the index; if it fails, makes it anew from the shares and tries once more.
    fn with_index<T>(&self, call: impl Fn(&Index) -> Result<T, IndexFailed>) -> Result<T, StoreError> {
        let failed = {
            let index = self.index.read();
            match call(&index) {
                Ok(value) => return Ok(value),
                Err(IndexFailed(why)) => why,
            }
        };
        tracing::error!(why = failed, "the index of shares failed");
        let mut index = self.index.write();
        // Somebody else may have mended it meanwhile.
        if let Ok(value) = call(&index) {
            return Ok(value);
        }
        // No index is trusted by a start from here to the next checkpoint.
        let mut state = self.state.lock();
        let nothing = State {
            index: self.index_number.load(Relaxed),
            checkpoint: state.state().checkpoint,
            trusted: false,
            dirty: BTreeSet::new(),
        };
        state.set(nothing.clone())?;
        // sled holds the old one's files until it is gone.
        *index = Index::in_memory();
        let cache = self.options.index_cache_bytes;
        let fresh = recover::recover(&self.folder, cache, &self.segments, &self.key, &nothing)?;
        *index = fresh.index;
        self.index_number.store(fresh.number, Relaxed);
        *self.rebuilt.lock() = fresh.rebuilt;
        call(&index).map_err(|IndexFailed(why)| StoreError::Index(why))
    }

    fn get(&self, key: ShareKey, offset: u32, len: u32) -> Result<ShareRead, GetError> {
        let mut last = None;
        // A share may be deleted, or damaged and put again, while it is read: then look again.
        loop {
            let found = self
                .with_index(|index| index.get(key))
                .map_err(|error| GetError::Io { key, why: error.to_string() })?;
            let Some(located) = found else { return Err(GetError::NotFound { key }) };
            if last.as_ref() == Some(&located) {
                self.counters.corrupt_found.fetch_add(1, Relaxed);
                return Err(GetError::Corrupt { key, what: "its header or checksums do not hold".into() });
            }
            match self.read(&located, offset, len)? {
                Some(read) => return Ok(read),
                None => last = Some(located),
            }
        }
    }

    /// Reads where the index says; `None` when what is there does not hold.
    fn read(&self, located: &Located, offset: u32, len: u32) -> Result<Option<ShareRead>, GetError> {
        let key = located.meta.key;
        let share_len = located.meta.share_len;
        let end = offset.checked_add(len).filter(|end| *end <= share_len && len > 0);
        let Some(end) = end else { return Err(GetError::Range { key, offset, len, share_len }) };
        let io = |error: io::Error| GetError::Io { key, why: error.to_string() };
        let file = self.segments.open(located.place.segment).map_err(io)?;
        let first_chunk = offset as usize / CHUNK_BYTES;
        let last_chunk = (end as usize).div_ceil(CHUNK_BYTES);
        let from = first_chunk * CHUNK_BYTES;
        let to = (last_chunk * CHUNK_BYTES).min(share_len as usize);
        let mut head = vec![0; layout::head_bytes(share_len)];
        file.read_padded_at(located.place.offset(), &mut head).map_err(io)?;
        let Some(decoded) = layout::decode(&self.key, &head, located.place.segment, located.place.unit)
        else {
            return Ok(None);
        };
        if decoded.meta != located.meta {
            return Ok(None);
        }
        let mut payload = vec![0; to - from];
        file.read_padded_at(located.place.offset() + (head.len() + from) as u64, &mut payload).map_err(io)?;
        let crcs = &decoded.crcs[first_chunk..last_chunk];
        if payload.chunks(CHUNK_BYTES).zip(crcs).any(|(chunk, crc)| chunk_crc(chunk) != *crc) {
            return Ok(None);
        }
        Ok(Some(ShareRead {
            meta: located.meta,
            first_byte: from as u32,
            payload: payload.into(),
            chunk_crcs: crcs.to_vec(),
        }))
    }

    fn commit_for_ever(&self, puts: &Receiver<Put>) {
        let mut last_checkpoint = Instant::now();
        let mut behind = false;
        loop {
            let first = if behind {
                match puts.recv_timeout(CHECKPOINT_EVERY.saturating_sub(last_checkpoint.elapsed())) {
                    Ok(put) => Some(put),
                    Err(mpsc::RecvTimeoutError::Timeout) => None,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match puts.recv() {
                    Ok(put) => Some(put),
                    Err(mpsc::RecvError) => return,
                }
            };
            if let Some(first) = first {
                let mut bytes = first.payload.len();
                let mut batch = vec![first];
                while bytes < COMMIT_BYTES_MAX
                    && let Ok(put) = puts.try_recv()
                {
                    bytes += put.payload.len();
                    batch.push(put);
                }
                self.commit(batch);
                behind = true;
            }
            if behind && last_checkpoint.elapsed() >= CHECKPOINT_EVERY {
                if let Err(error) = self.checkpoint() {
                    tracing::warn!(%error, "a checkpoint of the share index; the next start re-reads more");
                }
                last_checkpoint = Instant::now();
                behind = false;
            }
        }
    }

    /// Writes, syncs, names, answers.
    fn commit(&self, batch: Vec<Put>) {
        let committing = self.committing.lock();
        let mut written: Vec<(Put, Located, Option<Located>)> = Vec::with_capacity(batch.len());
        let mut keys = HashSet::new();
        let mut again = Vec::new();
        for put in batch {
            // The same share twice, a retry that overtook its answer: the second finds the first.
            if !keys.insert(put.meta.key) {
                again.push(put);
                continue;
            }
            match self.write(&put) {
                Ok(Some((located, replaced))) => written.push((put, located, replaced)),
                Ok(None) => (put.done)(Ok(())),
                Err(error) => (put.done)(Err(error)),
            }
        }
        let mut segments: Vec<u32> = written.iter().map(|(_, located, _)| located.place.segment).collect();
        segments.sort_unstable();
        segments.dedup();
        let failed: HashMap<u32, String> = segments
            .into_iter()
            .filter_map(|segment| {
                let synced = self.segments.open(segment).and_then(|file| file.sync());
                synced.err().map(|error| (segment, error.to_string()))
            })
            .collect();
        let durable: Vec<Located> = written
            .iter()
            .filter(|(_, located, _)| !failed.contains_key(&located.place.segment))
            .map(|(_, located, _)| *located)
            .collect();
        let named = self.with_index(|index| index.insert_all(&durable)).map_err(|error| error.to_string());
        for (put, located, replaced) in written {
            let key = put.meta.key;
            let result = match (failed.get(&located.place.segment), &named) {
                // What a failed sync left on the disk is unknown: the place is not used again before a restart.
                (Some(why), _) => Err(PutError::Io { key, why: why.clone() }),
                (None, Err(why)) => Err(PutError::Io { key, why: why.clone() }),
                (None, Ok(())) => {
                    self.count(located.place, located.meta.share_len, true);
                    if let Some(old) = replaced {
                        self.release(&old);
                    }
                    Ok(())
                }
            };
            (put.done)(result);
        }
        drop(committing);
        if !again.is_empty() {
            self.commit(again);
        }
    }

    /// Writes a share to a free place. `None`: it is there already, whole. A damaged one is to be replaced.
    fn write(&self, put: &Put) -> Result<Option<(Located, Option<Located>)>, PutError> {
        let key = put.meta.key;
        let io = |error: io::Error| PutError::Io { key, why: error.to_string() };
        let known = self
            .with_index(|index| index.get(key))
            .map_err(|error| PutError::Io { key, why: error.to_string() })?;
        if let Some(known) = &known
            && known.meta == put.meta
            && matches!(self.read(known, 0, known.meta.share_len), Ok(Some(_)))
        {
            return Ok(None);
        }
        let units = layout::units(put.meta.share_len);
        let place = self.allocate(units, key)?;
        let sequence = self.next_sequence.fetch_add(1, Relaxed);
        let head = layout::encode(&self.key, &put.meta, &put.crcs, place, sequence);
        let file = self.segments.open(place.segment).map_err(io)?;
        if let Err(error) = file.write_parts_at(place.offset(), &[&head, &put.payload]) {
            let _ = file.punch(place.offset(), place.bytes());
            self.space.lock().free(place);
            return Err(match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    PutError::NoSpace { bytes: place.bytes() }
                }
                _ => io(error),
            });
        }
        Ok(Some((Located { meta: put.meta, place, sequence }, known)))
    }

    fn allocate(&self, units: u32, key: ShareKey) -> Result<Place, PutError> {
        let bytes = u64::from(units) * UNIT_BYTES;
        if bytes > self.options.segment_bytes {
            return Err(PutError::Invalid { key, why: format!("{bytes} bytes do not fit into a segment") });
        }
        if let Some(capacity) = self.options.capacity_bytes
            && self.counters.used_bytes.load(Relaxed) + bytes > capacity
        {
            return Err(PutError::NoSpace { bytes });
        }
        if self.segments.free_bytes().is_ok_and(|free| free < RESERVE_BYTES + bytes) {
            return Err(PutError::NoSpace { bytes });
        }
        let io = |error: &dyn std::fmt::Display| PutError::Io { key, why: error.to_string() };
        let taken = self.space.lock().take(units);
        let place = match taken {
            Some(place) => place,
            None => {
                let segment = {
                    let mut next = self.next_segment.lock();
                    *next += 1;
                    *next - 1
                };
                self.segments.open(segment).map_err(|error| io(&error))?;
                self.segments.sync_names().map_err(|error| io(&error))?;
                let all = (self.options.segment_bytes / UNIT_BYTES) as u32;
                let mut space = self.space.lock();
                space.free(Place { segment, unit: units, units: all - units });
                Place { segment, unit: 0, units }
            }
        };
        if let Err(error) = self.mark_dirty(place.segment) {
            self.space.lock().free(place);
            return Err(io(&error));
        }
        Ok(place)
    }

    /// Remembers, durably, that a segment is not as the last checkpoint knew it.
    fn mark_dirty(&self, segment: u32) -> Result<(), StoreError> {
        self.state.lock().mark_dirty(segment)
    }

    /// Gives a share's place back: to the disk, and to the next shares.
    fn release(&self, located: &Located) {
        let punched = self
            .mark_dirty(located.place.segment)
            .map_err(|error| error.to_string())
            .and_then(|()| self.segments.open(located.place.segment).map_err(|error| error.to_string()))
            .and_then(|file| {
                file.punch(located.place.offset(), located.place.bytes()).map_err(|error| error.to_string())
            });
        self.count(located.place, located.meta.share_len, false);
        match punched {
            Ok(()) => self.space.lock().free(located.place),
            // Left alone until the next start: its header would bring it back.
            Err(why) => {
                tracing::warn!(share = %located.meta.key, why, "the space of a deleted share is not free yet")
            }
        }
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let _committing = self.committing.lock();
        self.leave_memory();
        let index = self.index.read();
        if index.is_in_memory() {
            return Ok(()); // A start makes it anew.
        }
        let mut state = self.state.lock();
        let number = self.index_number.load(Relaxed);
        let known = state.state();
        if known.dirty.is_empty() && known.trusted && known.index == number {
            return Ok(());
        }
        let next = known.checkpoint + 1;
        index.make_durable(next).map_err(|IndexFailed(why)| StoreError::Index(why))?;
        state.set(State { index: number, checkpoint: next, trusted: true, dirty: BTreeSet::new() })
    }

    /// An index that had to be made in memory goes to the disk once there is room.
    fn leave_memory(&self) {
        let mut index = self.index.write();
        if !index.is_in_memory() || self.segments.free_bytes().unwrap_or(0) < RESERVE_BYTES {
            return;
        }
        let number = self.index_number.load(Relaxed) + 1;
        let cache = self.options.index_cache_bytes;
        if let Some(on_disk) = recover::to_disk(&self.folder, cache, &index, number) {
            *index = on_disk;
            self.index_number.store(number, Relaxed);
            tracing::info!("the index of shares is on the disk again");
        }
    }
}
