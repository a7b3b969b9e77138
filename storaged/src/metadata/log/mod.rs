//! The log of the namespace's entries: numbered payloads in segment files, durable when `append` returns.
//! Raft is above it, so the log does not interpret the payloads.
//!
//! A segment is filled with zeros before its use, and used again after a purge. So an append only overwrites
//! blocks that the filesystem has already, which takes a fifth to a half off an fdatasync (figures in
//! `docs/decisions/0003-namespace-store.md`). `docs/formats-log.md` has the bytes.
//!
//! 1. A record that `append` acknowledged survives a crash at any point
//!    (`acknowledged_records_survive_a_power_loss`).
//! 2. A record that `append` refused never comes back (`a_refused_append_never_comes_back`).
//! 3. An append that a crash tore is cut off at opening. Damage to acknowledged records is an error that
//!    names file and offset (`damage_in_the_middle_is_an_error_with_file_and_offset`). Limit: damage to the
//!    very last append looks like a torn append; the metadata service notices it if the store has applied
//!    that entry.
//! 4. After a failed fdatasync nothing is appended: the kernel may have dropped the pages, and a second
//!    fdatasync would lie (`after_a_failed_sync_nothing_is_acknowledged`).
//!
//! The log does not decide when to purge, and it keeps no payload in memory. `record` and `segment` are the
//! bytes, `spares` the files for later segments, `purge` drops records from either end.

mod error;
mod purge;
mod record;
mod segment;
mod spares;

pub use error::LogError;

use crate::disk::{Media, MediaFile};
use record::{RECORD_HEAD, RecordHead, SEGMENT_HEAD, SegmentHead, encode_record, record_size};
use segment::{Segment, Tail};
use spares::prepare;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Largest payload of one entry, bytes: far above the proposer's limit.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Spare segments that are kept for reuse; a purge removes further ones.
const SPARES_MAX: usize = 2;

/// A durable log of numbered payloads. One owner appends; reading needs no lock of its own.
#[derive(Debug)]
pub struct CommandLog {
    media: Arc<dyn Media>,
    dir: PathBuf,
    segment_bytes: u64,
    /// Never empty; the last segment takes the appends.
    segments: VecDeque<Segment>,
    /// Checksum of the last record.
    last_checksum: u64,
    spares: Vec<PathBuf>,
    spare_number: u64,
    preparing: Option<(PathBuf, JoinHandle<Result<(), LogError>>)>,
    stopped: Option<String>,
    syncs: u64,
    buffer: Vec<u8>,
}

fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("log-{sequence:016x}.seg"))
}

fn numbered(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

impl CommandLog {
    /// Opens the log in a directory, or begins one with `first_index`. Cuts a torn tail off.
    pub fn open(
        media: Arc<dyn Media>,
        dir: &Path,
        segment_bytes: u64,
        first_index: u64,
    ) -> Result<CommandLog, LogError> {
        std::fs::create_dir_all(dir).map_err(|error| LogError::io("creating", dir, error))?;
        let mut log = CommandLog {
            media,
            dir: dir.to_owned(),
            segment_bytes: segment_bytes.max(2 * SEGMENT_HEAD as u64).next_multiple_of(4096),
            segments: VecDeque::new(),
            last_checksum: 0,
            spares: Vec::new(),
            spare_number: 0,
            preparing: None,
            stopped: None,
            syncs: 0,
            buffer: Vec::new(),
        };
        let mut sequences = log.take_inventory()?;
        sequences.sort_unstable();
        if let Some(gap) = sequences.windows(2).find(|pair| pair[1] != pair[0] + 1) {
            return Err(LogError::MissingSegment { dir: log.dir.clone(), missing: gap[0] + 1 });
        }
        log.load_segments(&sequences)?;
        if log.segments.is_empty() {
            // Sequence numbers begin again, so spares with old records must not be used.
            for spare in std::mem::take(&mut log.spares) {
                log.media.remove(&spare).map_err(|error| LogError::io("removing", &spare, error))?;
            }
            log.start_segment(1, first_index, 0)?;
        }
        Ok(log)
    }

    /// Finds segments and spares. Removes a spare of another length: it was being made when the node stopped.
    fn take_inventory(&mut self) -> Result<Vec<u64>, LogError> {
        let mut sequences = Vec::new();
        for name in self.media.list(&self.dir).map_err(|error| LogError::io("listing", &self.dir, error))? {
            let path = self.dir.join(&name);
            if let Some(sequence) = numbered(&name, "log-") {
                sequences.push(sequence);
            } else if let Some(number) = numbered(&name, "spare-") {
                self.spare_number = self.spare_number.max(number + 1);
                let io = |error| LogError::io("examining", &path, error);
                let len = self.media.open(&path, false).and_then(|file| file.len()).map_err(io)?;
                if len == self.segment_bytes && self.spares.len() < SPARES_MAX {
                    self.spares.push(path);
                } else {
                    self.media.remove(&path).map_err(io)?;
                }
            }
        }
        Ok(sequences)
    }

    fn load_segments(&mut self, sequences: &[u64]) -> Result<(), LogError> {
        let heads =
            sequences.iter().map(|sequence| self.read_head(*sequence)).collect::<Result<Vec<_>, _>>()?;
        for (position, sequence) in sequences.iter().enumerate() {
            let path = segment_path(&self.dir, *sequence);
            let next = heads.get(position + 1);
            let (segment, last, tail) =
                Segment::load(&*self.media, &path, *sequence, next.map(|head| head.first_index))?;
            if let Some(next) = next
                && next.previous != last
            {
                return Err(LogError::damaged(
                    &path,
                    segment.end,
                    "its last record is not the one that the next segment follows",
                ));
            }
            if tail == Tail::Torn {
                tracing::warn!(
                    file = %path.display(), offset = segment.end, index = segment.next_index(),
                    "the namespace log ends in an append that a crash cut off; it was never acknowledged and is dropped"
                );
            }
            self.last_checksum = last;
            self.segments.push_back(segment);
        }
        Ok(())
    }

    fn read_head(&self, sequence: u64) -> Result<SegmentHead, LogError> {
        let path = segment_path(&self.dir, sequence);
        let mut bytes = vec![0; SEGMENT_HEAD];
        match self.media.open(&path, false).and_then(|file| file.read_at(0, &mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bytes.clear(),
            result => result.map_err(|error| LogError::io("reading", &path, error))?,
        }
        SegmentHead::decode(&bytes)
            .filter(|head| head.sequence == sequence)
            .ok_or_else(|| LogError::damaged(&path, 0, "the segment's head"))
    }

    fn active(&self) -> &Segment {
        self.segments.back().expect("a log has a segment")
    }

    /// Returns the index of the oldest record, or of the next one where the log is empty.
    pub fn first_index(&self) -> u64 {
        self.segments.front().expect("a log has a segment").head.first_index
    }

    /// Returns the index of the next record.
    pub fn next_index(&self) -> u64 {
        self.active().next_index()
    }

    /// Returns the number of appends that an fdatasync made durable since opening.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Returns the disk space of segments and spares, bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum::<u64>()
            + self.spares.len() as u64 * self.segment_bytes
    }

    /// Returns the bytes that appends can take without asking the disk for more: in the segment in use and
    /// the spares.
    pub fn room(&self) -> u64 {
        let active = self.active();
        let spares = self.spares.len() as u64 * (self.segment_bytes - SEGMENT_HEAD as u64);
        active.size - active.end + spares
    }

    /// Refuses everything from here on.
    pub fn stop(&mut self, reason: &str) {
        self.stopped.get_or_insert_with(|| reason.to_owned());
    }

    /// Waits until no segment is being prepared.
    pub fn settle(&mut self) {
        self.await_prepared();
    }

    /// Asks the disk for the next segment, if the one in use has fewer than `bytes` left and there is no
    /// spare. An append that needs more than a segment asks for itself.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), LogError> {
        self.check_running()?;
        if self.active().size - self.active().end >= bytes {
            return Ok(());
        }
        self.await_prepared();
        if self.spares.is_empty() {
            let path = self.next_spare_path();
            prepare(&*self.media, &path, self.segment_bytes)?;
            self.spares.push(path);
        }
        Ok(())
    }

    /// Returns the index below which records may be purged, so that segments of at least `bytes` stay.
    pub fn first_keeping(&self, bytes: u64) -> u64 {
        let mut kept = 0;
        for segment in self.segments.iter().rev() {
            kept += segment.end;
            if kept >= bytes {
                return segment.head.first_index;
            }
        }
        self.first_index()
    }

    /// Returns the number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Appends payloads with the indices that follow, with one write and one fdatasync. All are durable when
    /// this returns Ok. After `NoSpace`, `NotNext` and `TooLarge` the log is as before; after another error
    /// it has stopped.
    pub fn append(&mut self, entries: &[(u64, &[u8])]) -> Result<(), LogError> {
        self.check_running()?;
        let mut needed = 0;
        for (position, (index, payload)) in entries.iter().enumerate() {
            let next = self.next_index() + position as u64;
            if *index != next {
                return Err(LogError::NotNext { last: next - 1, given: *index });
            }
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(LogError::TooLarge { bytes: payload.len() });
            }
            needed += record_size(payload.len()) as u64;
        }
        if needed > PAYLOAD_BYTES_MAX as u64 * 2 {
            return Err(LogError::TooLarge { bytes: needed as usize });
        }
        let result = self.make_room(needed).and_then(|()| self.write(entries));
        self.stop_unless_passing(result)?;
        if self.active().end * 2 > self.segment_bytes {
            self.prepare_spare();
        }
        Ok(())
    }

    fn check_running(&self) -> Result<(), LogError> {
        self.stopped.as_ref().map_or(Ok(()), |reason| Err(LogError::Stopped(reason.clone())))
    }

    fn stop_unless_passing<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result
            && !matches!(error, LogError::NoSpace { .. })
        {
            self.stopped = Some(error.to_string());
        }
        result
    }

    fn make_room(&mut self, needed: u64) -> Result<(), LogError> {
        let active = self.active();
        if active.end + needed <= active.size {
            return Ok(());
        }
        let (sequence, next) = (active.head.sequence + 1, active.next_index());
        self.start_segment(sequence, next, needed)
    }

    fn write(&mut self, entries: &[(u64, &[u8])]) -> Result<(), LogError> {
        let segment = self.segments.back_mut().expect("a log has a segment");
        let start = segment.end;
        let mut last = self.last_checksum;
        let mut offsets = Vec::with_capacity(entries.len());
        self.buffer.clear();
        for (index, payload) in entries {
            offsets.push((start as usize + self.buffer.len()) as u32);
            last =
                encode_record(&mut self.buffer, segment.head.sequence, start as u32, *index, last, payload);
        }
        if let Err(error) = segment.file.write_at(start, &self.buffer) {
            let error = LogError::writing("writing", &segment.path, error);
            if matches!(error, LogError::NoSpace { .. }) {
                // Part of the append may be on the disk. Without its first head none of it can be read as a
                // record.
                let wipe = segment.file.write_at(start, &[0; RECORD_HEAD]).and_then(|()| segment.file.sync());
                wipe.map_err(|source| {
                    LogError::io("cutting off a refused append in", &segment.path, source)
                })?;
            }
            return Err(error);
        }
        // After any failure here, ENOSPC too, it is unknown which bytes are durable.
        segment.file.sync().map_err(|error| LogError::io("fdatasync of", &segment.path, error))?;
        self.syncs += 1;
        segment.end += self.buffer.len() as u64;
        segment.offsets.extend(offsets);
        self.last_checksum = last;
        if self.buffer.capacity() > 8 << 20 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Begins a new segment behind the others. It gets its name only once its head is durable.
    fn start_segment(&mut self, sequence: u64, first_index: u64, needed: u64) -> Result<(), LogError> {
        let bytes = (SEGMENT_HEAD as u64 + needed).max(self.segment_bytes).next_multiple_of(4096);
        let spare = self.take_spare(bytes)?;
        let head = SegmentHead { sequence, first_index, previous: self.last_checksum };
        let path = segment_path(&self.dir, sequence);
        let started = self.media.open(&spare, false).and_then(|file| {
            file.write_at(0, &head.encode())?;
            file.sync()?;
            self.media.rename(&spare, &path)?;
            Ok(file)
        });
        let file: Box<dyn MediaFile> = match started {
            Ok(file) => file,
            Err(error) => {
                self.spares.push(spare.clone());
                return Err(LogError::writing("beginning a segment in", &spare, error));
            }
        };
        self.sync_directory()?;
        self.segments.push_back(Segment {
            path,
            file,
            head,
            size: bytes,
            offsets: Vec::new(),
            end: SEGMENT_HEAD as u64,
        });
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), LogError> {
        self.media.sync_directory(&self.dir).map_err(|error| LogError::io("fsync of", &self.dir, error))
    }

    /// Reads records in order from `index` on and verifies each.
    pub fn read(&self, index: u64) -> Result<Reader<'_>, LogError> {
        if index < self.first_index() || index > self.next_index() {
            return Err(LogError::NotHeld { index, first: self.first_index(), last: self.next_index() - 1 });
        }
        Ok(Reader { log: self, next: index })
    }
}

impl Drop for CommandLog {
    fn drop(&mut self) {
        self.await_prepared();
    }
}

/// Reads records in order.
#[derive(Debug)]
pub struct Reader<'a> {
    log: &'a CommandLog,
    next: u64,
}

impl Iterator for Reader<'_> {
    type Item = Result<(u64, Vec<u8>), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let segments = &self.log.segments;
        let position = segments.partition_point(|segment| segment.next_index() <= index);
        let segment = segments.get(position)?;
        let (offset, len) = segment.extent_of(index)?;
        self.next += 1;
        let mut bytes = vec![0; len];
        if let Err(error) = segment.file.read_at(offset, &mut bytes) {
            return Some(Err(LogError::io("reading", &segment.path, error)));
        }
        match RecordHead::verify(segment.head.sequence, &bytes) {
            Some(head) if head.index == index => {
                bytes.drain(..RECORD_HEAD);
                bytes.truncate(head.len as usize);
                Some(Ok((index, bytes)))
            }
            _ => Some(Err(LogError::damaged(&segment.path, offset, &format!("record {index}")))),
        }
    }
}
