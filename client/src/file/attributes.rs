//! Changes of a file's length and times, and holes. They follow everything that was written before.

use super::state::{FILE_BYTES_MAX, FileState};
use super::table::FileTable;
use crate::error::Error;
use crate::writeback::ChangeOptions;
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
        if let Some(size) = change.size {
            // This includes data that was written while this call waited for its turn. The calls race, so
            // either order is right.
            let mut inner = file.inner();
            let before = inner.dirty.bytes();
            inner.dirty.remove(size..u64::MAX);
            let dropped = before - inner.dirty.bytes();
            drop(inner);
            self.budget.remove(dropped);
        }
        let attr = self.propose_attr(file.ino(), &change, Some(file)).await?;
        self.attributes_changed(Some(file), &attr, &change);
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
