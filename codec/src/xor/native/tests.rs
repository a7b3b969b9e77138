//! Machine code and programs give the same bytes as the portable executor, for any schedule.

use super::program::{Machine, Program};
use super::{Native, levels};
use crate::exec;
use crate::geometry::{Geometry, Packet};
use crate::schedule::{Bits, Schedule, XorStep};
use crate::xor::{Row, Stores};
use proptest::prelude::*;

/// A random schedule over some shares: each step sums packets that are present or were made by earlier steps.
fn schedule() -> impl Strategy<Value = Schedule> {
    (2usize..30, 1usize..6).prop_flat_map(|(shares, rows)| {
        let packets = shares * rows;
        let targets = proptest::sample::subsequence((0..packets).collect::<Vec<_>>(), 1..packets);
        let density = 1u32..64;
        (Just((shares, rows)), targets, density, any::<u64>(), any::<bool>()).prop_map(
            |((shares, rows), targets, density, seed, scratch)| {
                let geometry = Geometry { shares, rows, equations: Vec::new(), parity: Vec::new() };
                let mut random = seed | 1;
                let mut next = move || {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random
                };
                let mut made: Vec<usize> =
                    (0..shares * rows).filter(|packet| !targets.contains(packet)).collect();
                let mut steps = Vec::new();
                for target in &targets {
                    let chosen = made.iter().copied().filter(|_| next() % 64 < u64::from(density));
                    let sources = Bits::of(shares * rows, chosen.collect::<Vec<_>>());
                    steps.push(XorStep { target: *target, sources });
                    made.push(*target);
                }
                let kept = targets.iter().copied().filter(|target| !scratch || target % 3 > 0);
                Schedule::from_steps(&geometry, &steps, &Bits::of(shares * rows, kept.collect::<Vec<_>>()))
            },
        )
    })
}

fn filled(shares: usize, len: usize) -> Vec<Vec<u8>> {
    let byte = |share: usize, at: usize| (share * 131 + at * 7 + at / 64 * 29) as u8;
    (0..shares).map(|share| (0..len).map(|at| byte(share, at)).collect()).collect()
}

fn views(shares: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    shares.iter_mut().map(Vec::as_mut_slice).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_schedules_say(schedule in schedule()) {
        let (rows, stripes) = (schedule.rows(), 2);
        let mut expected = filled(schedule.shares(), stripes * rows * 64);
        let begin = expected.clone();
        exec::run_portably(&schedule, &mut views(&mut expected), stripes);
        for machine in [
            Machine { registers: 32, three_operands: true },
            Machine { registers: 16, three_operands: false },
            Machine { registers: 9, three_operands: true },
        ] {
            let program = Program::new(&schedule, machine);
            let as_rows = |share: &Vec<u8>| share.as_chunks::<64>().0.to_vec();
            let mut columns: Vec<Vec<Row>> = begin.iter().map(as_rows).collect();
            for stripe in 0..stripes {
                program.interpret(&mut columns, stripe, rows);
            }
            let found: Vec<Vec<u8>> = columns.iter().map(|column| column.concat()).collect();
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn machine_code_does_what_schedules_say(schedule in schedule(), stripes in 0usize..70, shift in 0usize..3) {
        let len = stripes * schedule.rows() * 64;
        let mut expected = filled(schedule.shares(), len);
        let begin = expected.clone();
        exec::run_portably(&schedule, &mut views(&mut expected), stripes);
        let kinds = levels().into_iter().flat_map(|level| [(level, Stores::Cached), (level, Stores::Streaming)]);
        for (level, stores) in kinds {
            let Some(native) = Native::new(&schedule, level, stores) else {
                prop_assert!(stores == Stores::Streaming && !level.streams());
                continue;
            };
            // Aligned, or unaligned on purpose; guard bytes follow each share.
            let mut padded = vec![vec![0x77; len + 256]; begin.len()];
            let offsets: Vec<usize> = padded.iter().map(|share| share.as_ptr().align_offset(64) + shift * 21).collect();
            let mut shares: Vec<&mut [u8]> = Vec::new();
            for ((share, begin), offset) in padded.iter_mut().zip(&begin).zip(&offsets) {
                share[*offset..][..len].copy_from_slice(begin);
                shares.push(&mut share[*offset..][..len]);
            }
            let ran = native.run(&mut shares, stripes);
            // A program without instructions touches no share that could be unaligned.
            prop_assert!(ran || stores == Stores::Streaming && shift > 0);
            for ((found, expected), offset) in padded.iter().zip(&expected).zip(&offsets).filter(|_| ran) {
                prop_assert_eq!(&found[*offset..][..len], &expected[..]);
                prop_assert!(found[..*offset].iter().all(|byte| *byte == 0x77), "before the begin");
                prop_assert!(found[offset + len..].iter().all(|byte| *byte == 0x77), "past the end");
            }
        }
    }
}

#[test]
fn a_dense_matrix_costs_a_quarter_of_an_instruction_a_cell() {
    // 16 sums over 40 packets, each in half of the cells.
    let geometry = Geometry { shares: 14, rows: 4, equations: Vec::new(), parity: Vec::new() };
    let mut state = 1u32;
    let mut half = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 31 == 1
    };
    let steps: Vec<XorStep> = (40..56)
        .map(|target| {
            let sources = (0..40).filter(|_| half()).collect::<Vec<_>>();
            XorStep { target, sources: Bits::of(56, sources) }
        })
        .collect();
    let schedule = Schedule::from_steps(&geometry, &steps, &Bits::of(56, 40..56));
    let program = Program::new(&schedule, Machine { registers: 32, three_operands: true });
    let sums = program
        .ops
        .iter()
        .filter(|op| !matches!(op, super::program::Op::Load { .. } | super::program::Op::Store { .. }));
    let count = sums.count();
    assert!(count < 16 * 40 * 28 / 100, "{count} instructions for {} cells", 16 * 40);
    let loads = program.ops.iter().filter(|op| matches!(op, super::program::Op::Load { .. })).count();
    assert_eq!(loads, 40, "each packet once");
    let _ = Packet::new(0, 0);
}
