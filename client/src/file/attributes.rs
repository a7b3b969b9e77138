//! Changes of a file's length and times, and holes. They follow everything that was written before.

use super::buffer::Segment;
use super::state::{FILE_BYTES_MAX, FileState};
use super::table::FileTable;
use crate::error::Error;
use crate::writeback::ChangeOptions;
use bytes::Bytes;
use rain_namespace::command::{AttrChange, Command, Outcome};
use rain_namespace::error::NsError;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::sync::Arc;

impl FileTable {
    /// Changes attributes of a file that may have a state here.
    pub(crate) async fn set_attr(&self, ino: Ino, change: AttrChange) -> Result<Attr, Error> {
        match self.get(ino) {
            Some(file) => self.set_attr_of(&file, change).await,
            None => {
                let attr = self.propose_attr(ino, &change, None).await?;
                self.attributes_changed(None, &attr, &change);
                Ok(attr)
            }
        }
    }

    /// Changes attributes of a file with a state. A new length or modification time comes after everything
    /// written before.
    pub(super) async fn set_attr_of(&self, file: &Arc<FileState>, change: AttrChange) -> Result<Attr, Error> {
        if change.size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(NsError::FileTooLarge.into());
        }
        let follows_writes = change.size.is_some() || change.mtime.is_some();
        // If no other client can know of the file, the written data may be stored later: its commit carries
        // the time that is set here.
        let may_wait = change.size.is_none() && self.writeback.is_unpublished(file.ino());
        if follows_writes && change.size != Some(0) && !may_wait {
            file.flush(self).await?;
        }
        let _turn = if follows_writes { Some(file.turn.lock().await) } else { None };
        // This includes data that was written while this call waited for its turn. The calls race, so either order
        // is right.
        let cut = change.size.map(|size| Cut::begin(self, file, size));
        let has_locks = file.has_locks();
        let attr = match self.propose_attr(file.ino(), &change, Some(file)).await {
            Ok(attr) => attr,
            Err(error) => {
                // As when written data is stored: it has no target any more, or another client may have the lock.
                let is_lost = match error {
                    Error::LockLost | Error::Refused(NsError::NotFound | NsError::Stale) => true,
                    Error::Refused(NsError::SessionEnded(_)) => has_locks,
                    _ => false,
                };
                if is_lost {
                    cut.into_iter().for_each(Cut::lose);
                }
                return Err(error);
            }
        };
        self.attributes_changed(Some(file), &attr, &change);
        cut.into_iter().for_each(Cut::end);
        Ok(attr)
    }

    async fn propose_attr(
        &self,
        ino: Ino,
        change: &AttrChange,
        file: Option<&Arc<FileState>>,
    ) -> Result<Attr, Error> {
        // Only a change of contents comes too late when the locks are lost.
        let fenced = file.filter(|_| change.size.is_some() || change.mtime.is_some());
        self.change_fenced(Command::SetAttr { ino, change: change.clone() }, fenced).await
    }

    /// Applies a command, under the session fence of a file's locks if it is given. Returns the new attributes.
    async fn change_fenced(&self, command: Command, fenced: Option<&Arc<FileState>>) -> Result<Attr, Error> {
        match self.change_of(command, fenced).await? {
            Outcome::Attr(attr) => Ok(attr),
            _ => Err(Error::unexpected("an inode")),
        }
    }

    /// As [`FileTable::change_fenced`]. Returns the outcome.
    pub(super) async fn change_of(
        &self,
        command: Command,
        fenced: Option<&Arc<FileState>>,
    ) -> Result<Outcome, Error> {
        let fence = fenced.map(|file| file.lock_fence(self)).transpose()?.flatten();
        let options = ChangeOptions { fence, ..ChangeOptions::default() };
        self.writeback.change_as(command, options).await
    }

    /// Makes a range of a file a hole, after everything that was written before.
    pub(super) async fn punch(&self, file: &Arc<FileState>, offset: u64, len: u64) -> Result<Attr, Error> {
        file.flush(self).await?;
        let _turn = file.turn.lock().await;
        let command = Command::Punch { ino: file.ino(), offset, len };
        let attr = self.change_fenced(command, Some(file)).await?;
        self.take_in(attr.ino, attr.version);
        file.punched(attr.clone());
        Ok(attr)
    }
}

/// A change of a file's length that is under way. Written data that it cuts off is out of the buffer, and is read until
/// the outcome is known. Dropped without an end, the file keeps the data.
struct Cut<'a> {
    files: &'a FileTable,
    file: &'a FileState,
    segments: Vec<Segment>,
    ended: bool,
}

impl<'a> Cut<'a> {
    /// The caller holds the turn, so no flush is under way.
    fn begin(files: &'a FileTable, file: &'a FileState, size: u64) -> Cut<'a> {
        let mut inner = file.inner();
        let written = inner.dirty.pieces(size..u64::MAX);
        let segments: Vec<Segment> =
            written.map(|(offset, data)| Segment { offset, data: Bytes::copy_from_slice(data) }).collect();
        inner.dirty.remove(size..u64::MAX);
        inner.flushing.clone_from(&segments);
        drop(inner);
        Cut { files, file, segments, ended: false }
    }

    /// The file is cut, and [`FileState::attributes_changed`] was told so.
    fn end(mut self) {
        self.ended = true;
    }

    /// The data has no file any more.
    fn lose(mut self) {
        self.file.inner().flushing.clear();
        self.ended = true;
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.data.len() as u64).sum()
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let mut kept = 0;
        if !self.ended {
            let mut inner = self.file.inner();
            inner.flushing.clear();
            kept = inner.put_back(&self.segments);
        }
        self.files.budget.remove(self.bytes() - kept);
    }
}
