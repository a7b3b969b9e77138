//! A file's data: what is written here and not yet committed, laid over what the namespace says is stored.
//!
//! Layers of a read, newest first: `dirty` (written), `flushing` (being stored), extents, inline data, zeros.
//!
//! Invariants:
//! 1. Commits of one file follow the order of its writes: one flush at a time (`turn`).
//! 2. Extents are kept only as long as every change of the file's version is this client's own.
//! 3. A failed flush puts its data back below what was written since; the error is told to the caller of the
//!    flush, or, when nobody called, to the next one who flushes.
//!
//! It leaves out names and attributes (`volume`) and how blocks are stored (`block`).

use crate::INLINE_BYTES_MAX;
use crate::cluster::unexpected;
use crate::dirty::{Dirty, Segment};
use crate::error::Error;
use crate::flush::{Packed, pack};
use crate::ranges::RangeSet;
use crate::volume::Volume;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rain_namespace::command::{AttrChange, Command, InlinePiece, NewBlock, NewExtent, Outcome, TimeChange};
use rain_namespace::error::NsError;
use rain_namespace::extent::ExtentMap;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::Ino;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A file with so much unstored data in whole blocks begins to store it, bytes.
const WHOLE_EARLY_BYTES: u64 = 4 << 20;

/// A file with so much unstored data in fragments shorter than a block begins to store everything, bytes.
const FRAGMENTS_EARLY_BYTES: u64 = 8 << 20;

/// One flush stores at most so much before it commits, bytes.
const FLUSH_ROUND_BYTES: u64 = 32 << 20;

/// Extents asked for at a time.
const LAYOUT_PAGE: u32 = 2048;

/// Extents kept of one file; beyond it they are asked for again.
const EXTENTS_KEPT_MAX: usize = 65_536;

/// A read of at least this length, or one that goes on where the last ended, reads whole blocks.
const READ_LONG_BYTES: u32 = 64 << 10;

/// How far a sequential reader is read ahead, bytes.
const READ_AHEAD_BYTES: u64 = 4 << 20;

/// The largest offset plus one.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// One file, shared by everybody in this client who has it open.
#[derive(Debug)]
pub(crate) struct FileState {
    inner: Mutex<Inner>,
    /// Held by whoever stores and commits, or changes the length.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    attr: Attr,
    /// The length as this client's programs see it.
    size: u64,
    /// When this client last wrote what is not committed yet.
    mtime: Option<Time>,
    dirty: Dirty,
    flushing: Vec<Segment>,
    inline: Option<Bytes>,
    extents: ExtentMap,
    known: RangeSet,
    /// The kernel may hold pages from before somebody else's change.
    mistrusted: bool,
    orphan: bool,
    opens: u32,
    /// Of a flush that nobody waited for.
    failed: Option<Error>,
}

/// A piece of a read that is not in memory.
#[derive(Debug)]
enum Source {
    Stored(Extent, Range<u64>),
    Inline(Range<u64>),
    Zeros,
}

impl FileState {
    pub(crate) fn new(attr: Attr) -> FileState {
        FileState {
            inner: Mutex::new(Inner {
                size: attr.size,
                attr,
                mtime: None,
                dirty: Dirty::default(),
                flushing: Vec::new(),
                inline: None,
                extents: ExtentMap::default(),
                known: RangeSet::default(),
                mistrusted: false,
                orphan: false,
                opens: 0,
                failed: None,
            }),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ino(&self) -> Ino {
        self.inner().attr.ino
    }

    pub(crate) fn is_dirty(&self) -> bool {
        let inner = self.inner();
        !inner.dirty.is_empty() || !inner.flushing.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.opens == 0 && inner.dirty.is_empty() && inner.flushing.is_empty()
    }

    /// The version whose contents the kernel's pages have, if that is certain.
    pub(crate) fn trusted_version(&self) -> Option<u64> {
        let inner = self.inner();
        (!inner.mistrusted && !inner.orphan).then_some(inner.attr.version)
    }

    /// Marks that the last name is gone. Gives whether anybody has it open.
    pub(crate) fn orphan(&self) -> bool {
        let mut inner = self.inner();
        inner.orphan = inner.opens > 0;
        inner.orphan
    }

    /// Takes in what the namespace says at another open. Gives whether nothing changed behind this client.
    pub(crate) fn opened_again(&self, attr: Attr) -> bool {
        let mut inner = self.inner();
        let same = inner.attr.version == attr.version && !inner.mistrusted;
        // A commit of ours may have overtaken the question; versions only grow.
        if attr.version > inner.attr.version {
            inner.forget_layout();
            inner.take_attr(attr);
        }
        inner.mistrusted = false;
        same
    }

    /// Puts this client's own writes over the attributes.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        let inner = self.inner();
        if !inner.dirty.is_empty() || !inner.flushing.is_empty() {
            attr.size = inner.size;
            if let Some(mtime) = inner.mtime {
                attr.mtime = mtime;
                attr.ctime = mtime;
            }
        }
    }

    /// Stores and commits everything written before the call.
    pub(crate) async fn flush(&self, volume: &Volume) -> Result<(), Error> {
        if !self.is_dirty() {
            return self.take_failure();
        }
        let _turn = self.turn.lock().await;
        let mut left = self.inner().dirty.bytes();
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            let before = left;
            left = left.saturating_sub(self.flush_round(volume, false).await.unwrap_or_else(|error| {
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

    fn take_failure(&self) -> Result<(), Error> {
        self.inner().failed.take().map_or(Ok(()), Err)
    }

    /// Stores whole blocks without being asked. Only one at a time; others find nothing to do.
    async fn flush_early(&self, volume: &Volume) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        loop {
            // Random writes leave no whole blocks: enough fragments are packed into some.
            let whole_only = self.inner().dirty.fragment_bytes() < FRAGMENTS_EARLY_BYTES;
            match self.flush_round(volume, whole_only).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, ino = %self.ino(), "storing written data; it stays in memory");
                    self.inner().failed = Some(error);
                    return;
                }
            }
        }
    }

    /// Takes out some of the written data, stores and commits it. Gives how many bytes. The caller has the turn.
    async fn flush_round(&self, volume: &Volume, whole_only: bool) -> Result<u64, Error> {
        let (segments, attr, size, mtime) = {
            let mut inner = self.inner();
            let segments = inner.dirty.take(whole_only, FLUSH_ROUND_BYTES);
            inner.flushing.clone_from(&segments);
            (segments, inner.attr.clone(), inner.size, inner.mtime)
        };
        if segments.is_empty() {
            return Ok(0);
        }
        let bytes = segments.iter().map(|segment| segment.data.len() as u64).sum();
        let stored = self.store_and_commit(volume, &segments, &attr, size, mtime).await;
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

    async fn store_and_commit(
        &self,
        volume: &Volume,
        segments: &[Segment],
        attr: &Attr,
        size: u64,
        mtime: Option<Time>,
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
                mtime,
            };
            match volume.cluster.propose(command).await {
                Err(Error::Refused(NsError::NotInline)) => {}
                // Inline data belongs to no session: with the new one it is simply sent again.
                Err(Error::Refused(NsError::SessionEnded(_))) => {}
                Ok(Outcome::Attr(attr)) => return Ok((attr, Vec::new())),
                Ok(_) => return Err(unexpected("an inode")),
                Err(error) => return Err(error),
            }
        }
        let packed = pack(segments);
        let mut tries = 3;
        loop {
            tries -= 1;
            match self.store_blocks(volume, attr.ino, &packed, size_at_least, mtime).await {
                // The blocks went with their session: store them under the new one.
                Err(Error::Refused(NsError::SessionEnded(_))) if tries > 0 => {}
                done => return done,
            }
        }
    }

    async fn store_blocks(
        &self,
        volume: &Volume,
        ino: Ino,
        packed: &[Packed],
        size_at_least: u64,
        mtime: Option<Time>,
    ) -> Result<(Attr, Vec<Extent>), Error> {
        let code = volume.record().code;
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
        drop(under_way);
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
        let command = Command::Commit { ino, blocks, extents, inline: Vec::new(), size_at_least, mtime };
        match volume.cluster.propose(command).await? {
            Outcome::Attr(attr) => Ok((attr, shown)),
            _ => Err(unexpected("an inode")),
        }
    }

    /// Changes a length or time after everything that was written before.
    pub(crate) async fn set_attr(&self, volume: &Volume, change: AttrChange) -> Result<Attr, Error> {
        if change.size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(NsError::FileTooLarge.into());
        }
        if change.size != Some(0) {
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
        let Outcome::Attr(attr) =
            volume.cluster.propose(Command::SetAttr { ino: self.ino(), change }).await?
        else {
            return Err(unexpected("an inode"));
        };
        let mut inner = self.inner();
        if let Some(size) = sized {
            inner.truncated(attr, size);
        } else {
            inner.take_attr(attr);
        }
        if timed && inner.dirty.is_empty() {
            inner.mtime = None;
        }
        let mut attr = inner.attr.clone();
        drop(inner);
        self.overlay(&mut attr);
        Ok(attr)
    }

    async fn punch(&self, volume: &Volume, offset: u64, len: u64) -> Result<Attr, Error> {
        self.flush(volume).await?;
        let _turn = self.turn.lock().await;
        let command = Command::Punch { ino: self.ino(), offset, len };
        let Outcome::Attr(attr) = volume.cluster.propose(command).await? else {
            return Err(unexpected("an inode"));
        };
        let mut inner = self.inner();
        inner.forget_layout();
        inner.take_attr(attr);
        Ok(inner.attr.clone())
    }

    /// Takes bytes into the buffer, when there is room.
    fn buffer(&self, volume: &Volume, offset: Option<u64>, data: &[u8]) -> Option<u64> {
        if !volume.budget.has_room(data.len() as u64) {
            return None;
        }
        let mut inner = self.inner();
        let offset = offset.unwrap_or(inner.size);
        let before = inner.dirty.bytes();
        inner.dirty.write(offset, data);
        volume.budget.add(inner.dirty.bytes() - before);
        inner.size = inner.size.max(offset + data.len() as u64);
        inner.mtime = Some(now());
        Some(offset)
    }

    /// The parts of a range that are in memory, and the rest as ranges to be read.
    fn overlay_of(&self, range: Range<u64>) -> (Vec<Segment>, Vec<Range<u64>>) {
        let inner = self.inner();
        let mut layers: Vec<Segment> = inner
            .flushing
            .iter()
            .filter(|segment| segment.offset < range.end && segment.end() > range.start)
            .cloned()
            .collect();
        let newer = inner.dirty.pieces(range.clone());
        layers.extend(newer.map(|(offset, data)| Segment { offset, data: Bytes::copy_from_slice(data) }));
        let mut covered = RangeSet::default();
        for layer in &layers {
            covered.insert(layer.offset.max(range.start)..layer.end().min(range.end));
        }
        let mut holes = Vec::new();
        let mut at = range.start;
        while let Some(start) = covered.first_gap(at..range.end) {
            let next = layers.iter().map(|layer| layer.offset).filter(|offset| *offset > start).min();
            let end = next.unwrap_or(range.end).min(range.end);
            holes.push(start..end);
            at = end;
        }
        (layers, holes)
    }

    async fn learn_layout(&self, volume: &Volume, range: Range<u64>) -> Result<(), Error> {
        loop {
            let (ino, from) = {
                let inner = self.inner();
                match inner.known.first_gap(range.clone()) {
                    Some(gap) => (inner.attr.ino, gap),
                    None if inner.inline.is_some() => return Ok(()),
                    None => (inner.attr.ino, range.start),
                }
            };
            let query = Query::Layout { ino, from, limit: LAYOUT_PAGE };
            let Answer::Layout { attr, inline, extents, more } = volume.cluster.query(&query).await? else {
                return Err(unexpected("a layout"));
            };
            let known_to = match extents.last() {
                Some(last) if more => last.end(),
                _ => u64::MAX,
            };
            let mut inner = self.inner();
            if attr.version < inner.attr.version {
                continue; // Older than a commit of ours that was answered meanwhile.
            }
            if attr.version > inner.attr.version || inner.extents.len() > EXTENTS_KEPT_MAX {
                inner.forget_layout();
            }
            inner.take_attr(attr);
            inner.inline = Some(inline.into());
            for extent in extents {
                inner.extents.insert(extent);
            }
            inner.known.insert(from..known_to);
        }
    }

    /// Where the bytes of a range come from, in order. The layout of the range is known.
    fn sources(&self, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
        let inner = self.inner();
        let inline = inner.inline.as_ref().map_or(0, |inline| inline.len() as u64);
        let mut sources = Vec::new();
        let below = |sources: &mut Vec<(Range<u64>, Source)>, hole: Range<u64>| {
            if hole.start < inline.min(hole.end) {
                let part = hole.start..inline.min(hole.end);
                sources.push((part.clone(), Source::Inline(part)));
            }
            if hole.start.max(inline) < hole.end {
                sources.push((hole.start.max(inline)..hole.end, Source::Zeros));
            }
        };
        let mut at = range.start;
        for extent in inner.extents.overlapping(range.clone()) {
            let (from, to) = (extent.offset.max(range.start), extent.end().min(range.end));
            if at < from {
                below(&mut sources, at..from);
            }
            let in_block = u64::from(extent.block_offset) + (from - extent.offset);
            sources.push((from..to, Source::Stored(extent, in_block..in_block + (to - from))));
            at = to;
        }
        if at < range.end {
            below(&mut sources, at..range.end);
        }
        sources
    }

    async fn read_committed(
        &self,
        volume: &Volume,
        range: Range<u64>,
        long: bool,
    ) -> Result<Vec<(Range<u64>, Bytes)>, Error> {
        self.learn_layout(volume, range.clone()).await?;
        let inline = self.inner().inline.clone().unwrap_or_default();
        let sources = self.sources(range);
        let reads = sources.into_iter().map(|(range, source)| {
            let inline = &inline;
            async move {
                let data = match source {
                    Source::Zeros => Bytes::from(vec![0; (range.end - range.start) as usize]),
                    Source::Inline(part) => inline.slice(part.start as usize..part.end as usize),
                    Source::Stored(extent, part) => {
                        let place = volume.place(&extent)?;
                        let part = part.start as usize..part.end as usize;
                        // A block of which much is wanted now or soon is fetched once, whole.
                        let whole =
                            long && extent.len * 4 >= extent.block_len || part.len() * 2 > place.len as usize;
                        match volume.cluster.blocks.cached(&place) {
                            Some(block) => block.slice(part),
                            None if whole => volume.cluster.blocks.read_block(&place).await?.slice(part),
                            None => volume.cluster.blocks.read_range(&place, part).await?,
                        }
                    }
                };
                Ok::<_, Error>((range, data))
            }
        });
        futures::stream::iter(reads).buffered(16).collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn read(&self, volume: &Volume, offset: u64, len: u32, long: bool) -> Result<Bytes, Error> {
        let end = offset.saturating_add(len.into()).min(self.inner().size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (layers, holes) = self.overlay_of(offset..end);
        let mut parts = Vec::new();
        for hole in holes {
            let read = match self.read_committed(volume, hole.clone(), long).await {
                // Somebody may have overwritten it meanwhile and its old blocks are gone: look again, once.
                Err(Error::Damaged { .. }) => {
                    self.inner().forget_layout();
                    self.read_committed(volume, hole, long).await
                }
                read => read,
            };
            parts.extend(read?);
        }
        if let ([(range, data)], true) = (parts.as_slice(), layers.is_empty())
            && *range == (offset..end)
        {
            return Ok(data.clone());
        }
        let mut whole = BytesMut::zeroed((end - offset) as usize);
        let mut lay = |at: u64, data: &[u8]| {
            let (from, to) = (at.max(offset), (at + data.len() as u64).min(end));
            if from < to {
                let source = &data[(from - at) as usize..(to - at) as usize];
                whole[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        };
        for (range, data) in &parts {
            lay(range.start, data);
        }
        for layer in &layers {
            lay(layer.offset, &layer.data);
        }
        Ok(whole.freeze())
    }

    /// Fetches the blocks after a sequential read before they are asked for.
    fn read_ahead(&self, volume: &Arc<Volume>, from: u64) {
        let ahead = from..(from + READ_AHEAD_BYTES).min(self.inner().size);
        if ahead.is_empty() || self.inner().known.first_gap(ahead.clone()).is_some() {
            return;
        }
        for (_, source) in self.sources(ahead) {
            let Source::Stored(extent, _) = source else { continue };
            let Ok(place) = volume.place(&extent) else { continue };
            if extent.len * 4 < extent.block_len || volume.cluster.blocks.known(&place) {
                continue;
            }
            let volume = volume.clone();
            volume.runtime.clone().spawn(async move {
                // The reader will meet any error itself.
                let _ = volume.cluster.blocks.read_block(&place).await;
            });
        }
    }
}

impl Inner {
    fn forget_layout(&mut self) {
        self.extents = ExtentMap::default();
        self.known.clear();
        self.inline = None;
    }

    /// Takes in attributes that are at least as new; the length stays what this client's writes made it.
    fn take_attr(&mut self, attr: Attr) {
        if attr.version < self.attr.version {
            return;
        }
        self.size = if self.dirty.is_empty() && self.flushing.is_empty() {
            attr.size
        } else {
            attr.size.max(self.dirty.end()).max(self.flushing.last().map_or(0, Segment::end))
        };
        self.attr = attr;
    }

    fn committed(&mut self, attr: Attr, segments: &[Segment], extents: Vec<Extent>) {
        if attr.version == self.attr.version + 1 {
            for extent in extents {
                self.known.insert(extent.offset..extent.end());
                self.extents.insert(extent);
            }
            if attr.extents == 0 {
                // Inline data changed; it is small, and asked for again when it is needed.
                self.inline = None;
            }
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        debug_assert!(!segments.is_empty(), "only what was taken out is committed");
        if self.dirty.is_empty() {
            self.mtime = None;
        }
        self.take_attr(attr);
    }

    fn truncated(&mut self, attr: Attr, size: u64) {
        if attr.version == self.attr.version + 1 {
            self.extents.truncate(size);
            self.inline = None;
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        self.size = size.max(self.dirty.end());
        if self.dirty.is_empty() {
            self.mtime = None;
        }
        self.attr = attr;
    }
}

/// An open file. Dropping it closes it: what is not stored yet is stored in the background, and the last close of
/// a removed file lets it go.
#[derive(Debug)]
pub struct OpenFile {
    volume: Arc<Volume>,
    file: Arc<FileState>,
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
        if offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX {
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
                self.volume.flush_all().await?;
                self.volume.budget.freed().await;
            }
            let bound = self.volume.cluster.options().slow_after;
            if begun.elapsed() > bound {
                return Err(Error::TimedOut { what: "waiting for room to write".into(), after: bound });
            }
        }
    }

    /// Makes everything written so far, through any handle of this file, durable and visible to others.
    pub async fn flush(&self) -> Result<(), Error> {
        self.file.flush(&self.volume).await
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
        if orphan {
            self.volume.release(ino);
        } else if self.file.is_dirty() {
            let (volume, file) = (self.volume.clone(), self.file.clone());
            self.volume.runtime.spawn(async move {
                if let Err(error) = file.flush(&volume).await {
                    tracing::warn!(%error, %ino, "storing a closed file; it stays in memory and is tried again");
                }
                volume.close_if_idle(&file);
            });
            return;
        }
        self.volume.close_if_idle(&self.file);
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
