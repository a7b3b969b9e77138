//! A share's bytes on disk: header, checksum table, payload. `docs/formats.md` has the table, and
//! `the_bytes_are_those_of_format_1` holds it. All integers are little endian.
//!
//! The seal is a keyed hash over header and table. Its key is the store's random id, and the header has the
//! segment and the offset to which it was written. So bytes of a file that look like a share, or a segment
//! that was copied elsewhere, are never taken for a share
//! (`a_head_reads_back_and_only_where_it_was_written`).

use super::{ShareKey, ShareMeta};
use crc_fast::{CrcAlgorithm, checksum};
use rain_types::{BlockId, CodeSpec, Codec, SessionId, ShareIndex};

/// Size of a unit of space, bytes. A share begins at a unit and takes whole units. The page of most disks.
pub const UNIT_BYTES: u64 = 4096;

/// Bytes of payload under one checksum: the smallest piece that a read verifies.
pub const CHUNK_BYTES: usize = 4096;

/// Bytes of the header, before the checksum table.
pub(super) const HEADER_BYTES: usize = 128;

const MAGIC: &[u8; 8] = b"RAINSHAR";
const VERSION: u16 = 1;
const SEALED_BYTES: usize = 96;

/// The position of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SharePosition {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Offset in the segment, in units.
    pub(super) unit: u32,
    /// Length, in units.
    pub(super) units: u32,
}

impl SharePosition {
    pub(super) fn offset(self) -> u64 {
        u64::from(self.unit) * UNIT_BYTES
    }

    pub(super) fn bytes(self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }
}

/// Returns the number of chunks of a payload.
pub(super) fn chunks(share_len: u32) -> usize {
    (share_len as usize).div_ceil(CHUNK_BYTES)
}

/// Returns the bytes before the payload.
pub(super) fn head_bytes(share_len: u32) -> usize {
    HEADER_BYTES + 8 * chunks(share_len)
}

/// Returns the units of a share.
pub(super) fn units(share_len: u32) -> u32 {
    ((head_bytes(share_len) + share_len as usize) as u64).div_ceil(UNIT_BYTES) as u32
}

pub(super) fn chunk_crc(chunk: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, chunk)
}

/// Returns header and table of a share at its position.
pub(super) fn encode(
    store_key: &[u8; 32],
    meta: &ShareMeta,
    crcs: &[u64],
    position: SharePosition,
    sequence: u64,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(head_bytes(meta.share_len));
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[meta.code.codec as u8, meta.code.k, meta.code.m, meta.key.index.0, 0, 0]);
    head.extend_from_slice(&meta.key.block.session.0.to_le_bytes());
    head.extend_from_slice(&meta.key.block.seq.to_le_bytes());
    head.extend_from_slice(&meta.block_len.to_le_bytes());
    head.extend_from_slice(&meta.share_len.to_le_bytes());
    head.extend_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
    head.extend_from_slice(&position.segment.to_le_bytes());
    head.extend_from_slice(&position.offset().to_le_bytes());
    head.extend_from_slice(&sequence.to_le_bytes());
    head.resize(HEADER_BYTES, 0);
    for crc in crcs {
        head.extend_from_slice(&crc.to_le_bytes());
    }
    let seal = seal(store_key, &head);
    head[SEALED_BYTES..HEADER_BYTES].copy_from_slice(seal.as_bytes());
    head
}

fn seal(store_key: &[u8; 32], head: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(store_key);
    hasher.update(&head[..SEALED_BYTES]);
    hasher.update(&head[HEADER_BYTES..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Returns the share's length if the first bytes look like a header: the length of the whole head follows
/// from it.
pub(super) fn peek_share_len(bytes: &[u8]) -> Option<u32> {
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC || bytes[8..10] != VERSION.to_le_bytes() {
        return None;
    }
    let share_len = u32_at(bytes, 36);
    (1..=1 << 27).contains(&share_len).then_some(share_len)
}

/// A decoded head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShareHead {
    pub(super) meta: ShareMeta,
    pub(super) position: SharePosition,
    pub(super) sequence: u64,
    pub(super) crcs: Vec<u64>,
}

/// Decodes a whole head at a position; `None` unless every bit of it is right.
pub(super) fn decode(store_key: &[u8; 32], head: &[u8], segment: u32, unit: u32) -> Option<ShareHead> {
    let share_len = peek_share_len(head)?;
    let head = head.get(..head_bytes(share_len))?;
    if seal(store_key, head).as_bytes() != &head[SEALED_BYTES..HEADER_BYTES] {
        return None;
    }
    let position = SharePosition { segment, unit, units: units(share_len) };
    if u32_at(head, 40) != CHUNK_BYTES as u32
        || u32_at(head, 44) != segment
        || u64_at(head, 48) != position.offset()
    {
        return None;
    }
    let code = CodeSpec { codec: Codec::from_number(head[10])?, k: head[11], m: head[12] };
    let block = BlockId { session: SessionId(u64_at(head, 16)), seq: u64_at(head, 24) };
    let key = ShareKey { block, index: ShareIndex(head[13]) };
    let meta = ShareMeta { key, code, block_len: u32_at(head, 32), share_len };
    let crcs = head[HEADER_BYTES..].as_chunks::<8>().0.iter().map(|crc| u64::from_le_bytes(*crc)).collect();
    Some(ShareHead { meta, position, sequence: u64_at(head, 56), crcs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (ShareMeta, Vec<u64>, SharePosition) {
        let block = BlockId { session: SessionId(3), seq: 4 };
        let key = ShareKey { block, index: ShareIndex(5) };
        let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
        let meta = ShareMeta { key, code, block_len: 20_000, share_len: 5120 };
        (meta, vec![11, 12], SharePosition { segment: 7, unit: 9, units: units(5120) })
    }

    #[test]
    fn a_head_reads_back_and_only_where_it_was_written() {
        let (meta, crcs, position) = sample();
        let head = encode(&[1; 32], &meta, &crcs, position, 77);
        let read = decode(&[1; 32], &head, 7, 9).expect("whole");
        assert_eq!(read, ShareHead { meta, position, sequence: 77, crcs });
        assert_eq!(decode(&[2; 32], &head, 7, 9), None, "another store's");
        assert_eq!(decode(&[1; 32], &head, 8, 9), None, "another segment");
        assert_eq!(decode(&[1; 32], &head, 7, 10), None, "another position");
        for bit in 0..head.len() * 8 {
            let mut damaged = head.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&[1; 32], &damaged, 7, 9), None, "bit {bit}");
        }
    }

    /// These bytes never change: nodes of later versions read them.
    #[test]
    fn the_bytes_are_those_of_format_1() {
        let (meta, crcs, position) = sample();
        let head = encode(&[1; 32], &meta, &crcs, position, 77);
        let expected = "5241494e53484152010002040205000003000000000000000400000000000000204e000000140000\
                        0010000007000000009000000000000\
                        04d00000000000000";
        let hex: String = head[..64].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(head[64..96], [0; 32]);
        assert_eq!(head.len(), 128 + 16);
    }
}
