//! The few file operations that the keeper makes, behind a trait: a power loss, a full disk or EIO is a
//! value in a test, not an accident. [`DiskMedia`] is the real one; [`BaseFile`] lends a file to redb.
//!
//! Invariant: nothing else in `keeper` touches the contents of a file, except the lock and the cluster id.

pub(crate) mod slots;

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A place for files.
pub trait Media: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing; with `create` it may be new.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>>;
    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames a file, replacing what is there; durable after [`Media::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable after [`Media::sync_directory`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_directory(&self, dir: &Path) -> io::Result<()>;
    /// Of a simulation: the disk is no disk, and the next piece of work on it takes so long of the runtime's time.
    fn virtual_delay(&self) -> Option<Duration> {
        None
    }
}

/// An open file. Reads and writes are whole or an error.
#[allow(clippy::len_without_is_empty)]
pub trait MediaFile: Debug + Send + Sync + 'static {
    /// Its length, bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `bytes` from `offset`; past the end is `UnexpectedEof`.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes it longer (zeros) or shorter.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// fdatasync: contents and length are durable when it returns.
    fn sync(&self) -> io::Result<()>;
}

/// Files of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskMedia;

impl Media for DiskMedia {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is no text is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl MediaFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Whether an error says that there is no room, which passes, rather than that the disk is broken.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
