//! The state file of the share store: whether the index can be trusted, and the segments written to since the
//! checkpoint of the index.
//!
//! It lies in two slots ([`crate::disk::slots`]): a torn write leaves the other slot, and a full disk cannot
//! refuse it. A segment is named here, durably, before the first write to it after a checkpoint.
//! `docs/formats.md` has the bytes.

use super::StoreError;
use crate::disk::DiskMedia;
use crate::disk::slots::{PayloadLength, SlotFile, SlotFormat, Unreadable};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const SLOT_BYTES: usize = 128 << 10;

/// Bytes of the payload before the segments: index, checkpoint, trusted, count of segments.
const FIXED_BYTES: usize = 8 + 8 + 4 + 4;

/// Dirty segments that fit into a slot beside its magic, generation and checksum. With segments of 64 MiB: 2
/// TiB written between two checkpoints.
const SEGMENTS_MAX: usize = (SLOT_BYTES - 8 - 8 - FIXED_BYTES - 8) / 4;

const FORMAT: SlotFormat = SlotFormat {
    magic: b"RAINSTA1",
    slot_bytes: SLOT_BYTES,
    length: PayloadLength::Inside(payload_len),
    // Without a state the index is made anew from all segments.
    unreadable: Unreadable::IsNew,
};

/// What the store remembers beside its shares. The default trusts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Number of the index's folder.
    pub(super) index: u64,
    /// Number of the last checkpoint. It only grows, so that a copy of an older index is recognized.
    pub(super) checkpoint: u64,
    /// True when the index in that folder has that checkpoint.
    pub(super) trusted: bool,
    /// Segments written to since the checkpoint.
    pub(super) dirty: BTreeSet<u32>,
}

/// The open file and the state in it.
#[derive(Debug)]
pub(super) struct StateFile {
    file: SlotFile,
    path: PathBuf,
    state: State,
}

fn encode(state: &State) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED_BYTES + state.dirty.len() * 4);
    // When the segments are too many to name, the index is not trusted and is made anew from all.
    let fits = state.dirty.len() <= SEGMENTS_MAX;
    let dirty = state.dirty.iter().filter(|_| fits);
    for number in [state.index, state.checkpoint] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for number in [u32::from(state.trusted && fits), dirty.clone().count() as u32] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for segment in dirty {
        bytes.extend_from_slice(&segment.to_le_bytes());
    }
    bytes
}

fn payload_len(payload: &[u8]) -> Option<usize> {
    let count = u32::from_le_bytes(*payload.get(FIXED_BYTES - 4..)?.first_chunk()?) as usize;
    Some(FIXED_BYTES + count.min(SEGMENTS_MAX) * 4)
}

fn decode(payload: &[u8]) -> Option<State> {
    let number = |at: usize| Some(u64::from_le_bytes(*payload.get(at..)?.first_chunk()?));
    let dirty = payload.get(FIXED_BYTES..)?.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
    Some(State {
        index: number(0)?,
        checkpoint: number(8)?,
        trusted: payload.get(16) == Some(&1),
        dirty: dirty.collect(),
    })
}

impl StateFile {
    /// Opens the file or makes it. When neither slot is whole, nothing is trusted.
    pub(super) fn open(path: &Path) -> Result<StateFile, StoreError> {
        let (file, payload) = SlotFile::open(&DiskMedia, path, FORMAT).map_err(|source| StoreError::Io {
            doing: "opening",
            path: path.display().to_string(),
            source,
        })?;
        let state = payload.and_then(|payload| decode(&payload)).unwrap_or_default();
        Ok(StateFile { file, path: path.to_owned(), state })
    }

    /// Returns the state in the file.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Replaces the state, durably. After an error the file has the old state, or both.
    pub(super) fn set(&mut self, state: State) -> Result<(), StoreError> {
        self.file.write(&encode(&state)).map_err(|source| StoreError::Io {
            doing: "writing",
            path: self.path.display().to_string(),
            source,
        })?;
        self.state = state;
        Ok(())
    }

    /// Names a segment as dirty, durably, unless it is named already.
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
    use std::fs::File;
    use std::os::unix::fs::FileExt;

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
        let bytes = File::options().write(true).open(&path).expect("there");
        bytes.write_all_at(&[0xff; 3], SLOT_BYTES as u64 + 20).expect("torn");
        assert_eq!(StateFile::open(&path).expect("torn").state(), &some(4));
        bytes.write_all_at(&[0xff; 3], 20).expect("torn");
        assert_eq!(StateFile::open(&path).expect("both torn").state(), &State::default());
        std::fs::write(&path, "12 1 2").expect("short");
        assert_eq!(StateFile::open(&path).expect("short").state(), &State::default());
    }

    #[test]
    fn more_dirty_segments_than_fit_are_no_trust() {
        let mut many = some(1);
        many.dirty = (0..SEGMENTS_MAX as u32).collect();
        let bytes = encode(&many);
        assert!(8 + 8 + bytes.len() + 8 <= SLOT_BYTES);
        assert_eq!((decode(&bytes), payload_len(&bytes)), (Some(many.clone()), Some(bytes.len())));
        many.dirty.insert(u32::MAX);
        let decoded = decode(&encode(&many)).expect("whole");
        assert_eq!((decoded.trusted, decoded.dirty.len()), (false, 0));
    }

    /// The table of `docs/formats.md`, without magic, generation and checksum.
    #[test]
    fn the_payload_keeps_its_bytes() {
        let state = State { index: 3, checkpoint: 300, trusted: true, dirty: BTreeSet::from([7, 258]) };
        let golden = [
            &[3, 0, 0, 0, 0, 0, 0, 0][..],
            &[44, 1, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 0, 0, 0],
            &[7, 0, 0, 0, 2, 1, 0, 0],
        ];
        assert_eq!(encode(&state), golden.concat());
    }
}
