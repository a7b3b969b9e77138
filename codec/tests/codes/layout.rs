//! The positions of a block's bytes in its shares.

use proptest::prelude::*;
use rain_codec::{Code, Piece};

use super::*;

/// Checks that the pieces cover the range in block order, lie within the share, and use no byte of a share
/// twice.
fn check_pieces(code: &dyn Code, block_bytes: usize, range: std::ops::Range<usize>) {
    let pieces = code.locate(block_bytes, range.clone());
    let mut at = range.start;
    let mut used = std::collections::HashSet::new();
    for piece in &pieces {
        assert_eq!(piece.block_offset, at);
        assert!(piece.len > 0 && piece.share < code.n());
        assert!(piece.share_offset + piece.len <= code.share_bytes(block_bytes));
        assert!((0..piece.len).all(|i| used.insert((piece.share, piece.share_offset + i))));
        at += piece.len;
    }
    assert_eq!(at, range.end.max(range.start), "{} {block_bytes} {range:?}", code.name());
}

#[test]
fn data_share_i_is_run_i_of_the_block() {
    for (name, k, m) in [("rs", 4, 2), ("rs", 3, 0), ("rdp", 4, 2), ("rdp", 10, 2)] {
        let code = code(name, k, m);
        for block_bytes in [1, 100, 4096, 65_537, 1 << 20] {
            let share_bytes = code.share_bytes(block_bytes);
            for (i, piece) in code.locate(block_bytes, 0..block_bytes).into_iter().enumerate() {
                let len = share_bytes.min(block_bytes - i * share_bytes);
                let block_offset = i * share_bytes;
                assert_eq!(piece, Piece { share: i, share_offset: 0, block_offset, len });
            }
        }
    }
}

#[test]
fn the_length_of_a_share_is_the_least_that_holds_the_block() {
    for code in assorted_codes() {
        let (one_stripe, _) = full_stripes(&*code, 1);
        for stripes in [1, 2, 33] {
            let full = one_stripe.len() * stripes;
            assert_eq!(code.share_bytes(full), stripes * code.stripe_bytes());
            assert_eq!(code.share_bytes(full + 1), (stripes + 1) * code.stripe_bytes());
        }
        assert_eq!(code.share_bytes(0), 0);
        assert_eq!(code.stripe_bytes() % code.rows(), 0);
    }
}

#[test]
fn stripes_of_codes_by_name_divide_a_page() {
    let stripe = |name, k| code(name, k, 2).stripe_bytes();
    assert_eq!([1, 2, 3, 4, 5, 16].map(|k| stripe("rdp", k)), [128, 128, 256, 256, 1024, 1024]);
    assert_eq!([1, 4, 100].map(|k| stripe("rs", k)), [64; 3]);
}

#[test]
fn a_range_past_the_block_is_cut_at_its_end() {
    for code in assorted_codes() {
        assert_eq!(code.locate(1000, 900..5000), code.locate(1000, 900..1000));
        assert_eq!(code.locate(1000, 1000..2000), []);
        assert_eq!(code.locate(0, 0..0), []);
        assert_eq!(code.locate(0, 0..10), []);
    }
}

proptest! {
    #[test]
    fn locate_is_a_bijection(
        which in any::<prop::sample::Index>(),
        block_bytes in prop_oneof![0..10_usize, 0..20_000_usize],
        ends in any::<[prop::sample::Index; 2]>(),
    ) {
        let codes = assorted_codes();
        let code = &codes[which.index(codes.len())];
        check_pieces(&**code, block_bytes, 0..block_bytes);
        let [a, b] = ends.map(|end| end.index(block_bytes + 1));
        check_pieces(&**code, block_bytes, a.min(b)..a.max(b));
        // A part of a block lies where it lies in the whole block.
        let block = noise(7, block_bytes);
        let shares = encoded(&**code, &block);
        for piece in code.locate(block_bytes, a.min(b)..a.max(b)) {
            let there = &shares[piece.share][piece.share_offset..][..piece.len];
            prop_assert_eq!(there, &block[piece.block_offset..][..piece.len]);
        }
    }
}
