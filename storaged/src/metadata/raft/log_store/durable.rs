//! The durable side of the log storage: what the log thread does, and the figures that others read without
//! waiting for it.

use super::super::super::log::{CommandLog, LogError};
use super::super::super::store::MetaStore;
use super::super::types::{Entry, EntryLogId, index_at, position, position_of};
use super::super::wire::{self, RaftState};
use super::recent::Recent;
use crate::disk::slots::SlotFile;
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pause between two tries of an append on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// Figures that can be read without waiting for the disk.
#[derive(Debug, Default)]
pub(crate) struct LogCounters {
    pub(crate) appended: AtomicU64,
    pub(crate) syncs: AtomicU64,
    /// Position of the first record.
    pub(crate) first: AtomicU64,
    /// Position of the last record.
    pub(crate) last: AtomicU64,
    pub(crate) disk_bytes: AtomicU64,
    /// Bytes that appends can take without asking the disk for more.
    pub(super) room: AtomicU64,
}

/// The log, the state file, and their condition.
#[derive(Debug)]
pub(super) struct DurableLog {
    /// Weak: the log thread may outlive the service by a moment, and the store must not.
    pub(super) store: Weak<MetaStore>,
    pub(super) log: Mutex<CommandLog>,
    pub(super) state: Mutex<(SlotFile, RaftState)>,
    pub(super) recent: RwLock<Recent>,
    pub(super) counters: LogCounters,
    pub(super) stopped: OnceLock<String>,
    /// The last durable entry.
    pub(super) durable: watch::Sender<Option<EntryLogId>>,
    /// Position of the last appended entry, durable or not.
    pub(super) appended_to: AtomicU64,
    /// Since when the disk has made no progress although there is something to write.
    pub(super) waits_since: Mutex<Option<Instant>>,
    /// Set while an append waits for room: the reason.
    pub(super) full: Mutex<Option<String>>,
    /// The result of the last try to reserve another segment: the reason why there is no room.
    pub(super) no_room: Mutex<Option<String>>,
    /// True while such a try is under way.
    pub(super) reserving: AtomicBool,
    /// True once a full disk is an error instead of a wait.
    pub(super) closing: AtomicBool,
}

impl DurableLog {
    /// Brings the figures up to date.
    pub(super) fn note(&self, log: &CommandLog) {
        let counters = &self.counters;
        counters.syncs.store(log.syncs(), Ordering::Relaxed);
        counters.first.store(log.first_index(), Ordering::Relaxed);
        counters.last.store(log.next_index() - 1, Ordering::Relaxed);
        counters.disk_bytes.store(log.disk_bytes(), Ordering::Relaxed);
        counters.room.store(log.room(), Ordering::Relaxed);
    }

    /// Stops the log for good; returns the error for the caller.
    pub(super) fn stop(&self, error: &dyn std::fmt::Display) -> io::Error {
        let reason = error.to_string();
        if self.stopped.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the namespace log has failed");
            // Wakes those who wait for a durable entry, to see that the log has stopped.
            self.durable.send_modify(|_| ());
        }
        io::Error::other(reason)
    }

    /// Notes that an append is durable.
    pub(super) fn set_durable(&self, last: Option<EntryLogId>) {
        self.durable.send_replace(last);
        let all = position_of(last.as_ref()) >= self.appended_to.load(Ordering::Acquire);
        *self.waits_since.lock() = (!all).then(Instant::now);
    }

    fn set_full(&self, reason: Option<String>) {
        *self.full.lock() = reason;
    }

    /// Makes records durable; waits on a full disk.
    pub(super) fn append(&self, records: &[(u64, Vec<u8>)]) -> io::Result<()> {
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
                        tracing::info!("the namespace log has room again");
                    }
                    return Ok(());
                }
                Err(error @ LogError::NoSpace { .. }) if !self.closing.load(Ordering::Acquire) => {
                    if !waited {
                        tracing::error!(%error, "the namespace log waits for room; nothing is acknowledged meanwhile");
                        self.set_full(Some(error.to_string()));
                        waited = true;
                    }
                    std::thread::sleep(FULL_RETRY);
                }
                Err(error) => return Err(self.stop(&error)),
            }
        }
    }

    /// Returns the last entry of the log or, if the log is empty, the last purged one.
    pub(super) fn last(&self) -> io::Result<Option<EntryLogId>> {
        let purged = self.state.lock().1.purged;
        let last = self.log.lock().next_index() - 1;
        if last <= position_of(purged.as_ref()) {
            return Ok(purged);
        }
        let index = index_at(last).expect("there is a record");
        Ok(self.read(index, index + 1, usize::MAX)?.pop().map(|entry| entry.log_id))
    }

    /// Notes that the end of the log has moved, durably.
    pub(super) fn moved(&self) -> io::Result<()> {
        let last = self.last()?;
        self.appended_to.store(position_of(last.as_ref()), Ordering::Release);
        self.durable.send_replace(last);
        Ok(())
    }

    /// Changes the state file, durably.
    pub(super) fn write_state(&self, change: impl FnOnce(&mut RaftState)) -> io::Result<()> {
        let mut held = self.state.lock();
        let (file, state) = &mut *held;
        let mut new = *state;
        change(&mut new);
        file.write(&wire::encode_raft_state(&new)).map_err(|error| self.stop(&error))?;
        *state = new;
        Ok(())
    }

    /// Drops the entries up to one.
    pub(super) fn purge(&self, upto: EntryLogId) -> io::Result<()> {
        self.write_state(|state| state.purged = Some(upto))?;
        let mut log = self.log.lock();
        let next = position(upto.index) + 1;
        let result = if next > log.next_index() {
            // A snapshot has put the store ahead of the log: the log begins again behind it.
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

    /// Drops the entries from an index on.
    pub(super) fn truncate(&self, index: u64) -> io::Result<()> {
        self.recent.write().cut_from(index);
        let mut log = self.log.lock();
        let result = log.truncate_after(position(index) - 1);
        self.note(&log);
        drop(log);
        result.map_err(|error| self.stop(&error))?;
        self.moved()
    }

    /// Returns the entries of a range from memory or disk, without those behind the end of the log.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.recent.read().range(start, end) {
            return Ok(entries);
        }
        let purged = position_of(self.state.lock().1.purged.as_ref());
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
