//! The only way from the share store to the disk, so that a power loss, a torn write or a failing disk is a
//! value in a test.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of files.
pub trait Media: Send + Sync + std::fmt::Debug {
    /// The names in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file; makes it when it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn MediaFile>>;
    /// Makes new and removed names durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file of it.
pub trait MediaFile: Send + Sync + std::fmt::Debug {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills the buffer from an offset on; what lies past the end is zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all parts one after the other.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Gives a stretch back to the disk; it reads as zeros afterwards.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A folder on a real disk.
#[derive(Debug)]
pub struct DiskMedia {
    folder: PathBuf,
}

impl DiskMedia {
    /// Uses a folder; makes it when it is not there.
    pub fn new(folder: &Path) -> io::Result<DiskMedia> {
        std::fs::create_dir_all(folder)?;
        Ok(DiskMedia { folder: folder.to_owned() })
    }
}

impl Media for DiskMedia {
    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn MediaFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(name))?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.folder)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl MediaFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = loop {
            match rustix::io::pwritev(&self.file, &slices, offset) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        };
        // Rarely less than all: the rest part by part.
        if written < whole {
            let mut at = offset;
            for part in parts {
                let done = written.min(part.len());
                self.file.write_all_at(&part[done..], at + done as u64)?;
                written -= done;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            // A file system that cannot: the first unit is cleared, so that the share does not come back.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.write_all_at(&[0; 4096], offset),
            done => Ok(done?),
        }
    }
}
