//! The member's promises over the real namespace: what is acknowledged stays, however the node ends.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod metadata_support;

use metadata_support::{
    Act, Alone, CLUSTER, Dice, Node, SimMedia, broken, contents, full, make, seeds, setup,
};
use rain_namespace::command::{Command, Entry, Outcome, Request};
use rain_namespace::kv::MemoryKv;
use rain_namespace::query::{Answer, Query};
use rain_types::{ClusterId, Ino, NodeId};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use storaged::disk::DiskMedia;
use storaged::metadata::{
    CommandLog, LogError, Machine, Member, MetadataError, MetadataOptions, MetadataService, Namespace,
    ProposeError, StoreOptions,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Small limits, so that segments roll and layers freeze all the time.
fn small() -> MetadataOptions {
    let mut options = MetadataOptions { segment_bytes: 32 << 10, ..MetadataOptions::default() };
    options.store = StoreOptions {
        commit_interval: Duration::from_millis(3),
        memtable_keys_max: 300,
        memtable_bytes_max: 1 << 20,
        cache_bytes: 1 << 20,
    };
    options.keep_bytes = 64 << 10;
    options
}

fn open(dir: &Path, media: &SimMedia) -> Result<Node, MetadataError> {
    Node::open(dir, small(), Arc::new(Namespace), Arc::new(media.clone()))
}

/// On the real disk.
fn open_plain(dir: &Path, options: MetadataOptions) -> Result<Node, MetadataError> {
    Node::open(dir, options, Arc::new(Namespace), Arc::new(DiskMedia))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn set_up(metadata: &MetadataService) -> Result<Ino, ProposeError> {
    for request in setup() {
        metadata.propose(request).await?.expect("a fresh namespace takes a volume");
    }
    Ok(root(metadata).expect("the volume is there"))
}

fn root(metadata: &MetadataService) -> Option<Ino> {
    match metadata.query(&Query::Volume { name: "v".into() }) {
        Ok(Answer::Volumes(volumes)) => Some(volumes[0].root),
        _ => None,
    }
}

fn is_there(metadata: &MetadataService, root: Ino, name: &str) -> bool {
    match metadata.query(&Query::Lookup { parent: root, name: name.as_bytes().to_vec() }) {
        Ok(Answer::Attr(_)) => true,
        Err(rain_namespace::error::NsError::NotFound) => false,
        other => panic!("{other:?}"),
    }
}

/// Callers at once, each making files until the metadata service fails or it made enough; gives the names
/// that were acknowledged.
async fn make_files(
    metadata: &MetadataService,
    root: Ino,
    label: &str,
    callers: u32,
    each: u32,
) -> BTreeSet<String> {
    let made = (0..callers).map(|caller| async move {
        let mut names = Vec::new();
        for number in 0..each {
            let name = format!("{label}-{caller}-{number}");
            match metadata.propose(make(root, &name)).await {
                Ok(outcome) => {
                    assert!(matches!(outcome, Ok(Outcome::Attr(_))), "{outcome:?}");
                    names.push(name);
                }
                Err(_) => break,
            }
        }
        names
    });
    futures::future::join_all(made).await.into_iter().flatten().collect()
}

fn check(metadata: &MetadataService) {
    let violations = metadata.read(rain_namespace::check::check).unwrap();
    assert!(violations.is_empty(), "{violations:?}");
}

/// The power goes at a random act, again and again in one directory, for many seeds.
#[test]
fn acknowledged_requests_survive_a_power_loss() {
    let runtime = runtime();
    let mut total = 0;
    for seed in seeds(120) {
        let dir = TempDir::new().unwrap();
        let mut dice = Dice::new(seed);
        let mut acknowledged: BTreeSet<String> = BTreeSet::new();
        for round in 0..3 {
            let media = SimMedia::default();
            let metadata =
                open(dir.path(), &media).unwrap_or_else(|error| panic!("seed {seed} round {round}: {error}"));
            check(&metadata);
            runtime.block_on(async {
                if round == 0 {
                    set_up(&metadata).await.unwrap();
                }
                let root = root(&metadata).unwrap_or_else(|| panic!("seed {seed} round {round}: no volume"));
                for name in &acknowledged {
                    assert!(is_there(&metadata, root, name), "seed {seed} round {round}: {name} is lost");
                }
                media.power_fails_in(1 + dice.roll(90));
                let label = format!("r{round}");
                acknowledged.extend(make_files(&metadata, root, &label, 8, 40).await);
            });
            drop(metadata);
            media.lose_power(&mut dice);
        }
        let metadata =
            open(dir.path(), &SimMedia::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let root = root(&metadata).unwrap();
        assert!(acknowledged.iter().all(|name| is_there(&metadata, root, name)), "seed {seed}");
        check(&metadata);
        total += acknowledged.len();
    }
    assert!(total > 5000, "the test wants work to lose: {total}");
}

#[test]
fn acknowledged_requests_survive_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..4u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_that_gets_killed", "--nocapture", "--test-threads=1"])
            .env("METADATA_WRITER", dir.path())
            .env("METADATA_LABEL", format!("k{round}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = acknowledged.len() + 300 + round as usize * 77;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(name) = line.unwrap().strip_prefix("made ") {
                acknowledged.insert(name.to_owned());
            }
            if acknowledged.len() == wanted {
                // SIGKILL. What it had printed by then is still read.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= wanted);
    }
    let metadata = open_plain(dir.path(), small()).unwrap();
    let root = root(&metadata).unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !is_there(&metadata, root, name)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    check(&metadata);
}

/// The child of the test above; as a test of its own it does nothing.
#[test]
fn writer_that_gets_killed() {
    let (Ok(dir), Ok(label)) = (std::env::var("METADATA_WRITER"), std::env::var("METADATA_LABEL")) else {
        return;
    };
    let metadata = &open_plain(Path::new(&dir), small()).unwrap();
    runtime().block_on(async {
        let root = match root(metadata) {
            Some(root) => root,
            None => set_up(metadata).await.unwrap(),
        };
        let writers = (0..8).map(|caller| {
            let label = label.clone();
            async move {
                for number in 0..100_000 {
                    let name = format!("{label}-{caller}-{number}");
                    metadata.propose(make(root, &name)).await.unwrap().unwrap();
                    println!("\nmade {name}");
                }
            }
        });
        futures::future::join_all(writers).await;
    });
}

/// A directory copied at any moment is what a crash leaves, as the kernel saw it.
#[test]
fn a_copy_taken_at_any_moment_has_all_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut options = small();
    // The base stays as it is: unlike the log, a copy of it that is taken while it changes is none.
    options.store.commit_interval = Duration::from_secs(3600);
    options.store.memtable_keys_max = 1 << 20;
    options.segment_bytes = 4 << 20;
    let metadata = Arc::new(open_plain(dir.path(), options.clone()).unwrap());
    let root = runtime().block_on(set_up(&metadata)).unwrap();
    let made = Arc::new(AtomicU64::new(0));
    let writer = {
        let (metadata, made) = (metadata.clone(), made.clone());
        std::thread::spawn(move || {
            runtime().block_on(async {
                for number in 1..=1500 {
                    metadata.propose(make(root, &format!("f{number}"))).await.unwrap().unwrap();
                    made.store(number, Ordering::SeqCst);
                }
            });
        })
    };
    let mut copies = 0;
    while !writer.is_finished() {
        let copy = TempDir::new().unwrap();
        let before = made.load(Ordering::SeqCst);
        assert!(copy_files(dir.path(), copy.path()));
        let copied = match open_plain(copy.path(), options.clone()) {
            Ok(copied) => copied,
            // Copying passed a place just before it was written, and the next one just after: no crash does
            // that.
            Err(MetadataError::Log(LogError::Damaged { .. })) => continue,
            Err(error) => panic!("{error}"),
        };
        let found = (1..=before).take_while(|number| is_there(&copied, root, &format!("f{number}"))).count();
        assert_eq!(found as u64, before);
        copies += 1;
    }
    writer.join().unwrap();
    assert!(copies >= 3, "{copies} copies");
}

fn copy_files(from: &Path, to: &Path) -> bool {
    std::fs::create_dir(to.join("log")).unwrap();
    for dir in ["", "log"] {
        for entry in std::fs::read_dir(from.join(dir)).unwrap() {
            let Ok(entry) = entry else { return false };
            let target = to.join(dir).join(entry.file_name());
            if entry.path().is_file() && std::fs::copy(entry.path(), target).is_err() {
                return false;
            }
        }
    }
    true
}

/// A random history over the real commands, with power losses, against the log applied from its first entry
/// to a store in memory that never stopped.
#[test]
fn a_replay_gives_the_same_bytes_as_never_crashing() {
    let runtime = runtime();
    let mut options = small();
    options.keep_bytes = u64::MAX;
    let open = |dir: &Path, media: &SimMedia| {
        Node::open(dir, options.clone(), Arc::new(Namespace), Arc::new(media.clone())).unwrap()
    };
    for seed in seeds(15) {
        let dir = TempDir::new().unwrap();
        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            let media = SimMedia::default();
            let metadata = open(dir.path(), &media);
            runtime.block_on(async {
                let root = match root(&metadata) {
                    Some(root) => root,
                    None => set_up(&metadata).await.unwrap(),
                };
                media.power_fails_in(1 + dice.roll(150));
                while !media.is_off() {
                    let some: Vec<Request> =
                        (0..dice.roll(40)).map(|_| some_request(root, &mut dice)).collect();
                    futures::future::join_all(some.into_iter().map(|request| metadata.propose(request)))
                        .await;
                }
            });
            drop(metadata);
            media.lose_power(&mut dice);
        }
        let metadata = open(dir.path(), &SimMedia::default());
        check(&metadata);
        let (held, applied) = (metadata.read(contents).unwrap(), metadata.applied_index());
        drop(metadata);
        let log = CommandLog::open(Arc::new(DiskMedia), &dir.path().join("log"), 32 << 10, 1).unwrap();
        assert_eq!((log.first_index(), log.next_index()), (1, applied + 1));
        assert_eq!(replayed(&log), held, "seed {seed}");
    }
}

/// The state that the log alone gives in the simplest of stores.
fn replayed(log: &CommandLog) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut kv = MemoryKv::default();
    for record in log.read(1).unwrap() {
        // A version byte, the kind, the leader's term and node; then the entry, where it is of that kind.
        let (_, record) = record.unwrap();
        if record[1] == 1 {
            let entry: Entry = rain_namespace::wire::decode(&record[14..]).unwrap();
            rain_namespace::apply_entry(&mut kv, &entry);
        }
    }
    contents(&kv)
}

fn some_request(root: Ino, dice: &mut Dice) -> Request {
    let name = |dice: &mut Dice| format!("n{}", dice.roll(40)).into_bytes();
    let command = match dice.roll(6) {
        0 => Command::Unlink { parent: root, name: name(dice) },
        1 => Command::Rename {
            parent: root,
            name: name(dice),
            new_parent: root,
            new_name: name(dice),
            mode: rain_namespace::command::RenameMode::Replace,
            whiteout: None,
        },
        _ => return make(root, &String::from_utf8(name(dice)).unwrap()),
    };
    metadata_support::request(command)
}

#[test]
fn many_callers_share_fdatasyncs() {
    let dir = TempDir::new().unwrap();
    let metadata = open_plain(dir.path(), MetadataOptions::default()).unwrap();
    let runtime = runtime();
    let root = runtime.block_on(set_up(&metadata)).unwrap();
    let before = metadata.stats();
    let made = runtime.block_on(make_files(&metadata, root, "g", 200, 10));
    let after = metadata.stats();
    assert_eq!(made.len(), 2000);
    assert_eq!(after.requests - before.requests, 2000);
    assert_eq!(after.syncs - before.syncs, after.entries - before.entries);
    assert!(after.syncs - before.syncs < 400, "{} fdatasyncs for 2000 requests", after.syncs - before.syncs);
}

#[test]
fn the_log_is_purged_and_keeps_what_the_base_lacks() {
    let dir = TempDir::new().unwrap();
    let metadata = open_plain(dir.path(), small()).unwrap();
    let runtime = runtime();
    let root = runtime.block_on(set_up(&metadata)).unwrap();
    for round in 0..6 {
        runtime.block_on(make_files(&metadata, root, &format!("p{round}"), 16, 60));
        runtime.block_on(metadata.compact()).unwrap();
        let stats = metadata.stats();
        assert!(stats.log_first <= stats.store.durable + 1, "{stats:?}");
    }
    let stats = metadata.stats();
    assert!(stats.log_first > 1, "{stats:?}");
    assert!(stats.log_bytes < 40 * (32 << 10), "{stats:?}");
}

#[test]
fn a_full_disk_refuses_requests_and_the_service_goes_on() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut options = small();
    // Only the log is tried.
    options.store.commit_interval = Duration::from_secs(3600);
    let metadata =
        Node::open(dir.path(), options.clone(), Arc::new(Namespace), Arc::new(media.clone())).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let root = set_up(&metadata).await.unwrap();
        // No new segment can be made: nothing is taken, long before there is no room at all.
        media.set_fault(|act, path| {
            (act == Act::Name && path.to_string_lossy().contains("/spare-")).then(full)
        });
        let mut refused = 0;
        for number in 0..2000 {
            match metadata.propose(make(root, &format!("some{number}"))).await {
                Ok(made) => assert!(made.is_ok() && refused == 0),
                Err(ProposeError::NoSpace { reason }) => {
                    assert!(reason.contains("no room for the namespace log"), "{reason}");
                    refused += 1;
                    if refused == 5 {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(refused, 5);
        media.heal();
        let begun = std::time::Instant::now();
        while let Err(error) = metadata.propose(make(root, "between")).await {
            assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // A segment in use, and one ready: nothing but appends writes now.
        let has_spare = || {
            let names = std::fs::read_dir(dir.path().join("log")).unwrap();
            names.flatten().any(|name| name.file_name().to_string_lossy().starts_with("spare-"))
        };
        while !has_spare() {
            metadata
                .propose(make(root, &format!("more{}", metadata.applied_index())))
                .await
                .unwrap()
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The append itself is refused in the middle; cutting it off works, as it does on a disk that is
        // full.
        let writes = AtomicU64::new(0);
        media.set_fault(move |act, path| {
            let log = path.to_string_lossy().contains("/log/")
                && std::thread::current().name() == Some("metadata-log");
            (act == Act::Write && log && writes.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)).then(full)
        });
        let error = metadata.propose(make(root, "caught")).await.unwrap_err();
        assert!(matches!(error, ProposeError::Stuck { .. }), "{error}");
        let error = metadata.propose(make(root, "late")).await.unwrap_err();
        assert!(matches!(error, ProposeError::NoSpace { .. }), "{error}");
        assert!(!is_there(&metadata, root, "late"));
        media.heal();
        let begun = std::time::Instant::now();
        while let Err(error) = metadata.propose(make(root, "yes")).await {
            assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What was caught has been waiting.
        assert!(is_there(&metadata, root, "caught"));
        assert_eq!(metadata.stats().stopped, None);
    });
    let before = metadata.read(contents).unwrap();
    drop(metadata);
    let metadata =
        Node::open(dir.path(), options, Arc::new(Namespace), Arc::new(SimMedia::default())).unwrap();
    assert_eq!(metadata.read(contents).unwrap(), before, "what was refused did not come back");
}

#[test]
fn a_broken_disk_stops_the_service_with_its_reason() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let metadata = open(dir.path(), &media).unwrap();
    runtime().block_on(async {
        let root = set_up(&metadata).await.unwrap();
        media.set_fault(|act, path| {
            (act == Act::Sync && path.to_string_lossy().contains("/log/")).then(broken)
        });
        let error = metadata.propose(make(root, "a")).await.unwrap_err();
        assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
        media.heal();
        let later = metadata.propose(make(root, "b")).await.unwrap_err();
        assert!(later.to_string().contains("fdatasync"), "{later}");
        assert!(metadata.stats().stopped.is_some());
        // What was there is still answered.
        assert!(!is_there(&metadata, root, "b"));
    });
}

#[test]
fn a_panic_while_applying_stops_the_service_and_keeps_the_store() {
    #[derive(Debug)]
    struct Panics;
    impl Machine for Panics {
        fn encode(&self, entry: &Entry) -> Vec<u8> {
            Namespace.encode(entry)
        }
        fn decode(&self, bytes: &[u8]) -> Result<Entry, String> {
            Namespace.decode(bytes)
        }
        fn request_bytes(&self, request: &Request) -> usize {
            Namespace.request_bytes(request)
        }
        fn apply(
            &self,
            kv: &mut dyn rain_namespace::kv::KvTxn,
            entry: &Entry,
        ) -> Vec<rain_namespace::command::Applied> {
            let applied = Namespace.apply(kv, entry);
            assert!(entry.requests.len() > 100 || applied.iter().all(Result::is_ok), "a refusal");
            applied
        }
        fn answer(
            &self,
            kv: &dyn rain_namespace::kv::KvRead,
            query: &Query,
        ) -> rain_namespace::query::Answered {
            Namespace.answer(kv, query)
        }
    }
    let dir = TempDir::new().unwrap();
    let metadata = Node::open(dir.path(), small(), Arc::new(Panics), Arc::new(DiskMedia)).unwrap();
    runtime().block_on(async {
        let root = set_up(&metadata).await.unwrap();
        metadata.propose(make(root, "a")).await.unwrap().unwrap();
        let error = metadata.propose(make(root, "a")).await.unwrap_err();
        assert!(error.to_string().contains("panicked: a refusal"), "{error}");
        assert!(is_there(&metadata, root, "a"));
    });
    drop(metadata);
    let error = Node::open(dir.path(), small(), Arc::new(Panics), Arc::new(DiskMedia)).unwrap_err();
    assert!(matches!(&error, MetadataError::Raft(why) if why.contains("a refusal")), "{error}");
    // Mended, it is replayed.
    let metadata = open_plain(dir.path(), small()).unwrap();
    check(&metadata);
}

#[test]
fn close_makes_everything_durable_in_the_base() {
    let dir = TempDir::new().unwrap();
    let mut options = small();
    options.store.commit_interval = Duration::from_secs(3600);
    options.store.memtable_keys_max = 1 << 20;
    let metadata = open_plain(dir.path(), options.clone()).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let root = set_up(&metadata).await.unwrap();
        make_files(&metadata, root, "c", 4, 20).await;
    });
    let (before, applied) = (metadata.read(contents).unwrap(), metadata.applied_index());
    assert_eq!(metadata.stats().store.durable, 0);
    runtime.block_on(metadata.close());
    assert_eq!(metadata.stats().store.durable, applied);
    assert_eq!(runtime.block_on(metadata.propose(make(Ino(1), "late"))), Err(ProposeError::Closed));
    runtime.block_on(metadata.close());
    drop(metadata);
    // The base alone has it all: the log may go.
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let metadata = open_plain(dir.path(), options).unwrap();
    assert_eq!(metadata.read(contents).unwrap(), before);
    // And the entry with which it leads again.
    assert_eq!(metadata.applied_index(), applied + 1);
    let root = root(&metadata).unwrap();
    runtime.block_on(metadata.propose(make(root, "after"))).unwrap().unwrap();
}

#[test]
fn a_full_queue_says_busy_after_the_deadline() {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut options = small();
    options.proposer.queue_requests_max = 4;
    options.proposer.busy_after = Duration::from_millis(50);
    options.store.commit_interval = Duration::from_secs(3600);
    let metadata =
        Arc::new(Node::open(dir.path(), options, Arc::new(Namespace), Arc::new(media.clone())).unwrap());
    let runtime = runtime();
    runtime.block_on(async {
        let root = set_up(&metadata).await.unwrap();
        // The log's fdatasync takes until eight were refused.
        let (syncing, busy) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (began, told) = (syncing.clone(), busy.clone());
        media.set_fault(move |act, path| {
            if act == Act::Sync && path.to_string_lossy().contains("/log/") {
                began.store(1, Ordering::SeqCst);
                wait_until(|| told.load(Ordering::SeqCst) >= 8);
            }
            None
        });
        let first = tokio::spawn({
            let metadata = metadata.clone();
            async move { metadata.propose(make(root, "slow")).await }
        });
        tokio::task::yield_now().await;
        wait_until(|| syncing.load(Ordering::SeqCst) == 1);
        // Some are in the second entry in flight, one waits for the third, four for their turn.
        let names: Vec<String> = (0..60).map(|number| format!("q{number}")).collect();
        let results = futures::future::join_all(names.iter().map(|name| async {
            let result = metadata.propose(make(root, name)).await;
            if matches!(result, Err(ProposeError::Busy { .. })) {
                busy.fetch_add(1, Ordering::SeqCst);
            }
            result
        }))
        .await;
        let busy = busy.load(Ordering::SeqCst) as usize;
        let made = results.iter().filter(|result| matches!(result, Ok(Ok(_)))).count();
        assert!(busy >= 8 && made >= 5 && busy + made == 60, "{busy} were told, {made} made");
        first.await.unwrap().unwrap().unwrap();
    });
}

fn wait_until(reached: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Memory fills up behind a full disk; closing then must not wait for room, and the log has what the base has
/// not.
#[test]
fn close_does_not_wait_for_a_full_disk() {
    // Whether requests are still queued when the disk is seen to be full (later ones are refused at once) is
    // a matter of luck, mostly good.
    let stuck = (0..20).filter(|_| close_on_a_full_disk()).take(2).count();
    assert_eq!(stuck, 2);
}

/// Gives whether the metadata service's threads were waiting for room when it was closed.
fn close_on_a_full_disk() -> bool {
    let dir = TempDir::new().unwrap();
    let media = SimMedia::default();
    let mut options = small();
    options.store.memtable_keys_max = 8;
    options.proposer.entry_requests_max = 2;
    let metadata = Node::open(dir.path(), options, Arc::new(Namespace), Arc::new(media.clone())).unwrap();
    let metadata = Arc::new(metadata);
    let root = runtime().block_on(set_up(&metadata)).unwrap();
    wait_until(|| metadata.stats().store.memtable_keys == 0);
    media.set_fault(|act, path| {
        let base = path.to_string_lossy().ends_with("base-1.redb");
        (matches!(act, Act::Write | Act::Length) && base).then(full)
    });
    let maker = std::thread::spawn({
        let metadata = metadata.clone();
        move || runtime().block_on(make_files(&metadata, root, "f", 64, 1000))
    });
    // Until nothing moves any more.
    wait_until(|| {
        let before = metadata.stats();
        std::thread::sleep(Duration::from_millis(30));
        metadata.stats() == before
    });
    let stats = metadata.stats();
    let stuck = !maker.is_finished() && stats.log_last > stats.store.applied;
    runtime().block_on(metadata.close());
    let acknowledged = maker.join().unwrap();
    drop(metadata);
    let metadata = open(dir.path(), &SimMedia::default()).unwrap();
    assert!(acknowledged.iter().all(|name| is_there(&metadata, root, name)));
    check(&metadata);
    stuck
}

#[test]
fn a_request_over_the_limit_is_refused_alone() {
    let dir = TempDir::new().unwrap();
    let mut options = small();
    options.proposer.request_bytes_max = 1000;
    let metadata = open_plain(dir.path(), options).unwrap();
    runtime().block_on(async {
        let root = set_up(&metadata).await.unwrap();
        let error = metadata.propose(make(root, &"x".repeat(2000))).await.unwrap_err();
        assert!(matches!(error, ProposeError::TooLarge { limit: 1000, .. }), "{error}");
        metadata.propose(make(root, "small")).await.unwrap().unwrap();
    });
}

#[test]
fn time_never_goes_backwards() {
    /// A leader whose clock was far ahead.
    #[derive(Debug)]
    struct Ahead;
    impl Machine for Ahead {
        fn encode(&self, entry: &Entry) -> Vec<u8> {
            let time = rain_namespace::record::Time { secs: 9_000_000_000, nanos: 0 };
            Namespace.encode(&Entry { time, ..entry.clone() })
        }
        fn decode(&self, bytes: &[u8]) -> Result<Entry, String> {
            Namespace.decode(bytes)
        }
        fn request_bytes(&self, request: &Request) -> usize {
            Namespace.request_bytes(request)
        }
        fn apply(
            &self,
            kv: &mut dyn rain_namespace::kv::KvTxn,
            entry: &Entry,
        ) -> Vec<rain_namespace::command::Applied> {
            Namespace.apply(kv, entry)
        }
        fn answer(
            &self,
            kv: &dyn rain_namespace::kv::KvRead,
            query: &Query,
        ) -> rain_namespace::query::Answered {
            Namespace.answer(kv, query)
        }
    }
    let dir = TempDir::new().unwrap();
    let metadata = Node::open(dir.path(), small(), Arc::new(Ahead), Arc::new(DiskMedia)).unwrap();
    runtime().block_on(set_up(&metadata)).unwrap();
    drop(metadata);
    for _ in 0..2 {
        let metadata = open_plain(dir.path(), small()).unwrap();
        let root = root(&metadata).unwrap();
        let name = format!("f{}", metadata.applied_index());
        let made = runtime().block_on(metadata.propose(make(root, &name))).unwrap().unwrap();
        let Outcome::Attr(attr) = made else { panic!("{made:?}") };
        assert!(attr.crtime.secs >= 9_000_000_000, "{:?}", attr.crtime);
    }
}

#[test]
fn subscribers_are_told_the_applied_index() {
    let dir = TempDir::new().unwrap();
    let metadata = open_plain(dir.path(), small()).unwrap();
    runtime().block_on(async {
        let mut applied = metadata.subscribe();
        let before = *applied.borrow_and_update();
        set_up(&metadata).await.unwrap();
        applied.changed().await.unwrap();
        let now = *applied.borrow_and_update();
        assert!(now > before && now == metadata.applied_index());
    });
}

#[test]
fn one_process_has_the_directory_and_it_is_of_one_node_of_one_cluster() {
    let dir = TempDir::new().unwrap();
    let metadata = open_plain(dir.path(), small()).unwrap();
    assert!(matches!(open_plain(dir.path(), small()), Err(MetadataError::Locked { .. })));
    drop(metadata);
    drop(open_plain(dir.path(), small()).unwrap());
    for (cluster, node) in [(CLUSTER.0, 2), (7, 1)] {
        let member = Member { cluster: ClusterId(cluster), node: NodeId(node), address: "here:1".into() };
        let opened = runtime().block_on(MetadataService::open(dir.path(), member, small(), Arc::new(Alone)));
        assert!(matches!(opened, Err(MetadataError::Foreign(_))));
    }
}

#[test]
fn a_log_that_begins_too_late_is_an_error() {
    let dir = TempDir::new().unwrap();
    let mut log = CommandLog::open(Arc::new(DiskMedia), &dir.path().join("log"), 32 << 10, 7).unwrap();
    log.append(&[(7, b"x")]).unwrap();
    drop(log);
    let error = open_plain(dir.path(), small()).unwrap_err();
    assert!(
        matches!(&error, MetadataError::Gap(why) if why.contains("up to 0") && why.contains("behind 6")),
        "{error}"
    );
}
