//! The facade of the share store: puts gathered under few fdatasyncs, verified reads, deletes that free
//! space.
//!
//! After a crash the index may be older than the shares; [`super::recover`] makes it right. A delete that a
//! crash undoes leaves a share that nobody asks for; the worker `stray_shares` of the leader deletes it
//! again.

use super::commit::{Put, check_put};
use super::inner::{Inner, ShareCounters};
use super::options::StoreOptions;
use super::recover::{self, RebuildReport};
use super::segments::Segments;
use super::state::StateFile;
use super::{GetError, PutError, ShareKey, ShareMeta, ShareRead, StoreError, io_error};
use crate::disk::{DiskMedia, Media};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// The folder of segments within a store.
const SEGMENTS: &str = "segments";

/// The contents of a store, and its failures since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of shares.
    pub shares: u64,
    /// Payload of the shares, bytes.
    pub payload_bytes: u64,
    /// Disk space of the shares with headers and rounding, bytes.
    pub used_bytes: u64,
    /// Disk space left, bytes.
    pub free_bytes: u64,
    /// Damaged shares found since the start.
    pub corrupt_found: u64,
    /// The last rebuild of the index since the start.
    pub rebuilt: Option<RebuildReport>,
}

/// The share store of a node.
#[derive(Debug)]
pub struct ShareStore {
    inner: Arc<Inner>,
    queue: Mutex<Option<Sender<Put>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl ShareStore {
    /// Opens a store in a folder, or makes a new one.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<ShareStore, StoreError> {
        let segments = folder.join(SEGMENTS);
        std::fs::create_dir_all(&segments).map_err(io_error("making", &segments))?;
        ShareStore::open_on(Arc::new(DiskMedia), folder, options)
    }

    /// As [`ShareStore::open`], with the segments on another media: for tests.
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
            counters: ShareCounters::default(),
            index_number: AtomicU64::new(found.number),
            rebuilt: Mutex::new(found.rebuilt),
            committing: Mutex::new(()),
            segments,
            options,
        });
        inner.take_stock(&all)?;
        if let Err(error) = inner.checkpoint() {
            tracing::warn!(%error, "no checkpoint of the share index was possible; the next start makes a new index");
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

    /// Stores a share and calls `done` when it is durable, from the committer's thread. The caller bounds the
    /// bytes that wait.
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

    /// Stores a share; returns when it is durable.
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

    /// Returns the description of a share; `None`: it is not here.
    pub fn stat(&self, key: ShareKey) -> Result<Option<ShareMeta>, StoreError> {
        Ok(self.inner.with_index(|index| index.get(key))?.map(|located| located.meta))
    }

    /// Deletes shares and frees their space; skips shares that are not here. Returns the number of deleted
    /// shares.
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

    /// Returns up to `limit` shares in the order of their keys, from behind `after`.
    pub fn list(&self, after: Option<ShareKey>, limit: usize) -> Result<Vec<ShareMeta>, StoreError> {
        let found = self.inner.with_index(|index| index.list(after, limit))?;
        Ok(found.into_iter().map(|located| located.meta).collect())
    }

    /// Returns the contents and failures of the store.
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

    /// Makes the index durable as it is, so that the next start reads no segment again.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.inner.checkpoint()
    }

    /// Finishes the waiting puts and closes. Later puts are refused.
    pub fn shut_down(&self) -> Result<(), StoreError> {
        *self.queue.lock() = None;
        if let Some(committer) = self.committer.lock().take()
            && committer.join().is_err()
        {
            return Err(StoreError::Index(
                "the committer broke an invariant and stopped; the next start reads the segments again"
                    .into(),
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
