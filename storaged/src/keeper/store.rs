//! The ordered store under the namespace: redb as the durable base, and in memory what was written since its last
//! commit. A durable redb commit for every entry would cost several times the log's fdatasync; the log
//! makes entries durable, so the base may lag by a second and the log replays the rest.
//!
//! ```text
//!   apply -> active (BTreeMap) --about a second, or full--> frozen --one redb transaction--> base
//!   reads look in active, then frozen, then base; a tombstone hides what is below
//! ```
//!
//! 1. A read sees one state, at the end of an entry (`readers_see_whole_entries_only`).
//! 2. An entry's writes show together or not at all; a panic in the middle leaves nothing
//!    (`a_panic_in_the_middle_leaves_nothing`).
//! 3. The base's contents and its applied index change in one transaction, so that replay begins exactly behind it.
//! 4. Memory is bounded: with one layer frozen and the active one full, `apply` waits.
//! 5. A store without writes neither commits nor wakes (`an_idle_store_does_not_commit`).
//!
//! It does not know the log: whoever applies gives the index.

use super::layers::{BaseTable, Layer, Staged, View};
use super::media::{BaseFile, BaseHealth, Media};
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::record::Time;
use redb::{Database, ReadableDatabase, TableDefinition};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

const DATA: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("namespace");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// The version of what lies in the base; another one is refused.
const FORMAT: u64 = 1;

/// How long a swap of layers tries without making readers queue behind it.
const POLITE_SWAP: Duration = Duration::from_millis(50);

/// Why the store cannot do what was asked. Its state is as before.
#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// The base cannot be read or written.
    #[error("the namespace store: {doing}: {reason}")]
    Base {
        /// What was tried.
        doing: &'static str,
        /// As redb said it.
        reason: String,
    },
    /// The base is of another version.
    #[error("the namespace store has format {found}, this version reads {FORMAT}")]
    Format {
        /// What it is.
        found: u64,
    },
    /// Applying panicked; nothing of it was kept.
    #[error("applying panicked: {0}")]
    Panicked(String),
    /// The store was closed.
    #[error("the namespace store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn base(doing: &'static str, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Base { doing, reason: reason.to_string() }
    }
}

/// Limits of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The active layer is frozen when its oldest write is so old. A second: what a restart must replay.
    pub commit_interval: Duration,
    /// Or when it holds so many keys.
    pub layer_keys_max: usize,
    /// Or so many bytes, with an estimate of the map's own. Two layers can exist.
    pub layer_bytes_max: usize,
    /// redb's cache, bytes.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            commit_interval: Duration::from_secs(1),
            layer_keys_max: 128 << 10,
            layer_bytes_max: 16 << 20,
            cache_bytes: 16 << 20,
        }
    }
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Last entry applied.
    pub applied: u64,
    /// Last entry in the durable base.
    pub durable: u64,
    /// Keys in the layers in memory.
    pub layer_keys: u64,
    /// Their bytes.
    pub layer_bytes: u64,
    /// Durable commits since opening.
    pub commits: u64,
}

/// The state that readers see.
pub(super) struct State {
    pub(super) active: Layer,
    pub(super) frozen: Option<Arc<Layer>>,
    pub(super) base: BaseTable,
    applied: u64,
    time: Time,
}

/// What the flusher and those who wait for it tell each other.
#[derive(Debug, Default)]
struct Control {
    /// Since when the active layer has had writes.
    dirty_since: Option<Instant>,
    full: bool,
    flush: bool,
    closing: bool,
    durable: u64,
    commits: u64,
    failed: Option<StoreError>,
}

struct Shared {
    state: RwLock<State>,
    control: Mutex<Control>,
    /// For the flusher: there is something to do.
    work: Condvar,
    /// For those who wait: the flusher got somewhere.
    progress: Condvar,
    options: StoreOptions,
    health: Arc<BaseHealth>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The write lock for the flusher, which is in no hurry: a waiting writer makes all new readers queue, so it
    /// first tries between them.
    fn write_politely(&self) -> RwLockWriteGuard<'_, State> {
        let start = Instant::now();
        while start.elapsed() < POLITE_SWAP {
            if let Ok(guard) = self.state.try_write() {
                return guard;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.write()
    }
}

/// The store. Many may read, one applies.
pub struct MetaStore {
    shared: Arc<Shared>,
    /// One applies at a time.
    applier: Mutex<()>,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for MetaStore {
    // Not its contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl MetaStore {
    /// Opens the store in a file, or makes it.
    pub fn open(media: &dyn Media, path: &Path, options: StoreOptions) -> Result<MetaStore, StoreError> {
        let file = media.open(path, true).map_err(|error| StoreError::base("opening", error))?;
        let health = Arc::new(BaseHealth::default());
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        let database = builder
            .create_with_backend(BaseFile::new(file, health.clone()))
            .map_err(|error| StoreError::base("opening", error))?;
        let (applied, time) = prepare_tables(&database)?;
        let state =
            State { active: Layer::default(), frozen: None, base: open_base(&database)?, applied, time };
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            control: Mutex::new(Control { durable: applied, ..Control::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            options,
            health,
        });
        let flusher = Flusher { shared: shared.clone(), database };
        let thread = std::thread::Builder::new()
            .name("keeper-flush".into())
            .spawn(move || flusher.run())
            .map_err(|error| StoreError::base("starting the flusher", error))?;
        Ok(MetaStore { shared, applier: Mutex::new(()), flusher: Mutex::new(Some(thread)) })
    }

    /// The last entry applied, and its time.
    pub fn applied(&self) -> (u64, Time) {
        let state = self.shared.read();
        (state.applied, state.time)
    }

    /// The last entry in the durable base.
    pub fn durable(&self) -> u64 {
        self.shared.control().durable
    }

    /// Why commits wait at this moment, if they do: the disk is full.
    pub fn full(&self) -> Option<String> {
        self.shared.health.full()
    }

    /// Reads one consistent state. Writers wait meanwhile, so `read` should be short (a page, not a tree).
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        let state = self.shared.read();
        let view = View::new(&state);
        let result = read(&view);
        view.into_trouble().map_or(Ok(result), Err)
    }

    /// Applies entry `index`: what `change` writes shows at once to all readers when it returns, or, on an error
    /// or panic, never. Waits while memory is full.
    pub fn apply<R>(
        &self,
        index: u64,
        time: Time,
        change: impl FnOnce(&mut dyn KvTxn) -> R,
    ) -> Result<R, StoreError> {
        let _one = self.applier.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for_room()?;
        let state = self.shared.read();
        assert_eq!(index, state.applied + 1, "entries are applied in order, each once");
        let mut staged = Staged::new(&state);
        let result = catch_unwind(AssertUnwindSafe(|| change(&mut staged)))
            .map_err(|panic| StoreError::Panicked(panic_text(&*panic)))?;
        let writes = staged.finish()?;
        drop(state);
        self.merge(index, time, writes);
        Ok(result)
    }

    fn merge(&self, index: u64, time: Time, writes: Layer) {
        let mut state = self.shared.write();
        state.active.absorb(writes);
        state.active.mark(index, time);
        state.applied = index;
        state.time = time;
        let full = self.is_full(&state.active);
        // Under both locks, always in this order: the flusher must not freeze between the two.
        let mut control = self.shared.control();
        let first = control.dirty_since.is_none();
        if first {
            control.dirty_since = Some(Instant::now());
        }
        let newly_full = full && !control.full;
        control.full |= full;
        if first || newly_full {
            self.shared.work.notify_one();
        }
    }

    fn is_full(&self, layer: &Layer) -> bool {
        let options = &self.shared.options;
        layer.len() >= options.layer_keys_max || layer.bytes() >= options.layer_bytes_max
    }

    /// Waits while the active layer is full and the flusher is not done with the frozen one.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let mut control = self.shared.control();
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
            control = self.shared.progress.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all that was applied durable in the base.
    pub fn flush(&self) -> Result<(), StoreError> {
        let target = self.applied().0;
        let mut control = self.shared.control();
        loop {
            if let Some(error) = &control.failed {
                return Err(error.clone());
            }
            if control.durable >= target {
                return Ok(());
            }
            control.flush = true;
            self.shared.work.notify_one();
            control = self.shared.progress.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From now on a full disk under the base is an error, not something to wait for: the store will be closed.
    pub fn stop_waiting(&self) {
        self.shared.health.give_up();
    }

    /// Writes everything to the base and ends the flusher; on a full disk it does not wait for room (the log has it).
    pub fn close(&self) -> Result<(), StoreError> {
        self.shared.control().closing = true;
        self.stop_waiting();
        self.shared.work.notify_one();
        let thread = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(StoreError::base("closing", "the flusher panicked"));
        }
        let control = self.shared.control();
        control.failed.clone().map_or(Ok(()), Err)
    }

    /// Figures.
    pub fn stats(&self) -> StoreStats {
        let state = self.shared.read();
        let frozen = state.frozen.as_deref();
        let (applied, keys) = (state.applied, state.active.len() + frozen.map_or(0, Layer::len));
        let bytes = state.active.bytes() + frozen.map_or(0, Layer::bytes);
        drop(state);
        let control = self.shared.control();
        StoreStats {
            applied,
            durable: control.durable,
            layer_keys: keys as u64,
            layer_bytes: bytes as u64,
            commits: control.commits,
        }
    }
}

impl Drop for MetaStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the namespace store; the log still has what is missing in it");
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// Makes the tables of a new base; gives what an old one has applied.
fn prepare_tables(database: &Database) -> Result<(u64, Time), StoreError> {
    let read = || -> Result<Option<(u64, u64, Time)>, redb::Error> {
        let transaction = database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        let number = |key: &str| meta.get(key).map(|value| value.map_or(0, |value| value.value()));
        let time = Time { secs: number("secs")? as i64, nanos: number("nanos")? as u32 };
        Ok(Some((number("format")?, number("applied")?, time)))
    };
    match read().map_err(|error| StoreError::base("reading", error))? {
        Some((FORMAT, applied, time)) => Ok((applied, time)),
        Some((found, ..)) => Err(StoreError::Format { found }),
        None => {
            write_base(database, &Layer::default()).map_err(|error| StoreError::base("creating", error))?;
            Ok((0, Time::default()))
        }
    }
}

fn open_base(database: &Database) -> Result<BaseTable, StoreError> {
    let open = || -> Result<BaseTable, redb::Error> { Ok(database.begin_read()?.open_table(DATA)?) };
    open().map_err(|error| StoreError::base("reading", error))
}

/// One durable transaction: a layer's writes with the index of its last entry.
fn write_base(database: &Database, layer: &Layer) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Opening after a crash must not walk the whole tree: the allocator's state is written with every commit.
    transaction.set_quick_repair(true);
    {
        let mut data = transaction.open_table(DATA)?;
        for (key, value) in layer.iter() {
            match value {
                Some(value) => drop(data.insert(key.as_slice(), value.as_slice())?),
                None => drop(data.remove(key.as_slice())?),
            }
        }
        let mut meta = transaction.open_table(META)?;
        let (index, time) = layer.last();
        meta.insert("format", FORMAT)?;
        meta.insert("applied", index)?;
        meta.insert("secs", time.secs as u64)?;
        meta.insert("nanos", u64::from(time.nanos))?;
    }
    transaction.commit()?;
    Ok(())
}

/// The thread that turns layers into commits.
struct Flusher {
    shared: Arc<Shared>,
    database: Database,
}

impl Flusher {
    fn run(self) {
        while self.wait_for_work() {
            if let Err(error) = self.commit() {
                tracing::error!(%error, "the namespace store cannot be written; the log keeps what is missing in it");
                self.shared.control().failed = Some(error);
                self.shared.progress.notify_all();
                return;
            }
        }
    }

    /// True when there is a layer to commit, false when the store closes and there is none.
    fn wait_for_work(&self) -> bool {
        let shared = &*self.shared;
        let mut control = shared.control();
        loop {
            let Some(since) = control.dirty_since else {
                if control.closing {
                    return false;
                }
                control = shared.work.wait(control).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = shared.options.commit_interval.saturating_sub(since.elapsed());
            if control.full || control.flush || control.closing || left.is_zero() {
                return true;
            }
            control = shared.work.wait_timeout(control, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn commit(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        let frozen = {
            let mut state = shared.write_politely();
            let frozen = Arc::new(std::mem::take(&mut state.active));
            state.frozen = Some(frozen.clone());
            let mut control = shared.control();
            control.dirty_since = None;
            control.full = false;
            control.flush = false;
            frozen
        };
        shared.progress.notify_all();
        write_base(&self.database, &frozen).map_err(|error| StoreError::base("committing", error))?;
        let base = open_base(&self.database)?;
        let old = {
            let mut state = shared.write_politely();
            let old = (std::mem::replace(&mut state.base, base), state.frozen.take());
            let mut control = shared.control();
            control.durable = frozen.last().0;
            control.commits += 1;
            old
        };
        shared.progress.notify_all();
        // Freeing a large map and a snapshot takes a while: not under the lock.
        drop((old, frozen));
        Ok(())
    }
}
