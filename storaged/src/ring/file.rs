//! What the ring must not forget, in the file `ring-state`: two slots written in turn and in place, so that a torn write leaves
//! the other one and a full disk cannot refuse it. `docs/formats.md` has the bytes.

use crc_fast::{CrcAlgorithm, checksum};
use rain_ring::{Durable, wire};
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RAINRNG1";
const SLOT_BYTES: usize = 64 << 10;
const HEAD: usize = 8 + 8 + 4;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) durable: Durable,
    /// Where the nodes were reached last, so that a ring can form when all start at once.
    pub(super) addresses: BTreeMap<NodeId, Vec<String>>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct KeptFile {
    file: File,
    generation: u64,
}

fn encode(generation: u64, kept: &Kept) -> Vec<u8> {
    let payload = wire::encode(kept);
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + 8);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, Kept)> {
    if slot.get(..8)? != MAGIC {
        return None;
    }
    let generation = u64::from_le_bytes(*slot.get(8..)?.first_chunk()?);
    let len = u32::from_le_bytes(*slot.get(16..)?.first_chunk()?) as usize;
    let sum = u64::from_le_bytes(*slot.get(HEAD + len..)?.first_chunk()?);
    if checksum(CrcAlgorithm::Crc64Nvme, slot.get(..HEAD + len)?) != sum {
        return None;
    }
    Some((generation, wire::decode(slot.get(HEAD..HEAD + len)?).ok()?))
}

impl KeptFile {
    /// Opens or makes it. Nothing kept: the node is new.
    pub(super) fn open(path: &Path) -> io::Result<(KeptFile, Option<Kept>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let is_new = file.metadata()?.len() < bytes.len() as u64;
        if is_new {
            // The blocks are taken now: later there may be none.
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            return Ok((KeptFile { file, generation: 0 }, None));
        }
        file.read_exact_at(&mut bytes, 0)?;
        let slots = bytes.chunks(SLOT_BYTES).filter_map(decode);
        let newest = slots.max_by_key(|(generation, _)| *generation);
        if newest.is_none() && bytes.iter().any(|byte| *byte != 0) {
            let why = "both of its slots are damaged; a node that has forgotten its promises is another node: give it a new \
                       number and an empty folder";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let (generation, kept) = newest.map_or((0, None), |(generation, kept)| (generation, Some(kept)));
        Ok((KeptFile { file, generation }, kept))
    }

    /// Makes it durable.
    pub(super) fn write(&mut self, kept: &Kept) -> io::Result<()> {
        let generation = self.generation + 1;
        let bytes = encode(generation, kept);
        if bytes.len() > SLOT_BYTES {
            return Err(io::Error::other(format!("{} bytes, a slot has {SLOT_BYTES}", bytes.len())));
        }
        self.file.write_all_at(&bytes, (generation % 2) * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ceiling: u64) -> Kept {
        let durable = Durable { incarnation: 2, epoch_ceiling: ceiling, ..Durable::default() };
        Kept { durable, addresses: BTreeMap::from([(NodeId(1), vec!["h:1".to_owned()])]) }
    }

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ring-state");
        let (mut file, nothing) = KeptFile::open(&path).expect("made");
        assert_eq!(nothing, None);
        for ceiling in 1..=3 {
            file.write(&kept(ceiling)).expect("written");
        }
        drop(file);
        let (file, found) = KeptFile::open(&path).expect("opened");
        assert_eq!(found, Some(kept(3)));
        // The next write goes to the other slot and is torn.
        file.file.write_all_at(&encode(4, &kept(4))[..30], 0).expect("written");
        assert_eq!(KeptFile::open(&path).expect("opened").1, Some(kept(3)));
        // Damage of everything is no new node.
        file.file.write_all_at(&vec![7; 2 * SLOT_BYTES], 0).expect("written");
        let error = KeptFile::open(&path).expect_err("damaged");
        assert!(error.to_string().contains("new number"), "{error}");
    }
}
