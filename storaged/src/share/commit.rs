//! The committer: one thread that takes all waiting puts, writes them, syncs each touched segment once, names
//! them in the index, and answers.
//!
//! Measured with 256 KiB shares on ext4 (`docs/benchmarks.md`): the sync is the cost, and one serves all
//! waiting puts.

use super::index::Located;
use super::inner::{Inner, RESERVE_BYTES};
use super::layout::{self, CHUNK_BYTES, SharePosition, UNIT_BYTES, chunk_crc};
use super::{PutError, ShareKey, ShareMeta};
use crate::disk::is_full;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Payload of one commit, bytes; further puts go into the next commit. It bounds the latency of a put.
const COMMIT_BYTES_MAX: usize = 32 << 20;

/// Interval of checkpoints while shares are written: it bounds the segments that a start after a crash reads
/// again.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

type Done = Box<dyn FnOnce(Result<(), PutError>) + Send>;

/// A put that waits for its commit.
pub(super) struct Put {
    pub(super) meta: ShareMeta,
    pub(super) crcs: Vec<u64>,
    pub(super) payload: Bytes,
    pub(super) done: Done,
}

/// Fails unless lengths and checksums of a put fit each other.
pub(super) fn check_put(meta: &ShareMeta, crcs: &[u64], payload: &[u8]) -> Result<(), PutError> {
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
    /// Runs until all senders of puts are gone.
    pub(super) fn commit_for_ever(&self, puts: &Receiver<Put>) {
        let mut last_checkpoint = Instant::now();
        let mut changed = false;
        loop {
            let first = if changed {
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
                changed = true;
            }
            if changed && last_checkpoint.elapsed() >= CHECKPOINT_EVERY {
                if let Err(error) = self.checkpoint() {
                    tracing::warn!(%error, "a checkpoint of the share index; the next start re-reads more");
                }
                last_checkpoint = Instant::now();
                changed = false;
            }
        }
    }

    /// Writes, syncs, names and answers a batch of puts.
    fn commit(&self, batch: Vec<Put>) {
        let committing = self.committing.lock();
        let mut written: Vec<(Put, Located)> = Vec::with_capacity(batch.len());
        let mut keys = HashSet::new();
        let mut again = Vec::new();
        for put in batch {
            // The same share twice: a retry that overtook its answer. The second put finds the first one
            // stored.
            if !keys.insert(put.meta.key) {
                again.push(put);
                continue;
            }
            match self.write(&put) {
                Ok(Some(located)) => written.push((put, located)),
                Ok(None) => (put.done)(Ok(())),
                Err(error) => (put.done)(Err(error)),
            }
        }
        let mut segments: Vec<u32> = written.iter().map(|(_, located)| located.position.segment).collect();
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
            .filter(|(_, located)| !failed.contains_key(&located.position.segment))
            .map(|(_, located)| *located)
            .collect();
        let named = self.with_index(|index| index.insert_all(&durable)).map_err(|error| error.to_string());
        let replaced = named.as_ref().map_or(&[][..], Vec::as_slice);
        // A new index has found the shares of this batch by itself: they have not replaced themselves.
        let replaced: HashMap<ShareKey, Located> = durable
            .iter()
            .zip(replaced)
            .filter_map(|(new, old)| old.filter(|old| old.position != new.position))
            .map(|old| (old.meta.key, old))
            .collect();
        for (put, located) in written {
            let key = put.meta.key;
            let result = match (failed.get(&located.position.segment), &named) {
                // After a failed sync the contents of the disk are unknown: the position is not used again
                // before a restart.
                (Some(why), _) => Err(PutError::Io { key, why: why.clone() }),
                (None, Err(why)) => Err(PutError::Io { key, why: why.clone() }),
                (None, Ok(_)) => {
                    self.count(located.position, located.meta.share_len, true);
                    if let Some(old) = replaced.get(&key) {
                        self.release(old);
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

    /// Writes a share to a free position. `None`: the share is stored already, whole.
    fn write(&self, put: &Put) -> Result<Option<Located>, PutError> {
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
        let position = self.allocate(units, key)?;
        let sequence = self.next_sequence.fetch_add(1, Relaxed);
        let head = layout::encode(&self.key, &put.meta, &put.crcs, position, sequence);
        let file = self.segments.open(position.segment).map_err(io)?;
        if let Err(error) = file.write_parts_at(position.offset(), &[&head, &put.payload]) {
            let _ = file.punch(position.offset(), position.bytes());
            self.space.lock().free(position);
            let bytes = position.bytes();
            return Err(if is_full(&error) { PutError::NoSpace { bytes } } else { io(error) });
        }
        Ok(Some(Located { meta: put.meta, position, sequence }))
    }

    /// Finds a free position, in a new segment if necessary, and marks its segment dirty.
    fn allocate(&self, units: u32, key: ShareKey) -> Result<SharePosition, PutError> {
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
        let position = match taken {
            Some(position) => position,
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
                space.free(SharePosition { segment, unit: units, units: all - units });
                SharePosition { segment, unit: 0, units }
            }
        };
        if let Err(error) = self.mark_dirty(position.segment) {
            self.space.lock().free(position);
            return Err(io(&error));
        }
        Ok(position)
    }
}
