//! The flusher commits memtables to the base. In a daemon it is a thread; in a simulation it is a task, and
//! threads that would wait for the flusher do its work.

use super::StoreError;
use super::base::{read_base, write_base};
use super::core::StoreCore;
use crate::disk::Media;
use std::sync::{Arc, Weak};

/// Runs the flusher of a simulation.
pub(super) async fn run_virtual(core: Weak<StoreCore>, media: Arc<dyn Media>) {
    loop {
        let Some(interval) = core.upgrade().map(|core| core.options.commit_interval) else { return };
        tokio::time::sleep(interval + media.virtual_delay().unwrap_or_default()).await;
        let Some(core) = core.upgrade() else { return };
        let closing = core.control.lock().closing;
        let flusher = Flusher { core };
        if closing || !flusher.step() {
            return;
        }
    }
}

/// The flusher.
pub(super) struct Flusher {
    pub(super) core: Arc<StoreCore>,
}

impl Flusher {
    /// Runs as a thread until the store closes or a commit fails.
    pub(super) fn run(self) {
        while self.wait_for_work() {
            if !self.step() {
                return;
            }
        }
    }

    /// Commits the memtable, if it has writes. Returns false after a failure: nothing is committed any more.
    pub(super) fn step(&self) -> bool {
        let Err(error) = self.commit() else { return true };
        tracing::error!(%error, "the namespace store cannot be written; the log has the entries that the store lacks");
        self.core.control.lock().failed = Some(error);
        self.core.progress.notify_all();
        false
    }

    /// Waits. Returns true when there is a memtable to commit, false when the store closes and there is none.
    fn wait_for_work(&self) -> bool {
        let core = &*self.core;
        let mut control = core.control.lock();
        loop {
            let Some(since) = control.dirty_since else {
                if control.closing {
                    return false;
                }
                core.work.wait(&mut control);
                continue;
            };
            let left = core.options.commit_interval.saturating_sub(since.elapsed());
            if control.full || control.flush || control.closing || left.is_zero() {
                return true;
            }
            core.work.wait_for(&mut control, left);
        }
    }

    /// Makes the memtable immutable, commits it, and lets readers see the new base.
    fn commit(&self) -> Result<(), StoreError> {
        let core = &*self.core;
        // The first of all locks: the base is not replaced while a memtable is on its way into it.
        let base = core.base.lock();
        let immutable = {
            let mut state = core.write_politely();
            if core.control.lock().dirty_since.is_none() {
                // A received base has replaced the writes that were to be committed.
                return Ok(());
            }
            let immutable = Arc::new(std::mem::take(&mut state.memtable));
            state.immutable = Some(immutable.clone());
            let mut control = core.control.lock();
            control.dirty_since = None;
            control.full = false;
            control.flush = false;
            immutable
        };
        core.progress.notify_all();
        write_base(&base.database, &immutable).map_err(|error| StoreError::base("committing", error))?;
        let table = read_base(&base.database).map_err(|error| StoreError::base("reading", error))?;
        let table = table.ok_or_else(|| StoreError::base("reading", "the base is gone"))?.table;
        let old = {
            let mut state = core.write_politely();
            let old = (std::mem::replace(&mut state.base, table), state.immutable.take());
            let mut control = core.control.lock();
            control.durable = immutable.last().index;
            control.commits += 1;
            old
        };
        core.progress.notify_all();
        // Freeing a large map and a snapshot takes long, so it happens outside the lock.
        drop((old, immutable));
        Ok(())
    }
}
