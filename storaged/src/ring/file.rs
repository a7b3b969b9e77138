//! The durable state of the ring, in the file `ring-state` ([`crate::disk::slots`]).

use crate::disk::DiskMedia;
use crate::disk::slots::{PayloadLength, SlotFile, SlotFormat, Unreadable};
use rain_ring::{Durable, wire};
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const FORMAT: SlotFormat = SlotFormat {
    magic: b"RAINRNG1",
    slot_bytes: 64 << 10,
    length: PayloadLength::Prefix,
    unreadable: Unreadable::IsAnError,
};

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct RingState {
    pub(super) durable: Durable,
    /// The last known addresses of the nodes, so that a ring can form when all start at once.
    pub(super) addresses: BTreeMap<NodeId, Vec<String>>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct RingStateFile(SlotFile);

impl RingStateFile {
    /// Opens or makes the file; returns its contents, `None` for a new node.
    pub(super) fn open(path: &Path) -> io::Result<(RingStateFile, Option<RingState>)> {
        let (file, state) = SlotFile::open(&DiskMedia, path, FORMAT)?;
        let state = state.map(|bytes| wire::decode(&bytes)).transpose();
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok((RingStateFile(file), state))
    }

    /// Makes new contents durable.
    pub(super) fn write(&mut self, state: &RingState) -> io::Result<()> {
        self.0.write(&wire::encode(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ring-state");
        let (mut file, nothing) = RingStateFile::open(&path).expect("made");
        assert_eq!(nothing, None);
        let durable = Durable { incarnation: 2, epoch_ceiling: 9, ..Durable::default() };
        let state = RingState { durable, addresses: BTreeMap::from([(NodeId(1), vec!["h:1".to_owned()])]) };
        file.write(&state).expect("written");
        assert_eq!(RingStateFile::open(&path).expect("opened").1, Some(state));
    }
}
