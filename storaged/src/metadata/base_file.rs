//! The file under redb.

use crate::disk::{MediaFile, is_full};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the base's file tells the rest of the store.
#[derive(Debug, Default)]
pub(crate) struct BaseHealth {
    /// Why writing waits at this moment.
    full: Mutex<Option<String>>,
    /// Waiting is over: the store closes.
    give_up: AtomicBool,
}

impl BaseHealth {
    pub(crate) fn full(&self) -> Option<String> {
        self.full.lock().clone()
    }

    pub(crate) fn give_up(&self) {
        self.give_up.store(true, Ordering::Release);
    }

    fn set_full(&self, reason: Option<String>) {
        *self.full.lock() = reason;
    }
}

/// The file under redb. redb refuses everything after its first failed write, reads too, so a full disk must not
/// reach it: the writing thread (only ever the store's own flusher) waits here until there is room.
#[derive(Debug)]
pub(crate) struct BaseFile {
    file: Box<dyn MediaFile>,
    health: Arc<BaseHealth>,
}

/// How often a write to a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);

impl BaseFile {
    pub(crate) fn new(file: Box<dyn MediaFile>, health: Arc<BaseHealth>) -> BaseFile {
        BaseFile { file, health }
    }

    fn patiently(&self, what: &str, step: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut waited = false;
        loop {
            match step() {
                Err(error) if is_full(&error) && !self.health.give_up.load(Ordering::Acquire) => {
                    if !waited {
                        tracing::error!(%error, "no room for the namespace store ({what}): writing waits until there is");
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
        self.patiently("set length", || self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patiently("write", || self.file.write_at(offset, data))
    }
}
