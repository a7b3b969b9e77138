//! Files with a power switch, for the tests of the metadata service: real files in a scratch directory, of
//! which what was not synced is lost, sector by sector at random, when the power goes. Faults are values.
#![allow(dead_code)] // Each test file uses its part.
#![allow(clippy::unwrap_used)] // A helper of tests.

use rain_namespace::command::{Command, Entry, NodeSpec, Request};
use rain_namespace::kv::KvRead;
use rain_namespace::record::{FileKind, Time};
use rain_types::{ClusterId, Codec, Ino, NodeId};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use storaged::disk::{Media, MediaFile};
use storaged::metadata::{
    AppendStream, Machine, Member, MetadataError, MetadataOptions, MetadataService, Transport, TransportError,
};

/// Small, seeded, good enough to choose sectors.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03)
    }

    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % below.max(1)
    }
}

/// The seeds of a test: `METADATA_SEEDS=from..to` runs others than the usual ones.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("METADATA_SEEDS") else { return 0..usual };
    let (from, to) = text.split_once("..").expect("METADATA_SEEDS is FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Write,
    Sync,
    Length,
    Name,
}

type Fault = Box<dyn Fn(Act, &Path) -> Option<io::Error> + Send>;

enum Renaming {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf, kept: PathBuf },
}

struct Written {
    file: Arc<File>,
    inode: u64,
    offset: u64,
    old: Vec<u8>,
}

#[derive(Default)]
struct Sim {
    written: Vec<Written>,
    /// The lengths that a file has had since its last sync.
    lens: HashMap<u64, Vec<u64>>,
    names: Vec<Renaming>,
    removed: u64,
    acts: u64,
    power_fails_at: Option<u64>,
    off: bool,
    fault: Option<Fault>,
}

/// The media. Clones share the power switch.
#[derive(Clone, Default)]
pub(crate) struct SimMedia(Arc<Mutex<Sim>>);

impl std::fmt::Debug for SimMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimMedia")
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

pub(crate) fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

pub(crate) fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Sim {
    /// Before an act: whether there is power. The act at which it fails is half done: done, but not durable.
    fn act(&mut self, act: Act, path: &Path) -> io::Result<bool> {
        if self.off {
            return Err(off());
        }
        self.acts += 1;
        if let Some(error) = self.fault.as_ref().and_then(|fault| fault(act, path)) {
            return Err(error);
        }
        if self.power_fails_at.is_some_and(|at| self.acts >= at) {
            self.off = true;
        }
        Ok(!self.off)
    }
}

impl SimMedia {
    pub(crate) fn set_fault(&self, fault: impl Fn(Act, &Path) -> Option<io::Error> + Send + 'static) {
        self.0.lock().unwrap().fault = Some(Box::new(fault));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().fault = None;
    }

    /// The power fails after this many more acts.
    pub(crate) fn power_fails_in(&self, acts: u64) {
        let mut sim = self.0.lock().unwrap();
        sim.power_fails_at = Some(sim.acts + acts);
    }

    /// Off from now on.
    pub(crate) fn switch_off(&self) {
        self.0.lock().unwrap().off = true;
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.lock().unwrap().off
    }

    pub(crate) fn acts(&self) -> u64 {
        self.0.lock().unwrap().acts
    }

    /// Switches the disk off: every later act fails, and unsynced data is lost in part. The next one to open
    /// the directory brings a new media.
    pub(crate) fn lose_power(&self, dice: &mut Dice) {
        let mut sim = self.0.lock().unwrap();
        sim.off = true;
        let names = std::mem::take(&mut sim.names);
        let kept = dice.roll(names.len() as u64 + 1) as usize;
        lose_sectors(std::mem::take(&mut sim.written), &sim.lens, dice);
        for (position, name) in names.into_iter().enumerate().rev() {
            match name {
                Renaming::Removed { kept: file, .. } if position < kept => {
                    std::fs::remove_file(file).unwrap()
                }
                _ if position < kept => {}
                Renaming::Created(path) => std::fs::remove_file(path).unwrap(),
                Renaming::Renamed { from, to } => std::fs::rename(to, from).unwrap(),
                Renaming::Removed { path, kept } => std::fs::rename(kept, path).unwrap(),
            }
        }
    }
}

const SECTOR: u64 = 512;

/// Each sector goes back to one of the contents that it had since the last sync, each file to one of its
/// lengths.
fn lose_sectors(written: Vec<Written>, lens: &HashMap<u64, Vec<u64>>, dice: &mut Dice) {
    let mut versions: HashMap<(u64, u64), u64> = HashMap::new();
    for write in &written {
        for sector in write.offset / SECTOR..(write.offset + write.old.len() as u64).div_ceil(SECTOR) {
            *versions.entry((write.inode, sector)).or_default() += 1;
        }
    }
    // Often all or nothing of a file goes, else by chance.
    let mode = dice.roll(4);
    let mut sectors: Vec<_> = versions.into_iter().collect();
    sectors.sort_unstable();
    let mut undo: HashMap<(u64, u64), u64> = sectors
        .into_iter()
        .map(|(sector, count)| match mode {
            0 => (sector, count),
            1 => (sector, 0),
            _ => (sector, dice.roll(count + 1)),
        })
        .collect();
    let mut files = HashMap::new();
    for write in written.into_iter().rev() {
        for sector in write.offset / SECTOR..(write.offset + write.old.len() as u64).div_ceil(SECTOR) {
            let left = undo.get_mut(&(write.inode, sector)).unwrap();
            if *left > 0 {
                *left -= 1;
                let from = (sector * SECTOR).max(write.offset);
                let to = ((sector + 1) * SECTOR).min(write.offset + write.old.len() as u64);
                let old = &write.old[(from - write.offset) as usize..(to - write.offset) as usize];
                write.file.write_all_at(old, from).unwrap();
            }
        }
        files.insert(write.inode, write.file);
    }
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable_by_key(|(inode, _)| *inode);
    for (inode, file) in files {
        let lens = &lens[&inode];
        let chosen = match mode {
            0 => 0,
            1 => lens.len() - 1,
            _ => dice.roll(lens.len() as u64) as usize,
        };
        file.set_len(lens[chosen]).unwrap();
    }
}

impl Media for SimMedia {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>> {
        let mut sim = self.0.lock().unwrap();
        let is_new = create && !path.exists();
        if is_new {
            sim.act(Act::Name, path)?;
        } else if sim.off {
            return Err(off());
        }
        let file = File::options().read(true).write(true).create(create).truncate(false).open(path)?;
        let inode = file.metadata()?.ino();
        if is_new {
            sim.names.push(Renaming::Created(path.to_owned()));
            sim.lens.insert(inode, vec![0]);
        } else {
            let len = file.metadata()?.len();
            sim.lens.entry(inode).or_insert_with(|| vec![len]);
        }
        Ok(Box::new(SimFile { sim: self.clone(), file: Arc::new(file), inode, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        Ok(names.filter(|name| !name.starts_with(".removed")).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.act(Act::Name, to)?;
        assert!(!to.exists(), "nothing in the metadata's media is replaced by a rename");
        std::fs::rename(from, to)?;
        sim.names.push(Renaming::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.act(Act::Name, path)?;
        sim.removed += 1;
        let kept = path.with_file_name(format!(".removed-{}", sim.removed));
        std::fs::rename(path, &kept)?;
        sim.names.push(Renaming::Removed { path: path.to_owned(), kept });
        Ok(())
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        if sim.act(Act::Sync, dir)? {
            for name in std::mem::take(&mut sim.names) {
                if let Renaming::Removed { kept, .. } = name {
                    std::fs::remove_file(kept)?;
                }
            }
        }
        if sim.off { Err(off()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct SimFile {
    sim: SimMedia,
    file: Arc<File>,
    inode: u64,
    path: PathBuf,
}

impl SimFile {
    fn change(
        &self,
        act: Act,
        offset: u64,
        len: u64,
        change: impl Fn(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut sim = self.sim.0.lock().unwrap();
        sim.act(act, &self.path)?;
        let mut old = vec![0; len as usize];
        let have = self.file.metadata()?.len().saturating_sub(offset).min(len);
        self.file.read_exact_at(&mut old[..have as usize], offset)?;
        sim.written.push(Written { file: self.file.clone(), inode: self.inode, offset, old });
        change(&self.file)?;
        let len = self.file.metadata()?.len();
        sim.lens.entry(self.inode).or_default().push(len);
        if sim.off { Err(off()) } else { Ok(()) }
    }
}

impl MediaFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        if self.sim.is_off() {
            return Err(off());
        }
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        if self.sim.is_off() {
            return Err(off());
        }
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result =
            self.change(Act::Write, offset, bytes.len() as u64, |file| file.write_all_at(bytes, offset));
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            // A full disk takes the beginning of a write.
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
        }
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.file.metadata()?.len();
        self.change(Act::Length, len.min(old), old.saturating_sub(len), |file| file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.sim.0.lock().unwrap();
        if !sim.act(Act::Sync, &self.path)? {
            return Err(off());
        }
        sim.written.retain(|write| write.inode != self.inode);
        let len = self.file.metadata()?.len();
        sim.lens.insert(self.inode, vec![len]);
        Ok(())
    }
}

/// A request that needs no session.
pub(crate) fn request(command: Command) -> Request {
    Request::internal(command)
}

/// What makes a volume to work in; its root is [`ROOT`].
pub(crate) fn setup() -> Vec<Request> {
    let node = |id: u32| Command::RegisterNode {
        id: NodeId(id),
        node: NodeSpec { address: format!("127.0.0.1:{}", 7000 + id), weight: 1, ..NodeSpec::default() },
    };
    let volume = Command::CreateVolume {
        name: "v".into(),
        code: rain_types::CodeSpec { codec: Codec::Rs, k: 2, m: 1 },
        groups: 4,
        uid: 0,
        gid: 0,
        mode: 0o755,
    };
    [node(1), node(2), node(3), volume].into_iter().map(request).collect()
}

/// A new empty file in a directory.
pub(crate) fn make(parent: Ino, name: &str) -> Request {
    request(Command::Make {
        parent,
        name: name.as_bytes().to_vec(),
        kind: FileKind::File,
        mode: 0o644,
        umask: 0,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: Vec::new(),
        or_existing: false,
        ino: None,
    })
}

pub(crate) fn entry(secs: i64, requests: Vec<Request>) -> Entry {
    Entry { time: Time { secs, nanos: 0 }, requests }
}

/// All there is in a store, in order.
pub(crate) fn contents(kv: &dyn KvRead) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    kv.scan(&[], &[0xff; 64], &mut |key, value| {
        all.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    all
}

/// The cluster of all tests.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

/// Nobody else is there.
#[derive(Debug)]
pub(crate) struct Alone;

impl AppendStream for Alone {
    fn ask<'a>(&'a mut self, _message: bytes::Bytes) -> storaged::metadata::Delivery<'a> {
        Box::pin(async { Err(TransportError("nobody is there".into())) })
    }
}

impl Transport for Alone {
    fn append_stream(&self, _to: NodeId, _address: &str) -> Box<dyn AppendStream> {
        Box::new(Alone)
    }

    fn call<'a>(
        &'a self,
        _to: NodeId,
        _address: &'a str,
        _message: bytes::Bytes,
    ) -> storaged::metadata::Delivery<'a> {
        Box::pin(async { Err(TransportError("nobody is there".into())) })
    }

    fn send_snapshot<'a>(
        &'a self,
        _to: NodeId,
        _address: &'a str,
        _message: bytes::Bytes,
        _pieces: tokio::sync::mpsc::Receiver<bytes::Bytes>,
    ) -> storaged::metadata::Delivery<'a> {
        Box::pin(async { Err(TransportError("nobody is there".into())) })
    }
}

/// A member alone in its cluster, on a runtime of its own: dropping it is its death.
#[derive(Debug)]
pub(crate) struct Node {
    metadata: Option<MetadataService>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::ops::Deref for Node {
    type Target = MetadataService;

    fn deref(&self) -> &MetadataService {
        self.metadata.as_ref().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(20));
        drop(self.metadata.take());
    }
}

impl Node {
    /// Opens or begins it, and waits until it leads and has applied what its log has.
    pub(crate) fn open(
        dir: &Path,
        options: MetadataOptions,
        machine: Arc<dyn Machine>,
        media: Arc<dyn Media>,
    ) -> Result<Node, MetadataError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let member = Member { cluster: CLUSTER, node: NodeId(1), address: "here:1".into() };
        let metadata = runtime.block_on(async {
            let metadata =
                MetadataService::open_with(dir, member, options, Arc::new(Alone), machine, media).await?;
            metadata.bootstrap().await?;
            let begun = std::time::Instant::now();
            while metadata.ask(&rain_namespace::query::Query::Nodes).await.is_err() {
                if let Some(reason) = metadata.stopped() {
                    return Err(MetadataError::Raft(reason));
                }
                assert!(begun.elapsed() < std::time::Duration::from_secs(20), "it does not lead");
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            Ok(metadata)
        });
        match metadata {
            Ok(metadata) => Ok(Node { metadata: Some(metadata), runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_timeout(std::time::Duration::from_secs(20));
                Err(error)
            }
        }
    }
}
