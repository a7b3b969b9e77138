//! The state file: which index is to be trusted how far, and the segments written to since.
//!
//! Two slots of a file that never grows, written in turn and in place: a torn write leaves the other one, and
//! a full disk cannot refuse it. A segment is named here, durably, before the first write to it after a checkpoint.
//! `docs/formats.md` has the bytes.

use super::StoreError;
use super::layout::chunk_crc;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"RAINSTA1";
const HEAD_BYTES: usize = 8 + 8 + 8 + 8 + 4 + 4;
const SLOT_BYTES: usize = 128 << 10;
/// With 64 MiB each: 2 TiB written between two checkpoints.
const SEGMENTS_MAX: usize = (SLOT_BYTES - HEAD_BYTES - 8) / 4;

/// What the store remembers beside its shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Which folder the index is in.
    pub(super) index: u64,
    /// The last checkpoint. Grows for ever, so that a copy of an older index is known for what it is.
    pub(super) checkpoint: u64,
    /// Whether the index there has it.
    pub(super) trusted: bool,
    /// Segments written to since.
    pub(super) dirty: BTreeSet<u32>,
}

/// The open file and what it says.
#[derive(Debug)]
pub(super) struct StateFile {
    file: File,
    path: PathBuf,
    generation: u64,
    state: State,
}

fn encode(generation: u64, state: &State) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + state.dirty.len() * 4 + 8);
    bytes.extend_from_slice(MAGIC);
    // Too many to name: the index must be made anew from all.
    let fits = state.dirty.len() <= SEGMENTS_MAX;
    let dirty = state.dirty.iter().filter(|_| fits);
    for number in [generation, state.index, state.checkpoint] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for number in [u32::from(state.trusted && fits), dirty.clone().count() as u32] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for segment in dirty {
        bytes.extend_from_slice(&segment.to_le_bytes());
    }
    bytes.extend_from_slice(&chunk_crc(&bytes).to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, State)> {
    let number = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let count = u32::from_le_bytes(slot.get(HEAD_BYTES - 4..HEAD_BYTES)?.try_into().ok()?) as usize;
    let end = HEAD_BYTES + count.min(SEGMENTS_MAX) * 4;
    let named = slot.get(..end).filter(|named| named.starts_with(MAGIC))?;
    if number(end)? != chunk_crc(named) {
        return None;
    }
    let dirty = named[HEAD_BYTES..]
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    let state = State {
        index: number(16)?,
        checkpoint: number(24)?,
        trusted: slot.get(32) == Some(&1),
        dirty: dirty.collect(),
    };
    Some((number(8)?, state))
}

impl StateFile {
    /// Opens the file; makes it when it is not there. When neither slot holds, nothing is trusted.
    pub(super) fn open(path: &Path) -> Result<StateFile, StoreError> {
        let failed = |doing| move |source| StoreError::Io { doing, path: path.display().to_string(), source };
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(failed("opening"))?;
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let len = file.metadata().map_err(failed("examining"))?.len();
        if len == bytes.len() as u64 {
            file.read_exact_at(&mut bytes, 0).map_err(failed("reading"))?;
        } else {
            // New, or cut short. Its blocks are taken now, for good.
            let fill = || -> io::Result<()> {
                file.set_len(bytes.len() as u64)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
            };
            fill().map_err(failed("filling"))?;
        }
        let newest =
            bytes.chunks_exact(SLOT_BYTES).filter_map(decode).max_by_key(|(generation, _)| *generation);
        let (generation, state) = newest.unwrap_or_default();
        Ok(StateFile { file, path: path.to_owned(), generation, state })
    }

    /// What the file says.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Makes the file say something else, durably. When that fails, it still says what it said, or both.
    pub(super) fn set(&mut self, state: State) -> Result<(), StoreError> {
        let generation = self.generation + 1;
        let slot = (generation % 2) * SLOT_BYTES as u64;
        let written =
            self.file.write_all_at(&encode(generation, &state), slot).and_then(|()| self.file.sync_data());
        written.map_err(|source| StoreError::Io {
            doing: "writing",
            path: self.path.display().to_string(),
            source,
        })?;
        self.generation = generation;
        self.state = state;
        Ok(())
    }

    /// Names a segment, unless it is named already.
    pub(super) fn mark_dirty(&mut self, segment: u32) -> Result<(), StoreError> {
        if self.state.dirty.contains(&segment) {
            return Ok(());
        }
        let mut state = self.state.clone();
        state.dirty.insert(segment);
        self.set(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(index: u64) -> State {
        State { index, checkpoint: index * 10, trusted: true, dirty: (0..index as u32).collect() }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let mut file = StateFile::open(&path).expect("new");
        assert_eq!(file.state(), &State::default());
        for index in 1..=5 {
            file.set(some(index)).expect("written");
            drop(file);
            file = StateFile::open(&path).expect("again");
            assert_eq!(file.state(), &some(index));
        }
        // The last one was written to slot 1: torn, the one before it counts.
        file.file.write_all_at(&[0xff; 3], SLOT_BYTES as u64 + 20).expect("torn");
        assert_eq!(StateFile::open(&path).expect("torn").state(), &some(4));
        file.file.write_all_at(&[0xff; 3], 20).expect("torn");
        assert_eq!(StateFile::open(&path).expect("both torn").state(), &State::default());
        std::fs::write(&path, "12 1 2").expect("short");
        assert_eq!(StateFile::open(&path).expect("short").state(), &State::default());
    }

    #[test]
    fn more_dirty_segments_than_fit_are_no_trust() {
        let mut many = some(1);
        many.dirty = (0..SEGMENTS_MAX as u32).collect();
        let bytes = encode(1, &many);
        assert!(bytes.len() <= SLOT_BYTES);
        assert_eq!(decode(&bytes), Some((1, many.clone())));
        many.dirty.insert(u32::MAX);
        let decoded = decode(&encode(1, &many)).expect("whole").1;
        assert_eq!((decoded.trusted, decoded.dirty.len()), (false, 0));
    }
}
