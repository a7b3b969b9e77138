//! Copies of ranges that share the source's blocks (copy_file_range).
//!
//! Invariants:
//! 1. What was written to the source before the call is in the copy: the client's own data is stored first, and other
//!    clients store theirs before this client gets a read lease.
//! 2. The copy is made in parts. A failure in the middle leaves the parts before it copied, as copy_file_range(2)
//!    allows.
//!
//! Short ranges, and data that is in no block, are copied byte by byte: a few bytes do not deserve a share in a block
//! of 1 MiB, which lives until nobody uses any of it.

use super::open::OpenFile;
use super::state::FILE_BYTES_MAX;
use crate::error::Error;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::error::NsError;
use std::sync::Arc;

/// The shortest range that is cloned, bytes.
const CLONE_BYTES_MIN: u64 = 64 << 10;

/// Bytes that are copied at once.
const COPY_BYTES: u64 = 1 << 20;

impl OpenFile {
    /// Copies a range to another file of the volume, or within this one where the two ranges do not overlap. Blocks
    /// are shared, not copied. Returns the number of bytes, which is smaller only where this file ends.
    pub async fn copy_range(
        &self,
        offset: u64,
        to: &OpenFile,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        if !Arc::ptr_eq(&self.files, &to.files) {
            return Err(NsError::CrossVolume.into());
        }
        if to_offset.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(NsError::FileTooLarge.into());
        }
        if self.ino() == to.ino() && offset.abs_diff(to_offset) < len {
            return Err(NsError::Invalid("the two ranges overlap".into()).into());
        }
        self.file.flush(&self.files).await?;
        self.refresh().await?;
        let len = len.min(self.size().saturating_sub(offset));
        let mut done = 0;
        while done < len {
            let (from, at, left) = (offset + done, to_offset + done, len - done);
            let copied = if left < CLONE_BYTES_MIN {
                self.copy_bytes(from, to, at, left).await?
            } else {
                match self.clone_range(from, to, at, left).await {
                    // The first page is in the inode.
                    Err(Error::Refused(NsError::HasInline)) => {
                        self.copy_bytes(from, to, at, left.min(crate::INLINE_BYTES_MAX as u64)).await?
                    }
                    cloned => cloned?,
                }
            };
            if copied == 0 {
                break;
            }
            done += copied;
        }
        Ok(done)
    }

    async fn copy_bytes(&self, offset: u64, to: &OpenFile, to_offset: u64, len: u64) -> Result<u64, Error> {
        let bytes = self.read(offset, len.min(COPY_BYTES) as u32).await?;
        to.write(to_offset, &bytes).await?;
        Ok(bytes.len() as u64)
    }

    async fn clone_range(&self, offset: u64, to: &OpenFile, to_offset: u64, len: u64) -> Result<u64, Error> {
        let files = &self.files;
        files.writeback.wait_until_known(self.ino()).await?;
        files.writeback.wait_until_known(to.ino()).await?;
        to.file.flush(files).await?;
        let _turn = to.file.turn.lock().await;
        let (from, to_ino) = (self.ino(), to.ino());
        let command = Command::CloneRange { from, offset, len, to: to_ino, to_offset, mtime: None };
        match files.change_of(command, Some(&to.file)).await? {
            Outcome::Cloned { attr, len } => {
                files.take_in(attr.ino, attr.version);
                to.file.punched(attr);
                Ok(len)
            }
            _ => Err(Error::unexpected("a clone")),
        }
    }
}
