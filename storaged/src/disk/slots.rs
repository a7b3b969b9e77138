//! A small state that must survive everything: two slots of a file, written in turn and in place, so that a torn write leaves the
//! other one and a full disk cannot refuse it. `docs/formats.md` has the bytes.
//!
//! It knows nothing of what it keeps. One owner writes.

use crate::disk::{Media, MediaFile};
use crc_fast::{CrcAlgorithm, checksum};
use std::io;
use std::path::Path;

const HEAD: usize = 8 + 8 + 4;
const SUM: usize = 8;

/// The open file.
#[derive(Debug)]
pub(crate) struct SlotFile {
    file: Box<dyn MediaFile>,
    magic: &'static [u8; 8],
    slot_bytes: usize,
    generation: u64,
}

fn encode(magic: &[u8; 8], generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + SUM);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(magic: &[u8; 8], slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    if slot.get(..8)? != magic {
        return None;
    }
    let generation = u64::from_le_bytes(*slot.get(8..)?.first_chunk()?);
    let len = u32::from_le_bytes(*slot.get(16..)?.first_chunk()?) as usize;
    let sum = u64::from_le_bytes(*slot.get(HEAD + len..)?.first_chunk()?);
    if checksum(CrcAlgorithm::Crc64Nvme, slot.get(..HEAD + len)?) != sum {
        return None;
    }
    Some((generation, slot.get(HEAD..HEAD + len)?.to_vec()))
}

impl SlotFile {
    /// Opens or makes it, and gives what was written last. Nothing: the file is new. Both slots damaged is an error.
    pub(crate) fn open(
        media: &dyn Media,
        path: &Path,
        magic: &'static [u8; 8],
        slot_bytes: usize,
    ) -> io::Result<(SlotFile, Option<Vec<u8>>)> {
        let file = media.open(path, true)?;
        let mut bytes = vec![0; 2 * slot_bytes];
        if file.len()? < bytes.len() as u64 {
            // The blocks are taken now: later there may be none.
            file.write_at(0, &bytes)?;
            file.sync()?;
            path.parent().map_or(Ok(()), |folder| media.sync_directory(folder))?;
            return Ok((SlotFile { file, magic, slot_bytes, generation: 0 }, None));
        }
        file.read_at(0, &mut bytes)?;
        let slots = bytes.chunks(slot_bytes).filter_map(|slot| decode(magic, slot));
        let newest = slots.max_by_key(|(generation, _)| *generation);
        if newest.is_none() && bytes.iter().any(|byte| *byte != 0) {
            let why = "both of its slots are damaged; a node that has forgotten its promises is another node: give it a new \
                       number and an empty folder";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let (generation, kept) = newest.map_or((0, None), |(generation, kept)| (generation, Some(kept)));
        Ok((SlotFile { file, magic, slot_bytes, generation }, kept))
    }

    /// Makes it durable.
    pub(crate) fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let generation = self.generation + 1;
        let bytes = encode(self.magic, generation, payload);
        if bytes.len() > self.slot_bytes {
            return Err(io::Error::other(format!("{} bytes, a slot has {}", bytes.len(), self.slot_bytes)));
        }
        self.file.write_at((generation % 2) * self.slot_bytes as u64, &bytes)?;
        self.file.sync()?;
        self.generation = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskMedia;

    const MAGIC: &[u8; 8] = b"RAINTST1";
    const SLOT: usize = 4096;

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let open = || SlotFile::open(&DiskMedia, &path, MAGIC, SLOT);
        let (mut file, nothing) = open().expect("made");
        assert_eq!(nothing, None);
        for number in 1..=3 {
            file.write(&[number; 9]).expect("written");
        }
        drop(file);
        let (file, found) = open().expect("opened");
        assert_eq!(found, Some(vec![3; 9]));
        // The next write goes to the other slot and is torn.
        file.file.write_at(0, &encode(MAGIC, 4, &[4; 9])[..24]).expect("written");
        assert_eq!(open().expect("opened").1, Some(vec![3; 9]));
        // Damage of everything is no new node.
        file.file.write_at(0, &vec![7; 2 * SLOT]).expect("written");
        let error = open().expect_err("damaged");
        assert!(error.to_string().contains("new number"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut file, _) = SlotFile::open(&DiskMedia, &folder.path().join("s"), MAGIC, SLOT).expect("made");
        assert!(file.write(&vec![0; SLOT]).is_err());
        file.write(b"small").expect("written");
    }
}
