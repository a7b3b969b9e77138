//! Entries and promises, durable: openraft's log storage over [`CommandLog`] and the state file.
//!
//! 1. An append is reported as done when it is fsynced, a vote when it is; the log thread does one after the
//!    other. The exception is a leader's own entries. openraft would have to make them durable here before it
//!    sends them. So they are reported at once and written while the others write theirs. An entry that
//!    openraft then takes for committed is committed only when it is durable here, too
//!    ([`LogStore::durable`]). Until then it is not applied, and the others do not learn of the commit
//!    (`network`). A former leader acknowledges nothing before all of its own entries are durable
//!    ([`LogStore::all_durable`]). A change of the members is never reported early, because it counts from
//!    its append.
//! 2. A full disk does not end Raft: the append waits for room, nothing is acknowledged meanwhile, and
//!    [`LogStore::room`] reports it to callers that would propose more.
//! 3. Any other failure of the log is final for this process; [`LogStore::stopped`] has the reason.
//! 4. A node that was the leader when it stopped is no leader when it starts.
//! 5. Entries are purged only when the store has them durably: openraft purges up to a snapshot, and a
//!    snapshot is the durable base.
//!
//! `durable` is the log thread's side, `recent` the newest entries in memory, `open` the start.

mod durable;
mod open;
mod recent;

pub(crate) use durable::LogCounters;
pub(crate) use open::OpenError;

use super::super::blocking::Queue;
use super::super::store::StoreError;
use super::types::{Entry, EntryLogId, StorageError, Types, Vote, position, position_of};
use super::wire;
use durable::DurableLog;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    CommittedLeaderId, EntryPayload, ErrorSubject, ErrorVerb, LogState, RaftLogId, RaftLogReader,
    StorageIOError,
};
use rain_types::NodeId;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bytes of one message to another member, unless a single entry has more.
const MESSAGE_BYTES: usize = 4 << 20;

/// Entries of one message.
const MESSAGE_ENTRIES: u64 = 1024;

/// Interval at which a purge checks that a received snapshot is installed.
const INSTALL_POLL: Duration = Duration::from_millis(2);

/// The log storage. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    inner: Arc<DurableLog>,
    jobs: Queue,
}

impl LogStore {
    pub(crate) fn counters(&self) -> &LogCounters {
        &self.inner.counters
    }

    /// Returns the reason why the log takes nothing more until the process is restarted; `None` while it
    /// works.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.inner.stopped.get().cloned()
    }

    /// Returns the last entry that is durable here.
    pub(crate) fn durable(&self) -> Option<EntryLogId> {
        *self.inner.durable.borrow()
    }

    /// Returns for how long the disk has made no progress although there is something to write; zero if there
    /// is nothing.
    pub(crate) fn waits_for(&self) -> Duration {
        self.inner.waits_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the entry at a position is durable here. Fails with the reason when the log has stopped.
    pub(crate) async fn until_durable(&self, at: u64) -> Result<(), String> {
        let mut durable = self.inner.durable.subscribe();
        let stopped = || self.stopped();
        let there = |durable: &Option<EntryLogId>| position_of(durable.as_ref()) >= at || stopped().is_some();
        let last = durable.wait_for(there).await.map(|durable| *durable).unwrap_or_default();
        if position_of(last.as_ref()) >= at {
            return Ok(());
        }
        Err(stopped().unwrap_or_else(|| "the log was closed".into()))
    }

    /// Waits until all appended entries are durable here.
    pub(crate) async fn all_durable(&self) -> Result<(), String> {
        self.until_durable(self.inner.appended_to.load(Ordering::Acquire)).await
    }

    /// Returns the reason why appends wait for room; `None`: they do not wait.
    pub(crate) fn waits_for_room(&self) -> Option<String> {
        self.inner.full.lock().clone()
    }

    /// Checks that there is room for appends of `bytes`; fails with the reason. Never waits for the disk:
    /// with little room left the log thread reserves more, and its result counts for later callers.
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
            let reserving = move |inner: &DurableLog| {
                let mut log = inner.log.lock();
                let reserved = log.reserve(bytes);
                inner.note(&log);
                drop(log);
                let none = reserved.err().map(|error| error.to_string());
                *inner.no_room.lock() = none;
                inner.reserving.store(false, Ordering::Release);
            };
            // If the log thread has ended, the next append fails and says so.
            self.add(reserving);
        }
        let none = inner.no_room.lock().clone();
        none.map_or(Ok(()), Err)
    }

    /// Makes a full disk an error from here on, instead of a wait.
    pub(crate) fn stop_waiting(&self) {
        self.inner.closing.store(true, Ordering::Release);
    }

    /// Ends all writing: another process may open the directory next.
    pub(crate) fn shut(&self) {
        self.stop_waiting();
        let _ = self.inner.stopped.set("it is closed".into());
        // Waits for the write under way.
        let mut log = self.inner.log.lock();
        log.settle();
        log.stop("it is closed");
    }

    /// Waits for the preparation of segments.
    pub(crate) async fn settle(&self) {
        // A log that has failed prepares nothing.
        let _ = self
            .run(|inner| {
                inner.log.lock().settle();
                Ok(())
            })
            .await;
    }

    /// Returns the position below which records may be purged, so that segments of at least `keep_bytes`
    /// stay.
    pub(crate) fn purge_point(&self, keep_bytes: u64) -> u64 {
        self.inner.log.lock().first_keeping(keep_bytes)
    }

    /// Adds a job for the log thread; returns false where the thread has ended.
    fn add(&self, job: impl FnOnce(&DurableLog) + Send + 'static) -> bool {
        let inner = self.inner.clone();
        self.jobs.add(Box::new(move || job(&inner)))
    }

    /// Has the log thread do a job; returns its result.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&DurableLog) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::other("the log thread has ended");
        // The caller may be gone.
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
            let last_purged_log_id = inner.state.lock().1.purged;
            Ok(LogState { last_purged_log_id, last_log_id: inner.last()? })
        });
        read.await.map_err(|error| trouble(ErrorSubject::Logs, ErrorVerb::Read, &error))
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let written = self.run(move |inner| inner.write_state(|state| state.vote = Some(vote))).await;
        written.map_err(|error| trouble(ErrorSubject::Vote, ErrorVerb::Write, &error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let state = self.inner.state.lock().1;
        // openraft would go on as the leader that it was, and answer reads before it has applied all
        // acknowledged entries again: it does not know which those are. As a candidate of that term it must
        // be elected again, and then it knows.
        Ok(state
            .vote
            .map(|vote| Vote { committed: vote.committed && vote.leader_id.node_id != state.node, ..vote }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let (mut records, mut last) = (Vec::new(), None);
        let state = self.inner.state.lock().1;
        // An entry under another node's vote is from a leader that this node follows.
        let mine = state.vote.filter(|vote| vote.leader_id.node_id == state.node).map(|vote| vote.leader_id);
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
        let job = move |inner: &DurableLog| {
            let appended = inner.append(&records);
            if appended.is_ok() {
                inner.set_durable(last);
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
