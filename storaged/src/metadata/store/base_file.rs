//! The file under redb.
//!
//! redb refuses everything, reads too, after its first failed write. So a full disk must not reach it: the
//! writing thread, which is only ever the store's flusher, waits here until there is room.

use crate::disk::{MediaFile, is_full};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The state of the base's file, for the rest of the store.
#[derive(Debug, Default)]
pub(crate) struct BaseHealth {
    /// Set while a write waits for room: the reason.
    full: Mutex<Option<String>>,
    /// True once the store closes: a full disk is an error then.
    give_up: AtomicBool,
}

impl BaseHealth {
    /// Returns the reason why a write waits for room; `None`: no write waits.
    pub(crate) fn full(&self) -> Option<String> {
        self.full.lock().clone()
    }

    /// Makes a full disk an error from here on.
    pub(crate) fn give_up(&self) {
        self.give_up.store(true, Ordering::Release);
    }

    fn set_full(&self, reason: Option<String>) {
        *self.full.lock() = reason;
    }
}

/// The file, as redb uses it.
#[derive(Debug)]
pub(crate) struct BaseFile {
    file: Box<dyn MediaFile>,
    health: Arc<BaseHealth>,
}

/// Pause between two tries of a write to a full disk.
const FULL_RETRY: Duration = Duration::from_millis(200);

impl BaseFile {
    pub(crate) fn new(file: Box<dyn MediaFile>, health: Arc<BaseHealth>) -> BaseFile {
        BaseFile { file, health }
    }

    /// Does a step again and again while the disk is full.
    fn until_room(&self, what: &str, step: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut waited = false;
        loop {
            match step() {
                Err(error) if is_full(&error) && !self.health.give_up.load(Ordering::Acquire) => {
                    if !waited {
                        tracing::error!(%error, "no room for the namespace store ({what}): writing waits for room");
                        self.health.set_full(Some(format!("no room for the namespace store: {error}")));
                        waited = true;
                    }
                    std::thread::sleep(FULL_RETRY);
                }
                result => {
                    if waited {
                        self.health.set_full(None);
                        tracing::info!("the namespace store writes again");
                    }
                    return result;
                }
            }
        }
    }
}

impl redb::StorageBackend for BaseFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.until_room("set length", || self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.until_room("write", || self.file.write_at(offset, data))
    }
}
