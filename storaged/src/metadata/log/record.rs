//! The bytes of a record and of a segment's head. `docs/formats-log.md` has the tables.
//!
//! 1. The checksum of a record covers the segment's sequence number, which is not in the record. So records
//!    of an earlier use of a recycled file are never valid (`recycled_bytes_are_never_read_as_records`).
//! 2. A record has the checksum of the record before it. So a record that a failed or torn append has left
//!    behind never follows the records written over the first part of that append
//!    (`leftovers_of_a_torn_append_never_come_back`).
//! 3. A record has the offset at which its append began: all bytes below were durable before it was written.
//!    So a valid record distinguishes damage below its append from a torn tail.

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a record before its payload.
pub(super) const RECORD_HEAD: usize = 32;
/// Bytes kept for a segment's head, so that records never share a disk block with it.
pub(super) const SEGMENT_HEAD: usize = 4096;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

const MAGIC: &[u8; 8] = b"RAINLOG1";
const SEGMENT_HEAD_USED: usize = 40;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

/// A segment's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Counts the uses of files; no number is used twice in a directory.
    pub(super) sequence: u64,
    /// Index of its first record, or of the next one where it is empty.
    pub(super) first_index: u64,
    /// Checksum of the record before its first one; 0 where there is none.
    pub(super) previous: u64,
}

impl SegmentHead {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEAD] {
        let mut bytes = [0; SEGMENT_HEAD];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_index.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc_fast::crc64_nvme(&bytes[16..SEGMENT_HEAD_USED]);
        bytes[8..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Returns the head; `None` for anything else than a whole head of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<SegmentHead> {
        if bytes.len() < SEGMENT_HEAD_USED || &bytes[..8] != MAGIC {
            return None;
        }
        if u64_at(bytes, 8) != crc_fast::crc64_nvme(&bytes[16..SEGMENT_HEAD_USED]) {
            return None;
        }
        Some(SegmentHead {
            sequence: u64_at(bytes, 16),
            first_index: u64_at(bytes, 24),
            previous: u64_at(bytes, 32),
        })
    }
}

/// A record's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    /// Checksum of the segment's sequence and all bytes behind this field, with the payload, without the
    /// padding.
    pub(super) crc: u64,
    /// Payload bytes.
    pub(super) len: u32,
    /// Offset in the segment where the append that wrote it began.
    pub(super) append_start: u32,
    /// Index of the entry.
    pub(super) index: u64,
    /// `crc` of the record before.
    pub(super) previous: u64,
}

/// Returns the size of a record with a payload of this length.
pub(super) fn record_size(payload: usize) -> usize {
    (RECORD_HEAD + payload).next_multiple_of(ALIGN)
}

impl RecordHead {
    /// Returns the head at the start of `bytes` unverified; `None`: too few bytes.
    pub(super) fn peek(bytes: &[u8]) -> Option<RecordHead> {
        (bytes.len() >= RECORD_HEAD).then(|| RecordHead {
            crc: u64_at(bytes, 0),
            len: u32_at(bytes, 8),
            append_start: u32_at(bytes, 12),
            index: u64_at(bytes, 16),
            previous: u64_at(bytes, 24),
        })
    }

    /// Returns the head at the start of `bytes` if the record is whole and its checksum is right.
    pub(super) fn verify(sequence: u64, bytes: &[u8]) -> Option<RecordHead> {
        let head = RecordHead::peek(bytes)?;
        let end = RECORD_HEAD.checked_add(head.len as usize)?;
        (end <= bytes.len() && checksum(sequence, &bytes[8..end]) == head.crc).then_some(head)
    }

    /// Returns the size of the record.
    pub(super) fn size(&self) -> usize {
        record_size(self.len as usize)
    }
}

fn checksum(sequence: u64, covered: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&sequence.to_le_bytes());
    digest.update(covered);
    digest.finalize()
}

/// Appends a record to `out`; returns its checksum.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    sequence: u64,
    append_start: u32,
    index: u64,
    previous: u64,
    payload: &[u8],
) -> u64 {
    let start = out.len();
    let len = u32::try_from(payload.len()).expect("the log refuses payloads over its limit");
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&append_start.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&previous.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = checksum(sequence, &out[start + 8..]);
    out[start..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + record_size(payload.len()), 0);
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_bytes() {
        let mut bytes = Vec::new();
        let crc = encode_record(&mut bytes, 3, 4096, 7, 0x0102_0304_0506_0708, b"hello");
        assert_eq!(bytes.len(), 40);
        assert_eq!(&bytes[8..12], &[5, 0, 0, 0]);
        assert_eq!(&bytes[12..16], &[0, 0x10, 0, 0]);
        assert_eq!(&bytes[16..24], &[7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..32], &[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&bytes[32..], b"hello\0\0\0");
        // The format's golden value: it may change only with the magic.
        let mut covered = 3u64.to_le_bytes().to_vec();
        covered.extend_from_slice(&bytes[8..37]);
        assert_eq!(crc, crc_fast::crc64_nvme(&covered));
        assert_eq!(RecordHead::verify(3, &bytes).map(|head| head.index), Some(7));
    }

    #[test]
    fn a_record_of_another_use_of_the_file_is_not_valid() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, 3, 4096, 7, 0, b"hello");
        assert_eq!(RecordHead::verify(4, &bytes), None);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let mut good = Vec::new();
        encode_record(&mut good, 3, 4096, 7, 9, b"hello");
        for bit in 0..(RECORD_HEAD + 5) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHead::verify(3, &bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_segment_head_reads_back_and_damage_is_noticed() {
        let head = SegmentHead { sequence: 5, first_index: 77, previous: 1 << 60 };
        let bytes = head.encode();
        assert_eq!(SegmentHead::decode(&bytes), Some(head));
        for byte in 0..SEGMENT_HEAD_USED {
            let mut bad = bytes;
            bad[byte] ^= 4;
            assert_eq!(SegmentHead::decode(&bad), None, "byte {byte}");
        }
    }
}
