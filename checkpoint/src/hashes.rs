//! Hashes of chunks, and the hash of a part that they make. Pure.
//!
//! BLAKE3 is a tree. The hash of an aligned chunk at its place is an inner node of the part's tree, so the chunks' hashes
//! give the part's own BLAKE3, which `b3sum` prints, without a second pass (BLAKE3 paper, section 2.1). Two chunks have
//! the same hash only if they have the same bytes at the same offset.

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

/// Length of a chunk in bytes: the unit that is compared with the last epoch, and that is checked when it is read. A
/// power of two of at least 1 KiB, as the tree needs.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// Length of a hash, bytes.
pub(crate) const HASH_BYTES: usize = 32;

/// The hash of a chunk; of a part that has only one, the part's hash.
pub(crate) type ChunkHash = [u8; HASH_BYTES];

/// The hash of a chunk. `index`: its number in the part. `is_only`: the part has no other.
pub(crate) fn hash_chunk(index: u64, bytes: &[u8], is_only: bool) -> ChunkHash {
    let mut hasher = blake3::Hasher::new();
    if is_only {
        return *hasher.update(bytes).finalize().as_bytes();
    }
    if index > 0 {
        hasher.set_input_offset(index * CHUNK_BYTES);
    }
    hasher.update(bytes).finalize_non_root()
}

/// The number of chunks of a part.
pub(crate) fn chunks_of(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES)
}

/// The BLAKE3 of a part of `bytes` with these chunks.
pub(crate) fn root(hashes: &[ChunkHash], bytes: u64) -> blake3::Hash {
    debug_assert_eq!(hashes.len() as u64, chunks_of(bytes));
    match hashes {
        [] => blake3::hash(&[]),
        [only] => blake3::Hash::from_bytes(*only),
        _ => {
            let (left, right) = halves(hashes, bytes);
            merge_subtrees_root(&left, &right, Mode::Hash)
        }
    }
}

fn halves(hashes: &[ChunkHash], bytes: u64) -> (ChunkHash, ChunkHash) {
    let left_bytes = left_subtree_len(bytes);
    let (left, right) = hashes.split_at((left_bytes / CHUNK_BYTES) as usize);
    (subtree(left, left_bytes), subtree(right, bytes - left_bytes))
}

fn subtree(hashes: &[ChunkHash], bytes: u64) -> ChunkHash {
    match hashes {
        [only] => *only,
        _ => {
            let (left, right) = halves(hashes, bytes);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunks_of_a_part_give_its_blake3() {
        let bytes: Vec<u8> = (0..9 * CHUNK_BYTES + 5).map(|at| (at * 7 + (at >> 9)) as u8).collect();
        for len in
            [0, 1, 1000, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES, 9 * CHUNK_BYTES + 5]
        {
            let part = &bytes[..len as usize];
            let chunks = part.chunks(CHUNK_BYTES as usize);
            let is_only = chunks.len() == 1;
            let hashes: Vec<_> =
                chunks.enumerate().map(|(index, chunk)| hash_chunk(index as u64, chunk, is_only)).collect();
            assert_eq!(root(&hashes, len), blake3::hash(part), "{len} bytes");
        }
    }
}
