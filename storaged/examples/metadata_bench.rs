//! Measures the metadata service on this machine: `cargo run --release -p storaged --example metadata_bench
//! [DIR]`.
//!
//! Real `Make` commands through `MetadataService::propose` by 1, 64 and 256 callers, lookups from memtables
//! and from the base, the time of a restart, and an fdatasync of an append that grows a file against one into
//! blocks that are there.

use metadata_support::Node;
use rain_namespace::command::{Command, NodeSpec, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::FileKind;
use rain_types::{CodeSpec, Codec, Ino, NodeId, RequestId, SessionId};
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storaged::disk::DiskMedia;
use storaged::metadata::{MetadataOptions, MetadataService, Namespace};
use tokio::runtime::Runtime;

#[path = "../tests/metadata_support/mod.rs"]
mod metadata_support;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn request(command: Command) -> Request {
    Request::internal(command)
}

fn make(parent: Ino, name: String, id: Option<RequestId>) -> Request {
    let command = Command::Make {
        parent,
        name: name.into_bytes(),
        kind: FileKind::File,
        mode: 0o644,
        umask: 0,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: Vec::new(),
        or_existing: false,
        ino: None,
    };
    Request { id, done_below: id.map_or(0, |id| id.seq), time: None, command }
}

fn main() -> Result<()> {
    let dir =
        std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("metadata-bench"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    syncs(&dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    run(&runtime, &dir.join("namespace"))?;
    without_layers(&runtime, &dir.join("without-layers"))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// fdatasync of an append to a growing file, and of one into blocks that were written before.
fn syncs(dir: &Path) -> Result<()> {
    let path = dir.join("sync");
    for bytes in [256, 16 << 10] {
        let block = vec![1; bytes];
        for (label, prepared) in [("growing file", false), ("prepared blocks", true)] {
            let file = File::create(&path)?;
            if prepared {
                for at in 0..32 {
                    file.write_all_at(&vec![0; 1 << 20], at << 20)?;
                }
            }
            file.sync_all()?;
            let mut times = Vec::new();
            for number in 0..1000 {
                let start = Instant::now();
                file.write_all_at(&block, number * bytes as u64)?;
                file.sync_data()?;
                times.push(start.elapsed());
            }
            times.sort_unstable();
            say(format_args!(
                "fdatasync after {bytes:>5} B, {label:<15}: median {:>4} us, 99 % {:>5} us",
                times[500].as_micros(),
                times[990].as_micros()
            ));
        }
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

fn open(dir: &Path, options: MetadataOptions) -> Result<Node> {
    Ok(Node::open(dir, options, Arc::new(Namespace), Arc::new(DiskMedia))?)
}

fn run(runtime: &Runtime, dir: &Path) -> Result<()> {
    let metadata = Arc::new(open(dir, MetadataOptions::default())?);
    let root = runtime.block_on(set_up(&metadata))?;
    say(format_args!("idle: {} MiB resident", resident()?));
    for (callers, seconds) in [(1, 3), (64, 5), (256, 10)] {
        runtime.block_on(creates(&metadata, root, callers, Duration::from_secs(seconds)))?;
    }
    lookups(&metadata, root, "with layers in memory")?;
    std::thread::sleep(Duration::from_secs(3));
    lookups(&metadata, root, "from the base")?;
    say(format_args!("after all this: {} MiB resident, {:?}", resident()?, metadata.stats()));
    let start = Instant::now();
    runtime.block_on(metadata.close());
    say(format_args!("close: {:?}", start.elapsed()));
    drop(metadata);
    let start = Instant::now();
    let metadata = open(dir, MetadataOptions::default())?;
    say(format_args!("open again: {:?}, {} MiB resident", start.elapsed(), resident()?));
    drop(metadata);
    Ok(())
}

/// The base commits whatever there is, all the time: what the layers save.
fn without_layers(runtime: &Runtime, dir: &Path) -> Result<()> {
    let mut options = MetadataOptions::default();
    options.store.commit_interval = Duration::ZERO;
    options.store.memtable_keys_max = 1;
    let metadata = Arc::new(open(dir, options)?);
    let root = runtime.block_on(set_up(&metadata))?;
    say(format_args!("with a commit of the base for every entry or two:"));
    for callers in [1, 64, 256] {
        runtime.block_on(creates(&metadata, root, callers, Duration::from_secs(3)))?;
    }
    Ok(())
}

async fn set_up(metadata: &MetadataService) -> Result<Ino> {
    for id in 1..=3 {
        let address = format!("127.0.0.1:{}", 7000 + id);
        let node = NodeSpec { address, weight: 1, ..NodeSpec::default() };
        let command = Command::RegisterNode { id: NodeId(id), node };
        metadata.propose(request(command)).await??;
    }
    let code = CodeSpec { codec: Codec::Rs, k: 2, m: 1 };
    let volume = Command::CreateVolume { name: "v".into(), code, groups: 16, uid: 0, gid: 0, mode: 0o755 };
    metadata.propose(request(volume)).await??;
    match metadata.query(&Query::Volume { name: "v".into() })? {
        Answer::Volumes(volumes) => Ok(volumes[0].root),
        other => Err(format!("{other:?}").into()),
    }
}

async fn creates(metadata: &Arc<Node>, root: Ino, callers: u64, time: Duration) -> Result<()> {
    let mut sessions = Vec::new();
    for caller in 0..callers {
        let opened = metadata
            .propose(request(Command::OpenSession { label: format!("c{caller}"), caches: false }))
            .await??;
        if let rain_namespace::command::Outcome::Session(session) = opened {
            sessions.push(session);
        }
    }
    let before = metadata.stats();
    let start = Instant::now();
    let tasks: Vec<_> = sessions
        .into_iter()
        .map(|session| tokio::spawn(caller(metadata.clone(), root, session, callers, time)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let after = metadata.stats();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    let syncs = (after.syncs - before.syncs).max(1);
    say(format_args!(
        "Make, {callers:>3} callers: {:>7.0}/s, median {} us, 99 % {} us, longest {} us, {:.1} requests a sync, {} commits of the base",
        times.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
        (after.requests - before.requests) as f64 / syncs as f64,
        after.store.commits - before.store.commits
    ));
    Ok(())
}

/// Makes files in a directory of its own, with requests that apply once, as a client does.
async fn caller(
    metadata: Arc<Node>,
    root: Ino,
    session: SessionId,
    callers: u64,
    time: Duration,
) -> Result<Vec<Duration>> {
    let mut directory = make(root, format!("dir-{callers}-{session}"), None);
    if let Command::Make { kind, .. } = &mut directory.command {
        *kind = FileKind::Directory;
    }
    let parent = match metadata.propose(directory).await?? {
        rain_namespace::command::Outcome::Attr(attr) => attr.ino,
        other => return Err(format!("{other:?}").into()),
    };
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let seq = times.len() as u64 + 1;
        let one = Instant::now();
        metadata.propose(make(parent, format!("file-{seq}"), Some(RequestId { session, seq }))).await??;
        times.push(one.elapsed());
    }
    Ok(times)
}

fn lookups(metadata: &Arc<Node>, root: Ino, label: &str) -> Result<()> {
    let directories = match metadata.query(&Query::ReadDirectory { dir: root, after: None, limit: 400 })? {
        Answer::Directory { entries, .. } => entries,
        other => return Err(format!("{other:?}").into()),
    };
    let directories: Arc<Vec<Ino>> = Arc::new(directories.into_iter().map(|entry| entry.attr.ino).collect());
    for threads in [1, 2] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                let (metadata, directories) = (metadata.clone(), directories.clone());
                std::thread::spawn(move || -> Result<u64> {
                    let (mut asked, mut found, mut dice) = (0u64, 0u64, 88_172_645_463_325_252u64 + thread);
                    while start.elapsed() < Duration::from_secs(2) {
                        for _ in 0..64 {
                            dice ^= dice << 13;
                            dice ^= dice >> 7;
                            dice ^= dice << 17;
                            let parent = directories[(dice % directories.len() as u64) as usize];
                            let name = format!("file-{}", 1 + dice / 1024 % 1000).into_bytes();
                            found += u64::from(metadata.query(&Query::Lookup { parent, name }).is_ok());
                            asked += 1;
                        }
                    }
                    if found * 10 < asked * 9 {
                        return Err(format!("{found} of {asked} found").into());
                    }
                    Ok(asked)
                })
            })
            .collect();
        let mut asked = 0;
        for task in tasks {
            asked += task.join().map_err(|_| "a thread panicked")??;
        }
        let rate = asked as f64 / start.elapsed().as_secs_f64();
        say(format_args!("Lookup, {threads} threads, {label}: {rate:.0}/s"));
    }
    let start = Instant::now();
    let mut entries = 0;
    while start.elapsed() < Duration::from_secs(1) {
        for dir in directories.iter().take(8) {
            if let Answer::Directory { entries: page, .. } =
                metadata.query(&Query::ReadDirectory { dir: *dir, after: None, limit: 1000 })?
            {
                entries += page.len();
            }
        }
    }
    say(format_args!(
        "ReadDirectory, pages of 1000, {label}: {:.0} entries/s",
        entries as f64 / start.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib / 1024)
}
