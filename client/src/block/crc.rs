//! The checksum of every chunk: CRC-64/NVMe, for its speed (docs/decisions has the figures). blake3 seals the
//! headers on disk; this one finds what a disk or a cable did to the bytes in between.

use crc_fast::{CrcAlgorithm, checksum};
use rain_proto::CHUNK_BYTES;

/// One checksum for each 4096 bytes, the last chunk as short as it is.
pub fn chunk_checksums(payload: &[u8]) -> Vec<u64> {
    payload.chunks(CHUNK_BYTES).map(|chunk| checksum(CrcAlgorithm::Crc64Nvme, chunk)).collect()
}

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
