//! The promises of `rain-codec`, checked for every code.

mod counts;
mod erasures;
mod layout;
mod repair;
mod update;
mod verify;

use std::sync::Arc;

use rain_codec::{Code, ShareSet, by_name};

/// Returns pseudo-random bytes, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn code(name: &str, k: usize, m: usize) -> Arc<dyn Code> {
    by_name(name, k, m).expect("the code exists")
}

/// Returns codes of every family and size.
fn assorted_codes() -> Vec<Arc<dyn Code>> {
    let rs = [(1, 0), (5, 0), (1, 1), (4, 1), (1, 2), (4, 2), (6, 3), (10, 4), (3, 9)];
    let mut codes: Vec<_> = rs.into_iter().map(|(k, m)| code("rs", k, m)).collect();
    codes.extend([1, 2, 3, 4, 5, 10, 16].map(|k| code("rdp", k, 2)));
    codes.extend([1, 3, 4, 5].map(|k| code("evenodd", k, 2)));
    codes.extend([2, 4, 5].map(|k| code("star", k, 3)));
    codes.extend([1, 3, 5].map(|k| code("xcode", k, 2)));
    codes.extend([1, 2, 4, 5].map(|k| code("bcode", k, 2)));
    codes.extend([(1, 1), (4, 2), (6, 3), (10, 4), (2, 7), (14, 3)].map(|(k, m)| code("cauchy", k, m)));
    codes.extend([code("mirror", 1, 2), code("parity", 3, 1)]);
    codes
}

fn views(shares: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    shares.iter_mut().map(Vec::as_mut_slice).collect()
}

fn slices(shares: &[Vec<u8>]) -> Vec<&[u8]> {
    shares.iter().map(Vec::as_slice).collect()
}

/// Returns the shares of a block.
fn encoded(code: &dyn Code, block: &[u8]) -> Vec<Vec<u8>> {
    let mut shares = vec![vec![0; code.share_bytes(block.len())]; code.n()];
    code.split(block, &mut views(&mut shares)).expect("buffers of the right length");
    code.encode(&mut views(&mut shares)).expect("buffers of the right length");
    shares
}

/// Returns a block that fills `stripes` stripes to the last byte, and its shares.
fn full_stripes(code: &dyn Code, stripes: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let of_a_stripe = (1..).take_while(|&bytes| code.share_bytes(bytes) == code.stripe_bytes()).count();
    let block = noise(code.n() as u64, of_a_stripe * stripes);
    let shares = encoded(code, &block);
    (block, shares)
}

/// Returns the shares with those in `lost` overwritten.
fn spoiled(shares: &[Vec<u8>], lost: ShareSet) -> Vec<Vec<u8>> {
    let rubbish = |(i, share): (usize, &Vec<u8>)| match lost.contains(i) {
        true => vec![0xdb; share.len()],
        false => share.clone(),
    };
    shares.iter().enumerate().map(rubbish).collect()
}

/// Returns every set of at most `count` of n shares.
fn patterns(n: usize, count: usize) -> impl Iterator<Item = ShareSet> {
    (0..1_u64 << n).filter(move |bits| bits.count_ones() as usize <= count).map(ShareSet::from_bits_u64)
}
