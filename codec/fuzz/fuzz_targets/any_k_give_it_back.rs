//! Any code, any block, any loss: lost shares come back, impossible losses are refused, a changed byte is
//! found, and an update gives the same bytes as encoding again.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rain_codec::{ShareSet, Stores, Verdict, by_name, names};

#[derive(Debug, Arbitrary)]
struct Case<'a> {
    name: u8,
    k: u8,
    m: u8,
    lost: u32,
    streaming: bool,
    flip: u32,
    block: &'a [u8],
}

fuzz_target!(|case: Case<'_>| {
    let name = names()[usize::from(case.name) % names().len()];
    let Ok(code) = by_name(name, usize::from(case.k % 24), usize::from(case.m % 8)) else { return };
    let (n, block) = (code.n(), case.block);
    let mut shares = vec![vec![0; code.share_bytes(block.len())]; n];
    let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
    let stores = if case.streaming { Stores::Streaming } else { Stores::Cached };
    code.split(block, &mut views).expect("buffers of the right length");
    code.encode_with(&mut views, stores).expect("buffers of the right length");
    let right = shares.clone();
    let lost: ShareSet = (0..n).filter(|share| case.lost >> (share % 32) & 1 == 1).collect();
    lost.iter().for_each(|share| shares[share].fill(0xdb));
    let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
    let made = code.reconstruct_with(&mut views, ShareSet::all(n).minus(lost), lost, stores);
    assert_eq!(made.is_ok(), lost.len() <= code.m());
    if made.is_err() {
        return;
    }
    assert!(shares == right);
    let mut read = vec![0; block.len()];
    code.join(&shares.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut read).expect("whole shares");
    assert!(read == block);
    if shares[0].is_empty() || code.m() == 0 {
        return;
    }
    let (share, at) = (case.flip as usize % n, case.flip as usize / n % shares[0].len());
    shares[share][at] ^= 1;
    let verdict = code.verify(&shares.iter().map(Vec::as_slice).collect::<Vec<_>>()).expect("whole shares");
    let found = if code.m() >= 2 { Verdict::WrongShare(share) } else { Verdict::Inconsistent };
    assert!(verdict == found || code.m() < 2 && verdict != Verdict::Clean, "{verdict:?}");
});
