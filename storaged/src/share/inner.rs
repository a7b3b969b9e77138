//! The state that the store's facade and its committer share: the index, the free space, the segments, the
//! counters.

use super::StoreError;
use super::index::{Index, IndexFailed, Located};
use super::layout::{SharePosition, UNIT_BYTES};
use super::options::StoreOptions;
use super::recover::{self, RebuildReport};
use super::segments::Segments;
use super::space::Space;
use super::state::{State, StateFile};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Disk space that shares leave free, bytes: the index needs it to go on, and without the index no share can
/// be deleted.
pub(super) const RESERVE_BYTES: u64 = 32 << 20;

/// Counters of the stored shares, and of damaged ones found since the start.
#[derive(Debug, Default)]
pub(super) struct ShareCounters {
    pub(super) shares: AtomicU64,
    pub(super) payload_bytes: AtomicU64,
    pub(super) used_bytes: AtomicU64,
    pub(super) corrupt_found: AtomicU64,
}

/// The shared state.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) options: StoreOptions,
    pub(super) folder: PathBuf,
    pub(super) segments: Segments,
    pub(super) key: [u8; 32],
    pub(super) index: RwLock<Index>,
    /// Number of the index's folder. Changes under the index's write lock.
    pub(super) index_number: AtomicU64,
    pub(super) space: Mutex<Space>,
    pub(super) state: Mutex<StateFile>,
    pub(super) next_segment: Mutex<u32>,
    pub(super) next_sequence: AtomicU64,
    pub(super) counters: ShareCounters,
    pub(super) rebuilt: Mutex<Option<RebuildReport>>,
    /// Held from writing shares to naming them in the index, and during a checkpoint: a checkpoint never
    /// falls between.
    pub(super) committing: Mutex<()>,
}

impl Inner {
    /// Counts the shares in the index and finds the free space between them.
    pub(super) fn take_stock(&self, segments: &[u32]) -> Result<(), StoreError> {
        let mut used: BTreeMap<u32, Vec<(u32, u32)>> =
            segments.iter().map(|segment| (*segment, Vec::new())).collect();
        for (position, share_len) in self.with_index(recover::positions)? {
            self.count(position, share_len, true);
            used.entry(position.segment).or_default().push((position.unit, position.units));
        }
        let segment_units = (self.options.segment_bytes / UNIT_BYTES) as u32;
        let mut space = self.space.lock();
        for (segment, mut runs) in used {
            runs.sort_unstable();
            let mut at = 0;
            for (unit, units) in runs {
                if unit > at {
                    space.free(SharePosition { segment, unit: at, units: unit - at });
                }
                at = at.max(unit + units);
            }
            if at < segment_units {
                space.free(SharePosition { segment, unit: at, units: segment_units - at });
            }
        }
        drop(space);
        // Sequences only have to grow. The clock's microseconds grow over restarts, whatever was written
        // before.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.next_sequence.store(now.as_micros() as u64, Relaxed);
        Ok(())
    }

    /// Counts a share in or out.
    pub(super) fn count(&self, position: SharePosition, share_len: u32, add: bool) {
        let counters = &self.counters;
        for (counter, amount) in [
            (&counters.shares, 1),
            (&counters.payload_bytes, u64::from(share_len)),
            (&counters.used_bytes, position.bytes()),
        ] {
            if add {
                counter.fetch_add(amount, Relaxed);
            } else {
                counter.fetch_sub(amount, Relaxed);
            }
        }
    }

    /// Returns the bytes left under the limit and on the disk.
    pub(super) fn free_bytes(&self, used: u64) -> u64 {
        let disk = self.segments.free_bytes().unwrap_or(0).saturating_sub(RESERVE_BYTES);
        self.options.capacity_bytes.map_or(disk, |capacity| capacity.saturating_sub(used).min(disk))
    }

    /// Calls the index. If it fails, makes a new index from the shares and calls that once.
    pub(super) fn with_index<T>(
        &self,
        call: impl Fn(&Index) -> Result<T, IndexFailed>,
    ) -> Result<T, StoreError> {
        let failed = {
            let index = self.index.read();
            match call(&index) {
                Ok(value) => return Ok(value),
                Err(IndexFailed(why)) => why,
            }
        };
        tracing::error!(why = failed, "the index of shares failed");
        let mut index = self.index.write();
        // Another thread may have replaced it meanwhile.
        if let Ok(value) = call(&index) {
            return Ok(value);
        }
        // From here to the next checkpoint no start trusts an index.
        let mut state = self.state.lock();
        let nothing = State {
            index: self.index_number.load(Relaxed),
            checkpoint: state.state().checkpoint,
            trusted: false,
            dirty: BTreeSet::new(),
        };
        state.set(nothing.clone())?;
        // sled holds the files of the old index until it is dropped.
        *index = Index::in_memory();
        let cache = self.options.index_cache_bytes;
        let fresh = recover::recover(&self.folder, cache, &self.segments, &self.key, &nothing)?;
        *index = fresh.index;
        self.index_number.store(fresh.number, Relaxed);
        *self.rebuilt.lock() = fresh.rebuilt;
        call(&index).map_err(|IndexFailed(why)| StoreError::Index(why))
    }

    /// Notes, durably, that a segment has changed since the last checkpoint.
    pub(super) fn mark_dirty(&self, segment: u32) -> Result<(), StoreError> {
        self.state.lock().mark_dirty(segment)
    }

    /// Frees the space of a share: on the disk, and for later shares.
    pub(super) fn release(&self, located: &Located) {
        let punched = self
            .mark_dirty(located.position.segment)
            .map_err(|error| error.to_string())
            .and_then(|()| self.segments.open(located.position.segment).map_err(|error| error.to_string()))
            .and_then(|file| {
                file.punch(located.position.offset(), located.position.bytes())
                    .map_err(|error| error.to_string())
            });
        self.count(located.position, located.meta.share_len, false);
        match punched {
            Ok(()) => self.space.lock().free(located.position),
            // Not used again before the next start: the old header would bring the share back.
            Err(why) => {
                tracing::warn!(share = %located.meta.key, why, "the space of a deleted share stays in use until the next start")
            }
        }
    }

    /// Makes the index durable as it is. Does nothing while the index is in memory or nothing has changed.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let _committing = self.committing.lock();
        self.leave_memory();
        let index = self.index.read();
        if index.is_in_memory() {
            // A start makes an index in memory again.
            return Ok(());
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

    /// Moves an index that had to be made in memory to the disk once there is room.
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
