//! The path of written data: a write goes into the buffer, a flush stores the buffer as blocks, and a commit
//! shows the blocks in the file.

use super::buffer::Segment;
use super::leases::Admitted;
use super::pack::{Packed, pack};
use super::state::FileState;
use super::table::FileTable;
use crate::error::Error;
use crate::options::INLINE_BYTES_MAX;
use crate::writeback::{ChangeOptions, now};
use bytes::Bytes;
use futures::StreamExt;
use rain_namespace::command::{Command, InlinePiece, NewBlock, NewExtent, Outcome};
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::{Ino, SessionId};

/// A file stores everything early once its fragments, shorter than a block, reach this many bytes: packed,
/// they make full blocks.
pub(super) const FRAGMENTS_EARLY_BYTES: u64 = 8 << 20;

/// A file stores its whole blocks early once they reach this many bytes.
pub(super) const WHOLE_EARLY_BYTES: u64 = 4 << 20;

/// Bytes that one round of a flush stores before it commits. The limit bounds the data that has to be stored
/// again after a crash or a failure.
const FLUSH_ROUND_BYTES: u64 = 32 << 20;

impl FileState {
    /// Stores and commits everything that was written before the call.
    pub(crate) async fn flush(&self, files: &FileTable) -> Result<(), Error> {
        self.flush_at(files, Pace::Now).await
    }

    /// As [`FileState::flush`], at a pace.
    pub(super) async fn flush_at(&self, files: &FileTable, pace: Pace) -> Result<(), Error> {
        self.lock_fence(files)?;
        if !self.is_dirty() {
            return self.take_failure();
        }
        let _turn = self.turn.lock().await;
        let mut left = self.inner().dirty.bytes();
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            let before = left;
            left = left.saturating_sub(self.flush_round(files, false, pace).await.unwrap_or_else(|error| {
                result = Err(error);
                before
            }));
            if left == before && result.is_ok() {
                break;
            }
        }
        let earlier = self.take_failure();
        result.and(if self.is_dirty() { earlier } else { Ok(()) })
    }

    /// Keeps the failure of a background flush for the next caller of a flush.
    pub(super) fn keep_failure(&self, error: Error) {
        self.inner().failed = Some(error);
    }

    /// Fails with the failure of an earlier background flush, once.
    fn take_failure(&self) -> Result<(), Error> {
        self.inner().failed.take().map_or(Ok(()), Err)
    }

    /// Stores whole blocks in the background. Returns at once while another flush of the file runs.
    pub(super) async fn flush_early(&self, files: &FileTable) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        loop {
            // Random writes leave no whole blocks, but enough fragments fill some.
            let whole_only = self.inner().dirty.fragment_bytes() < FRAGMENTS_EARLY_BYTES;
            match self.flush_round(files, whole_only, Pace::Now).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, ino = %self.ino(), "storing written data; it stays in memory");
                    self.keep_failure(error);
                    return;
                }
            }
        }
    }

    /// One round of a flush: takes some of the written data out of the buffer, stores and commits it. Returns
    /// its bytes. The caller holds the turn.
    async fn flush_round(&self, files: &FileTable, whole_only: bool, pace: Pace) -> Result<u64, Error> {
        // Without a leader the blocks could not be committed.
        files.session.check_writable("storing written data")?;
        let fence = self.lock_fence(files)?;
        let (segments, attr, size, times) = {
            let mut inner = self.inner();
            let segments = inner.dirty.take(whole_only, FLUSH_ROUND_BYTES);
            inner.flushing.clone_from(&segments);
            (
                segments,
                inner.attr.clone(),
                inner.size,
                CommitTimes { mtime: inner.mtime, changed: inner.changed, pace },
            )
        };
        if segments.is_empty() {
            return Ok(0);
        }
        let bytes = segments.iter().map(|segment| segment.data.len() as u64).sum();
        let stored = self.store_and_commit(files, fence, &segments, &attr, size, times).await;
        if let Ok((attr, _)) = &stored {
            // Before the state may leave the table: an answer of before the commit is overtaken from here on.
            files.take_in(attr.ino, attr.version);
        }
        let mut inner = self.inner();
        inner.flushing.clear();
        match stored {
            Ok((attr, extents)) => {
                inner.committed(attr, &segments, extents);
                drop(inner);
                files.budget.remove(bytes);
                Ok(bytes)
            }
            Err(Error::Refused(gone @ (NsError::NotFound | NsError::Stale))) => {
                // Another client removed the file, and with it the target of the data.
                drop(inner);
                files.budget.remove(bytes);
                Err(Error::Refused(gone))
            }
            Err(Error::Refused(NsError::SessionEnded(_))) if fence.is_some() => {
                // Another client may have the lock by now.
                drop(inner);
                files.budget.remove(bytes);
                Err(self.lock_fence(files).err().unwrap_or(Error::LockLost))
            }
            Err(error) => {
                let kept = inner.put_back(&segments);
                drop(inner);
                files.budget.remove(bytes - kept);
                Err(error)
            }
        }
    }

    /// Stores segments, inline or as blocks, and commits them. Returns the new attributes, and the extents of
    /// the blocks.
    async fn store_and_commit(
        &self,
        files: &FileTable,
        fence: Option<SessionId>,
        segments: &[Segment],
        attr: &Attr,
        size: u64,
        times: CommitTimes,
    ) -> Result<(Attr, Vec<Extent>), Error> {
        // Not the length that this client knows: the file may have been cut since.
        let size_at_least = segments.last().map_or(0, Segment::end);
        if attr.extents == 0 && size <= INLINE_BYTES_MAX as u64 {
            let inline = segments
                .iter()
                .map(|segment| InlinePiece { offset: segment.offset as u32, data: segment.data.to_vec() })
                .collect();
            let command = Command::Commit {
                ino: attr.ino,
                blocks: Vec::new(),
                extents: Vec::new(),
                inline,
                size_at_least,
                mtime: times.mtime,
            };
            match files.writeback.change_as(command, times.change_options(fence)).await {
                Err(Error::Refused(NsError::NotInline)) => {}
                // Inline data belongs to no session, unless it was written under a lock. It is stored as
                // blocks of the new session.
                Err(Error::Refused(NsError::SessionEnded(_))) if fence.is_none() => {}
                Ok(Outcome::Attr(attr)) => return Ok((attr, Vec::new())),
                Ok(_) => return Err(Error::unexpected("an inode")),
                Err(error) => return Err(error),
            }
        }
        let packed = pack(segments);
        let mut tries = 3;
        loop {
            tries -= 1;
            match self.store_blocks(files, fence, attr.ino, &packed, size_at_least, times).await {
                // The blocks went with their session, so they are stored again under the new one.
                Err(Error::Refused(NsError::SessionEnded(_))) if tries > 0 && fence.is_none() => {}
                done => return done,
            }
        }
    }

    /// Stores packed blocks, several at a time, and commits their extents.
    async fn store_blocks(
        &self,
        files: &FileTable,
        fence: Option<SessionId>,
        ino: Ino,
        packed: &[Packed],
        size_at_least: u64,
        times: CommitTimes,
    ) -> Result<(Attr, Vec<Extent>), Error> {
        let code = files.code;
        let turn = match times.pace {
            Pace::Now => None,
            Pace::Background => files.writeback.turn_to_store().await,
        };
        let store = |data: Bytes| async move {
            let id = files.session.new_block();
            let (group, nodes) = files.placement.choose_group(&files.blocks);
            let len = data.len() as u32;
            let missing = files.blocks.store(id, code, &nodes, data).await?;
            Ok::<_, Error>(NewBlock { id, group, len, missing })
        };
        let stores: Vec<_> = packed.iter().map(|block| store(block.data.clone())).collect();
        let mut under_way =
            futures::stream::iter(stores).buffered(files.session.options().blocks_in_flight_max);
        let mut blocks = Vec::with_capacity(packed.len());
        while let Some(stored) = under_way.next().await {
            blocks.push(stored?);
        }
        drop((under_way, turn));
        let mut extents = Vec::new();
        let mut shown = Vec::new();
        for (at, (block, packed)) in blocks.iter().zip(packed).enumerate() {
            for part in &packed.shown {
                let (offset, len, block_offset) = (part.offset, part.len, part.block_offset);
                extents.push(NewExtent { offset, len, block: at as u32, block_offset });
                let (id, group) = (block.id, block.group);
                shown.push(Extent { offset, len, block: id, block_offset, block_len: block.len, group });
            }
        }
        let (inline, mtime) = (Vec::new(), times.mtime);
        let command = Command::Commit { ino, blocks, extents, inline, size_at_least, mtime };
        match files.writeback.change_as(command, times.change_options(fence)).await? {
            Outcome::Attr(attr) => Ok((attr, shown)),
            _ => Err(Error::unexpected("an inode")),
        }
    }

    /// Takes bytes into the buffer, at an offset or at the end. Returns the offset; none: there is no room, or
    /// the write is not `admitted` and written data may not be kept back.
    pub(super) fn buffer(
        &self,
        files: &FileTable,
        offset: Option<u64>,
        data: &[u8],
        admitted: Option<&Admitted<'_>>,
    ) -> Option<u64> {
        if !files.budget.has_room(data.len() as u64) {
            return None;
        }
        let mut inner = self.inner();
        if admitted.is_none() && !files.may_write(&inner) {
            return None;
        }
        let offset = offset.unwrap_or(inner.size);
        let before = inner.dirty.bytes();
        inner.dirty.write(offset, data);
        files.budget.add(inner.dirty.bytes() - before);
        inner.size = inner.size.max(offset + data.len() as u64);
        let now = now();
        (inner.mtime, inner.changed) = (Some(now), Some(now));
        Some(offset)
    }
}

/// How soon a flush has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// A caller waits for it.
    Now,
    /// Nobody waits for it.
    Background,
}

/// The times that a commit carries, and its pace.
#[derive(Debug, Clone, Copy)]
struct CommitTimes {
    mtime: Option<Time>,
    changed: Option<Time>,
    pace: Pace,
}

impl CommitTimes {
    fn change_options(&self, fence: Option<SessionId>) -> ChangeOptions {
        let in_background = self.pace == Pace::Background;
        ChangeOptions { fence, time: self.changed, durable: true, in_background }
    }
}
