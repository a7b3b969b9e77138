//! Written data on its way: into the buffer, out of it into blocks, committed; and the changes of length and time that must come
//! after it.

use super::{FILE_BYTES_MAX, FileState};
use crate::INLINE_BYTES_MAX;
use crate::client::unexpected;
use crate::error::Error;
use crate::file::buffer::Segment;
use crate::file::pack::{Packed, pack};
use crate::volume::Volume;
use crate::writeback::{How, now};
use bytes::Bytes;
use futures::StreamExt;
use rain_namespace::command::{AttrChange, Command, InlinePiece, NewBlock, NewExtent, Outcome, TimeChange};
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::{Ino, SessionId};

/// A file with so much unstored data in fragments shorter than a block begins to store everything, bytes.
pub(super) const FRAGMENTS_EARLY_BYTES: u64 = 8 << 20;

/// A file with so much unstored data in whole blocks begins to store it, bytes.
pub(super) const WHOLE_EARLY_BYTES: u64 = 4 << 20;

/// One flush stores at most so much before it commits, bytes.
const FLUSH_ROUND_BYTES: u64 = 32 << 20;

impl FileState {
    /// Stores and commits everything written before the call.
    pub(crate) async fn flush(&self, volume: &Volume) -> Result<(), Error> {
        self.flush_at(volume, Pace::Now).await
    }

    pub(crate) async fn flush_at(&self, volume: &Volume, pace: Pace) -> Result<(), Error> {
        // Whoever asks is told, also where the background has met it before.
        self.bound(volume)?;
        if !self.is_dirty() {
            return self.take_failure();
        }
        let _turn = self.turn.lock().await;
        let mut left = self.inner().dirty.bytes();
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            let before = left;
            left = left.saturating_sub(self.flush_round(volume, false, pace).await.unwrap_or_else(|error| {
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

    /// A flush that nobody waits for has failed: the next one tells.
    pub(super) fn failed(&self, error: Error) {
        self.inner().failed = Some(error);
    }

    pub(super) fn take_failure(&self) -> Result<(), Error> {
        self.inner().failed.take().map_or(Ok(()), Err)
    }

    /// Stores whole blocks without being asked. Only one at a time; others find nothing to do.
    pub(super) async fn flush_early(&self, volume: &Volume) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        loop {
            // Random writes leave no whole blocks: enough fragments are packed into some.
            let whole_only = self.inner().dirty.fragment_bytes() < FRAGMENTS_EARLY_BYTES;
            match self.flush_round(volume, whole_only, Pace::Now).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, ino = %self.ino(), "storing written data; it stays in memory");
                    self.failed(error);
                    return;
                }
            }
        }
    }

    /// Takes out some of the written data, stores and commits it. Gives how many bytes. The caller has the turn.
    pub(super) async fn flush_round(
        &self,
        volume: &Volume,
        whole_only: bool,
        pace: Pace,
    ) -> Result<u64, Error> {
        // Blocks that nobody could commit are not stored in vain.
        volume.cluster().can_change("storing written data")?;
        let bound = self.bound(volume)?;
        let (segments, attr, size, when) = {
            let mut inner = self.inner();
            let segments = inner.dirty.take(whole_only, FLUSH_ROUND_BYTES);
            inner.flushing.clone_from(&segments);
            (
                segments,
                inner.attr.clone(),
                inner.size,
                When { mtime: inner.mtime, changed: inner.changed, pace },
            )
        };
        if segments.is_empty() {
            return Ok(0);
        }
        let bytes = segments.iter().map(|segment| segment.data.len() as u64).sum();
        let stored = self.store_and_commit(volume, bound, &segments, &attr, size, when).await;
        let mut inner = self.inner();
        inner.flushing.clear();
        match stored {
            Ok((attr, extents)) => {
                inner.committed(attr, &segments, extents);
                drop(inner);
                volume.budget.remove(bytes);
                Ok(bytes)
            }
            Err(Error::Refused(gone @ (NsError::NotFound | NsError::Stale))) => {
                // Removed elsewhere: there is nothing to put the data into.
                drop(inner);
                volume.budget.remove(bytes);
                Err(Error::Refused(gone))
            }
            Err(Error::Refused(NsError::SessionEnded(_))) if bound.is_some() => {
                // Somebody else may have the lock by now.
                drop(inner);
                volume.budget.remove(bytes);
                Err(self.bound(volume).err().unwrap_or(Error::LockLost))
            }
            Err(error) => {
                let before = inner.dirty.bytes();
                for segment in &segments {
                    inner.dirty.write_below(segment);
                }
                // What was overwritten meanwhile is not needed any more.
                let kept = inner.dirty.bytes() - before;
                drop(inner);
                volume.budget.remove(bytes - kept);
                Err(error)
            }
        }
    }

    pub(super) async fn store_and_commit(
        &self,
        volume: &Volume,
        bound: Option<SessionId>,
        segments: &[Segment],
        attr: &Attr,
        size: u64,
        when: When,
    ) -> Result<(Attr, Vec<Extent>), Error> {
        // While other data of the file still waits, its length is only what this commit reaches.
        let reached = segments.last().map_or(0, Segment::end);
        let size_at_least = if self.inner().dirty.is_empty() { size.max(reached) } else { reached };
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
                mtime: when.mtime,
            };
            match volume.change_as(command, when.how(bound)).await {
                Err(Error::Refused(NsError::NotInline)) => {}
                // Inline data belongs to no session, unless it was written under a lock: with the new one it is simply sent again.
                Err(Error::Refused(NsError::SessionEnded(_))) if bound.is_none() => {}
                Ok(Outcome::Attr(attr)) => return Ok((attr, Vec::new())),
                Ok(_) => return Err(unexpected("an inode")),
                Err(error) => return Err(error),
            }
        }
        let packed = pack(segments);
        let mut tries = 3;
        loop {
            tries -= 1;
            match self.store_blocks(volume, bound, attr.ino, &packed, size_at_least, when).await {
                // The blocks went with their session: store them under the new one.
                Err(Error::Refused(NsError::SessionEnded(_))) if tries > 0 && bound.is_none() => {}
                done => return done,
            }
        }
    }

    pub(super) async fn store_blocks(
        &self,
        volume: &Volume,
        bound: Option<SessionId>,
        ino: Ino,
        packed: &[Packed],
        size_at_least: u64,
        when: When,
    ) -> Result<(Attr, Vec<Extent>), Error> {
        let code = volume.record().code;
        let turn = match when.pace {
            Pace::Now => None,
            Pace::Leisurely => volume.writeback.turn_to_store().await,
        };
        let store = |data: Bytes| async move {
            let id = volume.cluster.new_block();
            let (group, nodes) = volume.choose_group();
            let len = data.len() as u32;
            let missing = volume.cluster.blocks.store(id, code, &nodes, data).await?;
            Ok::<_, Error>(NewBlock { id, group, len, missing })
        };
        let stores: Vec<_> = packed.iter().map(|block| store(block.data.clone())).collect();
        let mut under_way =
            futures::stream::iter(stores).buffered(volume.cluster.options().blocks_in_flight_max);
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
        let (inline, mtime) = (Vec::new(), when.mtime);
        let command = Command::Commit { ino, blocks, extents, inline, size_at_least, mtime };
        match volume.change_as(command, when.how(bound)).await? {
            Outcome::Attr(attr) => Ok((attr, shown)),
            _ => Err(unexpected("an inode")),
        }
    }

    /// Changes a length or time after everything that was written before.
    pub(crate) async fn set_attr(&self, volume: &Volume, change: AttrChange) -> Result<Attr, Error> {
        if change.size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(NsError::FileTooLarge.into());
        }
        // Of a file that nobody else knows what is written need not be stored first: it is committed with the time that is set.
        let waits = change.size.is_none() && volume.writeback.is_unpublished(self.ino());
        if change.size != Some(0) && !waits {
            self.flush(volume).await?;
        }
        let _turn = self.turn.lock().await;
        if let Some(size) = change.size {
            // Also what was written while this waited for its turn: the calls race, either order is right.
            let mut inner = self.inner();
            let before = inner.dirty.bytes();
            inner.dirty.remove(size..u64::MAX);
            let dropped = before - inner.dirty.bytes();
            drop(inner);
            volume.budget.remove(dropped);
        }
        let sized = change.size;
        let timed = change.mtime.is_some_and(|mtime| mtime != TimeChange::Now);
        let command = Command::SetAttr { ino: self.ino(), change };
        let how = How { bound: self.bound(volume)?, ..How::default() };
        let Outcome::Attr(attr) = volume.change_as(command, how).await? else {
            return Err(unexpected("an inode"));
        };
        let mut inner = self.inner();
        if timed && !inner.dirty.is_empty() {
            inner.mtime = Some(attr.mtime);
            inner.changed = Some(attr.ctime);
        }
        if let Some(size) = sized {
            inner.truncated(attr, size);
        } else {
            if attr.version != inner.attr.version {
                // Somebody else has changed the contents: their length with what is known of the old ones would be neither.
                inner.mistrusted = true;
                inner.forget_layout();
            }
            inner.take_attr(attr);
        }
        if timed {
            inner.written_none();
        }
        let mut attr = inner.attr.clone();
        drop(inner);
        self.overlay(&mut attr);
        Ok(attr)
    }

    pub(super) async fn punch(&self, volume: &Volume, offset: u64, len: u64) -> Result<Attr, Error> {
        self.flush(volume).await?;
        let _turn = self.turn.lock().await;
        let command = Command::Punch { ino: self.ino(), offset, len };
        let how = How { bound: self.bound(volume)?, ..How::default() };
        let Outcome::Attr(attr) = volume.change_as(command, how).await? else {
            return Err(unexpected("an inode"));
        };
        let mut inner = self.inner();
        inner.forget_layout();
        inner.take_attr(attr);
        Ok(inner.attr.clone())
    }

    /// Takes bytes into the buffer, when there is room.
    pub(super) fn buffer(&self, volume: &Volume, offset: Option<u64>, data: &[u8]) -> Option<u64> {
        if !volume.budget.has_room(data.len() as u64) {
            return None;
        }
        let mut inner = self.inner();
        let offset = offset.unwrap_or(inner.size);
        let before = inner.dirty.bytes();
        inner.dirty.write(offset, data);
        volume.budget.add(inner.dirty.bytes() - before);
        inner.size = inner.size.max(offset + data.len() as u64);
        let now = now();
        (inner.mtime, inner.changed) = (Some(now), Some(now));
        Some(offset)
    }
}

/// Whether somebody waits for a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Now,
    Leisurely,
}

/// The times of what is stored, and how soon it is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    mtime: Option<Time>,
    changed: Option<Time>,
    pace: Pace,
}

impl When {
    fn how(&self, bound: Option<SessionId>) -> How {
        How { bound, time: self.changed, durably: true, leisurely: self.pace == Pace::Leisurely }
    }
}
