//! The ordered store under the namespace: redb as the durable base, and in memory the writes since its last
//! commit. A durable redb commit for every entry would cost several times the log's fdatasync. The log makes
//! entries durable, so the base may lag by a second, and a restart applies the rest from the log again.
//!
//! ```text
//!   apply -> memtable (BTreeMap) --after 1 s, or full--> immutable memtable --one redb transaction--> base
//!   reads look in the memtable, the immutable memtable, the base; a tombstone hides older values
//! ```
//!
//! `memtable`, `base` and `base_file` are the levels, `view` reads through them, `flusher` moves writes down,
//! `snapshot` takes and receives whole bases, `core` is the state that they share.
//!
//! 1. A read sees one state, at the end of an entry (`readers_see_whole_entries_only`).
//! 2. An entry's writes show together or not at all; a panic in the middle leaves nothing
//!    (`a_panic_in_the_middle_leaves_nothing`).
//! 3. The base's pairs, its last entry and the membership change in one transaction, so that Raft goes on
//!    exactly behind that entry.
//! 4. Memory is bounded: with an immutable memtable on its way and a full memtable, `apply` waits.
//! 5. A store without writes neither commits nor wakes (`an_idle_store_does_not_commit`).
//! 6. A received snapshot replaces everything at once, across a crash too. Bases are numbered, and the
//!    highest number counts; a base gets its number only when it is complete
//!    (`a_received_snapshot_replaces_everything_at_once`).
//!
//! The store knows neither the log nor the meaning of a membership: its caller gives the position and the
//! bytes.

mod base;
mod base_file;
mod core;
mod flusher;
mod memtable;
mod snapshot;
mod view;

pub use snapshot::{Incoming, Pair, StoreSnapshot};

use self::core::{Control, StoreCore, VisibleState};
use crate::disk::Media;
use base::{Base, FORMAT, INCOMING, base_name, find_base, open_database, prepare_tables, read_base};
use base_file::BaseHealth;
use flusher::Flusher;
use memtable::Memtable;
use parking_lot::{Condvar, Mutex, RwLock};
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::record::Time;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use view::{Staged, View};

/// Why an operation of the store fails. The state is as before.
#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// The base cannot be read or written.
    #[error("the namespace store: {doing}: {reason}")]
    Base {
        /// The operation.
        doing: &'static str,
        /// redb's error, or the disk's.
        reason: String,
    },
    /// The base has another format.
    #[error("the namespace store has format {found}, this version reads {FORMAT}")]
    Format {
        /// Its format.
        found: u64,
    },
    /// Applying an entry panicked; none of its writes is visible.
    #[error("applying panicked: {0}")]
    Panicked(String),
    /// The store was closed.
    #[error("the namespace store is closed")]
    Closed,
}

impl StoreError {
    fn base(doing: &'static str, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Base { doing, reason: reason.to_string() }
    }
}

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The memtable is flushed when its oldest write has this age. 1 s: a restart applies about that much
    /// again.
    pub commit_interval: Duration,
    /// The memtable is flushed when it has this many keys. 131,072.
    pub memtable_keys_max: usize,
    /// The memtable is flushed when it has this many bytes, the map's own included by estimate. 16 MiB; two
    /// memtables can exist.
    pub memtable_bytes_max: usize,
    /// redb's cache, bytes. 16 MiB.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            commit_interval: Duration::from_secs(1),
            memtable_keys_max: 128 << 10,
            memtable_bytes_max: 16 << 20,
            cache_bytes: 16 << 20,
        }
    }
}

/// The last entry of a state. The default is the state before the first entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppliedPosition {
    /// Position in the log, from 1; 0 before the first entry.
    pub index: u64,
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Node of that leader.
    pub node: u32,
    /// Time of the entry.
    pub time: Time,
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Position of the last applied entry.
    pub applied: u64,
    /// Position of the last entry in the durable base.
    pub durable: u64,
    /// Keys in both memtables.
    pub memtable_keys: u64,
    /// Bytes of both memtables.
    pub memtable_bytes: u64,
    /// Durable commits since opening.
    pub commits: u64,
}

/// The store. Many threads may read, one applies.
pub struct MetaStore {
    dir: PathBuf,
    media: Arc<dyn Media>,
    core: Arc<StoreCore>,
    /// Held while an entry is applied or a base installed.
    applier: Mutex<()>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// True in a simulation: a thread that would wait for the flusher does its work.
    is_virtual: bool,
}

impl std::fmt::Debug for MetaStore {
    // Without the contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl MetaStore {
    /// Opens the store in a directory, or makes a new one.
    pub fn open(media: Arc<dyn Media>, dir: &Path, options: StoreOptions) -> Result<MetaStore, StoreError> {
        let (path, number) = find_base(&*media, dir)?;
        let health = Arc::new(BaseHealth::default());
        let database = open_database(&*media, &path, options.cache_bytes, &health)?;
        media.sync_directory(dir).map_err(|error| StoreError::base("fsync of the directory", error))?;
        let contents = prepare_tables(&database)?;
        let durable = contents.applied.index;
        let state = VisibleState::new(contents);
        let core = Arc::new(StoreCore {
            base: Mutex::new(Base { database, path, number }),
            state: RwLock::new(state),
            control: Mutex::new(Control { durable, ..Control::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            options,
            health,
        });
        let flusher = Flusher { core: core.clone() };
        let is_virtual = media.virtual_delay().is_some();
        let thread = if is_virtual {
            tokio::spawn(flusher::run_virtual(Arc::downgrade(&core), media.clone()));
            None
        } else {
            let thread = std::thread::Builder::new().name("metadata-flush".into());
            let spawned = thread.spawn(move || flusher.run());
            Some(spawned.map_err(|error| StoreError::base("starting the flusher", error))?)
        };
        let (dir, flusher) = (dir.to_owned(), Mutex::new(thread));
        Ok(MetaStore { dir, media, core, applier: Mutex::new(()), flusher, is_virtual })
    }

    /// Returns the last applied entry.
    pub fn applied(&self) -> AppliedPosition {
        self.core.state.read().applied
    }

    /// Returns the membership applied last; empty: none yet.
    pub fn membership(&self) -> Arc<[u8]> {
        self.core.state.read().membership.clone()
    }

    /// Returns true while `apply` would wait: memory is full until the flusher is done.
    pub fn is_full(&self) -> bool {
        self.core.control.lock().full
    }

    /// Returns the durable base as it is at the moment of the call.
    pub fn snapshot(&self) -> Result<StoreSnapshot, StoreError> {
        let base = self.core.base.lock();
        let contents = read_base(&base.database).map_err(|error| StoreError::base("reading", error))?;
        let contents = contents.ok_or_else(|| StoreError::base("reading", "there is no base"))?;
        Ok(StoreSnapshot {
            table: contents.table,
            applied: contents.applied,
            membership: contents.membership.into(),
        })
    }

    /// Begins a base that is filled from another node. There is one at a time: an older one is discarded.
    pub fn incoming(&self) -> Result<Incoming, StoreError> {
        let path = self.dir.join(INCOMING);
        let failed = |error| StoreError::base("beginning a received base", error);
        let names = self.media.list(&self.dir).map_err(failed)?;
        if names.iter().any(|name| name == INCOMING) {
            self.media.remove(&path).map_err(failed)?;
        }
        let options = &self.core.options;
        let database = open_database(&*self.media, &path, options.cache_bytes, &self.core.health)?;
        prepare_tables(&database)?;
        Ok(Incoming { path, database })
    }

    /// Replaces the whole store by a received base; returns its last entry. Entries applied here are not
    /// visible any more.
    pub fn install(&self, incoming: Incoming) -> Result<AppliedPosition, StoreError> {
        let _one = self.applier.lock();
        let failed = |error| StoreError::base("taking a received base", error);
        let mut base = self.core.base.lock();
        if let Some(error) = &self.core.control.lock().failed {
            return Err(error.clone());
        }
        let contents = read_base(&incoming.database).map_err(|error| StoreError::base("reading", error))?;
        let contents = contents.ok_or_else(|| StoreError::base("reading", "the received base is empty"))?;
        let path = self.dir.join(base_name(base.number + 1));
        self.media.rename(&incoming.path, &path).map_err(failed)?;
        self.media.sync_directory(&self.dir).map_err(failed)?;
        let new = Base { database: incoming.database, path, number: base.number + 1 };
        let old = std::mem::replace(&mut *base, new);
        let applied = contents.applied;
        let replaced = {
            let mut state = self.core.state.write();
            let mut control = self.core.control.lock();
            (control.dirty_since, control.full) = (None, false);
            control.durable = applied.index;
            std::mem::replace(&mut *state, VisibleState::new(contents))
        };
        self.core.progress.notify_all();
        drop(replaced);
        let gone = old.path.clone();
        drop(old);
        if let Err(error) = self.media.remove(&gone) {
            tracing::warn!(%error, file = %gone.display(), "an old base stays until the next start");
        }
        Ok(applied)
    }

    /// Returns the position of the last entry in the durable base.
    pub fn durable(&self) -> u64 {
        self.core.control.lock().durable
    }

    /// Returns the reason why nothing is committed any more; `None` while the store works.
    pub fn failure(&self) -> Option<StoreError> {
        let control = self.core.control.lock();
        control.failed.clone().or_else(|| control.closing.then_some(StoreError::Closed))
    }

    /// Returns the reason why commits wait for room on the disk; `None`: they do not wait.
    pub fn full(&self) -> Option<String> {
        self.core.health.full()
    }

    /// Reads one consistent state. Writers wait meanwhile, so `read` should be short (a page, not a tree).
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        let state = self.core.state.read();
        let view = View::new(&state);
        let result = read(&view);
        view.into_failure().map_or(Ok(result), Err)
    }

    /// Applies an entry. The writes of `change` become visible together when this returns Ok; after an error
    /// or a panic they never do. Waits while memory is full.
    pub fn apply<R>(
        &self,
        entry: AppliedPosition,
        change: impl FnOnce(&mut dyn KvTxn) -> R,
    ) -> Result<R, StoreError> {
        let _one = self.applier.lock();
        self.wait_for_room()?;
        let state = self.core.state.read();
        assert_eq!(entry.index, state.applied.index + 1, "entries are applied in order, each once");
        let mut staged = Staged::new(&state);
        let result = catch_unwind(AssertUnwindSafe(|| change(&mut staged)))
            .map_err(|panic| StoreError::Panicked(panic_text(&*panic)))?;
        let writes = staged.finish()?;
        drop(state);
        self.merge(entry, writes, None);
        Ok(result)
    }

    /// Applies an entry that changes the membership.
    pub fn apply_membership(&self, entry: AppliedPosition, membership: Vec<u8>) -> Result<(), StoreError> {
        let _one = self.applier.lock();
        self.wait_for_room()?;
        assert_eq!(entry.index, self.applied().index + 1, "entries are applied in order, each once");
        self.merge(entry, Memtable::default(), Some(membership.into()));
        Ok(())
    }

    /// Makes the writes of an entry visible and wakes the flusher where needed.
    fn merge(&self, entry: AppliedPosition, writes: Memtable, membership: Option<Arc<[u8]>>) {
        let mut state = self.core.state.write();
        state.memtable.absorb(writes);
        state.memtable.set_last(entry);
        state.applied = entry;
        if let Some(membership) = membership {
            state.memtable.set_membership(membership.clone());
            state.membership = membership;
        }
        let full = self.core.is_full(&state.memtable);
        // Under both locks: the flusher must not swap the memtable between the two.
        let mut control = self.core.control.lock();
        let first = control.dirty_since.is_none();
        if first {
            control.dirty_since = Some(Instant::now());
        }
        let newly_full = full && !control.full;
        control.full |= full;
        if first || newly_full {
            self.core.work.notify_one();
        }
    }

    /// Waits while the memtable is full and the flusher is not done with the immutable one.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let mut control = self.core.control.lock();
        loop {
            if let Some(error) = &control.failed {
                return Err(error.clone());
            }
            if control.closing {
                return Err(StoreError::Closed);
            }
            if !control.full {
                return Ok(());
            }
            if self.is_virtual {
                drop(control);
                Flusher { core: self.core.clone() }.step();
                control = self.core.control.lock();
                continue;
            }
            self.core.progress.wait(&mut control);
        }
    }

    /// Makes all applied entries durable in the base.
    pub fn flush(&self) -> Result<(), StoreError> {
        let target = self.applied().index;
        let mut control = self.core.control.lock();
        loop {
            if let Some(error) = &control.failed {
                return Err(error.clone());
            }
            if control.durable >= target {
                return Ok(());
            }
            if self.is_virtual {
                drop(control);
                Flusher { core: self.core.clone() }.step();
                control = self.core.control.lock();
                continue;
            }
            control.flush = true;
            self.core.work.notify_one();
            self.core.progress.wait(&mut control);
        }
    }

    /// Makes a full disk under the base an error from here on, instead of a wait: the store is about to
    /// close.
    pub fn stop_waiting(&self) {
        self.core.health.give_up();
    }

    /// Writes everything to the base and ends the flusher. Does not wait for room on a full disk: the log has
    /// the entries.
    pub fn close(&self) -> Result<(), StoreError> {
        self.core.control.lock().closing = true;
        self.stop_waiting();
        self.core.work.notify_one();
        let thread = self.flusher.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(StoreError::base("closing", "the flusher panicked"));
        }
        if self.is_virtual && self.core.control.lock().failed.is_none() {
            Flusher { core: self.core.clone() }.step();
        }
        let control = self.core.control.lock();
        control.failed.clone().map_or(Ok(()), Err)
    }

    /// Returns the figures of the store.
    pub fn stats(&self) -> StoreStats {
        let state = self.core.state.read();
        let immutable = state.immutable.as_deref();
        let (applied, keys) =
            (state.applied.index, state.memtable.len() + immutable.map_or(0, Memtable::len));
        let bytes = state.memtable.bytes() + immutable.map_or(0, Memtable::bytes);
        drop(state);
        let control = self.core.control.lock();
        StoreStats {
            applied,
            durable: control.durable,
            memtable_keys: keys as u64,
            memtable_bytes: bytes as u64,
            commits: control.commits,
        }
    }
}

impl Drop for MetaStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the namespace store; the log has the entries that the store lacks");
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
