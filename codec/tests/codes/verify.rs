//! Complete shares are checked, and a wrong share is found.

use rain_codec::Verdict;

use super::*;

#[test]
fn good_shares_are_clean() {
    for code in assorted_codes() {
        for len in [0, 1, 5000] {
            let shares = encoded(&*code, &noise(3, len));
            assert_eq!(code.verify(&slices(&shares)), Ok(Verdict::Clean), "{} {len}", code.name());
        }
    }
}

#[test]
fn a_wrong_share_is_found_with_two_parities_and_noticed_with_one() {
    for code in assorted_codes().into_iter().filter(|code| code.m() > 0) {
        let (_, shares) = full_stripes(&*code, 3);
        let last = shares[0].len() - 1;
        for wrong in 0..code.n() {
            // One bit at either end, or every byte.
            for damage in
                [vec![(0, 1)], vec![(last, 0x80)], (0..=last).map(|at| (at, at as u8 | 1)).collect()]
            {
                let mut damaged = shares.clone();
                damage.into_iter().for_each(|(at, flip): (usize, u8)| damaged[wrong][at] ^= flip);
                let expected = if code.m() >= 2 { Verdict::WrongShare(wrong) } else { Verdict::Inconsistent };
                let found = code.verify(&slices(&damaged));
                assert_eq!(found, Ok(expected), "{} {}+{}", code.name(), code.k(), code.m());
            }
        }
    }
}

#[test]
fn two_wrong_shares_are_not_blamed_on_one() {
    for code in assorted_codes().into_iter().filter(|code| code.m() >= 2) {
        let (_, shares) = full_stripes(&*code, 70);
        let last = shares[0].len() - 1;
        for (a, b) in (0..code.n()).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let mut damaged = shares.clone();
            damaged[a][0] ^= 1;
            damaged[b][last] ^= 1;
            assert_eq!(code.verify(&slices(&damaged)), Ok(Verdict::Inconsistent), "{} {a} {b}", code.name());
        }
    }
}
