//! Any k shares restore the block; fewer give a clear error.

use proptest::prelude::*;
use rain_codec::{Code, CodeError, ShareSet, Stores, by_name};
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::*;

/// Checks that every pattern of at most m lost shares comes back bit for bit, and that every pattern of m + 1
/// is refused without a write.
fn check_every_pattern(code: &dyn Code) {
    let (n, m) = (code.n(), code.m());
    let (_, shares) = full_stripes(code, 1);
    for lost in patterns(n, m + 1) {
        let mut damaged = spoiled(&shares, lost);
        let result = code.reconstruct(&mut views(&mut damaged), ShareSet::all(n).minus(lost), lost);
        if lost.len() <= m {
            assert_eq!(result, Ok(()), "{code:?}");
            assert!(damaged == shares, "{} {}+{m} without {lost}", code.name(), code.k());
        } else {
            let present = ShareSet::all(n).minus(lost);
            assert_eq!(result, Err(CodeError::TooFewShares { present, needed: code.k() }));
            assert!(damaged == spoiled(&shares, lost), "an error must leave the buffers alone");
        }
    }
}

#[test]
fn every_code_survives_every_loss_up_to_14_shares() {
    for &name in rain_codec::names() {
        let mut checked = 0;
        for n in 1..=14 {
            for k in 1..=n {
                if let Ok(code) = by_name(name, k, n - k) {
                    check_every_pattern(&*code);
                    checked += 1;
                }
            }
        }
        let expected = match name {
            "rdp" | "evenodd" => 12,
            "star" => 11,
            "xcode" => 5,
            "bcode" => 11,
            "cauchy" => 91,
            "rs" => 105,
            "mirror" => 14,
            "parity" => 13,
            other => panic!("{other} is not known to this test"),
        };
        assert_eq!(checked, expected, "{name}");
    }
}

#[test]
fn rdp_survives_every_loss_for_every_k() {
    for k in 1..=16 {
        check_every_pattern(&*code("rdp", k, 2));
    }
}

#[test]
fn only_wanted_shares_are_written_and_the_rest_may_be_absent() {
    for code in assorted_codes() {
        let (n, m) = (code.n(), code.m());
        let (_, shares) = full_stripes(&*code, 2);
        for lost in patterns(n, m).filter(|lost| lost.len() == m) {
            for wanted in lost {
                let mut damaged = spoiled(&shares, lost);
                lost.without(wanted).iter().for_each(|absent| damaged[absent].clear());
                let present = ShareSet::all(n).minus(lost);
                // A share that is both present and wanted is there already.
                let wanted_set = ShareSet::EMPTY.with(wanted).union(present.lowest(1));
                code.reconstruct(&mut views(&mut damaged), present, wanted_set).unwrap();
                for share in present.with(wanted) {
                    assert!(damaged[share] == shares[share], "{code:?}: {share} from {present}");
                }
                assert!(lost.without(wanted).iter().all(|absent| damaged[absent].is_empty()));
            }
        }
    }
}

#[test]
fn neither_alignment_nor_the_kind_of_stores_matters() {
    for code in assorted_codes() {
        let (n, m) = (code.n(), code.m());
        // A few of the blocks that the machine code prefetches, and a rest.
        let (_, shares) = full_stripes(&*code, 5000 / code.stripe_bytes() + 3);
        let len = shares[0].len();
        let (lost, all) = (ShareSet::all(m), ShareSet::all(n));
        for (stores, step) in
            [(Stores::Cached, 0), (Stores::Cached, 13), (Stores::Streaming, 0), (Stores::Streaming, 13)]
        {
            let mut buffers = vec![vec![0x77; len + 64 + 13 * n]; n];
            let mut views: Vec<&mut [u8]> = Vec::new();
            for (share, buffer) in buffers.iter_mut().enumerate() {
                let begin = buffer.as_ptr().align_offset(64) + step * share;
                buffer[begin..][..len].copy_from_slice(&shares[share]);
                views.push(&mut buffer[begin..][..len]);
            }
            lost.iter().for_each(|share| views[share].fill(0xdb));
            code.reconstruct_with(&mut views, all.minus(lost), lost, stores).unwrap();
            assert!(
                views.iter().zip(&shares).all(|(view, share)| **view == **share),
                "{} decodes",
                code.name()
            );
            code.encode_with(&mut views, stores).unwrap();
            assert!(
                views.iter().zip(&shares).all(|(view, share)| **view == **share),
                "{} encodes",
                code.name()
            );
        }
    }
}

#[test]
fn a_huge_block_of_an_odd_length_comes_back() {
    for (name, k, m) in [("rdp", 4, 2), ("cauchy", 10, 4), ("bcode", 4, 2)] {
        let code = code(name, k, m);
        let block = noise(9, (64 << 20) + 12_347);
        let shares = encoded(&*code, &block);
        let lost: ShareSet = (0..m).map(|share| share * 2).collect();
        let mut damaged = spoiled(&shares, lost);
        code.reconstruct(&mut views(&mut damaged), ShareSet::all(k + m).minus(lost), lost).unwrap();
        let mut read = vec![0; block.len()];
        code.join(&slices(&damaged), &mut read).unwrap();
        assert!(damaged == shares && read == block, "{name}");
    }
}

#[test]
fn any_range_of_stripes_decodes_alone() {
    const STRIPES: usize = 4;
    for code in assorted_codes() {
        let stripe = code.stripe_bytes();
        let (_, shares) = full_stripes(&*code, STRIPES);
        let lost: ShareSet = (0..code.m()).map(|i| i * 2 % code.n()).collect();
        for (from, to) in (0..STRIPES).flat_map(|from| (from + 1..=STRIPES).map(move |to| (from, to))) {
            let part: Vec<Vec<u8>> =
                shares.iter().map(|share| share[from * stripe..to * stripe].to_vec()).collect();
            let mut damaged = spoiled(&part, lost);
            code.reconstruct(&mut views(&mut damaged), ShareSet::all(code.n()).minus(lost), lost).unwrap();
            assert!(damaged == part, "{} stripes {from} to {to}", code.name());
            assert_eq!(code.verify(&slices(&part)), Ok(rain_codec::Verdict::Clean));
        }
    }
}

#[test]
fn rs_makes_the_bytes_that_its_crate_makes() {
    for (k, m) in [(1, 1), (4, 2), (10, 4), (17, 3), (200, 55)] {
        let code = code("rs", k, m);
        let (_, shares) = full_stripes(&*code, 70);
        let reference = ReedSolomon::new(k, m).unwrap();
        let mut theirs = spoiled(&shares, (k..k + m).collect());
        reference.encode(&mut theirs).unwrap();
        assert!(theirs == shares, "encode {k}+{m}");
        let lost: ShareSet = (0..m).map(|i| i * 3 % (k + m)).collect();
        let mut theirs: Vec<Option<Vec<u8>>> =
            shares.iter().enumerate().map(|(i, s)| (!lost.contains(i)).then(|| s.clone())).collect();
        reference.reconstruct(&mut theirs).unwrap();
        let mut ours = spoiled(&shares, lost);
        code.reconstruct(&mut views(&mut ours), ShareSet::all(k + m).minus(lost), lost).unwrap();
        assert!(theirs.into_iter().flatten().eq(ours), "decode {k}+{m}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_rule_and_the_names() {
    let text = |name: &str, k, m| by_name(name, k, m).unwrap_err().to_string();
    assert_eq!(
        text("raid", 4, 2),
        "there is no code \"raid\"; there are rdp, evenodd, star, xcode, bcode, cauchy, rs, mirror, parity"
    );
    assert!(
        text("rdp", 4, 3).starts_with("code rdp cannot be k=4, m=3: it needs m = 2; the codes are rdp, ")
    );
    assert!(text("xcode", 4, 2).contains("k + 2 a prime"));
    assert!(text("bcode", 12, 2).contains("a prime p"));
    assert!(text("star", 4, 2).contains("m = 3") && text("evenodd", 18, 2).contains("k from 1 to 17"));
    assert!(text("cauchy", 4, 0).contains("m >= 1") && text("cauchy", 250, 6).contains("k + m <= 255"));
    assert!(text("mirror", 2, 1).contains("k = 1") && text("parity", 2, 2).contains("m = 1"));
    assert!(text("rdp", 17, 2).contains("k=17, m=2: it needs k from 1 to 16"));
    assert!(text("rdp", 0, 2).contains("k from 1 to 16"));
    assert!(text("rs", 0, 2).contains("k >= 1 and k + m <= 255"));
    assert!(text("rs", 200, 56).contains("k=200, m=56"));
    assert!(text("rs", usize::MAX, usize::MAX).contains("255"));
    for &name in rain_codec::names() {
        let some =
            (1..=5).flat_map(|k| (0..=3).map(move |m| (k, m))).find_map(|(k, m)| by_name(name, k, m).ok());
        assert_eq!(some.expect("a small one of each").name(), name);
    }
    for (k, m) in (1..=20).flat_map(|k| (0..=5).map(move |m| (k, m))) {
        assert_eq!(code(rain_codec::default_name(k, m), k, m).n(), k + m);
    }
    assert_eq!(code("rs", 255, 0).n(), 255);
}

#[test]
fn wrong_buffers_are_refused() {
    for code in assorted_codes() {
        let (n, stripe) = (code.n(), code.stripe_bytes());
        let all = ShareSet::all(n);
        let mut short = vec![vec![0; stripe]; n - 1];
        let count = CodeError::ShareCount { given: n - 1, expected: n };
        assert_eq!(code.encode(&mut views(&mut short)), Err(count.clone()));
        assert_eq!(code.verify(&slices(&short)), Err(count));
        let mut partial = vec![vec![0; stripe + 1]; n];
        let part = CodeError::PartialStripe { len: stripe + 1, stripe_bytes: stripe };
        assert_eq!(code.encode(&mut views(&mut partial)), Err(part.clone()));
        assert_eq!(code.reconstruct(&mut views(&mut partial), all, all), Err(part));
        if n > 1 {
            let mut uneven = vec![vec![0; stripe]; n];
            uneven[n - 1].push(0);
            let length = CodeError::ShareLength { share: n - 1, len: stripe + 1, expected: stripe };
            assert_eq!(code.encode(&mut views(&mut uneven)), Err(length));
        }
        let mut good = vec![vec![0; stripe]; n];
        let foreign = code.reconstruct(&mut views(&mut good), all.with(n), all);
        assert_eq!(foreign, Err(CodeError::NoSuchShare { share: n, n }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_block_of_any_length_comes_back_from_any_k_shares(
        which in any::<prop::sample::Index>(),
        len in prop_oneof![Just(0), Just(1), 0..300_usize, 4090..4100_usize, 0..200_000_usize],
        seed: u64,
        order in any::<u64>(),
    ) {
        let codes = assorted_codes();
        let code = &codes[which.index(codes.len())];
        let block = noise(seed, len);
        let shares = encoded(&**code, &block);
        prop_assert!(shares[0].len().is_multiple_of(code.stripe_bytes()));
        prop_assert_eq!(shares[0].is_empty(), len == 0);
        let mut by_chance: Vec<usize> = (0..code.n()).collect();
        by_chance.sort_by_key(|&share| noise(order.wrapping_add(share as u64 * 77), 8));
        let lost: ShareSet = by_chance[..code.m()].iter().copied().collect();
        let mut damaged = spoiled(&shares, lost);
        code.reconstruct(&mut views(&mut damaged), ShareSet::all(code.n()).minus(lost), lost)?;
        prop_assert!(damaged == shares);
        let mut read = vec![0xdb; len];
        code.join(&slices(&damaged), &mut read)?;
        prop_assert!(read == block);
    }
}
