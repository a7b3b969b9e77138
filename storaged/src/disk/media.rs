//! The file operations of the stores as a pair of traits, and their implementation on a real disk.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Directories and the names in them.
pub trait Media: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing. With `create` a missing file is made; without, it is an error.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>>;

    /// Returns the names in a directory; names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file and replaces the target. Durable after [`Media::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Media::sync_directory`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_directory(&self, dir: &Path) -> io::Result<()>;

    /// Returns the bytes that can still be written below a directory. A simulated disk has no limit of its
    /// own.
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    /// Returns the duration of the next piece of disk work, in the runtime's virtual time. `None` for a real
    /// disk.
    fn virtual_delay(&self) -> Option<Duration> {
        None
    }
}

/// An open file. Each read and each write is complete or an error.
#[allow(clippy::len_without_is_empty)]
pub trait MediaFile: Debug + Send + Sync + 'static {
    /// Returns the length, bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset`. Fails with `UnexpectedEof` at the end of the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Fills `bytes` from `offset`; bytes past the end of the file are zeros.
    fn read_padded_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let there = self.len()?.saturating_sub(offset).min(bytes.len() as u64) as usize;
        if there > 0 {
            self.read_at(offset, &mut bytes[..there])?;
        }
        bytes[there..].fill(0);
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes the parts one behind the other, as one write.
    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.write_at(offset, &parts.concat())
    }

    /// Makes the file longer (with zeros) or shorter.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes contents and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;

    /// Gives a range back to the disk, as far as the file reaches. The range reads as zeros afterwards, or,
    /// where the filesystem cannot punch holes, its first 4096 bytes do.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let there = self.len()?.saturating_sub(offset).min(len);
        self.write_at(offset, &vec![0; there as usize])
    }
}

/// The files of the operating system.
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
            // All names that a store gives are UTF-8.
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

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
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

    /// Without asking for the length first: this is the read of every share.
    fn read_padded_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes[filled..].fill(0);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = loop {
            match rustix::io::pwritev(&self.0, &slices, offset) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        };
        // The kernel rarely writes less than all of it; the rest goes part by part.
        if written < whole {
            let mut at = offset;
            for part in parts {
                let done = written.min(part.len());
                self.0.write_all_at(&part[done..], at + done as u64)?;
                written -= done;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, len) {
            // This filesystem has no holes. Zeros over the first unit keep a deleted share from coming back.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.write_all_at(&[0; 4096], offset),
            done => Ok(done?),
        }
    }
}
