//! A change of data is carried into the parity without the rest of the data.

use proptest::prelude::*;
use rain_codec::CodeError;

use super::*;

proptest! {
    #[test]
    fn an_update_is_what_encoding_anew_gives(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        len in prop_oneof![0..3_usize, 0..5000_usize],
        seed: u64,
    ) {
        let codes = assorted_codes();
        let code = &codes[which.index(codes.len())];
        let block = noise(seed, 12_345);
        let mut shares = encoded(&**code, &block);
        let begin = at.index(block.len());
        let end = block.len().min(begin + len);
        let mut changed = block.clone();
        changed[begin..end].copy_from_slice(&noise(seed ^ 1, end - begin));
        for piece in code.locate(block.len(), begin..end) {
            let bytes = piece.block_offset..piece.block_offset + piece.len;
            let delta: Vec<u8> =
                block[bytes.clone()].iter().zip(&changed[bytes.clone()]).map(|(old, new)| old ^ new).collect();
            code.update(piece.share, piece.share_offset, &delta, &mut views(&mut shares))?;
            shares[piece.share][piece.share_offset..][..piece.len].copy_from_slice(&changed[bytes]);
        }
        prop_assert!(shares == encoded(&**code, &changed));
    }
}

#[test]
fn a_node_with_one_parity_share_updates_it_alone() {
    for code in [code("rdp", 4, 2), code("rs", 4, 2), code("rs", 6, 3)] {
        let (block, before) = full_stripes(&*code, 3);
        let mut changed = block.clone();
        changed[10..200].iter_mut().for_each(|byte| *byte ^= 0x3c);
        let after = encoded(&*code, &changed);
        for held in code.k()..code.n() {
            let mut shares = vec![Vec::new(); code.n()];
            shares[held] = before[held].clone();
            for piece in code.locate(block.len(), 10..200) {
                let delta = vec![0x3c; piece.len];
                code.update(piece.share, piece.share_offset, &delta, &mut views(&mut shares)).unwrap();
            }
            assert!(shares[held] == after[held]);
            assert_eq!(shares.iter().filter(|share| !share.is_empty()).count(), 1);
        }
    }
}

#[test]
fn an_update_of_parity_or_outside_is_refused() {
    for code in assorted_codes() {
        let (_, mut shares) = full_stripes(&*code, 2);
        let before = shares.clone();
        let share_bytes = shares[0].len();
        let outside = code.update(0, share_bytes - 1, &[1, 2], &mut views(&mut shares));
        let (offset, len) = (share_bytes - 1, 2);
        assert_eq!(outside, Err(CodeError::UpdateOutside { offset, len, share_bytes }));
        let n = code.n();
        let nobody = code.update(n, 0, &[1], &mut views(&mut shares));
        assert_eq!(nobody, Err(CodeError::NoSuchShare { share: n, n }));
        if code.m() > 0 {
            let offset = share_bytes - 64;
            // The vertical codes have parity in the last row of the first share, too.
            let share = if ["xcode", "bcode"].contains(&code.name()) { 0 } else { n - 1 };
            let parity = code.update(share, offset, &[1], &mut views(&mut shares));
            assert_eq!(parity, Err(CodeError::NotData { share, offset }));
        }
        assert!(shares == before);
    }
}
