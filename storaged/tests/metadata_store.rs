//! The store's promises: its layers read as one ordered map, entries show whole, the base follows.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod metadata_support;

use metadata_support::{Dice, SimMedia, contents, seeds};
use proptest::prelude::*;
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::record::Time;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use storaged::disk::Media;
use storaged::metadata::{AppliedPosition, MetaStore, StoreError, StoreOptions};
use tempfile::TempDir;

/// Commits only when told to.
fn manual() -> StoreOptions {
    StoreOptions {
        commit_interval: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn open(dir: &Path, options: StoreOptions) -> MetaStore {
    MetaStore::open(Arc::new(SimMedia::default()), dir, options).unwrap()
}

fn mark(index: u64, secs: i64) -> AppliedPosition {
    AppliedPosition { index, term: 3, node: 7, time: Time { secs, nanos: 5 } }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Entry,
    Flush,
    Reopen,
    Scan(u8, u8, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Step::Put(key % 40, value)),
        5 => any::<u8>().prop_map(|key| Step::Delete(key % 40)),
        4 => Just(Step::Entry),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        4 => (any::<u8>(), any::<u8>(), 0usize..12).prop_map(|(from, to, limit)| Step::Scan(from % 42, to % 42, limit)),
    ]
}

fn key(number: u8) -> Vec<u8> {
    // Of different lengths, so that byte order is not number order.
    vec![b'a' + number % 7; 1 + usize::from(number / 7)]
}

fn scan(kv: &dyn KvRead, from: &[u8], to: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    kv.scan(from, to, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

fn scan_model(model: &Model, from: &[u8], to: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    if from >= to {
        return Vec::new();
    }
    let range = model.range(from.to_vec()..to.to_vec());
    range.take(limit + 1).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn write(kv: &mut dyn KvTxn, model: &mut Model, step: &Step) {
    match step {
        Step::Put(number, value) => {
            kv.put(&key(*number), &[*value; 3]);
            model.insert(key(*number), vec![*value; 3]);
        }
        Step::Delete(number) => {
            kv.delete(&key(*number));
            model.remove(&key(*number));
        }
        _ => {}
    }
}

fn check_inside(kv: &dyn KvRead, model: &Model, step: &Step) {
    if let Step::Scan(from, to, limit) = step {
        assert_eq!(
            scan(kv, &key(*from), &key(*to), *limit),
            scan_model(model, &key(*from), &key(*to), *limit),
            "inside an entry"
        );
        assert_eq!(kv.get(&key(*from)), model.get(&key(*from)).cloned());
        assert_eq!(kv.any(&key(*from), &key(*to)), !scan_model(model, &key(*from), &key(*to), 0).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Writes, removals, commits and restarts in any order: reads inside and outside of entries are those of
    /// a map.
    #[test]
    fn layers_read_as_one_ordered_map(steps in prop::collection::vec(step(), 1..160)) {
        let dir = TempDir::new().unwrap();
        let mut store = open(dir.path(), manual());
        let (mut model, mut index) = (Model::new(), 0u64);
        for entry in steps.split(|step| matches!(step, Step::Entry)) {
            let (writes, rest): (Vec<&Step>, Vec<&Step>) =
                entry.iter().partition(|step| !matches!(step, Step::Flush | Step::Reopen));
            index += 1;
            store.apply(mark(index, index as i64), |kv| {
                for step in &writes {
                    write(kv, &mut model, step);
                    check_inside(kv, &model, step);
                }
            }).unwrap();
            for step in rest {
                match step {
                    Step::Flush => store.flush().unwrap(),
                    _ => {
                        store.close().unwrap();
                        drop(store);
                        store = open(dir.path(), manual());
                    }
                }
            }
            prop_assert_eq!(store.applied(), mark(index, index as i64));
            for step in entry {
                if let Step::Scan(from, to, limit) = step {
                    let found = store.read(|kv| scan(kv, &key(*from), &key(*to), *limit)).unwrap();
                    prop_assert_eq!(found, scan_model(&model, &key(*from), &key(*to), *limit));
                }
            }
            let all: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(store.read(contents).unwrap(), all);
        }
    }
}

/// With the flusher at work all the time, so that a frozen layer is often there.
#[test]
fn layers_read_as_one_ordered_map_while_the_flusher_works() {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { commit_interval: Duration::ZERO, memtable_keys_max: 50, ..manual() };
    let store = open(dir.path(), options);
    let (mut model, mut dice) = (Model::new(), Dice::new(3));
    for index in 1..1500u64 {
        store
            .apply(mark(index, 0), |kv| {
                for _ in 0..dice.roll(6) {
                    let number = dice.roll(500).to_be_bytes();
                    if dice.roll(3) == 0 {
                        kv.delete(&number);
                        model.remove(number.as_slice());
                    } else {
                        kv.put(&number, &index.to_be_bytes());
                        model.insert(number.to_vec(), index.to_be_bytes().to_vec());
                    }
                }
            })
            .unwrap();
        if index % 5 == 0 {
            let all: Vec<_> = model.clone().into_iter().collect();
            assert_eq!(store.read(contents).unwrap(), all, "entry {index}");
        }
    }
    assert!(store.stats().commits > 5, "{:?}", store.stats());
}

#[test]
fn readers_see_whole_entries_only() {
    let dir = TempDir::new().unwrap();
    let options =
        StoreOptions { commit_interval: Duration::from_millis(1), memtable_keys_max: 100, ..manual() };
    let store = Arc::new(open(dir.path(), options));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, done) = (store.clone(), done.clone());
            std::thread::spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Acquire) {
                    let values = store
                        .read(|kv| (0..20u8).map(|number| kv.get(&[number])).collect::<Vec<_>>())
                        .unwrap();
                    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                    seen += 1;
                }
                seen
            })
        })
        .collect();
    for index in 1..3000u64 {
        store
            .apply(mark(index, 0), |kv| {
                for number in 0..20u8 {
                    kv.put(&[number], &index.to_be_bytes());
                }
            })
            .unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() > 50);
    }
}

#[test]
fn a_panic_in_the_middle_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path(), manual());
    store.apply(mark(1, 1), |kv| kv.put(b"kept", b"1")).unwrap();
    let error = store.apply(mark(2, 2), |kv| -> () {
        kv.put(b"half", b"2");
        kv.delete(b"kept");
        panic!("in the middle");
    });
    assert!(matches!(error, Err(StoreError::Panicked(ref text)) if text == "in the middle"), "{error:?}");
    assert_eq!(store.applied().index, 1);
    assert_eq!(store.read(contents).unwrap(), [(b"kept".to_vec(), b"1".to_vec())]);
    // It can be applied again.
    store.apply(mark(2, 2), |kv| kv.put(b"whole", b"2")).unwrap();
    assert_eq!(store.read(|kv| kv.get(b"whole")).unwrap(), Some(b"2".to_vec()));
}

#[test]
fn an_idle_store_does_not_commit() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let options = StoreOptions { commit_interval: Duration::from_millis(5), ..manual() };
    let store = MetaStore::open(Arc::new(media.clone()), dir.path(), options).unwrap();
    store.apply(mark(1, 1), |kv| kv.put(b"a", b"1")).unwrap();
    store.flush().unwrap();
    let (acts, commits) = (media.acts(), store.stats().commits);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((media.acts(), store.stats().commits), (acts, commits));
    assert_eq!(commits, 1);
}

#[test]
fn writes_are_committed_after_the_interval_without_more_of_them() {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { commit_interval: Duration::from_millis(20), ..manual() };
    let store = open(dir.path(), options);
    store.apply(mark(1, 1), |kv| kv.put(b"a", b"1")).unwrap();
    let start = std::time::Instant::now();
    while store.durable() < 1 {
        assert!(start.elapsed() < Duration::from_secs(10), "the flusher sleeps");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(store.stats().memtable_keys, 0);
}

#[test]
fn a_lost_flush_leaves_the_last_commit_whole() {
    for seed in seeds(60) {
        let dir = TempDir::new().unwrap();
        let mut dice = Dice::new(seed);
        let mut base = 0;
        for _ in 0..3 {
            let media = SimMedia::default();
            let store = MetaStore::open(Arc::new(media.clone()), dir.path(), manual())
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            // The name of the file is its owner's business.
            media.sync_directory(dir.path()).unwrap();
            let applied = store.applied().index;
            assert!(applied >= base, "seed {seed}: {base} was durable, {applied} is there");
            let expected: Vec<_> =
                (1..=applied).map(|index| (index.to_be_bytes().to_vec(), vec![1; 700])).collect();
            assert_eq!(store.read(contents).unwrap(), expected, "seed {seed}");
            base = applied;
            let mut index = applied;
            media.power_fails_in(1 + dice.roll(120));
            loop {
                index += 1;
                let put = |kv: &mut dyn KvTxn| kv.put(&index.to_be_bytes(), &[1; 700]);
                if store.apply(mark(index, 0), put).is_err() {
                    break;
                }
                if dice.roll(3) == 0 && store.flush().is_err() {
                    break;
                }
                base = base.max(store.durable());
            }
            drop(store);
            media.lose_power(&mut dice);
        }
    }
}

#[test]
fn a_full_disk_under_the_base_waits_and_passes() {
    use metadata_support::{Act, full};
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let options = StoreOptions { memtable_keys_max: 8, ..manual() };
    let store = Arc::new(MetaStore::open(Arc::new(media.clone()), dir.path(), options).unwrap());
    media.set_fault(|act, _| matches!(act, Act::Write | Act::Length).then(full));
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            for index in 1..100u64 {
                store.apply(mark(index, 0), |kv| kv.put(&index.to_be_bytes(), &[1; 3000])).unwrap();
            }
        })
    };
    let start = std::time::Instant::now();
    while store.full().is_none() {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody says that the disk is full");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(30));
    assert!(store.applied().index < 20, "memory is bounded: {:?}", store.stats());
    media.heal();
    writer.join().unwrap();
    store.flush().unwrap();
    assert_eq!(store.full(), None);
    assert_eq!(store.read(contents).unwrap().len(), 99);
}

#[test]
fn a_broken_disk_under_the_base_is_an_error_not_an_answer() {
    use metadata_support::{Act, broken};
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let store = MetaStore::open(Arc::new(media.clone()), dir.path(), manual()).unwrap();
    store.apply(mark(1, 0), |kv| kv.put(b"a", b"1")).unwrap();
    store.flush().unwrap();
    store.apply(mark(2, 0), |kv| kv.put(b"b", b"1")).unwrap();
    media.set_fault(|act, _| (act == Act::Sync).then(broken));
    assert!(matches!(store.flush(), Err(StoreError::Base { .. })));
    assert!(matches!(store.apply(mark(3, 0), |_| ()), Err(StoreError::Base { .. })));
    assert!(
        matches!(store.read(|kv| kv.get(b"a")), Err(StoreError::Base { .. }) | Ok(Some(_))),
        "never: not there"
    );
}

#[test]
fn a_received_snapshot_replaces_everything_at_once() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let sender = open(from.path(), manual());
    for index in 1..=300u64 {
        sender.apply(mark(index, 4), |kv| kv.put(&index.to_be_bytes(), &[7; 100])).unwrap();
    }
    sender.apply_membership(mark(301, 4), b"who".to_vec()).unwrap();
    sender.flush().unwrap();
    let held = sender.snapshot().unwrap();
    // Later changes do not show in it.
    sender.apply(mark(302, 5), |kv| kv.put(b"later", b"1")).unwrap();
    sender.flush().unwrap();
    assert_eq!((held.applied(), held.membership()), (mark(301, 4), &b"who"[..]));
    for seed in seeds(40) {
        let mut dice = Dice::new(seed);
        let dir = TempDir::new().unwrap();
        let media = SimMedia::default();
        let store = MetaStore::open(Arc::new(media.clone()), dir.path(), manual()).unwrap();
        store.apply(mark(1, 1), |kv| kv.put(b"mine", b"1")).unwrap();
        store.flush().unwrap();
        store.apply(mark(2, 1), |kv| kv.put(b"not yet durable", b"1")).unwrap();
        media.power_fails_in(1 + dice.roll(60));
        let receive = || -> Result<AppliedPosition, StoreError> {
            let mut incoming = store.incoming()?;
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = held.page(after.as_deref(), 3000).unwrap();
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                incoming.put(&page)?;
            }
            incoming.finish(held.applied(), held.membership())?;
            store.install(incoming)
        };
        let received = receive().is_ok();
        if received && !media.is_off() {
            assert_eq!(store.applied(), mark(301, 4));
            assert_eq!(store.read(contents).unwrap().len(), 300);
            store.apply(mark(302, 6), |kv| kv.put(b"next", b"1")).unwrap();
        }
        drop(store);
        media.lose_power(&mut dice);
        let store = open(dir.path(), manual());
        // Closing commits what was not durable yet, and that may be on the disk though the power went.
        let (applied, held_now) = (store.applied().index, store.read(contents).unwrap().len());
        assert!(
            matches!((applied, held_now), (1, 1) | (2, 2) | (301, 300) | (302, 301)),
            "seed {seed}: {applied} with {held_now} pairs, received {received}"
        );
        assert_eq!(&*store.membership(), if applied <= 2 { &b""[..] } else { b"who" });
    }
    drop(open(to.path(), manual()));
}
