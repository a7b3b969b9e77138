//! A block, six shares, two of them lost: `cargo run -p rain-codec --example shares`.

use rain_codec::{CodeError, ShareSet, by_name};

fn main() -> Result<(), CodeError> {
    let code = by_name("bcode", 4, 2)?; // or rdp, evenodd, xcode (k = 3, 5, 9, 11), cauchy, rs
    let block = std::fs::read("/proc/self/exe").unwrap_or_else(|_| vec![7; 100_000]);
    let mut shares = vec![vec![0; code.share_bytes(block.len())]; code.n()];
    let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
    code.split(&block, &mut views)?;
    code.encode(&mut views)?;
    let lost: ShareSet = [0, 3].into_iter().collect();
    lost.iter().for_each(|share| views[share].fill(0));
    code.reconstruct(&mut views, ShareSet::all(code.n()).minus(lost), lost)?;
    let mut read = vec![0; block.len()];
    code.join(&shares.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut read)?;
    assert!(read == block);
    Ok(())
}
