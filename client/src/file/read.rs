//! Reads: the parts of a range that are in memory, the layout of the rest, and fetching it.

use super::buffer::Segment;
use super::ranges::RangeSet;
use super::state::{FileState, Inner};
use super::table::FileTable;
use crate::error::Error;
use crate::placement::MAY_HAVE_MOVED_AFTER;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Extent;
use rain_proto::v1::LeaseKind;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Extents in one answer of the namespace.
const LAYOUT_PAGE: u32 = 2048;

/// Extents kept of one file. With more, all are forgotten and asked for again.
const EXTENTS_MAX: usize = 65_536;

/// Read-ahead of a sequential reader, bytes.
const READ_AHEAD_BYTES: u64 = 4 << 20;

/// Blocks and inline pieces of one read that are fetched at a time.
const READS_AT_ONCE: usize = 16;

/// The source of a piece of a read that is not in the write buffer.
#[derive(Debug)]
pub(super) enum Source {
    /// A part of an extent's block.
    Stored(Extent, Range<u64>),
    /// A part of the inline data.
    Inline(Range<u64>),
    /// A hole.
    Zeros,
}

/// The layout of a range at one moment.
struct Layout {
    /// The sources of the range, in order.
    sources: Vec<(Range<u64>, Source)>,
    /// The inline data that some of them may mean.
    inline: Bytes,
    /// The length of the file. Behind it the sources are zeros.
    size: u64,
}

impl FileState {
    /// The parts of a range that are in the write buffer, oldest first, and the other ranges.
    pub(super) fn overlay_of(&self, range: Range<u64>) -> (Vec<Segment>, Vec<Range<u64>>) {
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

    /// Asks the namespace for the layout of a range, unless it is known.
    pub(super) async fn learn_layout(&self, files: &FileTable, range: Range<u64>) -> Result<(), Error> {
        self.layout_of(files, range).await.map(|_| ())
    }

    /// The layout of a range: as it is known, or as the namespace says.
    async fn layout_of(&self, files: &FileTable, range: Range<u64>) -> Result<Layout, Error> {
        loop {
            let (ino, from) = {
                let inner = self.inner();
                match inner.known.first_gap(range.clone()) {
                    Some(gap) => (inner.attr.ino, gap),
                    None => match &inner.inline {
                        Some(inline) => {
                            let (inline, size) = (inline.clone(), inner.size);
                            return Ok(Layout { sources: sources_in(&inner, range), inline, size });
                        }
                        None => (inner.attr.ino, range.start),
                    },
                }
            };
            let query = Query::Layout { ino, from, limit: LAYOUT_PAGE };
            let (answer, grant) = files.writeback.ask_for(&query, LeaseKind::LeaseReadOpen).await?;
            let Answer::Layout { attr, inline, extents, more } = answer else {
                return Err(Error::unexpected("a layout"));
            };
            let known_to = match extents.last() {
                Some(last) if more => last.end(),
                _ => u64::MAX,
            };
            let groups = files.placement.groups();
            if !extents.iter().all(|extent| groups.contains(extent.group)) {
                files.refresh_placement().await?;
            }
            let mut inner = self.inner();
            if attr.version < inner.attr.version {
                // The answer is older than a commit of this client that was answered meanwhile.
                files.session.leases().forget(ino);
                continue;
            }
            if attr.version > inner.attr.version {
                inner.changed_elsewhere(attr.version);
            } else if inner.extents.len() > EXTENTS_MAX {
                inner.forget_layout();
            }
            inner.take_attr(attr);
            inner.inline = Some(inline.into());
            inner.learned.get_or_insert_with(|| grant.asked.unwrap_or_else(Instant::now));
            for extent in extents {
                inner.extents.insert(extent);
            }
            inner.known.insert(from..known_to);
            drop(inner);
            self.take_lease(files, &grant);
        }
    }

    /// Whether the known layout of a range is old and has blocks in closed groups.
    fn may_have_moved(&self, files: &FileTable, range: Range<u64>) -> bool {
        let groups = files.placement.groups();
        if !groups.any_closed() {
            return false;
        }
        let inner = self.inner();
        inner.learned.is_some_and(|learned| learned.elapsed() > MAY_HAVE_MOVED_AFTER)
            && inner.extents.overlapping(range).iter().any(|extent| groups.is_closed(extent.group))
    }

    /// Forgets the layout, so that the leader is asked again: moving a block changes neither version nor lease.
    fn distrust_layout(&self, files: &FileTable) {
        files.session.leases().forget(self.ino());
        self.inner().forget_layout();
    }

    /// The sources of a range, in order. The layout of the range has to be known.
    pub(super) fn sources(&self, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
        sources_in(&self.inner(), range)
    }

    /// Reads a range as it is committed. `long`: read whole blocks. Returns also the length of the file at that moment:
    /// what is read behind it is no part of the file.
    async fn read_committed(
        &self,
        files: &FileTable,
        range: Range<u64>,
        long: bool,
    ) -> Result<(Vec<(Range<u64>, Bytes)>, u64), Error> {
        let mut layout = self.layout_of(files, range.clone()).await?;
        if self.may_have_moved(files, range.clone()) {
            self.distrust_layout(files);
            layout = self.layout_of(files, range).await?;
        }
        let Layout { sources, inline, size } = layout;
        let reads = sources.into_iter().map(|(range, source)| {
            let inline = &inline;
            async move {
                let data = match source {
                    Source::Zeros => Bytes::from(vec![0; (range.end - range.start) as usize]),
                    Source::Inline(part) => inline.slice(part.start as usize..part.end as usize),
                    Source::Stored(extent, part) => {
                        let location = files.placement.locate(&extent)?;
                        let part = part.start as usize..part.end as usize;
                        // A block of which much is wanted, at once or soon, is fetched whole.
                        let whole = long && extent.len * 4 >= extent.block_len
                            || part.len() * 2 > location.len as usize;
                        match files.blocks.cached(&location) {
                            Some(block) => block.slice(part),
                            None if whole => files.blocks.read_block(&location).await?.slice(part),
                            None => files.blocks.read_range(&location, part).await?,
                        }
                    }
                };
                Ok::<_, Error>((range, data))
            }
        });
        let parts = futures::stream::iter(reads).buffered(READS_AT_ONCE).collect::<Vec<_>>().await;
        Ok((parts.into_iter().collect::<Result<_, _>>()?, size))
    }

    /// Reads a range. The result is shorter only at the end of the file.
    pub(super) async fn read(
        &self,
        files: &FileTable,
        offset: u64,
        len: u32,
        long: bool,
    ) -> Result<Bytes, Error> {
        self.ensure_current(files).await?;
        let mut end = offset.saturating_add(len.into()).min(self.inner().size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (layers, holes) = self.overlay_of(offset..end);
        let mut parts = Vec::new();
        for hole in holes {
            let read = match self.read_committed(files, hole.clone(), long).await {
                // Another client may have overwritten the range, and its old blocks are gone. Look again,
                // once.
                Err(Error::Damaged { .. }) => {
                    self.distrust_layout(files);
                    self.read_committed(files, hole, long).await
                }
                read => read,
            };
            let (read, size) = read?;
            // Cut since: the layout is that of the shorter file.
            end = end.min(size);
            parts.extend(read);
        }
        if offset >= end {
            return Ok(Bytes::new());
        }
        if let ([(range, data)], true) = (parts.as_slice(), layers.is_empty())
            && range.start == offset
            && range.end >= end
        {
            return Ok(data.slice(..(end - offset) as usize));
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

    /// Starts fetching the blocks that follow a sequential read.
    pub(super) fn read_ahead(&self, files: &Arc<FileTable>, from: u64) {
        let ahead = from..(from + READ_AHEAD_BYTES).min(self.inner().size);
        if ahead.is_empty() || self.inner().known.first_gap(ahead.clone()).is_some() {
            return;
        }
        for (_, source) in self.sources(ahead) {
            let Source::Stored(extent, _) = source else { continue };
            let Ok(location) = files.placement.locate(&extent) else { continue };
            if extent.len * 4 < extent.block_len || files.blocks.is_cached_or_coming(&location) {
                continue;
            }
            let files = files.clone();
            files.session.runtime().clone().spawn(async move {
                // The reader meets any error itself.
                let _ = files.blocks.read_block(&location).await;
            });
        }
    }
}

/// The sources of a range of a file whose layout of the range is known.
fn sources_in(inner: &Inner, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
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
