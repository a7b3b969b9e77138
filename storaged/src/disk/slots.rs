//! A small state in two slots of a file, written in turn and in place. A torn write leaves the other slot,
//! and a full disk cannot refuse a write, because the file never grows. `docs/formats.md` has the bytes.
//!
//! A slot is: magic (8 bytes), generation (8), payload, CRC-64/NVMe of all before (8). The whole slot with
//! the higher generation counts (`a_torn_write_leaves_the_one_before`). [`SlotFormat`] says what differs
//! between the files.
//!
//! The module does not interpret the payload. One owner writes.

use super::{Media, MediaFile};
use crc_fast::{CrcAlgorithm, checksum};
use std::io;
use std::path::Path;

/// Magic and generation.
const HEAD: usize = 8 + 8;
const SUM: usize = 8;

/// How the file of one owner is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotFormat {
    /// First bytes of each slot.
    pub(crate) magic: &'static [u8; 8],
    /// Size of a slot. The file has two.
    pub(crate) slot_bytes: usize,
    /// Where a payload ends.
    pub(crate) length: PayloadLength,
    /// What a file without a whole slot means.
    pub(crate) unreadable: Unreadable,
}

/// Where the length of a payload is found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadLength {
    /// In four bytes between generation and payload, little endian.
    Prefix,
    /// In the payload itself: the function reads it from the bytes behind the generation. `None`: too few
    /// bytes.
    Inside(fn(&[u8]) -> Option<usize>),
}

/// What becomes of a file in which no slot is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// An error: the state holds promises that must not be forgotten. A file of zeros is new.
    IsAnError,
    /// As a new file: the state can be found again by other means. So is a file of another length.
    IsNew,
}

impl SlotFormat {
    fn encode(&self, generation: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 4 + payload.len() + SUM);
        bytes.extend_from_slice(self.magic);
        bytes.extend_from_slice(&generation.to_le_bytes());
        if let PayloadLength::Prefix = self.length {
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Returns generation and payload of a slot; `None` unless the slot is whole.
    fn decode(&self, slot: &[u8]) -> Option<(u64, Vec<u8>)> {
        if slot.get(..8)? != self.magic {
            return None;
        }
        let generation = u64::from_le_bytes(*slot.get(8..)?.first_chunk()?);
        let (from, len) = match self.length {
            PayloadLength::Prefix => {
                (HEAD + 4, u32::from_le_bytes(*slot.get(HEAD..)?.first_chunk()?) as usize)
            }
            PayloadLength::Inside(read) => (HEAD, read(slot.get(HEAD..)?)?),
        };
        let sum = u64::from_le_bytes(*slot.get(from + len..)?.first_chunk()?);
        if checksum(CrcAlgorithm::Crc64Nvme, slot.get(..from + len)?) != sum {
            return None;
        }
        Some((generation, slot.get(from..from + len)?.to_vec()))
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct SlotFile {
    file: Box<dyn MediaFile>,
    format: SlotFormat,
    generation: u64,
}

impl SlotFile {
    /// Opens or makes the file and returns the payload written last; `None` for a new file. Fails when both
    /// slots are damaged and the format says that this is an error.
    pub(crate) fn open(
        media: &dyn Media,
        path: &Path,
        format: SlotFormat,
    ) -> io::Result<(SlotFile, Option<Vec<u8>>)> {
        let file = media.open(path, true)?;
        let mut bytes = vec![0; 2 * format.slot_bytes];
        let (len, whole) = (file.len()?, bytes.len() as u64);
        if len < whole || (len > whole && format.unreadable == Unreadable::IsNew) {
            if len > whole {
                file.set_len(whole)?;
            }
            // The blocks are taken at once: later there may be no room for them.
            file.write_at(0, &bytes)?;
            file.sync()?;
            path.parent().map_or(Ok(()), |folder| media.sync_directory(folder))?;
            return Ok((SlotFile { file, format, generation: 0 }, None));
        }
        file.read_at(0, &mut bytes)?;
        let slots = bytes.chunks(format.slot_bytes).filter_map(|slot| format.decode(slot));
        let newest = slots.max_by_key(|(generation, _)| *generation);
        if newest.is_none()
            && format.unreadable == Unreadable::IsAnError
            && bytes.iter().any(|byte| *byte != 0)
        {
            let why = "both slots of the file are damaged. A node that has forgotten its promises is another node: \
                       give it a new number and an empty folder";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let (generation, payload) =
            newest.map_or((0, None), |(generation, payload)| (generation, Some(payload)));
        Ok((SlotFile { file, format, generation }, payload))
    }

    /// Makes a payload durable. Fails without a change when the payload does not fit into a slot. After
    /// another error the file has the old payload or the new one.
    pub(crate) fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let generation = self.generation + 1;
        let bytes = self.format.encode(generation, payload);
        let slot_bytes = self.format.slot_bytes;
        if bytes.len() > slot_bytes {
            let why = format!("a state of {} bytes does not fit into a slot of {slot_bytes}", bytes.len());
            return Err(io::Error::other(why));
        }
        self.file.write_at((generation % 2) * slot_bytes as u64, &bytes)?;
        self.file.sync()?;
        self.generation = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskMedia;

    const SLOT: usize = 4096;
    const FORMAT: SlotFormat = SlotFormat {
        magic: b"RAINTST1",
        slot_bytes: SLOT,
        length: PayloadLength::Prefix,
        unreadable: Unreadable::IsAnError,
    };

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let open = || SlotFile::open(&DiskMedia, &path, FORMAT);
        let (mut file, nothing) = open().expect("made");
        assert_eq!(nothing, None);
        for number in 1..=3 {
            file.write(&[number; 9]).expect("written");
        }
        drop(file);
        let (file, found) = open().expect("opened");
        assert_eq!(found, Some(vec![3; 9]));
        // The next write goes to the other slot and is torn.
        file.file.write_at(0, &FORMAT.encode(4, &[4; 9])[..24]).expect("written");
        assert_eq!(open().expect("opened").1, Some(vec![3; 9]));
        // Damage of everything is no new node.
        file.file.write_at(0, &vec![7; 2 * SLOT]).expect("written");
        let error = open().expect_err("damaged");
        assert!(error.to_string().contains("new number"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut file, _) = SlotFile::open(&DiskMedia, &folder.path().join("s"), FORMAT).expect("made");
        assert!(file.write(&vec![0; SLOT]).is_err());
        file.write(b"small").expect("written");
    }

    #[test]
    fn the_bytes_of_both_formats_are_those_of_the_tables() {
        let golden = |length: PayloadLength, between: &[u8]| {
            let mut bytes = [b"RAINTST1", &9u64.to_le_bytes()[..], between, b"xyz"].concat();
            let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes);
            bytes.extend_from_slice(&sum.to_le_bytes());
            let format = SlotFormat { length, ..FORMAT };
            assert_eq!(format.encode(9, b"xyz"), bytes);
            assert_eq!(format.decode(&bytes), Some((9, b"xyz".to_vec())));
        };
        golden(PayloadLength::Prefix, &[3, 0, 0, 0]);
        golden(PayloadLength::Inside(|_| Some(3)), &[]);
    }
}
