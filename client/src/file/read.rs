//! Reading: what is in memory, where the rest is, and fetching it.

use super::FileState;
use crate::client::unexpected;
use crate::error::Error;
use crate::file::buffer::Segment;
use crate::file::ranges::RangeSet;
use crate::placement::MAY_HAVE_MOVED_AFTER;
use crate::volume::Volume;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::Extent;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Extents asked for at a time.
const LAYOUT_PAGE: u32 = 2048;

/// Extents kept of one file; beyond it they are asked for again.
const EXTENTS_KEPT_MAX: usize = 65_536;

/// How far a sequential reader is read ahead, bytes.
const READ_AHEAD_BYTES: u64 = 4 << 20;

/// A piece of a read that is not in memory.
#[derive(Debug)]
pub(super) enum Source {
    Stored(Extent, Range<u64>),
    Inline(Range<u64>),
    Zeros,
}

impl FileState {
    /// The parts of a range that are in memory, and the rest as ranges to be read.
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

    pub(super) async fn learn_layout(&self, volume: &Volume, range: Range<u64>) -> Result<(), Error> {
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
            let Answer::Layout { attr, inline, extents, more } = volume.ask(&query).await? else {
                return Err(unexpected("a layout"));
            };
            let known_to = match extents.last() {
                Some(last) if more => last.end(),
                _ => u64::MAX,
            };
            let places = volume.places();
            if !extents.iter().all(|extent| places.knows(extent.group)) {
                volume.refresh_places().await?;
            }
            let mut inner = self.inner();
            if attr.version < inner.attr.version {
                continue; // Older than a commit of ours that was answered meanwhile.
            }
            if attr.version > inner.attr.version || inner.extents.len() > EXTENTS_KEPT_MAX {
                // What was read before may be of older contents.
                inner.mistrusted |= attr.version > inner.attr.version;
                inner.forget_layout();
            }
            inner.take_attr(attr);
            inner.inline = Some(inline.into());
            inner.learned.get_or_insert_with(Instant::now);
            for extent in extents {
                inner.extents.insert(extent);
            }
            inner.known.insert(from..known_to);
        }
    }

    /// Whether what is known of a range is old and has blocks that were to move.
    fn may_have_moved(&self, volume: &Volume, range: Range<u64>) -> bool {
        let places = volume.places();
        if !places.any_closed() {
            return false;
        }
        let inner = self.inner();
        inner.learned.is_some_and(|learned| learned.elapsed() > MAY_HAVE_MOVED_AFTER)
            && inner.extents.overlapping(range).iter().any(|extent| places.is_closed(extent.group))
    }

    /// Where the bytes of a range come from, in order. The layout of the range is known.
    pub(super) fn sources(&self, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
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

    pub(super) async fn read_committed(
        &self,
        volume: &Volume,
        range: Range<u64>,
        long: bool,
    ) -> Result<Vec<(Range<u64>, Bytes)>, Error> {
        self.learn_layout(volume, range.clone()).await?;
        if self.may_have_moved(volume, range.clone()) {
            self.inner().forget_layout();
            self.learn_layout(volume, range.clone()).await?;
        }
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

    pub(super) async fn read(
        &self,
        volume: &Volume,
        offset: u64,
        len: u32,
        long: bool,
    ) -> Result<Bytes, Error> {
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
    pub(super) fn read_ahead(&self, volume: &Arc<Volume>, from: u64) {
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
