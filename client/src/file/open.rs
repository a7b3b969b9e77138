//! What a program holds: an open file.

use super::flush::{FRAGMENTS_EARLY_BYTES, Pace, WHOLE_EARLY_BYTES};
use super::read::Source;
use super::{FILE_BYTES_MAX, FileState};
use crate::error::Error;
use crate::file::buffer::Dirty;
use crate::volume::Volume;
use bytes::Bytes;
use rain_namespace::command::AttrChange;
use rain_namespace::error::NsError;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A read of at least this length, or one that goes on where the last ended, reads whole blocks.
const READ_LONG_BYTES: u32 = 64 << 10;

/// An open file. Dropping it closes it: what is not stored yet is stored in the background, and the last close of
/// a removed file lets it go.
#[derive(Debug)]
pub struct OpenFile {
    pub(super) volume: Arc<Volume>,
    pub(super) file: Arc<FileState>,
    keep_cache: bool,
    /// Where the last read ended, to know a sequential reader.
    read_end: AtomicU64,
}

impl OpenFile {
    /// The caller holds the lock of the volume's files.
    pub(crate) fn new(volume: Arc<Volume>, file: Arc<FileState>, keep_cache: bool) -> Arc<OpenFile> {
        file.inner().opens += 1;
        Arc::new(OpenFile { volume, file, keep_cache, read_end: AtomicU64::new(0) })
    }

    /// The file's number.
    pub fn ino(&self) -> Ino {
        self.file.ino()
    }

    /// Whether, when it was opened, the contents were those that this client knew before: cached pages may stay.
    pub fn keep_cache(&self) -> bool {
        self.keep_cache
    }

    /// Whether others have it open in this client.
    pub fn is_shared(&self) -> bool {
        self.file.inner().opens > 1
    }

    /// The length now, with this client's writes.
    pub fn size(&self) -> u64 {
        self.file.inner().size
    }

    /// The attributes as last heard, with this client's writes.
    pub fn attr(&self) -> Attr {
        let mut attr = self.file.inner().attr.clone();
        self.file.overlay(&mut attr);
        attr
    }

    /// Reads; short only at the end of the file.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, Error> {
        self.file.bound(&self.volume)?;
        let sequential = self.read_end.swap(offset.saturating_add(len.into()), Relaxed) == offset;
        let long = len >= READ_LONG_BYTES || sequential && offset > 0;
        let read = self.file.read(&self.volume, offset, len, long).await?;
        if sequential && !read.is_empty() {
            self.file.read_ahead(&self.volume, offset + read.len() as u64);
        }
        Ok(read)
    }

    /// Takes a write into the buffer without waiting, if there is room.
    pub fn write_now(&self, offset: u64, data: &[u8]) -> bool {
        if offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX || self.file.may_have_lost() {
            return false;
        }
        let taken = self.file.buffer(&self.volume, Some(offset), data).is_some();
        self.begin_early_flush();
        taken
    }

    fn begin_early_flush(&self) {
        let worth_it = {
            let inner = self.file.inner();
            let fragments = inner.dirty.fragment_bytes();
            inner.dirty.bytes() - fragments >= WHOLE_EARLY_BYTES || fragments >= FRAGMENTS_EARLY_BYTES
        };
        if worth_it && self.file.turn.try_lock().is_ok() {
            let (volume, file) = (self.volume.clone(), self.file.clone());
            self.volume.runtime.spawn(async move { file.flush_early(&volume).await });
        }
    }

    /// Writes. It is durable after the next `flush`.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.write_at(Some(offset), data).await.map(|_| ())
    }

    /// Writes at the end; gives where that was.
    pub async fn append(&self, data: &[u8]) -> Result<u64, Error> {
        self.write_at(None, data).await
    }

    async fn write_at(&self, offset: Option<u64>, data: &[u8]) -> Result<u64, Error> {
        let end = offset.unwrap_or(self.size()).saturating_add(data.len() as u64);
        if end > FILE_BYTES_MAX {
            return Err(NsError::FileTooLarge.into());
        }
        self.file.bound(&self.volume)?;
        let begun = Instant::now();
        loop {
            if let Some(offset) = self.file.buffer(&self.volume, offset, data) {
                self.begin_early_flush();
                return Ok(offset);
            }
            // No room: store something, this file's data first, else wait for others' flushes.
            if self.file.is_dirty() {
                self.file.flush(&self.volume).await?;
            } else {
                self.volume.store_all().await?;
                self.volume.budget.freed().await;
            }
            let bound = self.volume.cluster.options().slow_after;
            if begun.elapsed() > bound {
                return Err(Error::TimedOut { what: "waiting for room to write".into(), after: bound });
            }
        }
    }

    /// Makes everything written so far, through any handle of this file, durable and visible to others, and all names that were changed
    /// before.
    pub async fn flush(&self) -> Result<(), Error> {
        let _hurry = self.volume.writeback.hurry();
        self.file.flush(&self.volume).await?;
        self.volume.settle().await
    }

    /// What a program's close does: what was written is visible to others' opens from here on, and on its way; durable where others
    /// may know of the file.
    pub async fn close(&self) -> Result<(), Error> {
        let is_ours = self.file.is_dirty()
            && !self.file.may_have_lost()
            && self.volume.writeback.is_unpublished(self.ino());
        let place = if is_ours { self.volume.writeback.place_to_close() } else { None };
        let Some(place) = place else { return self.file.flush(&self.volume).await };
        self.file.inner().close = true;
        let (volume, file) = (self.volume.clone(), self.file.clone());
        self.volume.runtime.spawn(async move {
            if let Err(error) = file.flush_at(&volume, Pace::Leisurely).await {
                tracing::warn!(%error, ino = %file.ino(), "storing a closed file; it stays in memory and is tried again");
                file.failed(error);
            }
            volume.close_if_idle(&file);
            drop(place);
        });
        Ok(())
    }

    /// Cuts or lengthens the file.
    pub async fn truncate(&self, size: u64) -> Result<Attr, Error> {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        self.file.set_attr(&self.volume, change).await
    }

    /// Makes a stretch a hole; the length stays.
    pub async fn punch(&self, offset: u64, len: u64) -> Result<Attr, Error> {
        self.file.punch(&self.volume, offset, len).await
    }

    /// The first byte at or after `offset` that is data (SEEK_DATA).
    pub async fn seek_data(&self, offset: u64) -> Result<u64, Error> {
        self.seek(offset, false).await
    }

    /// The first byte at or after `offset` that is in a hole; the end of the file is one (SEEK_HOLE).
    pub async fn seek_hole(&self, offset: u64) -> Result<u64, Error> {
        self.seek(offset, true).await
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<u64, Error> {
        self.flush().await?;
        let size = self.size();
        let mut at = offset;
        while at < size {
            let page_end = self.learn_some(at).await?.min(size);
            for (range, source) in self.file.sources(at..page_end) {
                if matches!(source, Source::Zeros) == hole {
                    return Ok(range.start);
                }
            }
            at = page_end;
        }
        if hole && offset < size { Ok(size) } else { Err(Error::NoData) }
    }

    /// Learns the layout from an offset on, as far as one answer tells; gives how far that is.
    async fn learn_some(&self, offset: u64) -> Result<u64, Error> {
        self.file.learn_layout(&self.volume, offset..offset + 1).await?;
        let inner = self.file.inner();
        Ok(inner.known.first_gap(offset..u64::MAX).unwrap_or(u64::MAX))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let ino = self.file.ino();
        let (last, orphan) = {
            let _files = self.volume.files();
            let mut inner = self.file.inner();
            inner.opens -= 1;
            if inner.opens == 0 && inner.orphan {
                let dropped = inner.dirty.bytes();
                inner.dirty = Dirty::default();
                self.volume.budget.remove(dropped);
            }
            (inner.opens == 0, inner.orphan)
        };
        if !last {
            return;
        }
        if self.file.leave_all() || !orphan && self.file.is_dirty() {
            let (volume, file) = (self.volume.clone(), self.file.clone());
            self.volume.runtime.spawn(async move {
                let stored = file.flush_at(&volume, Pace::Leisurely).await;
                if let Err(error) = stored.and(file.let_go(&volume).await) {
                    tracing::warn!(%error, %ino, "storing a closed file; it stays in memory and is tried again");
                }
                volume.close_if_idle(&file);
            });
            return;
        }
        self.volume.close_if_idle(&self.file);
    }
}
