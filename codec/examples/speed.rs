//! A quick look at the speed of the codes, one thread: `cargo run --release -p rain-codec --example speed`.
//!
//! The figures are GB/s of user data in blocks of 1 MiB: *warm* encodes one block again and again, *cold*
//! goes round 64 blocks, which no cache holds. Each figure is the best of several turns, since other programs
//! use the machine, too. This is a first look, not the benchmark.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use rain_codec::{Code, CodeError, ShareSet, by_name};

const BLOCK_BYTES: usize = 1 << 20;
const COLD_BLOCKS: usize = 64;
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(60);

type Shares = Vec<Vec<u8>>;
type Work<'a> = &'a dyn Fn(&mut [&mut [u8]]) -> Result<(), CodeError>;

fn main() -> Result<(), CodeError> {
    println!(
        "{:12} {:>12} {:>12} {:>14} {:>14}",
        "code", "encode warm", "encode cold", "decode m warm", "decode 1 warm"
    );
    for (name, k, m) in [
        ("rdp", 2, 2),
        ("rdp", 4, 2),
        ("rdp", 6, 2),
        ("rdp", 10, 2),
        ("rdp", 16, 2),
        ("rs", 4, 2),
        ("rs", 10, 4),
    ] {
        let code = by_name(name, k, m)?;
        let all = ShareSet::all(code.n());
        let encode = |shares: &mut [&mut [u8]]| code.encode(shares);
        let decode = |lost: ShareSet| {
            let code = &code;
            move |shares: &mut [&mut [u8]]| code.reconstruct(shares, all.minus(lost), lost)
        };
        let mut one = blocks(&*code, 1)?;
        let warm = speed(&mut one, &encode)?;
        let many = speed(&mut one, &decode(ShareSet::all(m)))?;
        let single = speed(&mut one, &decode(ShareSet::all(1)))?;
        let cold = speed(&mut blocks(&*code, COLD_BLOCKS)?, &encode)?;
        println!("{:12} {warm:12.1} {cold:12.1} {many:14.1} {single:14.1}", format!("{name} {k}+{m}"));
    }
    Ok(())
}

fn blocks(code: &dyn Code, count: usize) -> Result<Vec<Shares>, CodeError> {
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|i| (i * i / 7) as u8).collect();
    let mut shares = vec![vec![0; code.share_bytes(block.len())]; code.n()];
    let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
    code.split(&block, &mut views)?;
    code.encode(&mut views)?;
    Ok(vec![shares; count])
}

/// Returns GB/s of user data in the best turn.
fn speed(blocks: &mut [Shares], work: Work<'_>) -> Result<f64, CodeError> {
    let mut best: f64 = 0.0;
    for _ in 0..TURNS {
        let begin = Instant::now();
        let mut done = 0;
        while begin.elapsed() < TURN {
            for shares in &mut *blocks {
                let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
                work(black_box(&mut views))?;
                done += 1;
            }
        }
        best = best.max((done * BLOCK_BYTES) as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}
