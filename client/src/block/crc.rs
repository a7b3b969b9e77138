//! The checksum of every chunk: CRC-64/NVMe, chosen for its speed (docs/decisions/0002-checksums.md). It
//! finds bytes that a disk or a cable has changed. blake3 seals the headers on disk.

use crc_fast::{CrcAlgorithm, checksum};
use rain_proto::CHUNK_BYTES;

/// One checksum for each 4096 bytes of a payload. The last chunk may be shorter.
pub fn chunk_checksums(payload: &[u8]) -> Vec<u64> {
    payload.chunks(CHUNK_BYTES).map(|chunk| checksum(CrcAlgorithm::Crc64Nvme, chunk)).collect()
}

/// Whether every chunk of a payload has its checksum.
pub(super) fn holds(payload: &[u8], crcs: &[u64]) -> bool {
    payload.chunks(CHUNK_BYTES).zip(crcs).all(|(chunk, crc)| checksum(CrcAlgorithm::Crc64Nvme, chunk) == *crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_64_nvme() {
        // The check value of the CRC catalogue for "123456789".
        assert_eq!(chunk_checksums(b"123456789"), vec![0xae8b_1486_0a79_9888]);
    }

    #[test]
    fn a_flipped_bit_in_any_chunk_is_found() {
        let mut payload = vec![9u8; 3 * CHUNK_BYTES + 17];
        let crcs = chunk_checksums(&payload);
        assert_eq!(crcs.len(), 4);
        for at in [0, CHUNK_BYTES, 3 * CHUNK_BYTES + 16] {
            assert!(holds(&payload, &crcs));
            payload[at] ^= 4;
            assert!(!holds(&payload, &crcs));
            payload[at] ^= 4;
        }
    }
}
