//! Test data computed from a seed and an offset, so that any part of a file can be checked without a copy of
//! it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Eight bytes of the file with this seed, at offset `8 * index`.
fn word(seed: u64, index: u64) -> u64 {
    // SplitMix64: every bit of the output depends on every bit of the input.
    let mut z =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a range of the file with this seed.
pub fn bytes(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let first = offset / 8;
    let mut out = Vec::with_capacity(len + 16);
    let mut index = first;
    while out.len() < len + (offset % 8) as usize {
        out.extend_from_slice(&word(seed, index).to_le_bytes());
        index += 1;
    }
    out.drain(..(offset % 8) as usize);
    out.truncate(len);
    out
}

/// Compares a file with the data of a seed, in pieces of 1 MiB. Fails with the first byte that differs.
pub fn check(path: &Path, seed: u64, len: u64) -> anyhow::Result<()> {
    let file = std::fs::File::open(path)?;
    let found = file.metadata()?.len();
    anyhow::ensure!(found == len, "{} has {found} bytes, not {len}", path.display());
    let mut offset = 0;
    let mut piece = vec![0; 1 << 20];
    while offset < len {
        let now = piece.len().min((len - offset) as usize);
        file.read_exact_at(&mut piece[..now], offset).map_err(|error| at(path, offset, error))?;
        let wanted = bytes(seed, offset, now);
        if let Some(wrong) = (0..now).find(|at| piece[*at] != wanted[*at]) {
            anyhow::bail!(
                "{} differs at byte {}: {:#x}, not {:#x}",
                path.display(),
                offset + wrong as u64,
                piece[wrong],
                wanted[wrong]
            );
        }
        offset += now as u64;
    }
    Ok(())
}

fn at(path: &Path, offset: u64, error: io::Error) -> anyhow::Error {
    anyhow::anyhow!("reading {} at {offset}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        let whole = bytes(5, 0, 100);
        for (from, len) in [(0, 3), (7, 20), (8, 8), (33, 67)] {
            assert_eq!(bytes(5, from, len), whole[from as usize..from as usize + len]);
        }
        assert_ne!(bytes(6, 0, 100), whole);
    }
}
