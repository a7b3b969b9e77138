//! The lock of a namespace's directory: one process at a time.

use super::error::MetadataError;
use std::fs::{File, TryLockError};
use std::path::Path;

const FILE: &str = "LOCK";

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Takes the lock. Fails where another process has it.
    pub(super) fn take(dir: &Path) -> Result<DirectoryLock, MetadataError> {
        let path = dir.join(FILE);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(MetadataError::io("opening", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock(file)),
            Err(TryLockError::WouldBlock) => Err(MetadataError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(MetadataError::io("locking", &path)(error)),
        }
    }
}

impl Drop for DirectoryLock {
    /// Unlocks at once. Closing the file would not be enough: a child process that is just being started has
    /// the descriptor until its exec.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "unlocking the namespace's directory");
        }
    }
}
