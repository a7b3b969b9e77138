//! The share store under power losses, damage, full disks and many hands. The disk is a value: what was not
//! synced is lost, torn or kept at the seed's whim.

use bytes::Bytes;
use rain_types::{BlockId, CodeSpec, Codec, SessionId, ShareIndex};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use storaged::disk::{Media, MediaFile};
use storaged::share::{GetError, PutError, ShareKey, ShareMeta, ShareStore, StoreOptions};

#[derive(Debug, Default)]
struct FileBytes {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Mutex<BTreeMap<String, Arc<Mutex<FileBytes>>>>,
    syncs: AtomicU64,
    room: Mutex<Option<u64>>,
}

#[derive(Debug)]
struct OnDisk(Arc<Disk>);

#[derive(Debug)]
struct OpenFile(Arc<Disk>, Arc<Mutex<FileBytes>>);

fn put_bytes(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at as usize..end].copy_from_slice(data);
}

impl Media for OnDisk {
    fn open(&self, path: &Path, _create: bool) -> io::Result<Box<dyn MediaFile>> {
        let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        let file = self.0.files.lock().expect("sound").entry(name).or_default().clone();
        Ok(Box::new(OpenFile(self.0.clone(), file)))
    }
    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.0.files.lock().expect("sound").keys().cloned().collect())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        panic!("the share store renames no segment: {} to {}", from.display(), to.display())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        panic!("the share store removes no segment: {}", path.display())
    }
    fn sync_directory(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

impl MediaFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.1.lock().expect("sound").now.len() as u64)
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = self.1.lock().expect("sound");
        let there = file.now.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(room) = self.0.room.lock().expect("sound").as_mut() {
            if *room < data.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= data.len() as u64;
        }
        let mut file = self.1.lock().expect("sound");
        put_bytes(&mut file.now, offset, data);
        file.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        panic!("the share store sets no length: {len}")
    }
    fn sync(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Relaxed);
        let mut file = self.1.lock().expect("sound");
        file.durable = file.now.clone();
        file.unsynced.clear();
        Ok(())
    }
    // A hole needs no room on the disk.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut file = self.1.lock().expect("sound");
        let end = ((offset + len) as usize).min(file.now.len());
        let zeros = vec![0; end.saturating_sub(offset as usize)];
        put_bytes(&mut file.now, offset, &zeros);
        file.unsynced.push((offset, zeros));
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

impl Disk {
    /// What is left after the power went: each unsynced write is there, in part, or not.
    fn lose_power(&self, random: &mut Random) -> Arc<Disk> {
        let mut files = BTreeMap::new();
        for (name, file) in self.files.lock().expect("sound").iter() {
            let file = file.lock().expect("sound");
            let mut left = file.durable.clone();
            for (at, data) in &file.unsynced {
                let kept = match random.below(3) {
                    0 => 0,
                    1 => data.len(),
                    _ => random.below(data.len() as u64 / 512 + 1) as usize * 512,
                };
                put_bytes(&mut left, *at, &data[..kept.min(data.len())]);
            }
            let file = FileBytes { durable: left.clone(), now: left, unsynced: Vec::new() };
            files.insert(name.clone(), Arc::new(Mutex::new(file)));
        }
        Arc::new(Disk { files: Mutex::new(files), ..Disk::default() })
    }
}

fn options() -> StoreOptions {
    StoreOptions { segment_bytes: 1 << 20, index_cache_bytes: 1 << 20, ..StoreOptions::default() }
}

fn open(disk: &Arc<Disk>, folder: &Path) -> ShareStore {
    ShareStore::open_on(Arc::new(OnDisk(disk.clone())), folder, options()).expect("opens")
}

fn meta(seq: u64, len: usize) -> ShareMeta {
    let key = ShareKey { block: BlockId { session: SessionId(1), seq }, index: ShareIndex(2) };
    let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
    ShareMeta { key, code, block_len: len as u32 * 4, share_len: len as u32 }
}

fn payload(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 31 + seq * 7919 + at as u64 / 4096) as u8).collect()
}

fn put(store: &ShareStore, seq: u64, len: usize) -> Result<(), PutError> {
    let data = payload(seq, len);
    store.put(meta(seq, len), &rain_client::block::chunk_checksums(&data), &data)
}

fn is_right(store: &ShareStore, seq: u64, len: usize) -> bool {
    store.get(meta(seq, len).key, 0, len as u32).is_ok_and(|read| read.payload == payload(seq, len))
}

/// Where the index is now.
fn index_folder(store: &Path) -> PathBuf {
    let entries = std::fs::read_dir(store).expect("a folder").flatten().map(|entry| entry.path());
    let is_index =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index-"));
    entries.into_iter().find(|path| is_index(path)).expect("an index")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

/// Goal: no acknowledged share is ever lost, nothing half there is ever given. Method: many seeds; each does
/// puts and deletes, loses power between them and in the middle of a batch, keeps, loses or ages the index,
/// and looks at everything.
#[test]
fn acknowledged_shares_survive_a_power_loss_anywhere() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let mut disk = Arc::new(Disk::default());
        let mut there: BTreeMap<u64, usize> = BTreeMap::new();
        let mut seq = 0;
        for _life in 0..4 {
            let store = open(&disk, folder.path());
            for (seq, len) in &there {
                assert!(is_right(&store, *seq, *len), "seed {seed}: share {seq} of {len}");
            }
            copy(&index_folder(folder.path()), &folder.path().join("aged"));
            for _ in 0..12 {
                if random.below(4) == 0 && !there.is_empty() {
                    let victim = *there.keys().nth(random.below(there.len() as u64) as usize).expect("one");
                    let len = there.remove(&victim).expect("there");
                    store.delete(&[meta(victim, len).key]).expect("deleted");
                } else {
                    seq += 1;
                    let len = [256, 4096, 5000, 70_000, 262_144][random.below(5) as usize];
                    put(&store, seq, len).expect("kept");
                    there.insert(seq, len);
                }
            }
            // Some puts that are not waited for: they may be there or not, but never in part.
            let (send, answers) = mpsc::channel();
            let mut started = BTreeMap::new();
            for _ in 0..random.below(4) {
                seq += 1;
                let data = payload(seq, 30_000);
                let crcs = rain_client::block::chunk_checksums(&data);
                let (send, id) = (send.clone(), seq);
                store.put_with(meta(seq, 30_000), crcs, Bytes::from(data), move |result| {
                    let _ = send.send((id, result));
                });
                started.insert(seq, 30_000usize);
            }
            let after = disk.lose_power(&mut random);
            // What was acknowledged by now was durable before the power went only if the answer came before.
            drop(send);
            drop(store);
            drop(answers);
            disk = after;
            match random.below(4) {
                0 => std::fs::remove_dir_all(index_folder(folder.path())).expect("removed"),
                1 => {
                    let index = index_folder(folder.path());
                    std::fs::remove_dir_all(&index).expect("removed");
                    copy(&folder.path().join("aged"), &index);
                }
                _ => {}
            }
            std::fs::remove_dir_all(folder.path().join("aged")).expect("removed");
            let store = open(&disk, folder.path());
            for (seq, len) in started {
                match store.get(meta(seq, len).key, 0, len as u32) {
                    Ok(read) => assert_eq!(read.payload, payload(seq, len), "seed {seed}: share {seq}"),
                    Err(GetError::NotFound { .. } | GetError::Corrupt { .. }) => {}
                    Err(error) => panic!("seed {seed}: share {seq}: {error}"),
                }
                store.delete(&[meta(seq, len).key]).expect("deleted");
            }
            store.shut_down().expect("closed");
        }
    }
}

#[test]
fn many_puts_share_few_syncs() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(Disk::default());
    let store = open(&disk, folder.path());
    let (send, answers) = mpsc::channel();
    for seq in 0..200 {
        let data = payload(seq, 4096);
        let send = send.clone();
        let crcs = rain_client::block::chunk_checksums(&data);
        store.put_with(meta(seq, 4096), crcs, data.into(), move |result| {
            let _ = send.send(result);
        });
    }
    for _ in 0..200 {
        answers.recv().expect("an answer").expect("kept");
    }
    let syncs = disk.syncs.load(Relaxed);
    assert!(syncs < 100, "{syncs} syncs for 200 shares");
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(Disk::default());
    let store = open(&disk, folder.path());
    put(&store, 1, 9000).expect("kept");
    let file = disk.files.lock().expect("sound").values().next().expect("a segment").clone();
    let len = 128 + 3 * 8 + 9000;
    for at in (0..64).chain(64..len).step_by(37) {
        file.lock().expect("sound").now[at] ^= 0x10;
        let read = store.get(meta(1, 9000).key, 0, 9000);
        assert!(matches!(read, Err(GetError::Corrupt { .. })), "byte {at}: {read:?}");
        file.lock().expect("sound").now[at] ^= 0x10;
        assert!(is_right(&store, 1, 9000));
    }
    assert!(store.usage().corrupt_found > 10);
    // Damaged for good: putting it again repairs it.
    file.lock().expect("sound").now[500] ^= 1;
    put(&store, 1, 9000).expect("kept again");
    assert!(is_right(&store, 1, 9000));
    assert_eq!(store.usage().shares, 1);
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(Disk::default());
    let store = open(&disk, folder.path());
    put(&store, 1, 100_000).expect("kept");
    *disk.room.lock().expect("sound") = Some(50_000);
    assert!(matches!(put(&store, 2, 100_000), Err(PutError::NoSpace { .. })));
    put(&store, 3, 10_000).expect("a smaller one fits");
    *disk.room.lock().expect("sound") = None;
    put(&store, 2, 100_000).expect("kept");
    for (seq, len) in [(1, 100_000), (2, 100_000), (3, 10_000)] {
        assert!(is_right(&store, seq, len));
    }
}

#[test]
fn a_limit_is_kept_and_deleting_makes_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let limited = StoreOptions { capacity_bytes: Some(400_000), ..options() };
    let store = ShareStore::open_on(Arc::new(OnDisk(Arc::default())), folder.path(), limited).expect("opens");
    for seq in 1..=3 {
        put(&store, seq, 100_000).expect("kept");
    }
    assert!(matches!(put(&store, 4, 100_000), Err(PutError::NoSpace { .. })));
    assert_eq!(store.delete(&[meta(1, 100_000).key, meta(9, 9).key]).expect("deleted"), 1);
    put(&store, 4, 100_000).expect("kept");
    assert_eq!(store.usage().shares, 3);
}

#[test]
fn lengths_and_checksums_that_lie_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&Arc::default(), folder.path());
    let data = payload(1, 5000);
    let crcs = rain_client::block::chunk_checksums(&data);
    for (meta, crcs, data) in [
        (meta(1, 5001), &crcs[..], &data[..]),
        (meta(1, 5000), &crcs[..1], &data[..]),
        (meta(1, 5000), &[1, 2][..], &data[..]),
        (meta(1, 0), &[][..], &[][..]),
    ] {
        assert!(matches!(store.put(meta, crcs, data), Err(PutError::Invalid { .. })));
    }
    put(&store, 1, 5000).expect("kept");
    for (offset, len) in [(0, 5001), (5000, 1), (u32::MAX, 2), (0, 0)] {
        assert!(
            matches!(store.get(meta(1, 5000).key, offset, len), Err(GetError::Range { .. })),
            "{offset}+{len}"
        );
    }
}

#[test]
fn deleted_space_goes_back_to_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().expect("a folder");
    let store = ShareStore::open(folder.path(), options()).expect("opens");
    let used = || -> u64 {
        let segments = std::fs::read_dir(folder.path().join("segments")).expect("segments").flatten();
        segments.map(|entry| entry.metadata().expect("a file").blocks() * 512).sum()
    };
    for seq in 1..=20 {
        put(&store, seq, 262_144).expect("kept");
    }
    assert!(used() > 5 << 20);
    let keys: Vec<ShareKey> = (1..=20).map(|seq| meta(seq, 1).key).collect();
    assert_eq!(store.delete(&keys).expect("deleted"), 20);
    assert!(used() < 1 << 20, "{} bytes are left on the disk", used());
    assert_eq!(store.usage().shares, 0);
}

#[test]
fn many_hands_at_once_see_only_whole_shares() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&Arc::default(), folder.path());
    std::thread::scope(|scope| {
        for hand in 0..6u64 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random(hand);
                for _ in 0..80 {
                    let seq = random.below(20);
                    let len = 3000 + seq as usize * 500;
                    match random.below(3) {
                        0 => put(store, seq, len).expect("kept"),
                        1 => {
                            store.delete(&[meta(seq, len).key]).expect("deleted");
                        }
                        _ => match store.get(meta(seq, len).key, 0, len as u32) {
                            Ok(read) => assert_eq!(read.payload, payload(seq, len)),
                            Err(GetError::NotFound { .. }) => {}
                            Err(error) => panic!("{error}"),
                        },
                    }
                }
            });
        }
    });
    let listed = store.list(None, 100).expect("listed");
    assert_eq!(listed.len() as u64, store.usage().shares);
}
