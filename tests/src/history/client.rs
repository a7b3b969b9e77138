//! A client that does random operations on names, a value, a log and a lock, and records their history. As a
//! mount, it answers lookups from what its leases let it keep.

use super::report::HistoryOptions;
use super::work::{FILE_MODE, NAMES, PAUSE, RECORD, is_turn, name, record, records};
use fastrand::Rng;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rain_client::{Client, Dropped, Error, KernelCache, NewInode, OpenFile, Volume};
use rain_namespace::command::{AttrChange, RenameMode};
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_namespace::lock::{Lock, LockKind};
use rain_namespace::record::FileKind;
use rain_sim::history::Event;
use rain_sim::model::{ClientState, Files, Name, Op, Reply};
use rain_types::Ino;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Clients that work at the same time.
pub(super) const CLIENTS: u32 = 4;

/// The lifetime of names in a kernel whose mount keeps no leases.
const WITHOUT_LEASES: Duration = Duration::from_secs(1);

/// The directory, the file with the value, and the lock that a client works on.
pub(super) struct Workspace {
    volume: Arc<Volume>,
    dir: Ino,
    value: Ino,
    lock: Arc<OpenFile>,
    log: Arc<OpenFile>,
    kernel: Arc<Kernel>,
}

/// Names with the replies to their lookups, kept as a kernel keeps them: each until its lifetime is over, or it is
/// dropped.
#[derive(Debug, Default)]
struct Kernel {
    kept: Mutex<Kept>,
    /// The volume, and the directory of the names.
    of: OnceLock<(Weak<Volume>, Ino)>,
}

#[derive(Debug, Default)]
struct Kept {
    names: BTreeMap<Name, (Instant, Reply)>,
    /// Grows with everything that is dropped: a reply to a question from before is not kept.
    version: u64,
}

impl Kernel {
    fn kept(&self, at: Name) -> Option<Reply> {
        let kept = self.kept.lock();
        kept.names.get(&at).filter(|(until, _)| Instant::now() < *until).map(|(_, reply)| reply.clone())
    }

    fn version(&self) -> u64 {
        self.kept.lock().version
    }

    fn keep(&self, at: Name, reply: &Reply, version: u64, read_for: Duration) {
        let mut kept = self.kept.lock();
        if kept.version == version {
            kept.names.insert(at, (Instant::now() + read_for, reply.clone()));
        }
    }

    /// This client changes the names itself, as a kernel notes.
    fn drop_names(&self) {
        let mut kept = self.kept.lock();
        kept.version += 1;
        kept.names.clear();
    }
}

impl KernelCache for Kernel {
    fn drop_cached<'a>(&'a self, dropped: &'a [Dropped]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for dropped in dropped {
                match dropped {
                    Dropped::Name(_, name) if name.len() == 1 => {
                        let mut kept = self.kept.lock();
                        kept.version += 1;
                        kept.names.remove(&(name[0].wrapping_sub(b'a')));
                    }
                    Dropped::Names(_) => self.drop_names(),
                    _ => {}
                }
            }
        })
    }

    fn drop_all<'a>(&'a self, _files: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(async { self.drop_names() })
    }

    fn drop_unleased<'a>(&'a self, _files: &'a [Ino]) -> BoxFuture<'a, ()> {
        let (volume, dir) = self.of.get().cloned().unwrap_or_default();
        let may_be_used = move |at: &Name| {
            let left = volume.upgrade()?.read_for(&Subject::Name(dir, name(*at).to_vec()));
            Some(left.is_none_or(|left| !left.is_zero()))
        };
        Box::pin(async move {
            let mut kept = self.kept.lock();
            kept.version += 1;
            kept.names.retain(|at, _| may_be_used(at).unwrap_or(false));
        })
    }
}

impl Workspace {
    /// Creates the directory and the files, or finds those that another client has created.
    pub(super) async fn find(cluster: &Arc<Client>, folder: &str) -> anyhow::Result<Workspace> {
        let volume = cluster.volume("main").await?;
        let folder = folder.as_bytes();
        let dir = match volume.lookup(volume.root(), folder).await {
            Ok(attr) => attr.ino,
            Err(_) => {
                let new = NewInode::new(FileKind::Directory, 0o755, 0, 0);
                volume.make(volume.root(), folder, new).await?.ino
            }
        };
        // Beside the directory: all names in it belong to the model.
        let mut files = Vec::new();
        for kind in ["value", "lock", "log"] {
            let name = [folder, b"-", kind.as_bytes()].concat();
            let new = NewInode { or_existing: true, ..NewInode::new(FileKind::File, FILE_MODE, 0, 0) };
            files.push(volume.make(volume.root(), &name, new).await?.ino);
        }
        let lock = volume.open(files[1]).await?;
        let log = volume.open_to(files[2], true).await?;
        let kernel = Arc::new(Kernel::default());
        let _ = kernel.of.set((Arc::downgrade(&volume), dir));
        let told: Weak<Kernel> = Arc::downgrade(&kernel);
        volume.set_kernel_cache(told);
        Ok(Workspace { value: files[0], lock, log, kernel, dir, volume })
    }
}

/// One client at work.
pub(super) struct HistoryClient {
    number: u32,
    options: HistoryOptions,
    workspace: Workspace,
    rng: Rng,
    start: Instant,
    /// Files that the client has seen, by their names at that time.
    known: BTreeMap<Name, u64>,
    /// Latest replies to lookups with their times; answering from them is the deliberate fault.
    stale: Option<BTreeMap<Name, (Instant, Reply)>>,
    /// Whether the latest written value may not be stored. Until the next one is, this client reads its own
    /// buffer.
    doubtful: bool,
    /// Whether the client has the lock.
    holds: bool,
}

/// The reply that a refusal stands for. Any other error leaves the outcome unknown.
fn refused(error: Error) -> Result<Reply, Error> {
    match error {
        Error::Refused(NsError::NotFound | NsError::Stale) => Ok(Reply::NotFound),
        Error::Refused(NsError::Exists) => Ok(Reply::Exists),
        error => Err(error),
    }
}

impl HistoryClient {
    /// A client of a run. The first one may answer lookups from memory.
    pub(super) fn new(
        number: u32,
        options: HistoryOptions,
        workspace: Workspace,
        start: Instant,
    ) -> HistoryClient {
        let stale = options.stale && number == 0;
        HistoryClient {
            number,
            options,
            workspace,
            rng: Rng::with_seed(options.seed.wrapping_mul(1000) + u64::from(number)),
            start,
            known: BTreeMap::new(),
            stale: stale.then(BTreeMap::new),
            doubtful: false,
            holds: false,
        }
    }

    fn choose(&mut self) -> Option<Op> {
        let known = ClientState { names: NAMES, files: &self.known, holds: self.holds, has: Files::Log };
        match self.options.choose(known, |below| self.rng.u64(..below))? {
            Op::Get if self.doubtful => Some(Op::List),
            op => Some(op),
        }
    }

    pub(super) async fn work(mut self, stop: Arc<AtomicBool>) -> Vec<Event<Op, Reply>> {
        let mut history = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if !is_turn(self.start, self.number, CLIENTS) {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let Some(op) = self.choose() else { return history };
            let begun = self.start.elapsed().as_nanos() as u64;
            let reply = self.perform(&op).await;
            let ended = self.start.elapsed().as_nanos() as u64;
            let reply = match reply {
                Ok(reply) => Some(reply),
                Err(Error::NoMajority { may_be_done: false, .. }) if !matches!(op, Op::Put(_)) => {
                    tokio::time::sleep(PAUSE * 10).await;
                    continue;
                }
                Err(_) => None,
            };
            if reply.is_some() || !op.only_looks() {
                history.push(Event { client: self.number, op, reply, begun, ended });
            }
            tokio::time::sleep(PAUSE).await;
        }
        if self.holds {
            // The lock must be free for the next history; this unlock is not part of the present one.
            let _ = self.workspace.lock.unlock(&self.lock()).await;
        }
        history
    }

    fn lock(&self) -> Lock {
        Lock { kind: LockKind::Flock, owner: 1, exclusive: true, first: 0, last: u64::MAX, pid: self.number }
    }

    async fn perform(&mut self, op: &Op) -> Result<Reply, Error> {
        let Workspace { volume, dir, value, lock, log, kernel } = &self.workspace;
        let dir = *dir;
        if matches!(op, Op::Create(_) | Op::Unlink(_) | Op::Rename(..) | Op::Link(..)) {
            kernel.drop_names();
        }
        match op {
            Op::Create(at) => {
                let new = NewInode::new(FileKind::File, FILE_MODE, 0, 0);
                match volume.make(dir, &name(*at), new).await {
                    Ok(attr) => {
                        self.known.insert(*at, attr.ino.0);
                        Ok(Reply::File(attr.ino.0))
                    }
                    Err(error) => refused(error),
                }
            }
            Op::Unlink(at) => volume.unlink(dir, &name(*at)).await.map(|()| Reply::Done).or_else(refused),
            Op::Rename(from, to) => {
                let renamed = volume.rename(dir, &name(*from), dir, &name(*to), RenameMode::Replace).await;
                renamed.map(|()| Reply::Done).or_else(refused)
            }
            Op::Link(file, at) => {
                let linked = volume.link(Ino(*file), dir, &name(*at)).await;
                linked.map(|attr| Reply::File(attr.ino.0)).or_else(refused)
            }
            Op::Lookup(at) => {
                if let Some((when, reply)) = self.stale.as_ref().and_then(|stale| stale.get(at))
                    && when.elapsed() < Duration::from_millis(200)
                {
                    return Ok(reply.clone());
                }
                if let Some(reply) = kernel.kept(*at) {
                    return Ok(reply);
                }
                let version = kernel.version();
                let found = volume.lookup(dir, &name(*at)).await;
                let reply = found.map(|attr| Reply::File(attr.ino.0)).or_else(refused)?;
                if let Reply::File(file) = reply {
                    let subject = Subject::Name(dir, name(*at).to_vec());
                    kernel.keep(*at, &reply, version, volume.read_for(&subject).unwrap_or(WITHOUT_LEASES));
                    self.known.insert(*at, file);
                }
                if let Some(stale) = &mut self.stale {
                    stale.insert(*at, (Instant::now(), reply.clone()));
                }
                Ok(reply)
            }
            Op::List => {
                let (entries, _) = volume.read_directory(dir, None, 100).await?;
                let names = entries.iter().map(|entry| (entry.name[0] - b'a', entry.attr.ino.0));
                Ok(Reply::Names(names.collect()))
            }
            Op::Put(number) => {
                self.doubtful = true;
                let file = volume.open(*value).await?;
                file.write(0, &number.to_le_bytes()).await?;
                file.flush().await?;
                self.doubtful = false;
                Ok(Reply::Done)
            }
            Op::Get => {
                let bytes = volume.open(*value).await?.read(0, 8).await?;
                let bytes = bytes.as_ref().try_into().unwrap_or([0; 8]);
                Ok(Reply::Value(u64::from_le_bytes(bytes)))
            }
            Op::Append(number) => {
                let at = log.append(&record(*number)).await?;
                Ok(Reply::At(at / RECORD as u64))
            }
            Op::ReadLog => Ok(Reply::Records(records(log.read(0, 1 << 20).await?.as_ref()))),
            Op::LogLength => {
                let attr = volume.attr(log.ino()).await?;
                Ok(Reply::Value(attr.size / RECORD as u64))
            }
            Op::SetMode(mode) => {
                let change = AttrChange { mode: Some(*mode as u16), ..AttrChange::default() };
                volume.set_attr(*value, change).await.map(|_| Reply::Done)
            }
            Op::Mode => Ok(Reply::Value(volume.attr(*value).await?.mode.into())),
            Op::TryLock => {
                let locked = lock.try_lock(&self.lock()).await?;
                self.holds = locked;
                Ok(if locked { Reply::Done } else { Reply::Held })
            }
            Op::Unlock => {
                lock.unlock(&self.lock()).await?;
                self.holds = false;
                Ok(Reply::Done)
            }
            op => unreachable!("{op}: clients of the library have no such files"),
        }
    }
}
