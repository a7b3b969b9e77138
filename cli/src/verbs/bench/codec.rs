//! `rain bench codec`: encode and decode of each code, one thread, blocks of 1 MiB.

use super::{Row, show};
use clap::Args;
use rain_codec::{Code, ShareSet};
use std::time::{Duration, Instant};

/// Measure encode and decode of the codes on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain bench codec --json")]
pub(crate) struct BenchCodec {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// The length of a block, bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// How long each row is measured.
const ROW_TIME: Duration = Duration::from_millis(250);

/// Gigabytes of user data per second, when `one` handles a block and is repeated for [`ROW_TIME`].
fn rate(mut one: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    one()?;
    let (begun, mut blocks) = (Instant::now(), 0u32);
    while begun.elapsed() < ROW_TIME {
        one()?;
        blocks += 1;
    }
    Ok(f64::from(blocks) * BLOCK_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e9)
}

fn measure(code: &dyn Code, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at * 31 + at / 4096) as u8).collect();
    let mut shares = vec![vec![0; code.share_bytes(BLOCK_BYTES)]; code.n()];
    let mut slices: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
    code.split(&block, &mut slices)?;
    let name = format!("{} {}+{}", code.name(), code.k(), code.m());
    rows.push(Row::new(format!("{name} encode"), rate(|| Ok(code.encode(&mut slices)?))?, "GB/s"));
    for lost in [1, code.m()] {
        let lost = ShareSet::all(lost);
        let present = ShareSet::all(code.n()).minus(lost);
        let value = rate(|| Ok(code.reconstruct(&mut slices, present, lost)?))?;
        rows.push(Row::new(format!("{name} decode, {} lost", lost.len()), value, "GB/s"));
    }
    let mut joined = vec![0; BLOCK_BYTES];
    let views: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
    code.join(&views, &mut joined)?;
    anyhow::ensure!(joined == block, "{name}: the decoded bytes differ from the original");
    Ok(())
}

impl BenchCodec {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        // Each shape with every family that has a code of it.
        for (k, m) in [(2, 1), (4, 2), (5, 2), (9, 2), (10, 2), (6, 3), (8, 4), (10, 4)] {
            for code in rain_codec::names().iter().filter_map(|name| rain_codec::by_name(name, k, m).ok()) {
                measure(code.as_ref(), &mut rows)?;
            }
        }
        let source = vec![1u8; BLOCK_BYTES];
        let mut target = vec![0u8; BLOCK_BYTES];
        let value = rate(|| {
            target.copy_from_slice(std::hint::black_box(&source));
            std::hint::black_box(&mut target);
            Ok(())
        })?;
        rows.push(Row::new("copy of the same bytes", value, "GB/s"));
        show(&rows, self.json)
    }
}
