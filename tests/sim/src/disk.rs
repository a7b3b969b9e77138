//! A disk in memory. At a power loss it forgets what was not synced, sector by sector. Its operations take
//! time.
//!
//! `sync` makes the contents of a file durable. `sync_directory` makes names durable, in the order of their
//! changes. A power loss keeps all, nothing, or any part of what is not durable: sectors of 512 bytes in any
//! combination, and one of the lengths that the file had.

use fastrand::Rng;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storaged::disk::{Media, MediaFile};

/// Bytes that a power loss keeps or loses as a whole: the sector of an ordinary disk.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Changes since the last sync, in order.
    pending: Vec<Pending>,
}

/// A change of a file that is not durable.
#[derive(Debug, Clone)]
enum Pending {
    /// Bytes at an offset.
    Bytes(usize, Vec<u8>),
    /// A new length.
    Length(usize),
}

/// A change of a directory that is not durable.
#[derive(Debug, Clone)]
enum Naming {
    /// A file has this name, and no other.
    Named(PathBuf, u64),
    /// The name is gone.
    Removed(PathBuf),
}

#[derive(Debug)]
struct State {
    rng: Rng,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    namings: Vec<Naming>,
    files: BTreeMap<u64, Contents>,
    next: u64,
    /// Number of power losses. A handle from before the last power loss fails.
    life: u64,
    /// Changes until the power goes.
    fuse: Option<u64>,
    off: bool,
    /// Range of the duration of one operation, milliseconds.
    delay_ms: std::ops::Range<u64>,
    /// Syncs in this directory make nothing durable.
    liar: Option<PathBuf>,
}

/// The disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty disk. The seed decides delays and what a power loss keeps.
    pub fn new(seed: u64) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            namings: Vec::new(),
            files: BTreeMap::new(),
            next: 1,
            life: 0,
            fuse: None,
            off: false,
            delay_ms: 1..3,
            liar: None,
        })))
    }

    /// The files for a process that starts at this moment. `root` is the folder under which the process looks
    /// for them.
    pub fn media(&self, root: &Path) -> SimMedia {
        SimMedia { disk: self.clone(), life: self.0.lock().life, root: root.to_owned() }
    }

    /// Sets the range of the duration of one operation, milliseconds.
    pub fn set_delay(&self, delay_ms: std::ops::Range<u64>) {
        self.0.lock().delay_ms = delay_ms;
    }

    /// Makes syncs of files in a directory report success without making anything durable.
    pub fn lie(&self, dir: &Path) {
        self.0.lock().liar = Some(dir.to_owned());
    }

    /// Cuts the power after this many more changes, most likely in the middle of an operation.
    pub fn burn_fuse(&self, changes: u64) {
        self.0.lock().fuse = Some(changes);
    }

    /// Cuts the power and restores it. A new process finds the durable contents and a random part of the
    /// rest.
    pub fn lose_power(&self) {
        let mut state = self.0.lock();
        let State { rng, names, durable_names, namings, files, .. } = &mut *state;
        let kept = rng.usize(..=namings.len());
        for naming in namings.drain(..).take(kept) {
            name(durable_names, naming);
        }
        *names = durable_names.clone();
        for contents in files.values_mut() {
            contents.tear(rng);
        }
        files.retain(|id, _| names.values().any(|named| named == id));
        state.life += 1;
        (state.fuse, state.off) = (None, false);
    }
}

fn name(names: &mut BTreeMap<PathBuf, u64>, naming: Naming) {
    match naming {
        Naming::Named(path, id) => {
            names.retain(|_, has| *has != id);
            names.insert(path, id);
        }
        Naming::Removed(path) => {
            names.remove(&path);
        }
    }
}

impl Contents {
    fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
        if bytes.len() < offset + data.len() {
            bytes.resize(offset + data.len(), 0);
        }
        bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    fn tear(&mut self, rng: &mut Rng) {
        let mode = rng.u8(..4);
        let mut left = std::mem::take(&mut self.durable);
        let mut lengths = vec![left.len()];
        let mut reached = left.len();
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Length(length) => {
                    reached = length;
                    left.resize(left.len().max(length), 0);
                }
                Pending::Bytes(offset, data) => {
                    reached = reached.max(offset + data.len());
                    let mut at = 0;
                    while at < data.len() {
                        let end = data.len().min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
                        if mode == 1 || mode > 1 && rng.bool() {
                            Contents::write(&mut left, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
            }
            lengths.push(reached);
        }
        let length = match mode {
            0 => lengths[0],
            1 => reached,
            _ => lengths[rng.usize(..lengths.len())],
        };
        left.resize(length, 0);
        (self.durable, self.now) = (left.clone(), left);
    }
}

/// The files as one process sees them.
#[derive(Debug, Clone)]
pub struct SimMedia {
    disk: Disk,
    life: u64,
    root: PathBuf,
}

impl SimMedia {
    fn key(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    /// Access for a read. Fails after a power loss.
    fn read(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.0.lock();
        if state.off || state.life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        Ok(state)
    }

    /// Access for a change, and whether the change is acknowledged. The last change that the fuse allows is
    /// made but not acknowledged.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.read()?;
        if let Some(fuse) = &mut state.fuse {
            if *fuse == 0 {
                state.off = true;
                return Ok((state, false));
            }
            *fuse -= 1;
        }
        Ok((state, true))
    }
}

/// The result of a change that was made.
fn acknowledge(done: bool) -> io::Result<()> {
    if done { Ok(()) } else { Err(io::Error::other("the power was cut during the change")) }
}

impl Media for SimMedia {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>> {
        let key = self.key(path);
        let state = self.read()?;
        let id = match state.names.get(&key) {
            Some(id) => *id,
            None if create => {
                drop(state);
                let (mut changed, done) = self.change()?;
                acknowledge(done)?;
                let id = changed.next;
                changed.next += 1;
                changed.names.insert(key.clone(), id);
                changed.namings.push(Naming::Named(key, id));
                changed.files.insert(id, Contents::default());
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(SimFile { media: self.clone(), id }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = self.key(dir);
        let state = self.read()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(&dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.key(from), self.key(to));
        let (mut state, done) = self.change()?;
        let id = state.names.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.clone(), id);
        state.namings.push(Naming::Named(to, id));
        acknowledge(done)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let key = self.key(path);
        let (mut state, done) = self.change()?;
        state.names.remove(&key).ok_or(io::ErrorKind::NotFound)?;
        state.namings.push(Naming::Removed(key));
        acknowledge(done)
    }

    fn sync_directory(&self, _dir: &Path) -> io::Result<()> {
        let (mut state, done) = self.change()?;
        acknowledge(done)?;
        let State { durable_names, namings, .. } = &mut *state;
        namings.drain(..).for_each(|naming| name(durable_names, naming));
        Ok(())
    }

    fn virtual_delay(&self) -> Option<Duration> {
        let mut state = self.disk.0.lock();
        let range = state.delay_ms.clone();
        Some(Duration::from_millis(state.rng.u64(range)))
    }
}

#[derive(Debug)]
struct SimFile {
    media: SimMedia,
    id: u64,
}

fn contents(state: &mut State, id: u64) -> io::Result<&mut Contents> {
    state.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl MediaFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(contents(&mut *self.media.read()?, self.id)?.now.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.media.read()?;
        let now = &contents(&mut state, self.id)?.now;
        let from = offset as usize;
        let found = now.get(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, done) = self.media.change()?;
        let contents = contents(&mut state, self.id)?;
        Contents::write(&mut contents.now, offset as usize, bytes);
        contents.pending.push(Pending::Bytes(offset as usize, bytes.to_vec()));
        acknowledge(done)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, done) = self.media.change()?;
        let contents = contents(&mut state, self.id)?;
        contents.now.resize(len as usize, 0);
        contents.pending.push(Pending::Length(len as usize));
        acknowledge(done)
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, done) = self.media.change()?;
        acknowledge(done)?;
        if state
            .liar
            .as_ref()
            .is_some_and(|dir| state.names.iter().any(|(path, id)| *id == self.id && path.starts_with(dir)))
        {
            return Ok(());
        }
        let contents = contents(&mut state, self.id)?;
        contents.pending.clear();
        contents.durable.clone_from(&contents.now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_go() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..60 {
            let disk = Disk::new(seed);
            let (dir, path) = (Path::new("/d"), Path::new("/d/f"));
            let media = disk.media(dir);
            let file = media.open(path, true).expect("a new file");
            file.write_at(0, &[1; 2048]).expect("written");
            file.sync().expect("synced");
            media.sync_directory(dir).expect("named");
            file.write_at(0, &[2; 2048]).expect("written");
            media.open(Path::new("/d/g"), true).expect("another");
            disk.lose_power();
            assert!(file.write_at(0, &[3]).is_err() && file.len().is_err(), "an old handle writes");
            let media = disk.media(dir);
            let mut held = [0; 2048];
            media.open(path, false).expect("it has a name").read_at(0, &mut held).expect("whole");
            for sector in held.chunks(512) {
                assert!(sector == [1; 512] || sector == [2; 512], "half a sector");
            }
            match (held.contains(&1), held.contains(&2)) {
                (true, true) => torn += 1,
                (true, false) => lost += 1,
                _ => kept += 1,
            }
        }
        assert!(lost > 0 && kept > 0 && torn > 0, "{lost} {kept} {torn}");
    }

    #[test]
    fn a_fuse_stops_in_the_middle() {
        let disk = Disk::new(1);
        let media = disk.media(Path::new("/d"));
        let file = media.open(Path::new("/d/f"), true).expect("a new file");
        disk.burn_fuse(1);
        assert!(file.write_at(0, &[1]).is_ok());
        assert!(file.write_at(0, &[2]).is_err(), "made, but not acknowledged");
        assert!(file.sync().is_err());
    }
}
