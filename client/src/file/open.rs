//! An open file, as one program holds it.

use super::flush::{FRAGMENTS_EARLY_BYTES, Pace, WHOLE_EARLY_BYTES};
use super::read::Source;
use super::state::{Closed, FILE_BYTES_MAX, FileState};
use super::table::{FileTable, Question};
use crate::error::Error;
use crate::session::leases::Grant;
use bytes::Bytes;
use rain_namespace::command::AttrChange;
use rain_namespace::error::NsError;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Reads of at least this length fetch whole blocks, bytes. So do reads that continue where the last one
/// ended.
const READ_LONG_BYTES: u32 = 64 << 10;

/// An open file. Dropping it closes it: written data that is not stored yet is stored in the background, and
/// the last close of a file without a name frees it.
#[derive(Debug)]
pub struct OpenFile {
    pub(super) files: Arc<FileTable>,
    pub(super) file: Arc<FileState>,
    /// The end of the last read, which tells a sequential reader.
    read_end: AtomicU64,
}

impl FileTable {
    /// Opens a file with the attributes that the namespace gave. None: a change of this client has overtaken
    /// them. `made`: the file was just created, so nobody has read it.
    pub(crate) fn open(
        self: &Arc<Self>,
        attr: Attr,
        made: bool,
        question: &Question<'_>,
    ) -> Option<Arc<OpenFile>> {
        let file = self.open_state(attr, made, question)?;
        Some(Arc::new(OpenFile { files: self.clone(), file, read_end: AtomicU64::new(0) }))
    }

    /// Holds a file open that has no name and is open here, so that what was written is kept while the file gets
    /// a name.
    pub(crate) fn hold_unnamed(self: &Arc<Self>, ino: Ino) -> Option<Arc<OpenFile>> {
        let table = self.table();
        let file = table.state(ino).filter(|file| file.is_open_unnamed())?.clone();
        file.count_open();
        drop(table);
        Some(Arc::new(OpenFile { files: self.clone(), file, read_end: AtomicU64::new(0) }))
    }
}

impl OpenFile {
    /// Stores and commits what was written to a file.
    pub(crate) async fn store(&self) -> Result<(), Error> {
        self.file.flush(&self.files).await
    }

    /// The file has got a name.
    pub(crate) fn named(&self, nlink: u32) {
        self.file.mark_named(nlink);
    }

    /// The file's inode number.
    pub fn ino(&self) -> Ino {
        self.file.ino()
    }

    /// The version of the contents since which every change has been this client's own, as far as it knows.
    /// What was read at that version or later, with this client's writes, is right; what was read before may
    /// not be. It grows when the client learns of another client's change.
    pub fn own_since(&self) -> u64 {
        self.file.inner().own_since
    }

    /// Whether this client has the file open more than once.
    pub fn is_shared(&self) -> bool {
        self.file.inner().opens > 1
    }

    /// The file's length, with this client's writes.
    pub fn size(&self) -> u64 {
        self.file.inner().size
    }

    /// The attributes that the namespace gave last, with this client's writes laid over them.
    pub fn attr(&self) -> Attr {
        let mut attr = self.file.inner().attr.clone();
        self.file.overlay(&mut attr);
        attr
    }

    /// Takes in a lease that came with the answer by which the file was opened.
    pub(crate) fn take_lease(&self, grant: &Grant) {
        self.file.take_lease(&self.files, grant);
    }

    /// Makes the length that this client knows the truth at some moment after the call.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.file.ensure_current(&self.files).await
    }

    /// Reads a range. The result is shorter only at the end of the file.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, Error> {
        self.file.lock_fence(&self.files)?;
        let sequential = self.read_end.swap(offset.saturating_add(len.into()), Relaxed) == offset;
        let long = len >= READ_LONG_BYTES || sequential && offset > 0;
        let read = self.file.read(&self.files, offset, len, long).await?;
        if sequential && !read.is_empty() {
            self.file.read_ahead(&self.files, offset + read.len() as u64);
        }
        Ok(read)
    }

    /// Takes a write into the buffer without waiting. False: there is no room, the file has locks, or another
    /// client may have to be asked first; use
    /// [`OpenFile::write`].
    pub fn write_now(&self, offset: u64, data: &[u8]) -> bool {
        if offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX || self.file.has_locks() {
            return false;
        }
        let taken = self.file.buffer(&self.files, Some(offset), data, None).is_some();
        self.begin_early_flush();
        taken
    }

    /// Starts storing in the background once enough was written.
    fn begin_early_flush(&self) {
        let worth_it = {
            let inner = self.file.inner();
            let fragments = inner.dirty.fragment_bytes();
            inner.dirty.bytes() - fragments >= WHOLE_EARLY_BYTES || fragments >= FRAGMENTS_EARLY_BYTES
        };
        if worth_it && self.file.turn.try_lock().is_ok() {
            let (files, file) = (self.files.clone(), self.file.clone());
            self.files.session.runtime().spawn(async move { file.flush_early(&files).await });
        }
    }

    /// Writes a range. It is durable after the next `flush`.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.write_at(Some(offset), data).await.map(|_| ())
    }

    /// Writes at the end of the file. Returns the offset.
    pub async fn append(&self, data: &[u8]) -> Result<u64, Error> {
        self.write_at(None, data).await
    }

    async fn write_at(&self, offset: Option<u64>, data: &[u8]) -> Result<u64, Error> {
        let end = offset.unwrap_or(self.size()).saturating_add(data.len() as u64);
        if end > FILE_BYTES_MAX {
            return Err(NsError::FileTooLarge.into());
        }
        self.file.lock_fence(&self.files)?;
        let begun = Instant::now();
        loop {
            let admitted = self.file.admit_write(&self.files).await?;
            if let Some(offset) = self.file.buffer(&self.files, offset, data, Some(&admitted)) {
                drop(admitted);
                self.begin_early_flush();
                return Ok(offset);
            }
            drop(admitted);
            // There is no room: store this file's data, or wait until other files are stored.
            if self.file.is_dirty() {
                self.file.flush(&self.files).await?;
            } else {
                self.files.store_all().await?;
                self.files.budget.freed().await;
            }
            let after = self.files.session.options().slow_after;
            if begun.elapsed() > after {
                return Err(Error::TimedOut { what: "waiting for room to write".into(), after });
            }
        }
    }

    /// Makes everything written to the file so far, through any handle, durable and visible to other clients,
    /// and every change of a name before it.
    pub async fn flush(&self) -> Result<(), Error> {
        let _hurry = self.files.writeback.hurry();
        self.file.flush(&self.files).await?;
        self.files.writeback.drain().await
    }

    /// Closes the file for one program. Later opens on other clients see what was written. The data is
    /// durable on return, except where no other client can know of the file: then it is stored in the
    /// background.
    pub async fn close(&self) -> Result<(), Error> {
        let is_private =
            self.file.is_dirty() && !self.file.has_locks() && self.files.writeback.is_unpublished(self.ino());
        let slot = if is_private { self.files.writeback.slot_to_close() } else { None };
        let Some(slot) = slot else { return self.file.flush(&self.files).await };
        self.file.inner().closed_unstored = true;
        let (files, file) = (self.files.clone(), self.file.clone());
        self.files.session.runtime().spawn(async move {
            if let Err(error) = file.flush_at(&files, Pace::Background).await {
                tracing::warn!(%error, ino = %file.ino(), "storing a closed file; its data stays in memory and is tried again");
                file.keep_failure(error);
            }
            files.remove_if_idle(&file);
            drop(slot);
        });
        Ok(())
    }

    /// Cuts or lengthens the file.
    pub async fn truncate(&self, size: u64) -> Result<Attr, Error> {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        self.files.set_attr_of(&self.file, change).await
    }

    /// Makes a range a hole. The file's length stays.
    pub async fn punch(&self, offset: u64, len: u64) -> Result<Attr, Error> {
        self.files.punch(&self.file, offset, len).await
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
        self.refresh().await?;
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

    /// Learns the layout from an offset on. Returns the end of the range whose layout is known.
    async fn learn_some(&self, offset: u64) -> Result<u64, Error> {
        self.file.learn_layout(&self.files, offset..offset + 1).await?;
        let inner = self.file.inner();
        Ok(inner.known.first_gap(offset..u64::MAX).unwrap_or(u64::MAX))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        match self.files.close(&self.file) {
            Closed::StillOpen => {}
            Closed::Idle => self.files.remove_if_idle(&self.file),
            Closed::ToStore => {
                let (files, file) = (self.files.clone(), self.file.clone());
                self.files.session.runtime().spawn(async move {
                    let stored = file.flush_at(&files, Pace::Background).await;
                    if let Err(error) = stored.and(file.release_closed(&files).await) {
                        let ino = file.ino();
                        tracing::warn!(%error, %ino, "storing a closed file; its data stays in memory and is tried again");
                    }
                    files.remove_if_idle(&file);
                });
            }
        }
    }
}
