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
//! 3. The base's contents, its mark (the last entry in it) and the membership change in one transaction, so that Raft goes on exactly
//!    behind it.
//! 4. Memory is bounded: with one layer frozen and the active one full, `apply` waits.
//! 5. A store without writes neither commits nor wakes (`an_idle_store_does_not_commit`).
//! 6. A snapshot that was received replaces everything at once, across a crash too: bases are numbered, the one with the highest
//!    number counts, and it has its name only when it is whole (`a_received_snapshot_replaces_everything_at_once`).
//!
//! It does not know the log, and what a membership means: whoever applies gives the mark and the bytes.

use super::base_file::{BaseFile, BaseHealth};
use super::memtable::{BaseTable, Layer, Staged, View};
use crate::disk::Media;
use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::record::Time;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

const DATA: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("namespace");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const BYTES: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("bytes");
const MEMBERSHIP: &str = "membership";
/// The version of what lies in the base; another one is refused.
const FORMAT: u64 = 2;

const INCOMING: &str = "incoming.redb";

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

/// Which entry a state ends with. The default stands before the first one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its position in the log, from 1; 0 for none.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// That leader's node.
    pub node: u32,
    /// Its time.
    pub time: Time,
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
    applied: Mark,
    membership: Arc<[u8]>,
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

/// The database and where it lies. Locked by who commits, and by who replaces it.
struct Base {
    database: Database,
    path: PathBuf,
    number: u64,
}

struct Shared {
    base: Mutex<Base>,
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
    /// The write lock for the flusher, which is in no hurry: a waiting writer makes all new readers queue, so it
    /// first tries between them.
    fn write_politely(&self) -> RwLockWriteGuard<'_, State> {
        let start = Instant::now();
        while start.elapsed() < POLITE_SWAP {
            if let Some(guard) = self.state.try_write() {
                return guard;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.state.write()
    }
}

/// The store. Many may read, one applies.
pub struct MetaStore {
    dir: PathBuf,
    media: Arc<dyn Media>,
    shared: Arc<Shared>,
    /// One applies at a time.
    applier: Mutex<()>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// There is no flusher's thread: who would wait for it does its work.
    is_virtual: bool,
}

impl std::fmt::Debug for MetaStore {
    // Not its contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl MetaStore {
    /// Opens the store in a directory, or makes it.
    pub fn open(media: Arc<dyn Media>, dir: &Path, options: StoreOptions) -> Result<MetaStore, StoreError> {
        let (path, number) = find_base(&*media, dir)?;
        let health = Arc::new(BaseHealth::default());
        let database = open_database(&*media, &path, options.cache_bytes, &health)?;
        media.sync_directory(dir).map_err(|error| StoreError::base("fsync of the directory", error))?;
        let held = prepare_tables(&database)?;
        let applied = held.mark;
        let state = State {
            active: Layer::default(),
            frozen: None,
            base: held.table,
            applied,
            membership: held.membership.into(),
        };
        let shared = Arc::new(Shared {
            base: Mutex::new(Base { database, path, number }),
            state: RwLock::new(state),
            control: Mutex::new(Control { durable: applied.index, ..Control::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            options,
            health,
        });
        let flusher = Flusher { shared: shared.clone() };
        let is_virtual = media.virtual_delay().is_some();
        let thread = if is_virtual {
            tokio::spawn(commit_now_and_then(Arc::downgrade(&shared), media.clone()));
            None
        } else {
            let thread = std::thread::Builder::new().name("metadata-flush".into());
            let spawned = thread.spawn(move || flusher.run());
            Some(spawned.map_err(|error| StoreError::base("starting the flusher", error))?)
        };
        let (dir, flusher) = (dir.to_owned(), Mutex::new(thread));
        Ok(MetaStore { dir, media, shared, applier: Mutex::new(()), flusher, is_virtual })
    }

    /// The last entry applied.
    pub fn applied(&self) -> Mark {
        self.shared.state.read().applied
    }

    /// The membership applied last; empty: none yet.
    pub fn membership(&self) -> Arc<[u8]> {
        self.shared.state.read().membership.clone()
    }

    /// Whether `apply` would wait: memory is full until the flusher is done.
    pub fn is_full(&self) -> bool {
        self.shared.control.lock().full
    }

    /// The durable base as it is now; later changes do not show in it.
    pub fn snapshot(&self) -> Result<StoreSnapshot, StoreError> {
        let base = self.shared.base.lock();
        let held = read_base(&base.database).map_err(|error| StoreError::base("reading", error))?;
        let held = held.ok_or_else(|| StoreError::base("reading", "there is no base"))?;
        Ok(StoreSnapshot { table: held.table, mark: held.mark, membership: held.membership.into() })
    }

    /// A new base to be filled from another node. One at a time: an older one is thrown away.
    pub fn incoming(&self) -> Result<Incoming, StoreError> {
        let path = self.dir.join(INCOMING);
        let trouble = |error| StoreError::base("beginning a received base", error);
        let names = self.media.list(&self.dir).map_err(trouble)?;
        if names.iter().any(|name| name == INCOMING) {
            self.media.remove(&path).map_err(trouble)?;
        }
        let options = &self.shared.options;
        let database = open_database(&*self.media, &path, options.cache_bytes, &self.shared.health)?;
        prepare_tables(&database)?;
        Ok(Incoming { path, database })
    }

    /// Takes a received base, whole, in place of everything. What was applied here shows no more.
    pub fn install(&self, incoming: Incoming) -> Result<Mark, StoreError> {
        let _one = self.applier.lock();
        let trouble = |error| StoreError::base("taking a received base", error);
        let mut base = self.shared.base.lock();
        if let Some(error) = &self.shared.control.lock().failed {
            return Err(error.clone());
        }
        let held = read_base(&incoming.database).map_err(|error| StoreError::base("reading", error))?;
        let held = held.ok_or_else(|| StoreError::base("reading", "the received base is empty"))?;
        let path = self.dir.join(base_name(base.number + 1));
        self.media.rename(&incoming.path, &path).map_err(trouble)?;
        self.media.sync_directory(&self.dir).map_err(trouble)?;
        let new = Base { database: incoming.database, path, number: base.number + 1 };
        let old = std::mem::replace(&mut *base, new);
        let mark = held.mark;
        let replaced = {
            let mut state = self.shared.state.write();
            let mut control = self.shared.control.lock();
            (control.dirty_since, control.full) = (None, false);
            control.durable = mark.index;
            let new = State {
                active: Layer::default(),
                frozen: None,
                base: held.table,
                applied: mark,
                membership: held.membership.into(),
            };
            std::mem::replace(&mut *state, new)
        };
        self.shared.progress.notify_all();
        drop(replaced);
        let gone = old.path.clone();
        drop(old);
        if let Err(error) = self.media.remove(&gone) {
            tracing::warn!(%error, file = %gone.display(), "an old base stays until the next start");
        }
        Ok(mark)
    }

    /// The last entry in the durable base.
    pub fn durable(&self) -> u64 {
        self.shared.control.lock().durable
    }

    /// Why nothing is committed any more, if so.
    pub fn failure(&self) -> Option<StoreError> {
        let control = self.shared.control.lock();
        control.failed.clone().or_else(|| control.closing.then_some(StoreError::Closed))
    }

    /// Why commits wait at this moment, if they do: the disk is full.
    pub fn full(&self) -> Option<String> {
        self.shared.health.full()
    }

    /// Reads one consistent state. Writers wait meanwhile, so `read` should be short (a page, not a tree).
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        let state = self.shared.state.read();
        let view = View::new(&state);
        let result = read(&view);
        view.into_trouble().map_or(Ok(result), Err)
    }

    /// Applies the entry of this mark: what `change` writes shows at once to all readers when it returns, or, on an error
    /// or panic, never. Waits while memory is full.
    pub fn apply<R>(&self, mark: Mark, change: impl FnOnce(&mut dyn KvTxn) -> R) -> Result<R, StoreError> {
        let _one = self.applier.lock();
        self.wait_for_room()?;
        let state = self.shared.state.read();
        assert_eq!(mark.index, state.applied.index + 1, "entries are applied in order, each once");
        let mut staged = Staged::new(&state);
        let result = catch_unwind(AssertUnwindSafe(|| change(&mut staged)))
            .map_err(|panic| StoreError::Panicked(panic_text(&*panic)))?;
        let writes = staged.finish()?;
        drop(state);
        self.merge(mark, writes, None);
        Ok(result)
    }

    /// Applies an entry that changes the membership.
    pub fn apply_membership(&self, mark: Mark, membership: Vec<u8>) -> Result<(), StoreError> {
        let _one = self.applier.lock();
        self.wait_for_room()?;
        assert_eq!(mark.index, self.applied().index + 1, "entries are applied in order, each once");
        self.merge(mark, Layer::default(), Some(membership.into()));
        Ok(())
    }

    fn merge(&self, mark: Mark, writes: Layer, membership: Option<Arc<[u8]>>) {
        let mut state = self.shared.state.write();
        state.active.absorb(writes);
        state.active.mark(mark);
        state.applied = mark;
        if let Some(membership) = membership {
            state.active.set_membership(membership.clone());
            state.membership = membership;
        }
        let full = self.layer_is_full(&state.active);
        // Under both locks, always in this order: the flusher must not freeze between the two.
        let mut control = self.shared.control.lock();
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

    fn layer_is_full(&self, layer: &Layer) -> bool {
        let options = &self.shared.options;
        layer.len() >= options.layer_keys_max || layer.bytes() >= options.layer_bytes_max
    }

    /// Waits while the active layer is full and the flusher is not done with the frozen one.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let mut control = self.shared.control.lock();
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
                Flusher { shared: self.shared.clone() }.step();
                control = self.shared.control.lock();
                continue;
            }
            self.shared.progress.wait(&mut control);
        }
    }

    /// Makes all that was applied durable in the base.
    pub fn flush(&self) -> Result<(), StoreError> {
        let target = self.applied().index;
        let mut control = self.shared.control.lock();
        loop {
            if let Some(error) = &control.failed {
                return Err(error.clone());
            }
            if control.durable >= target {
                return Ok(());
            }
            if self.is_virtual {
                drop(control);
                Flusher { shared: self.shared.clone() }.step();
                control = self.shared.control.lock();
                continue;
            }
            control.flush = true;
            self.shared.work.notify_one();
            self.shared.progress.wait(&mut control);
        }
    }

    /// From now on a full disk under the base is an error, not something to wait for: the store will be closed.
    pub fn stop_waiting(&self) {
        self.shared.health.give_up();
    }

    /// Writes everything to the base and ends the flusher; on a full disk it does not wait for room (the log has it).
    pub fn close(&self) -> Result<(), StoreError> {
        self.shared.control.lock().closing = true;
        self.stop_waiting();
        self.shared.work.notify_one();
        let thread = self.flusher.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(StoreError::base("closing", "the flusher panicked"));
        }
        if self.is_virtual && self.shared.control.lock().failed.is_none() {
            Flusher { shared: self.shared.clone() }.step();
        }
        let control = self.shared.control.lock();
        control.failed.clone().map_or(Ok(()), Err)
    }

    /// Figures.
    pub fn stats(&self) -> StoreStats {
        let state = self.shared.state.read();
        let frozen = state.frozen.as_deref();
        let (applied, keys) = (state.applied.index, state.active.len() + frozen.map_or(0, Layer::len));
        let bytes = state.active.bytes() + frozen.map_or(0, Layer::bytes);
        drop(state);
        let control = self.shared.control.lock();
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

/// What a base holds at one moment.
struct Held {
    table: BaseTable,
    mark: Mark,
    membership: Vec<u8>,
}

fn base_name(number: u64) -> String {
    format!("base-{number}.redb")
}

/// The base with the highest number, or a first one. Older ones, and one that was not received whole, are removed.
fn find_base(media: &dyn Media, dir: &Path) -> Result<(PathBuf, u64), StoreError> {
    let trouble = |error| StoreError::base("looking for the base", error);
    let names = media.list(dir).map_err(trouble)?;
    let number = |name: &str| name.strip_prefix("base-")?.strip_suffix(".redb")?.parse::<u64>().ok();
    let newest = names.iter().filter_map(|name| number(name)).max();
    for name in
        names.iter().filter(|name| *name == INCOMING || (number(name).is_some() && number(name) != newest))
    {
        media.remove(&dir.join(name)).map_err(trouble)?;
    }
    let number = newest.unwrap_or(1);
    Ok((dir.join(base_name(number)), number))
}

fn open_database(
    media: &dyn Media,
    path: &Path,
    cache_bytes: usize,
    health: &Arc<BaseHealth>,
) -> Result<Database, StoreError> {
    let file = media.open(path, true).map_err(|error| StoreError::base("opening", error))?;
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder
        .create_with_backend(BaseFile::new(file, health.clone()))
        .map_err(|error| StoreError::base("opening", error))
}

/// Makes the tables of a new base; gives what it holds.
fn prepare_tables(database: &Database) -> Result<Held, StoreError> {
    let read = || read_base(database);
    let reading = |error| StoreError::base("reading", error);
    if let Some(held) = read().map_err(reading)? {
        return Ok(held);
    }
    if let Some(found) = other_format(database).map_err(reading)? {
        return Err(StoreError::Format { found });
    }
    write_base(database, &Layer::default()).map_err(|error| StoreError::base("creating", error))?;
    read().map_err(reading)?.ok_or_else(|| StoreError::base("creating", "nothing was written"))
}

fn other_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(table?.get("format")?.map(|value| value.value()).filter(|format| *format != FORMAT)),
    }
}

/// What the base holds, in one transaction; none if it is new or of another format.
fn read_base(database: &Database) -> Result<Option<Held>, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let number = |key: &str| meta.get(key).map(|value| value.map_or(0, |value| value.value()));
    if number("format")? != FORMAT {
        return Ok(None);
    }
    let time = Time { secs: number("secs")? as i64, nanos: number("nanos")? as u32 };
    let mark = Mark { index: number("applied")?, term: number("term")?, node: number("node")? as u32, time };
    let membership = transaction.open_table(BYTES)?.get(MEMBERSHIP)?.map(|bytes| bytes.value().to_vec());
    let membership = membership.unwrap_or_default();
    Ok(Some(Held { table: transaction.open_table(DATA)?, mark, membership }))
}

/// One durable transaction: a layer's writes with the mark of its last entry.
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
    }
    write_meta(&transaction, layer.last(), layer.membership())?;
    transaction.commit()?;
    Ok(())
}

fn write_meta(
    transaction: &redb::WriteTransaction,
    mark: Mark,
    membership: Option<&[u8]>,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert("format", FORMAT)?;
    meta.insert("applied", mark.index)?;
    meta.insert("term", mark.term)?;
    meta.insert("node", u64::from(mark.node))?;
    meta.insert("secs", mark.time.secs as u64)?;
    meta.insert("nanos", u64::from(mark.time.nanos))?;
    let mut bytes = transaction.open_table(BYTES)?;
    if let Some(membership) = membership {
        bytes.insert(MEMBERSHIP, membership)?;
    }
    Ok(())
}

/// A pair of the store.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The durable base at one moment.
pub struct StoreSnapshot {
    table: BaseTable,
    mark: Mark,
    membership: Arc<[u8]>,
}

impl std::fmt::Debug for StoreSnapshot {
    // Not its contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSnapshot").field("mark", &self.mark).finish_non_exhaustive()
    }
}

impl StoreSnapshot {
    /// The last entry in it.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The membership in it; empty: none.
    pub fn membership(&self) -> &[u8] {
        &self.membership
    }

    /// The pairs behind a key, in order, until they have so many bytes; at least one, if there is one.
    pub fn page(&self, after: Option<&[u8]>, bytes_max: usize) -> Result<Vec<Pair>, StoreError> {
        let trouble = |error| StoreError::base("reading", error);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.table.range::<&[u8]>((from, Bound::Unbounded)).map_err(trouble)?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        for pair in range {
            let (key, value) = pair.map_err(trouble)?;
            let (key, value) = (key.value().to_vec(), value.value().to_vec());
            bytes += key.len() + value.len();
            page.push((key, value));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(page)
    }
}

/// A snapshot, read as the namespace's functions read. The first failure is kept, and nothing counts then.
struct Frozen<'a> {
    table: &'a BaseTable,
    trouble: RefCell<Option<StoreError>>,
}

impl Frozen<'_> {
    fn note<T>(&self, result: Result<T, redb::StorageError>) -> Option<T> {
        result.map_err(|error| *self.trouble.borrow_mut() = Some(StoreError::base("reading", error))).ok()
    }
}

impl KvRead for Frozen<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.note(self.table.get(key)).flatten().map(|value| value.value().to_vec())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) {
        if from >= to {
            return;
        }
        let Some(range) = self.note(self.table.range::<&[u8]>(from..to)) else { return };
        for pair in range {
            let Some((key, value)) = self.note(pair) else { return };
            if visit(key.value(), value.value()).is_break() {
                return;
            }
        }
    }
}

impl StoreSnapshot {
    /// Reads it without keeping anybody from writing.
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        let frozen = Frozen { table: &self.table, trouble: RefCell::new(None) };
        let result = read(&frozen);
        frozen.trouble.into_inner().map_or(Ok(result), Err)
    }
}

/// A base on its way from another node.
pub struct Incoming {
    path: PathBuf,
    database: Database,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Takes in pairs. Not durable yet.
    pub fn put(&mut self, pairs: &[Pair]) -> Result<(), StoreError> {
        let put = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut data = transaction.open_table(DATA)?;
                for (key, value) in pairs {
                    data.insert(key.as_slice(), value.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        put().map_err(|error| StoreError::base("receiving", error))
    }

    /// It is whole: all of it is made durable.
    pub fn finish(&mut self, mark: Mark, membership: &[u8]) -> Result<(), StoreError> {
        let finish = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            write_meta(&transaction, mark, Some(membership))?;
            Ok(transaction.commit()?)
        };
        finish().map_err(|error| StoreError::base("receiving", error))
    }
}

/// The flusher of a simulation.
async fn commit_now_and_then(shared: Weak<Shared>, media: Arc<dyn Media>) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.options.commit_interval) else { return };
        tokio::time::sleep(interval + media.virtual_delay().unwrap_or_default()).await;
        let Some(shared) = shared.upgrade() else { return };
        let closing = shared.control.lock().closing;
        let flusher = Flusher { shared };
        if closing || !flusher.step() {
            return;
        }
    }
}

/// The thread that turns layers into commits.
struct Flusher {
    shared: Arc<Shared>,
}

impl Flusher {
    fn run(self) {
        while self.wait_for_work() {
            if !self.step() {
                return;
            }
        }
    }

    /// Commits a layer, if there is one; false: no more.
    fn step(&self) -> bool {
        let Err(error) = self.commit() else { return true };
        tracing::error!(%error, "the namespace store cannot be written; the log keeps what is missing in it");
        self.shared.control.lock().failed = Some(error);
        self.shared.progress.notify_all();
        false
    }

    /// True when there is a layer to commit, false when the store closes and there is none.
    fn wait_for_work(&self) -> bool {
        let shared = &*self.shared;
        let mut control = shared.control.lock();
        loop {
            let Some(since) = control.dirty_since else {
                if control.closing {
                    return false;
                }
                shared.work.wait(&mut control);
                continue;
            };
            let left = shared.options.commit_interval.saturating_sub(since.elapsed());
            if control.full || control.flush || control.closing || left.is_zero() {
                return true;
            }
            shared.work.wait_for(&mut control, left);
        }
    }

    fn commit(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        // First of all locks: a base is not replaced while a layer is on its way into it.
        let held = shared.base.lock();
        let frozen = {
            let mut state = shared.write_politely();
            if shared.control.lock().dirty_since.is_none() {
                // A received base has replaced what was to be committed.
                return Ok(());
            }
            let frozen = Arc::new(std::mem::take(&mut state.active));
            state.frozen = Some(frozen.clone());
            let mut control = shared.control.lock();
            control.dirty_since = None;
            control.full = false;
            control.flush = false;
            frozen
        };
        shared.progress.notify_all();
        write_base(&held.database, &frozen).map_err(|error| StoreError::base("committing", error))?;
        let base = read_base(&held.database).map_err(|error| StoreError::base("reading", error))?;
        let base = base.ok_or_else(|| StoreError::base("reading", "the base is gone"))?.table;
        let old = {
            let mut state = shared.write_politely();
            let old = (std::mem::replace(&mut state.base, base), state.frozen.take());
            let mut control = shared.control.lock();
            control.durable = frozen.last().index;
            control.commits += 1;
            old
        };
        shared.progress.notify_all();
        // Freeing a large map and a snapshot takes a while: not under the lock.
        drop((old, frozen));
        Ok(())
    }
}
