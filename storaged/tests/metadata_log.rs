//! The log's promises, over files that lose power, fill up and break.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod metadata_support;

use metadata_support::{Act, Dice, SimMedia, broken, full, seeds};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storaged::metadata::{CommandLog, LogError};
use tempfile::TempDir;

const SEGMENT: u64 = 16 << 10;

fn open(media: &SimMedia, dir: &Path) -> Result<CommandLog, LogError> {
    CommandLog::open(Arc::new(media.clone()), dir, SEGMENT, 1)
}

/// The same bytes for the same number, of very different lengths.
fn payload(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let len = match dice.roll(8) {
        0 => 0,
        1 => dice.roll(5000),
        _ => dice.roll(200),
    };
    (0..len).map(|_| dice.roll(256) as u8).collect()
}

fn append(log: &mut CommandLog, numbers: std::ops::Range<u64>) -> Result<(), LogError> {
    let payloads: Vec<(u64, Vec<u8>)> = numbers.map(|number| (number, payload(number))).collect();
    let borrowed: Vec<(u64, &[u8])> =
        payloads.iter().map(|(number, bytes)| (*number, bytes.as_slice())).collect();
    log.append(&borrowed)
}

fn read_all(log: &CommandLog) -> Vec<(u64, Vec<u8>)> {
    log.read(log.first_index()).unwrap().map(|record| record.unwrap()).collect()
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-"));
    files.sort();
    files
}

#[test]
fn what_was_appended_is_read_back_after_opening_again() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    append(&mut log, 1..2).unwrap();
    append(&mut log, 2..200).unwrap();
    for number in 200..300 {
        append(&mut log, number..number + 1).unwrap();
    }
    assert!(log.segments() > 3, "the test wants several segments");
    let all = read_all(&log);
    assert_eq!(all.len(), 299);
    assert!(all.iter().all(|(index, bytes)| *bytes == payload(*index)));
    drop(log);
    let log = open(&media, dir.path()).unwrap();
    assert_eq!(read_all(&log), all);
    assert_eq!(log.next_index(), 300);
    let late: Vec<u64> = log.read(250).unwrap().map(|record| record.unwrap().0).collect();
    assert_eq!(late, (250..300).collect::<Vec<_>>());
    assert!(matches!(log.read(301), Err(LogError::NotHeld { .. })));
}

#[test]
fn an_append_is_one_fdatasync_of_blocks_that_are_there_already() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    let acts = media.acts();
    let small: Vec<(u64, &[u8])> = (1..50).map(|index| (index, b"small".as_slice())).collect();
    log.append(&small).unwrap();
    assert_eq!(media.acts() - acts, 2, "a write and a sync");
    assert_eq!(log.syncs(), 1);
    let lens: Vec<u64> =
        segment_files(dir.path()).iter().map(|path| path.metadata().unwrap().len()).collect();
    assert_eq!(lens, [SEGMENT]);
}

#[test]
fn entries_must_follow_each_other() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&SimMedia::default(), dir.path()).unwrap();
    append(&mut log, 1..3).unwrap();
    assert!(matches!(append(&mut log, 4..5), Err(LogError::NotNext { last: 2, given: 4 })));
    append(&mut log, 3..4).unwrap();
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    let large = vec![7u8; 3 * SEGMENT as usize];
    log.append(&[(1, &large)]).unwrap();
    append(&mut log, 2..4).unwrap();
    drop(log);
    let mut log = open(&media, dir.path()).unwrap();
    let all = read_all(&log);
    assert_eq!(all[0].1, large);
    assert_eq!(all.len(), 3);
    log.purge_below(3).unwrap();
}

/// Appends until the power goes at a random act, opens again, and goes on, for hundreds of seeds.
#[test]
fn acknowledged_records_survive_a_power_loss() {
    let mut torn = 0;
    for seed in seeds(400) {
        let dir = TempDir::new().unwrap();
        let mut dice = Dice::new(seed);
        let (mut acknowledged, mut purged) = (0u64, 0u64);
        for round in 0..4 {
            let media = SimMedia::default();
            let mut log =
                open(&media, dir.path()).unwrap_or_else(|error| panic!("seed {seed} round {round}: {error}"));
            let next = log.next_index();
            assert!(
                next > acknowledged,
                "seed {seed}: {acknowledged} was acknowledged, the log ends before {next}"
            );
            assert!(log.first_index() <= purged + 1, "seed {seed}");
            for (index, bytes) in read_all(&log) {
                assert_eq!(bytes, payload(index), "seed {seed} record {index}");
            }
            torn += u64::from(next > acknowledged + 1);
            acknowledged = next - 1;
            media.power_fails_in(1 + dice.roll(60));
            loop {
                let count = 1 + dice.roll(6);
                if append(&mut log, acknowledged + 1..acknowledged + 1 + count).is_err() {
                    break;
                }
                acknowledged += count;
                if dice.roll(6) == 0 {
                    purged = dice.roll(acknowledged).max(purged);
                    if log.purge_below(purged).is_err() {
                        break;
                    }
                }
            }
            drop(log);
            media.lose_power(&mut dice);
        }
    }
    assert!(torn > 20, "some appends that were not acknowledged survive, as they may: {torn}");
}

/// What a torn append left behind (its second record whole, its first not) must not be read when a new first
/// record happens to end where the old second one begins.
#[test]
fn leftovers_of_a_torn_append_never_come_back() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    log.append(&[(1, b"first"), (2, b"old 2"), (3, b"old 3")]).unwrap();
    drop(log);
    let file = &segment_files(dir.path())[0];
    let mut bytes = std::fs::read(file).unwrap();
    // Tear it: the head of record 2 never reached the disk.
    bytes[4096 + 40..4096 + 48].fill(0);
    std::fs::write(file, &bytes).unwrap();
    let mut log = open(&media, dir.path()).unwrap();
    assert_eq!(log.next_index(), 2);
    log.append(&[(2, b"new 2")]).unwrap();
    drop(log);
    let log = open(&media, dir.path()).unwrap();
    let texts: Vec<Vec<u8>> = read_all(&log).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(texts, [b"first".to_vec(), b"new 2".to_vec()]);
}

#[test]
fn a_torn_tail_is_cut_off_at_every_byte() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    append(&mut log, 1..6).unwrap();
    let end_before =
        read_all(&log).iter().map(|(_, bytes)| (32 + bytes.len()).next_multiple_of(8)).sum::<usize>() + 4096;
    log.append(&[(6, &[9; 100])]).unwrap();
    drop(log);
    let file = &segment_files(dir.path())[0];
    let whole = std::fs::read(file).unwrap();
    for cut in end_before..end_before + 132 {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        std::fs::write(file, &torn).unwrap();
        let mut log = open(&media, dir.path()).unwrap();
        assert_eq!(log.next_index(), 6, "cut at {cut}");
        append(&mut log, 6..8).unwrap();
        drop(log);
        assert_eq!(open(&media, dir.path()).unwrap().next_index(), 8);
        std::fs::write(file, &whole).unwrap();
    }
}

#[test]
fn damage_in_the_middle_is_an_error_with_file_and_offset() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = CommandLog::open(Arc::new(media.clone()), dir.path(), 8 * SEGMENT, 1).unwrap();
    let mut starts = Vec::new();
    let mut at = 4096;
    for number in 1..=20 {
        starts.push(at);
        at += (32 + payload(number).len()).next_multiple_of(8);
        append(&mut log, number..number + 1).unwrap();
        assert_eq!(log.segments(), 1, "the test wants one segment");
    }
    drop(log);
    let file = &segment_files(dir.path())[0];
    let whole = std::fs::read(file).unwrap();
    let mut dice = Dice::new(1);
    for position in 0..19 {
        let covered = 32 + payload(position as u64 + 1).len();
        let mut bad = whole.clone();
        bad[starts[position] + dice.roll(covered as u64) as usize] ^= 1 << dice.roll(8);
        std::fs::write(file, &bad).unwrap();
        match CommandLog::open(Arc::new(media.clone()), dir.path(), 8 * SEGMENT, 1) {
            Err(error @ LogError::Damaged { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&file.display().to_string()), "{text}");
                assert!(
                    text.contains(&format!("byte {}", starts[position])),
                    "{text} should name {}",
                    starts[position]
                );
            }
            other => panic!("record {}: {other:?}", position + 1),
        }
        assert_eq!(std::fs::read(file).unwrap(), bad, "a damaged file is left alone");
    }
}

#[test]
fn damage_in_an_earlier_segment_or_a_missing_one_is_an_error() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    for number in 1..400 {
        append(&mut log, number..number + 1).unwrap();
    }
    drop(log);
    let files = segment_files(dir.path());
    assert!(files.len() > 3);
    let whole = std::fs::read(&files[1]).unwrap();
    let mut dice = Dice::new(2);
    for _ in 0..30 {
        let mut bad = whole.clone();
        // In the first half: records all along.
        bad[dice.roll(SEGMENT / 2) as usize] ^= 0x10;
        std::fs::write(&files[1], &bad).unwrap();
        let result = open(&media, dir.path());
        let in_padding = result.is_ok();
        if in_padding {
            assert_eq!(read_all(&result.unwrap()).len(), 399, "a bit that means nothing may flip");
        } else {
            assert!(
                matches!(result, Err(LogError::Damaged { ref path, .. }) if *path == files[1]),
                "{result:?}"
            );
        }
    }
    std::fs::remove_file(&files[1]).unwrap();
    assert!(matches!(open(&media, dir.path()), Err(LogError::MissingSegment { missing: 2, .. })));
}

#[test]
fn recycled_bytes_are_never_read_as_records() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    let mut seen_recycling = false;
    for number in 1..2000 {
        append(&mut log, number..number + 1).unwrap();
        log.purge_below(number.saturating_sub(20)).unwrap();
        if number % 97 == 0 {
            let before = read_all(&log);
            drop(log);
            log = open(&media, dir.path()).unwrap();
            assert_eq!(read_all(&log), before);
            let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
            seen_recycling |= names.len() <= 5;
        }
    }
    assert!(seen_recycling);
    assert!(log.disk_bytes() <= 5 * SEGMENT, "{}", log.disk_bytes());
}

#[test]
fn purge_keeps_what_is_needed() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    for number in 1..600 {
        append(&mut log, number..number + 1).unwrap();
    }
    let segments = log.segments();
    for below in [1, 50, 200, 201, 599, 600] {
        log.purge_below(below).unwrap();
        assert!(log.first_index() <= below, "{below}");
        for (index, bytes) in log.read(below).unwrap().map(|record| record.unwrap()) {
            assert_eq!(bytes, payload(index));
        }
        assert_eq!(log.next_index(), 600);
    }
    assert!(log.segments() < segments);
    drop(log);
    let mut log = open(&media, dir.path()).unwrap();
    assert_eq!(log.next_index(), 600);
    append(&mut log, 600..601).unwrap();
}

#[test]
fn truncated_records_stay_away_and_new_ones_take_their_place() {
    for seed in seeds(40) {
        let dir = TempDir::new().unwrap();
        let media = SimMedia::default();
        let mut dice = Dice::new(seed);
        let mut log = open(&media, dir.path()).unwrap();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for round in 0..12u64 {
            for _ in 0..dice.roll(60) {
                let bytes = [payload(dice.roll(1 << 40)), vec![round as u8]].concat();
                log.append(&[(model.len() as u64 + 1, &bytes)]).unwrap();
                model.push(bytes);
            }
            let keep = dice.roll(model.len() as u64 + 1);
            log.truncate_after(keep).unwrap();
            model.truncate(keep as usize);
            if dice.roll(2) == 0 {
                drop(log);
                log = open(&media, dir.path()).unwrap();
            }
            let held: Vec<Vec<u8>> = read_all(&log).into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(held, model, "seed {seed} round {round}");
        }
    }
}

#[test]
fn a_reset_log_begins_where_it_is_told() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    append(&mut log, 1..100).unwrap();
    log.reset(500).unwrap();
    assert_eq!((log.first_index(), log.next_index()), (500, 500));
    append(&mut log, 500..510).unwrap();
    drop(log);
    let log = open(&media, dir.path()).unwrap();
    assert_eq!(read_all(&log).len(), 10);
    assert_eq!(log.first_index(), 500);
}

#[test]
fn a_full_disk_refuses_and_passes() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    append(&mut log, 1..10).unwrap();
    media.set_fault(|act, _| (act == Act::Write).then(full));
    // It needs a new segment, for which there is no room; the old one is untouched.
    let big = vec![1u8; SEGMENT as usize];
    assert!(matches!(log.append(&[(10, &big)]), Err(LogError::NoSpace { .. })));
    assert!(matches!(log.append(&[(10, &big)]), Err(LogError::NoSpace { .. })));
    media.heal();
    append(&mut log, 10..20).unwrap();
    drop(log);
    let mut log = open(&media, dir.path()).unwrap();
    assert_eq!(read_all(&log).len(), 19);
    // Here the append itself is refused in the middle, and its wiping too: what is on the disk is open, so
    // the log stops.
    media.set_fault(|act, _| (act == Act::Write).then(full));
    assert!(matches!(log.append(&[(20, b"small")]), Err(LogError::Io { .. })));
    media.heal();
    assert!(matches!(log.append(&[(20, b"small")]), Err(LogError::Stopped(_))));
}

#[test]
fn a_refused_append_never_comes_back() {
    for seed in seeds(100) {
        let dir = TempDir::new().unwrap();
        let media = SimMedia::default();
        let mut dice = Dice::new(seed);
        let mut log = open(&media, dir.path()).unwrap();
        append(&mut log, 1..5).unwrap();
        // The next write is refused after half of it, the wipe of its head works.
        let first = AtomicU64::new(0);
        media.set_fault(move |act, _| {
            (act == Act::Write && first.fetch_add(1, Ordering::SeqCst) == 0).then(full)
        });
        let refused: Vec<(u64, Vec<u8>)> =
            (5..5 + 1 + dice.roll(4)).map(|index| (index, vec![0xee; 64])).collect();
        let refused: Vec<(u64, &[u8])> =
            refused.iter().map(|(index, bytes)| (*index, bytes.as_slice())).collect();
        assert!(matches!(log.append(&refused), Err(LogError::NoSpace { .. })));
        media.heal();
        let mut expected = 5;
        if dice.roll(2) == 0 {
            append(&mut log, 5..7).unwrap();
            expected = 7;
        }
        drop(log);
        media.lose_power(&mut dice);
        let log = open(&SimMedia::default(), dir.path()).unwrap();
        assert_eq!(log.next_index(), expected, "seed {seed}");
        assert!(read_all(&log).iter().all(|(index, bytes)| *bytes == payload(*index)));
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut log = open(&media, dir.path()).unwrap();
    append(&mut log, 1..5).unwrap();
    media.set_fault(|act, _| (act == Act::Sync).then(broken));
    assert!(matches!(append(&mut log, 5..6), Err(LogError::Io { .. })));
    media.heal();
    assert!(matches!(append(&mut log, 5..6), Err(LogError::Stopped(_))));
    assert!(matches!(log.truncate_after(2), Err(LogError::Stopped(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever bytes the disk gives back, opening ends, and gives only what was written.
    #[test]
    fn random_damage_never_gives_wrong_records(flips in prop::collection::vec((0usize..16384, any::<u8>()), 1..6)) {
        let dir = TempDir::new().unwrap();
        let media = SimMedia::default();
        let mut log = open(&media, dir.path()).unwrap();
        for number in 1..60 {
            append(&mut log, number..number + 1).unwrap();
        }
        drop(log);
        for file in segment_files(dir.path()) {
            let mut bytes = std::fs::read(&file).unwrap();
            for (at, byte) in &flips {
                if let Some(place) = bytes.get_mut(*at) {
                    *place ^= *byte;
                }
            }
            std::fs::write(&file, bytes).unwrap();
        }
        if let Ok(log) = open(&media, dir.path()) {
            for (index, bytes) in read_all(&log) {
                prop_assert_eq!(bytes, payload(index));
            }
        }
    }
}
