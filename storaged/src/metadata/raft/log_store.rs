//! Entries and promises, durable: openraft's log storage over [`CommandLog`] and the state file.
//!
//! 1. An append is told as done when it is fsynced, a vote when it is (the log thread does one after the other). Except a leader's own
//!    entries, which openraft would have to be durable here before it sends them: they are told as done at once, and are written while the
//!    others write theirs. What openraft then takes for committed is so only when it is durable here, too ([`LogStore::durable`]), and
//!    until then nothing comes of it: it is not applied, others are not told (`network`), and a node that is the leader no more
//!    acknowledges nothing before all it has appended is durable ([`LogStore::all_durable`]). A change of the members is never told early,
//!    for it counts from its append.
//! 2. A disk that is full does not end Raft: the append waits for room, nothing is acknowledged meanwhile, and [`LogStore::room`]
//!    says so to who would propose more.
//! 3. Any other failure of the log is final for this process ([`LogStore::stopped`] has the reason).
//! 4. A node that was the leader when it stopped is none when it starts.
//! 5. Entries go (`purge`) only when the store has them durably: openraft purges up to a snapshot, and a snapshot is the durable base.
//!
//! The newest entries are kept in memory, so that replication and applying do not read them back.

use super::super::blocking::Queue;
use super::super::log::{CommandLog, LogError};
use super::super::store::{MetaStore, StoreError};
use super::types::{Entry, EntryLogId, StorageError, Types, Vote, index_at, position, position_of};
use super::wire::{self, Kept};
use crate::disk::Media;
use crate::disk::slots::{PayloadLength, SlotFile, SlotFormat, Unreadable};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    CommittedLeaderId, EntryPayload, ErrorSubject, ErrorVerb, LogState, RaftLogId, RaftLogReader,
    StorageIOError,
};
use parking_lot::{Mutex, RwLock};
use rain_types::{ClusterId, NodeId};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The file `raft-state`.
const STATE_FORMAT: SlotFormat = SlotFormat {
    magic: b"RAINRFT1",
    slot_bytes: 4096,
    length: PayloadLength::Prefix,
    unreadable: Unreadable::IsAnError,
};

/// Bytes of the newest entries kept in memory.
const RECENT_BYTES: usize = 4 << 20;

/// Bytes of one message to another node, unless one entry has more.
const MESSAGE_BYTES: usize = 4 << 20;

/// Entries of one message.
const MESSAGE_ENTRIES: u64 = 1024;

/// Between two tries of an append on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// How often it is looked whether a snapshot is installed.
const INSTALL_POLL: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, entry: Entry) {
        self.bytes += wire::payload_len(&entry) + 64;
        self.entries.push_back(entry);
        while self.bytes > RECENT_BYTES && self.entries.len() > 1 {
            if let Some(old) = self.entries.pop_front() {
                self.bytes -= wire::payload_len(&old) + 64;
            }
        }
    }

    fn cut_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= wire::payload_len(&gone) + 64;
            }
        }
    }

    fn clear(&mut self) {
        *self = Recent::default();
    }

    /// The entries of a range, if all of them are here.
    fn range(&self, start: u64, end: u64) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let (from, to) = (start.checked_sub(first)? as usize, end.checked_sub(first)? as usize);
        (to <= self.entries.len()).then(|| self.entries.range(from..to).cloned().collect())
    }
}

/// Figures, readable without waiting for the disk.
#[derive(Debug, Default)]
pub(crate) struct LogCounters {
    pub(crate) appended: AtomicU64,
    pub(crate) syncs: AtomicU64,
    /// Position of the first record held.
    pub(crate) first: AtomicU64,
    /// Position of the last one.
    pub(crate) last: AtomicU64,
    pub(crate) disk_bytes: AtomicU64,
    /// Bytes that appends can take without asking the disk for more.
    room: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    /// Weak: the log's thread may outlive the keeper by a moment, and the store must not.
    store: Weak<MetaStore>,
    log: Mutex<CommandLog>,
    kept: Mutex<(SlotFile, Kept)>,
    recent: RwLock<Recent>,
    counters: LogCounters,
    stopped: OnceLock<String>,
    /// The last entry that is durable.
    durable: watch::Sender<Option<EntryLogId>>,
    /// Position of the last one appended, durable or not.
    appended_to: AtomicU64,
    /// Since when the disk has got nowhere though there is something to write.
    waits_since: Mutex<Option<Instant>>,
    /// Why an append waits at this moment.
    full: Mutex<Option<String>>,
    /// Why there is no room for another segment, when it was last tried; and whether it is being tried.
    no_room: Mutex<Option<String>>,
    reserving: AtomicBool,
    closing: AtomicBool,
}

impl Inner {
    fn note(&self, log: &CommandLog) {
        let counters = &self.counters;
        counters.syncs.store(log.syncs(), Ordering::Relaxed);
        counters.first.store(log.first_index(), Ordering::Relaxed);
        counters.last.store(log.next_index() - 1, Ordering::Relaxed);
        counters.disk_bytes.store(log.disk_bytes(), Ordering::Relaxed);
        counters.room.store(log.room(), Ordering::Relaxed);
    }

    fn stop(&self, error: &dyn std::fmt::Display) -> io::Error {
        let reason = error.to_string();
        if self.stopped.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the namespace log has failed");
            // Whoever waits for something durable looks again.
            self.durable.send_modify(|_| ());
        }
        io::Error::other(reason)
    }

    /// An append is durable.
    fn tell_durable(&self, last: Option<EntryLogId>) {
        self.durable.send_replace(last);
        let all = position_of(last.as_ref()) >= self.appended_to.load(Ordering::Acquire);
        *self.waits_since.lock() = (!all).then(Instant::now);
    }

    fn set_full(&self, reason: Option<String>) {
        *self.full.lock() = reason;
    }

    /// Makes records durable; waits on a full disk.
    fn append(&self, records: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let records: Vec<(u64, &[u8])> = records.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        let mut waited = false;
        loop {
            let mut log = self.log.lock();
            let result = log.append(&records);
            self.note(&log);
            drop(log);
            match result {
                Ok(()) => {
                    if waited {
                        self.set_full(None);
                        tracing::info!("the namespace log goes on");
                    }
                    return Ok(());
                }
                Err(error @ LogError::NoSpace { .. }) if !self.closing.load(Ordering::Acquire) => {
                    if !waited {
                        tracing::error!(%error, "the namespace log waits for room; nothing is acknowledged until there is");
                        self.set_full(Some(error.to_string()));
                        waited = true;
                    }
                    std::thread::sleep(FULL_RETRY);
                }
                Err(error) => return Err(self.stop(&error)),
            }
        }
    }

    /// The last entry of the log, or the last that went from it.
    fn last(&self) -> io::Result<Option<EntryLogId>> {
        let purged = self.kept.lock().1.purged;
        let last = self.log.lock().next_index() - 1;
        if last <= position_of(purged.as_ref()) {
            return Ok(purged);
        }
        let index = index_at(last).expect("there is a record");
        Ok(self.read(index, index + 1, usize::MAX)?.pop().map(|entry| entry.log_id))
    }

    /// After the end of the log was moved: it is durable.
    fn moved(&self) -> io::Result<()> {
        let last = self.last()?;
        self.appended_to.store(position_of(last.as_ref()), Ordering::Release);
        self.durable.send_replace(last);
        Ok(())
    }

    fn write_kept(&self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut held = self.kept.lock();
        let (file, kept) = &mut *held;
        let mut new = *kept;
        change(&mut new);
        file.write(&wire::encode_kept(&new)).map_err(|error| self.stop(&error))?;
        *kept = new;
        Ok(())
    }

    fn purge(&self, upto: EntryLogId) -> io::Result<()> {
        self.write_kept(|kept| kept.purged = Some(upto))?;
        let mut log = self.log.lock();
        let next = position(upto.index) + 1;
        let result = if next > log.next_index() {
            // The store has got ahead by a snapshot: the log begins anew behind it.
            self.recent.write().clear();
            log.reset(next)
        } else {
            log.purge_below(next)
        };
        let moved = log.next_index() == next;
        self.note(&log);
        drop(log);
        result.map_err(|error| self.stop(&error))?;
        if moved { self.moved() } else { Ok(()) }
    }

    fn truncate(&self, index: u64) -> io::Result<()> {
        self.recent.write().cut_from(index);
        let mut log = self.log.lock();
        let result = log.truncate_after(position(index) - 1);
        self.note(&log);
        drop(log);
        result.map_err(|error| self.stop(&error))?;
        self.moved()
    }

    /// Entries of a range from memory or disk; those behind the end are left out.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.recent.read().range(start, end) {
            return Ok(entries);
        }
        let purged = position_of(self.kept.lock().1.purged.as_ref());
        let log = self.log.lock();
        let first = position(start).max(log.first_index()).max(purged + 1);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if first >= log.next_index() {
            return Ok(entries);
        }
        for record in log.read(first).map_err(|error| self.stop(&error))? {
            let (at, record) = record.map_err(|error| self.stop(&error))?;
            if at > end || bytes >= bytes_max {
                break;
            }
            bytes += record.len();
            let index = index_at(at).expect("records are counted from 1");
            entries
                .push(wire::decode_record(index, record.into()).map_err(|error| {
                    self.stop(&format_args!("record {at} of the namespace log: {error}"))
                })?);
        }
        Ok(entries)
    }
}

/// The log storage. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
    jobs: Queue,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{path}: {source}", path = path.display())]
    State { path: std::path::PathBuf, source: io::Error },
    #[error(
        "the namespace store has entries up to {applied}, the log begins behind {purged}: those between are missing"
    )]
    Gap { applied: u64, purged: u64 },
    #[error("{path} is of node {node} of cluster {cluster}, not of this one", path = path.display())]
    Foreign { path: std::path::PathBuf, node: NodeId, cluster: ClusterId },
}

impl LogStore {
    /// Opens the log and the promises of a node in the keeper's directory, or begins them.
    pub(crate) fn open(
        media: Arc<dyn Media>,
        dir: &Path,
        segment_bytes: u64,
        (cluster, node): (ClusterId, NodeId),
        store: Arc<MetaStore>,
    ) -> Result<LogStore, OpenError> {
        let path = dir.join("raft-state");
        let trouble = |source| OpenError::State { path: path.clone(), source };
        let (mut file, kept) = SlotFile::open(&*media, &path, STATE_FORMAT).map_err(trouble)?;
        let kept = match kept {
            Some(bytes) => wire::decode_kept(&bytes)
                .map_err(|error| trouble(io::Error::new(io::ErrorKind::InvalidData, error)))?,
            None => {
                let kept = Kept { cluster, node, vote: None, purged: None };
                file.write(&wire::encode_kept(&kept)).map_err(trouble)?;
                kept
            }
        };
        if (kept.cluster, kept.node) != (cluster, node) {
            return Err(OpenError::Foreign { path, node: kept.node, cluster: kept.cluster });
        }
        let purged = position_of(kept.purged.as_ref());
        let applied = store.applied().index;
        if purged > applied {
            return Err(OpenError::Gap { applied, purged });
        }
        let first = purged + 1;
        // Ends when the last of the store's clones is gone; some are with tasks of openraft.
        let jobs = Queue::new("metadata-log", &media);
        let jobs = jobs.map_err(|source| OpenError::State { path: dir.to_owned(), source })?;
        let mut log = CommandLog::open(media, &dir.join("log"), segment_bytes, first)?;
        if log.next_index() < first {
            // Stopped between the note that all of it may go and its going.
            log.reset(first)?;
        }
        if log.first_index() > first {
            return Err(OpenError::Gap { applied, purged: log.first_index() - 1 });
        }
        let inner = Arc::new(Inner {
            store: Arc::downgrade(&store),
            counters: LogCounters::default(),
            durable: watch::Sender::new(None),
            appended_to: AtomicU64::new(0),
            waits_since: Mutex::default(),
            kept: Mutex::new((file, kept)),
            recent: RwLock::default(),
            stopped: OnceLock::new(),
            full: Mutex::default(),
            no_room: Mutex::default(),
            reserving: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            log: Mutex::new(log),
        });
        inner.note(&inner.log.lock());
        inner.moved().map_err(|source| OpenError::State { path: dir.to_owned(), source })?;
        Ok(LogStore { inner, jobs })
    }

    pub(crate) fn counters(&self) -> &LogCounters {
        &self.inner.counters
    }

    /// Why the log takes nothing more until the process is started again.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.inner.stopped.get().cloned()
    }

    /// The last entry that is durable here.
    pub(crate) fn durable(&self) -> Option<EntryLogId> {
        *self.inner.durable.borrow()
    }

    /// For how long the disk has got nowhere though there is something to write.
    pub(crate) fn waits_for(&self) -> Duration {
        self.inner.waits_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the entry at a position is durable here.
    pub(crate) async fn until_durable(&self, at: u64) -> Result<(), String> {
        let mut durable = self.inner.durable.subscribe();
        let stopped = || self.stopped();
        let there = |durable: &Option<EntryLogId>| position_of(durable.as_ref()) >= at || stopped().is_some();
        let last = durable.wait_for(there).await.map(|durable| *durable).unwrap_or_default();
        if position_of(last.as_ref()) >= at {
            return Ok(());
        }
        Err(stopped().unwrap_or_else(|| "the log is gone".into()))
    }

    /// Waits until everything that was appended is durable here.
    pub(crate) async fn all_durable(&self) -> Result<(), String> {
        self.until_durable(self.inner.appended_to.load(Ordering::Acquire)).await
    }

    /// Why appends wait at this moment, if they do.
    pub(crate) fn waits_for_room(&self) -> Option<String> {
        self.inner.full.lock().clone()
    }

    /// Whether appends of so many bytes may be asked for; why not. Never waits for the disk: where little room is left, the log thread
    /// sees to more, and what it has found counts for those who ask later.
    pub(crate) fn room(&self, bytes: usize) -> Result<(), String> {
        if let Some(full) = self.waits_for_room() {
            return Err(full);
        }
        let inner = &self.inner;
        if inner.counters.room.load(Ordering::Relaxed) >= bytes as u64 {
            return Ok(());
        }
        if !inner.reserving.swap(true, Ordering::AcqRel) {
            let bytes = bytes as u64;
            let reserving = move |inner: &Inner| {
                let mut log = inner.log.lock();
                let reserved = log.reserve(bytes);
                inner.note(&log);
                drop(log);
                let none = reserved.err().map(|error| error.to_string());
                *inner.no_room.lock() = none;
                inner.reserving.store(false, Ordering::Release);
            };
            // A log thread that has ended is said by whoever needs it.
            self.add(reserving);
        }
        let none = inner.no_room.lock().clone();
        none.map_or(Ok(()), Err)
    }

    /// From now on a full disk is an error, not something to wait for.
    pub(crate) fn stop_waiting(&self) {
        self.inner.closing.store(true, Ordering::Release);
    }

    /// Nothing is written any more: the directory may be another's the next moment.
    pub(crate) fn shut(&self) {
        self.stop_waiting();
        let _ = self.inner.stopped.set("it is closed".into());
        // Behind what is being written now.
        let mut log = self.inner.log.lock();
        log.settle();
        log.stop("it is closed");
    }

    /// Waits for what the log does by itself.
    pub(crate) async fn settle(&self) {
        // A log that has failed has nothing under way.
        let _ = self
            .run(|inner| {
                inner.log.lock().settle();
                Ok(())
            })
            .await;
    }

    /// The position below which records may go so that at least so many bytes of segments stay.
    pub(crate) fn purge_point(&self, keep_bytes: u64) -> u64 {
        self.inner.log.lock().first_keeping(keep_bytes)
    }

    /// Has the log thread do something; false: it has ended.
    fn add(&self, job: impl FnOnce(&Inner) + Send + 'static) -> bool {
        let inner = self.inner.clone();
        self.jobs.add(Box::new(move || job(&inner)))
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::other("the log thread has ended");
        // Who asked may be gone.
        if !self.add(move |inner| drop(done.send(job(inner)))) {
            return Err(gone());
        }
        answer.await.map_err(|_| gone())?
    }

    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let recent = self.inner.recent.read().range(start, end);
        if let Some(mut entries) = recent {
            let mut bytes = 0;
            let fit = entries.iter().take_while(|entry| {
                let fits = bytes < bytes_max;
                bytes += wire::payload_len(entry);
                fits
            });
            let fit = fit.count();
            entries.truncate(fit);
            return Ok(entries);
        }
        let read = self.run(move |inner| inner.read(start, end, bytes_max)).await;
        read.map_err(|error| trouble(ErrorSubject::Logs, ErrorVerb::Read, &error))
    }
}

fn trouble(subject: ErrorSubject<NodeId>, verb: ErrorVerb, error: &io::Error) -> StorageError {
    StorageIOError::new(subject, verb, openraft::AnyError::new(error)).into()
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.inner.counters.last.load(Ordering::Relaxed),
        };
        self.entries(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(start, end.min(start + MESSAGE_ENTRIES), MESSAGE_BYTES).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let read = self.run(|inner| {
            let last_purged_log_id = inner.kept.lock().1.purged;
            Ok(LogState { last_purged_log_id, last_log_id: inner.last()? })
        });
        read.await.map_err(|error| trouble(ErrorSubject::Logs, ErrorVerb::Read, &error))
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let written = self.run(move |inner| inner.write_kept(|kept| kept.vote = Some(vote))).await;
        written.map_err(|error| trouble(ErrorSubject::Vote, ErrorVerb::Write, &error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let kept = self.inner.kept.lock().1;
        // openraft would go on as the leader that it was, and answer reads before it has applied again what it had acknowledged: it
        // does not know how far that was. As a candidate of that term it has to be elected anew, and then it knows.
        Ok(kept
            .vote
            .map(|vote| Vote { committed: vote.committed && vote.leader_id.node_id != kept.node, ..vote }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let (mut records, mut last) = (Vec::new(), None);
        let kept = self.inner.kept.lock().1;
        // What has another's vote on it is a leader's that this node follows.
        let mine = kept.vote.filter(|vote| vote.leader_id.node_id == kept.node).map(|vote| vote.leader_id);
        let mut early = true;
        {
            let mut recent = self.inner.recent.write();
            for entry in entries {
                records.push((position(entry.get_log_id().index), wire::encode_record(&entry)));
                last = Some(entry.log_id);
                early &= mine.is_some_and(|mine| {
                    entry.log_id.leader_id == CommittedLeaderId::new(mine.term, mine.node_id)
                }) && !matches!(entry.payload, EntryPayload::Membership(_));
                recent.push(entry);
            }
        }
        self.inner.counters.appended.fetch_add(records.len() as u64, Ordering::Relaxed);
        self.inner.appended_to.store(position_of(last.as_ref()), Ordering::Release);
        self.inner.waits_since.lock().get_or_insert_with(Instant::now);
        let mut callback = Some(callback);
        if early && let Some(callback) = callback.take() {
            callback.log_io_completed(Ok(()));
        }
        let job = move |inner: &Inner| {
            let appended = inner.append(&records);
            if appended.is_ok() {
                inner.tell_durable(last);
            }
            if let Some(callback) = callback {
                callback.log_io_completed(appended);
            }
        };
        if self.add(job) {
            return Ok(());
        }
        Err(trouble(ErrorSubject::Logs, ErrorVerb::Write, &io::Error::other("the log thread has ended")))
    }

    async fn truncate(&mut self, log_id: EntryLogId) -> Result<(), StorageError> {
        let done = self.run(move |inner| inner.truncate(log_id.index)).await;
        done.map_err(|error| trouble(ErrorSubject::Logs, ErrorVerb::Delete, &error))
    }

    async fn purge(&mut self, log_id: EntryLogId) -> Result<(), StorageError> {
        // openraft purges up to a received snapshot while that is still being installed.
        loop {
            let store = self.inner.store.upgrade();
            let (durable, failure) =
                store.map_or((0, Some(StoreError::Closed)), |store| (store.durable(), store.failure()));
            if durable >= position(log_id.index) {
                break;
            }
            if let Some(error) = failure {
                return Err(trouble(ErrorSubject::Logs, ErrorVerb::Delete, &io::Error::other(error)));
            }
            tokio::time::sleep(INSTALL_POLL).await;
        }
        let done = self.run(move |inner| inner.purge(log_id)).await;
        done.map_err(|error| trouble(ErrorSubject::Logs, ErrorVerb::Delete, &error))
    }
}
