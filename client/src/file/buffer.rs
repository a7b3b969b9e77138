//! The write buffer: data written to a file and not yet committed. Pure.
//!
//! Invariants (`the_newest_bytes_are_read`):
//! 1. Segments are non-empty and disjoint, and reading gives the newest bytes.
//! 2. No segment is longer than [`SEGMENT_BYTES_MAX`], so taking some out never moves much.
//!
//! It does not decide when to flush, nor what becomes a block; `flush` and `pack` do.

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The longest segment, bytes: a full block.
pub(crate) const SEGMENT_BYTES_MAX: usize = crate::options::BLOCK_BYTES_MAX;

/// A range of written data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

impl Segment {
    /// The offset behind the last byte of the segment.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Written data by offset.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    segments: BTreeMap<u64, BytesMut>,
    /// The offsets of segments of the full length.
    whole: BTreeSet<u64>,
    bytes: u64,
}

impl Dirty {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes in segments that are shorter than a full block.
    pub(crate) fn fragment_bytes(&self) -> u64 {
        self.bytes - (self.whole.len() * SEGMENT_BYTES_MAX) as u64
    }

    /// Whether the buffer has no data.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The offset behind the last segment; 0 without a segment.
    pub(crate) fn end(&self) -> u64 {
        self.segments.last_key_value().map_or(0, |(offset, data)| offset + data.len() as u64)
    }

    /// Writes bytes over older ones.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        if data.is_empty() {
            return;
        }
        if let Some((start, segment)) = self.segments.range_mut(..=offset).next_back() {
            let at = (offset - start) as usize;
            if at + data.len() <= segment.len() {
                segment[at..at + data.len()].copy_from_slice(data);
                return;
            }
        }
        self.remove(offset..end);
        let mut rest = data;
        // A segment that ends here grows, up to the next multiple of the longest segment: aligned blocks.
        if let Some((start, segment)) = self.segments.range_mut(..offset).next_back()
            && start + segment.len() as u64 == offset
        {
            let room = room_from(offset).min(SEGMENT_BYTES_MAX.saturating_sub(segment.len()));
            let now = if offset.is_multiple_of(SEGMENT_BYTES_MAX as u64) { 0 } else { room.min(rest.len()) };
            segment.extend_from_slice(&rest[..now]);
            if segment.len() == SEGMENT_BYTES_MAX {
                self.whole.insert(*start);
            }
            rest = &rest[now..];
        }
        let mut at = end - rest.len() as u64;
        while !rest.is_empty() {
            let now = room_from(at).min(rest.len());
            self.segments.insert(at, BytesMut::from(&rest[..now]));
            if now == SEGMENT_BYTES_MAX {
                self.whole.insert(at);
            }
            at += now as u64;
            rest = &rest[now..];
        }
        self.bytes += data.len() as u64;
    }

    /// Writes the bytes that a failed flush gives back: only where no newer bytes are.
    pub(crate) fn write_below(&mut self, segment: &Segment) {
        let newer: Vec<(u64, Bytes)> = self
            .pieces(segment.offset..segment.end())
            .map(|(offset, data)| (offset, Bytes::copy_from_slice(data)))
            .collect();
        self.write(segment.offset, &segment.data);
        for (offset, data) in newer {
            self.write(offset, &data);
        }
    }

    /// Removes a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<u64> = self
            .segments
            .range(..range.end)
            .rev()
            .take_while(|(start, data)| **start + data.len() as u64 > range.start)
            .map(|(start, _)| *start)
            .collect();
        for start in touched {
            let Some(mut data) = self.segments.remove(&start) else { continue };
            self.whole.remove(&start);
            self.bytes -= data.len() as u64;
            let end = start + data.len() as u64;
            if end > range.end {
                let tail = data.split_off((range.end - start) as usize);
                self.bytes += tail.len() as u64;
                self.segments.insert(range.end, tail);
            }
            if start < range.start {
                data.truncate((range.start - start) as usize);
                self.bytes += data.len() as u64;
                self.segments.insert(start, data);
            }
        }
    }

    /// The parts of segments within a range, in order.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        let first = self.segments.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.segments.range(first..range.end.max(first)).filter_map(move |(start, data)| {
            let end = start + data.len() as u64;
            let (from, to) = (range.start.max(*start), range.end.min(end));
            (from < to).then(|| (from, &data[(from - start) as usize..(to - start) as usize]))
        })
    }

    /// Takes out segments in order, or only those of the full length, up to a number of bytes but at least
    /// one.
    pub(crate) fn take(&mut self, whole_only: bool, bytes_max: u64) -> Vec<Segment> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut fits = |len: usize| {
            let fits = bytes == 0 || bytes + len as u64 <= bytes_max;
            bytes += len as u64;
            fits
        };
        let starts: Vec<u64> = if whole_only {
            self.whole.iter().copied().take_while(|_| fits(SEGMENT_BYTES_MAX)).collect()
        } else {
            self.segments.iter().take_while(|(_, data)| fits(data.len())).map(|(start, _)| *start).collect()
        };
        for offset in starts {
            if let Some(data) = self.segments.remove(&offset) {
                self.whole.remove(&offset);
                self.bytes -= data.len() as u64;
                taken.push(Segment { offset, data: data.freeze() });
            }
        }
        taken
    }
}

/// Bytes from an offset to the next multiple of a full block.
fn room_from(offset: u64) -> usize {
    SEGMENT_BYTES_MAX - (offset % SEGMENT_BYTES_MAX as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model_of(dirty: &Dirty, len: usize) -> Vec<Option<u8>> {
        let mut model = vec![None; len];
        for (offset, data) in dirty.pieces(0..len as u64) {
            for (at, byte) in data.iter().enumerate() {
                model[offset as usize + at] = Some(*byte);
            }
        }
        model
    }

    proptest! {
        #[test]
        fn the_newest_bytes_are_read(steps in proptest::collection::vec((0u8..4, 0u64..200, 1usize..40, any::<u8>()), 1..60)) {
            let mut dirty = Dirty::default();
            let mut model = vec![None; 300];
            for (kind, offset, len, byte) in steps {
                let range = offset as usize..offset as usize + len;
                match kind {
                    0 | 1 => {
                        dirty.write(offset, &vec![byte; len]);
                        model[range].fill(Some(byte));
                    }
                    2 => {
                        dirty.write_below(&Segment { offset, data: vec![byte; len].into() });
                        for cell in &mut model[range] {
                            cell.get_or_insert(byte);
                        }
                    }
                    _ => {
                        dirty.remove(offset..offset + len as u64);
                        model[range].fill(None);
                    }
                }
                prop_assert_eq!(&model_of(&dirty, 300), &model);
                prop_assert_eq!(dirty.bytes(), model.iter().flatten().count() as u64);
                prop_assert_eq!(dirty.fragment_bytes(), dirty.bytes());
            }
        }
    }

    #[test]
    fn sequential_writes_gather_into_aligned_blocks() {
        let mut dirty = Dirty::default();
        let start = SEGMENT_BYTES_MAX as u64 - 10_000;
        for step in 0..600 {
            dirty.write(start + step * 4096, &[7; 4096]);
        }
        let lens: Vec<_> = dirty.take(false, u64::MAX).iter().map(|s| (s.offset, s.data.len())).collect();
        let mib = SEGMENT_BYTES_MAX as u64;
        let end = start + 600 * 4096;
        assert_eq!(
            lens,
            vec![(start, 10_000), (mib, 1 << 20), (2 * mib, 1 << 20), (3 * mib, (end - 3 * mib) as usize)]
        );
        assert_eq!(dirty.bytes(), 0);
    }

    #[test]
    fn only_whole_blocks_are_taken_when_asked() {
        let mut dirty = Dirty::default();
        dirty.write(0, &vec![1; SEGMENT_BYTES_MAX + 5]);
        assert_eq!(dirty.fragment_bytes(), 5);
        let taken = dirty.take(true, u64::MAX);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].data.len(), SEGMENT_BYTES_MAX);
        assert_eq!(dirty.bytes(), 5);
        assert_eq!(dirty.end(), SEGMENT_BYTES_MAX as u64 + 5);
        // Grown in steps, and cut again.
        for step in 0..256u64 {
            dirty.write(step * 4096, &[2; 4096]);
        }
        assert_eq!(dirty.fragment_bytes(), 5);
        dirty.remove(0..1);
        assert_eq!(dirty.fragment_bytes(), dirty.bytes());
        assert!(dirty.take(true, u64::MAX).is_empty());
    }
}
