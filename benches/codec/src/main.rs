//! Compares encoding and decoding by RAIN's codes with other libraries, and with the least work that any code
//! must do. All of it runs on one thread.
//!
//! Each round measures every contender once, for a few milliseconds. A ratio compares two contenders in the
//! same round. The output gives the median of the ratio over the rounds, and the range of the middle half.
//! Every contender's result is checked before anything is measured.

mod arena;
mod isal;

use anyhow::{Context, ensure};
use arena::{Arena, Stride};
use clap::Parser;
use rain_codec::{Code, ShareSet, Stores, by_name, default_name};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    /// Number of rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds for each contender in a round.
    #[arg(long, default_value_t = 4)]
    millis: u64,
    /// Measure all of RAIN's codes, not only the default code of each shape.
    #[arg(long)]
    all: bool,
    /// Measure only this shape, `n,k`; may be given several times.
    #[arg(long, value_name = "N,K", value_parser = shape)]
    shape: Vec<(usize, usize)>,
    /// Measure only this amount of data; may be given several times.
    #[arg(long, value_name = "KIB")]
    kib: Vec<usize>,
    /// Print one JSON object for each row.
    #[arg(long)]
    json: bool,
}

/// Shapes (n, k) measured by default.
const SHAPES: [(usize, usize); 9] =
    [(3, 2), (6, 4), (8, 6), (9, 6), (12, 8), (12, 10), (14, 10), (16, 12), (20, 17)];

/// Amounts of data: name, bytes of a block's data, and number of blocks used in turn.
const LEVELS: [(&str, usize, usize); 4] = [
    ("16 KiB, first level", 16 << 10, 1),
    ("64 KiB, second level", 64 << 10, 1),
    ("1 MiB, third level", 1 << 20, 1),
    ("256 MiB, memory", 1 << 20, 256),
];

fn shape(text: &str) -> anyhow::Result<(usize, usize)> {
    let (n, k) = text.split_once(',').context("n,k: 14,10")?;
    let shape = (n.parse()?, k.parse()?);
    ensure!(0 < shape.1 && shape.1 < shape.0, "{n},{k}: k must be at least 1 and less than n");
    Ok(shape)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    Encode,
    DecodeOne,
    DecodeAll,
}

type Run<'a> = Box<dyn Fn(&mut [&mut [u8]]) + 'a>;

struct Contender<'a> {
    name: String,
    run: Run<'a>,
    /// Share lengths must be multiples of this, bytes.
    unit: usize,
}

impl Contender<'_> {
    /// The longest part of the shares whose length is a multiple of `unit`.
    fn cut<'b>(&self, shares: &'b mut [&mut [u8]]) -> Vec<&'b mut [u8]> {
        let len = shares[0].len() / self.unit * self.unit;
        shares.iter_mut().map(|share| &mut share[..len]).collect()
    }
}

/// Unit of the other libraries, bytes.
const UNIT: usize = 64;

fn contenders<'a>(
    codes: &'a [Box<dyn Fn() -> std::sync::Arc<dyn Code>>],
    k: usize,
    m: usize,
    task: Task,
    streaming: bool,
) -> Vec<Contender<'a>> {
    let stores = if streaming { Stores::Streaming } else { Stores::Cached };
    let lost = if task == Task::DecodeOne { 1 } else { m };
    let mut all: Vec<Contender<'a>> = Vec::new();
    for code in codes {
        let code = code();
        let (name, unit) = (format!("rain {}", code.name()), code.stripe_bytes());
        let (gone, present) = (ShareSet::all(lost), ShareSet::all(k + m).minus(ShareSet::all(lost)));
        all.push(Contender {
            name,
            unit,
            run: Box::new(move |shares| match task {
                Task::Encode => code.encode_with(shares, stores).expect("good buffers"),
                _ => code.reconstruct_with(shares, present, gone, stores).expect("good buffers"),
            }),
        });
    }
    let libraries = [
        ("isa-l 2.31", Some(isal::Library::linked())),
        ("isa-l of the system", isal::Library::of_the_system().ok()),
    ];
    for (name, library) in libraries {
        let Some(library) = library else { continue };
        let work = if task == Task::Encode { library.encoder(k, m) } else { library.decoder(k, m, lost) };
        all.push(Contender { name: name.into(), unit: UNIT, run: Box::new(move |shares| work.run(shares)) });
    }
    let rse = by_name("rs", k, m).expect("any k and m");
    let (gone, present) = (ShareSet::all(lost), ShareSet::all(k + m).minus(ShareSet::all(lost)));
    all.push(Contender {
        name: "reed-solomon-erasure".into(),
        unit: UNIT,
        run: Box::new(move |shares| match task {
            Task::Encode => rse.encode(shares).expect("good buffers"),
            _ => rse.reconstruct(shares, present, gone).expect("good buffers"),
        }),
    });
    if task == Task::Encode {
        all.push(Contender {
            name: "reed-solomon-simd".into(),
            unit: UNIT,
            run: Box::new(move |shares| {
                let (data, parity) = shares.split_at_mut(k);
                let made = reed_solomon_simd::encode(k, m, data.iter()).expect("good buffers");
                for (to, from) in parity.iter_mut().zip(&made) {
                    to.copy_from_slice(from);
                }
            }),
        });
        // The limit: the least work that any code with these inputs and outputs must do.
        let sum = by_name("parity", k, 1).expect("any k");
        all.push(Contender {
            name: "xor of k to 1".into(),
            unit: UNIT,
            run: Box::new(move |shares| sum.encode_with(&mut shares[..=k], stores).expect("good buffers")),
        });
        all.push(Contender {
            name: "memcpy of the data".into(),
            unit: UNIT,
            run: Box::new(move |shares| {
                for i in 0..k / 2 {
                    let (a, b) = shares.split_at_mut(k / 2);
                    b[i].copy_from_slice(a[i]);
                }
            }),
        });
    }
    all
}

/// Measures a contender for `time`, and returns its rate in GB/s of user data.
fn rate(contender: &Contender<'_>, blocks: &mut [Vec<&mut [u8]>], k: usize, time: Duration) -> f64 {
    let mut blocks: Vec<_> = blocks.iter_mut().map(|shares| contender.cut(shares)).collect();
    let share = blocks[0][0].len();
    let mut done = 0usize;
    let mut next = 0;
    let begun = Instant::now();
    loop {
        // Several blocks between two readings of the clock.
        for _ in 0..64 * 1024 / share.max(1024) + 1 {
            (contender.run)(&mut blocks[next]);
            next = (next + 1) % blocks.len();
            done += 1;
        }
        let took = begun.elapsed();
        if took >= time {
            let factor = if contender.name == "memcpy of the data" { (k / 2) as f64 / k as f64 } else { 1.0 };
            return (done * k * share) as f64 * factor / took.as_secs_f64() / 1e9;
        }
    }
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}

/// Checks a contender: encodes shares, overwrites some, and compares what the contender decodes with the
/// originals.
fn check(
    contender: &Contender<'_>,
    encode: &Contender<'_>,
    k: usize,
    m: usize,
    task: Task,
) -> anyhow::Result<()> {
    let share = 8192;
    let mut arena = Arena::new(Arena::block_bytes(k + m, share, Stride::Aligned) * 2);
    let mut whole = arena.blocks(1, k + m, share, Stride::Aligned).remove(0);
    let mut shares = contender.cut(&mut whole);
    (encode.run)(&mut shares);
    let right: Vec<Vec<u8>> = shares.iter().map(|share| share.to_vec()).collect();
    let lost = if task == Task::DecodeOne { 0..1 } else { 0..m };
    if task != Task::Encode {
        lost.for_each(|share| shares[share].fill(0xdb));
        (contender.run)(&mut shares);
        let same = shares.iter().zip(&right).all(|(share, right)| **share == right[..]);
        ensure!(same, "{} {k}+{m} decodes to other bytes", contender.name);
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let time = Duration::from_millis(cli.millis);
    if !cli.json {
        println!(
            "rain's instructions: {}; {} rounds of {} ms",
            rain_codec::instructions(),
            cli.rounds,
            cli.millis
        );
        println!("GB/s of user data; ratio to isa-l 2.31 of the same round: median, [middle half]");
    }
    let shapes = if cli.shape.is_empty() { SHAPES.to_vec() } else { cli.shape.clone() };
    for (n, k) in shapes {
        let m = n - k;
        let mut names = vec![default_name(k, m)];
        if cli.all {
            let first = names[0];
            names.extend(
                rain_codec::names()
                    .iter()
                    .filter(|name| ![first, "rs"].contains(name) && by_name(name, k, m).is_ok()),
            );
        }
        let codes: Vec<Box<dyn Fn() -> std::sync::Arc<dyn Code>>> = names
            .iter()
            .map(|name| {
                let code = by_name(name, k, m).expect("chosen because it is one");
                Box::new(move || code.clone()) as Box<dyn Fn() -> std::sync::Arc<dyn Code>>
            })
            .collect();
        for (task, what) in [
            (Task::Encode, "encode"),
            (Task::DecodeOne, "decode, 1 lost"),
            (Task::DecodeAll, "decode, m lost"),
        ] {
            let encoders = contenders(&codes, k, m, Task::Encode, false);
            for contender in contenders(&codes, k, m, task, false) {
                let encode = encoders.iter().find(|encode| encode.name == contender.name);
                check(&contender, encode.unwrap_or(&contender), k, m, task)?;
            }
            let wanted = |bytes: usize| cli.kib.is_empty() || cli.kib.contains(&(bytes >> 10));
            for (level, bytes, blocks) in
                LEVELS.into_iter().filter(|(_, bytes, blocks)| wanted(bytes * blocks))
            {
                for stride in [Stride::Aligned, Stride::Skewed] {
                    let share = (bytes / k).next_multiple_of(4096).max(4096);
                    let share = if bytes <= 16 << 10 { (bytes / k).next_multiple_of(1024) } else { share };
                    let mut arena =
                        Arena::new(Arena::block_bytes(n, share, stride).next_multiple_of(4096) * blocks);
                    let all = contenders(&codes, k, m, task, blocks > 1);
                    let mut blocks = arena.blocks(blocks, n, share, stride);
                    let mut rates = vec![Vec::new(); all.len()];
                    for _ in 0..cli.rounds {
                        for (contender, rates) in all.iter().zip(&mut rates) {
                            rates.push(rate(contender, &mut blocks, k, time));
                        }
                    }
                    let reference = all
                        .iter()
                        .position(|contender| contender.name == "isa-l 2.31")
                        .expect("it is linked");
                    for (at, contender) in all.iter().enumerate() {
                        let mut ratios: Vec<f64> = rates[at]
                            .iter()
                            .zip(&rates[reference])
                            .map(|(rate, reference)| rate / reference)
                            .collect();
                        ratios.sort_by(f64::total_cmp);
                        let mut sorted = rates[at].clone();
                        sorted.sort_by(f64::total_cmp);
                        let (rate, ratio) = (quantile(&sorted, 0.5), quantile(&ratios, 0.5));
                        let (low, high) = (quantile(&ratios, 0.25), quantile(&ratios, 0.75));
                        if cli.json {
                            let row = serde_json::json!({
                                "n": n, "k": k, "task": what, "level": level, "stride": format!("{stride:?}").to_lowercase(),
                                "contender": contender.name, "gb_per_s": rate, "ratio": ratio, "ratio_low": low, "ratio_high": high,
                            });
                            println!("{row}");
                        } else {
                            println!(
                                "({n},{k}) {what:15} {level:21} {:8} {:22} {rate:7.1} {ratio:6.2} [{low:.2} {high:.2}]",
                                format!("{stride:?}").to_lowercase(),
                                contender.name
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
