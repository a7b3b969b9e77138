//! One segment file: its head, the offsets of its records, and the reading of it when the log is opened.

use super::error::LogError;
use super::record::{ALIGN, RECORD_HEAD, RecordHead, SEGMENT_HEAD, SegmentHead};
use crate::disk::{Media, MediaFile};
use std::path::{Path, PathBuf};

/// A segment of the log. Records `head.first_index ..` stand at `offsets`.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn MediaFile>,
    pub(super) head: SegmentHead,
    /// The file's length.
    pub(super) size: u64,
    /// Offset of each record.
    pub(super) offsets: Vec<u32>,
    /// Offset of the next record.
    pub(super) end: u64,
}

/// The end of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// No bytes that belong to the log.
    Clean,
    /// An append that was cut off by a crash.
    Torn,
}

impl Segment {
    pub(super) fn next_index(&self) -> u64 {
        self.head.first_index + self.offsets.len() as u64
    }

    /// Returns offset and length of a record; `None`: it is not in this segment.
    pub(super) fn extent_of(&self, index: u64) -> Option<(u64, usize)> {
        let position = usize::try_from(index.checked_sub(self.head.first_index)?).ok()?;
        let start = u64::from(*self.offsets.get(position)?);
        let end = self.offsets.get(position + 1).map_or(self.end, |next| u64::from(*next));
        Some((start, (end - start) as usize))
    }

    /// Reads a whole segment. `expected`: the index after its last record, known from the next segment;
    /// `None` for the last segment. Returns the segment, the last record's checksum and the tail.
    pub(super) fn load(
        media: &dyn Media,
        path: &Path,
        sequence: u64,
        expected: Option<u64>,
    ) -> Result<(Segment, u64, Tail), LogError> {
        let io = |source| LogError::io("reading", path, source);
        let file = media.open(path, false).map_err(io)?;
        let size = file.len().map_err(io)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| LogError::damaged(path, 0, "its size"))?];
        file.read_at(0, &mut bytes).map_err(io)?;
        let head = SegmentHead::decode(&bytes)
            .filter(|head| head.sequence == sequence && bytes.len() >= SEGMENT_HEAD)
            .ok_or_else(|| LogError::damaged(path, 0, "the segment's head"))?;
        let mut segment = Segment {
            path: path.to_owned(),
            file,
            head,
            size,
            offsets: Vec::new(),
            end: SEGMENT_HEAD as u64,
        };
        let last = segment.walk(&bytes, expected)?;
        let tail = match expected {
            Some(next) if segment.next_index() == next => Tail::Clean,
            Some(next) => {
                let missing =
                    format!("record {} of {} to {}", segment.next_index(), head.first_index, next - 1);
                return Err(LogError::damaged(path, segment.end, &missing));
            }
            None => segment.judge_tail(&bytes, last)?,
        };
        Ok((segment, last, tail))
    }

    /// Follows the chain of valid records; stops at `expected` or at the first that does not belong.
    fn walk(&mut self, bytes: &[u8], expected: Option<u64>) -> Result<u64, LogError> {
        let mut last = self.head.previous;
        while expected != Some(self.next_index()) {
            let at = self.end as usize;
            let Some(head) = RecordHead::verify(self.head.sequence, &bytes[at.min(bytes.len())..]) else {
                break;
            };
            if head.previous != last {
                break;
            }
            if head.index != self.next_index() {
                let wrong = format!("record {} where {} belongs", head.index, self.next_index());
                return Err(LogError::damaged(&self.path, self.end, &wrong));
            }
            self.offsets.push(at as u32);
            self.end = (at + head.size()).min(bytes.len()) as u64;
            last = head.crc;
        }
        Ok(last)
    }

    /// Judges the bytes after the last good record of the last segment. A valid record there whose append
    /// began behind the bad offset proves that the bad bytes were durable once: damage. Anything else is an
    /// append that was never acknowledged, or the rest of an earlier use of the file.
    fn judge_tail(&self, bytes: &[u8], last: u64) -> Result<Tail, LogError> {
        let stop = self.end as usize;
        let mut tail = match RecordHead::peek(&bytes[stop..]) {
            Some(head) if head.previous == last && head.index == self.next_index() => Tail::Torn,
            _ => Tail::Clean,
        };
        let mut at = stop;
        while at + RECORD_HEAD <= bytes.len() {
            let head = RecordHead::peek(&bytes[at..]).expect("the loop leaves room for a head");
            let began = head.append_start as usize;
            let plausible = began >= stop
                && began <= at
                && began.is_multiple_of(ALIGN)
                && head.index >= self.next_index();
            if plausible && RecordHead::verify(self.head.sequence, &bytes[at..]).is_some() {
                if began > stop {
                    let what = format!(
                        "record {}, while record {} behind it is whole",
                        self.next_index(),
                        head.index
                    );
                    return Err(LogError::damaged(&self.path, self.end, &what));
                }
                tail = Tail::Torn;
            }
            at += ALIGN;
        }
        Ok(tail)
    }
}
