//! A mounted volume: names and attributes, each a command or a query, and the files open in this client.
//!
//! Attributes that this module gives include what the client has written and not yet committed (length and
//! time of modification), so that a program sees its own writes.

use crate::client::{Client, unexpected};
use crate::error::Error;
use crate::file::{FileState, OpenFile};
use crate::placement::Places;
use crate::writeback::Writeback;
use rain_namespace::command::{AttrChange, Command, Outcome, RenameMode, XattrMode};
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, DirectoryEntry, Query};
use rain_namespace::record::{Attr, FileKind, VolumeRecord};
use rain_types::Ino;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How long written data may wait in memory before it is stored without being asked for.
const FLUSH_IDLE_EVERY: Duration = Duration::from_secs(2);

/// Versions of closed files that are remembered, so that an unchanged file keeps its cache when opened again.
const VERSIONS_KEPT_MAX: usize = 65_536;

/// What a new inode is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    /// What.
    pub kind: FileKind,
    /// Permission bits, umask applied.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// A file only: an existing file of the name will do.
    pub or_existing: bool,
}

impl NewInode {
    /// A file, directory, pipe or socket.
    pub fn new(kind: FileKind, mode: u16, uid: u32, gid: u32) -> NewInode {
        NewInode { kind, mode, uid, gid, rdev: 0, target: Vec::new(), or_existing: false }
    }
}

/// Room in a volume, in bytes of user data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// What fits in all.
    pub total_bytes: u64,
    /// What still fits.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Bytes written and not yet stored, over all files of a volume.
#[derive(Debug)]
pub(crate) struct DirtyBudget {
    bytes: AtomicU64,
    bytes_max: u64,
    freed: Notify,
}

impl DirtyBudget {
    /// Whether so much more may be taken in.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.load(Relaxed) + bytes <= self.bytes_max
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.freed.notify_waiters();
    }

    /// Waits until something was freed, or a moment.
    pub(crate) async fn freed(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(20), self.freed.notified()).await;
    }
}

/// A volume in use by this client.
#[derive(Debug)]
pub struct Volume {
    pub(crate) cluster: Arc<Client>,
    record: VolumeRecord,
    places: RwLock<Arc<Places>>,
    pub(crate) next_group: AtomicU64,
    pub(crate) files: Mutex<HashMap<Ino, Arc<FileState>>>,
    versions: Mutex<BTreeMap<Ino, u64>>,
    pub(crate) budget: DirtyBudget,
    pub(crate) writeback: Arc<Writeback>,
    pub(crate) runtime: Handle,
}

impl Volume {
    pub(crate) fn attach(cluster: Arc<Client>, record: VolumeRecord) -> Result<Arc<Volume>, Error> {
        let volume = Arc::new(Volume {
            places: RwLock::new(Arc::new(Places::new(record.clone())?)),
            next_group: AtomicU64::new(u64::from(std::process::id())),
            files: Mutex::default(),
            versions: Mutex::default(),
            budget: DirtyBudget {
                bytes: AtomicU64::new(0),
                bytes_max: cluster.options().dirty_bytes_max,
                freed: Notify::new(),
            },
            writeback: Arc::new(Writeback::new()),
            runtime: Handle::current(),
            cluster: cluster.clone(),
            record,
        });
        let flusher = tokio::spawn(flush_idle_for_ever(Arc::downgrade(&volume)));
        cluster.own(flusher.abort_handle());
        volume.start_behind(&cluster);
        Ok(volume)
    }

    /// What the namespace keeps of the volume, as it was when it was opened.
    pub fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// The root directory.
    pub fn root(&self) -> Ino {
        self.record.root
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &Arc<Client> {
        &self.cluster
    }

    pub(crate) fn places(&self) -> Arc<Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_places(&self, places: Places) {
        *self.places.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(places);
    }

    pub(crate) fn files(&self) -> MutexGuard<'_, HashMap<Ino, Arc<FileState>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.files().get(&ino).cloned()
    }

    fn overlay(&self, mut attr: Attr) -> Attr {
        if attr.kind == FileKind::File
            && let Some(file) = self.file(attr.ino)
        {
            file.overlay(&mut attr);
        }
        attr
    }

    async fn attr_of(&self, query: &Query) -> Result<Attr, Error> {
        match self.ask(query).await? {
            Answer::Attr(attr) => Ok(self.overlay(attr)),
            _ => Err(unexpected("an inode")),
        }
    }

    async fn attr_from(&self, command: Command) -> Result<Attr, Error> {
        match self.change(command).await? {
            Outcome::Attr(attr) => Ok(self.overlay(attr)),
            _ => Err(unexpected("an inode")),
        }
    }

    /// A name in a directory.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Error> {
        self.attr_of(&Query::Lookup { parent, name: name.to_vec() }).await
    }

    /// An inode.
    pub async fn attr(&self, ino: Ino) -> Result<Attr, Error> {
        self.attr_of(&Query::GetAttr { ino }).await
    }

    /// Changes attributes. A new length or time comes after everything written before.
    pub async fn set_attr(&self, ino: Ino, change: AttrChange) -> Result<Attr, Error> {
        match self.file(ino) {
            Some(file) if change.size.is_some() || change.mtime.is_some() => {
                file.set_attr(self, change).await
            }
            _ => self.attr_from(Command::SetAttr { ino, change }).await,
        }
    }

    /// Makes an inode under a name.
    pub async fn make(&self, parent: Ino, name: &[u8], new: NewInode) -> Result<Attr, Error> {
        let NewInode { kind, mode, uid, gid, rdev, target, or_existing } = new;
        let name = name.to_vec();
        let ino = None;
        self.attr_from(Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing, ino })
            .await
    }

    /// Makes a file and opens it. With `or_existing` the file of that name, if there is one.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        new: NewInode,
    ) -> Result<(Attr, Arc<OpenFile>), Error> {
        let _opening = self.cluster.openings.begin();
        let made = !new.or_existing;
        let attr = self.make(parent, name, new).await?;
        Ok((attr.clone(), self.open_with(attr, made)))
    }

    /// Gives a file another name.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Error> {
        self.attr_from(Command::Link { ino, parent, name: name.to_vec() }).await
    }

    /// Takes a name away. A file that is open, here or elsewhere, lives on until it is closed.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Error> {
        self.remove(Command::Unlink { parent, name: name.to_vec() }).await
    }

    /// Takes an empty directory away.
    pub async fn remove_directory(&self, parent: Ino, name: &[u8]) -> Result<(), Error> {
        self.change(Command::RemoveDirectory { parent, name: name.to_vec() }).await.map(|_| ())
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), Error> {
        if let Some(file) = self
            .writeback
            .unpublished_over((parent, name), (new_parent, new_name))
            .and_then(|ino| self.file(ino))
        {
            // Should everything fail now, the name has the old contents or the new, as if the new had been stored by their writer.
            file.flush(self).await?;
        }
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        self.remove(Command::Rename { parent, name, new_parent, new_name, mode }).await
    }

    async fn remove(&self, command: Command) -> Result<(), Error> {
        let Outcome::Removed { ino, last_name_gone } = self.change(command).await? else {
            return Err(unexpected("what was removed"));
        };
        if last_name_gone {
            self.is_orphan(ino);
        }
        Ok(())
    }

    /// A file has no name any more.
    pub(crate) fn is_orphan(&self, ino: Ino) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino);
        match self.file(ino) {
            Some(file) => file.orphan(),
            None => self.writeback.closed(ino),
        }
    }

    /// Which files are open in this client, or closed and not stored yet.
    pub(crate) fn open_files(&self) -> Vec<Ino> {
        self.files().keys().copied().collect()
    }

    /// The target of a symlink.
    pub async fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Error> {
        self.bytes_of(&Query::ReadLink { ino }).await
    }

    async fn bytes_of(&self, query: &Query) -> Result<Vec<u8>, Error> {
        match self.ask(query).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => Err(unexpected("bytes")),
        }
    }

    /// Names of a directory in byte order, after a name; and whether there are more.
    pub async fn read_directory(
        &self,
        dir: Ino,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<(Vec<DirectoryEntry>, bool), Error> {
        let (mut entries, more) = self.list(dir, after, limit).await?;
        if !self.files().is_empty() {
            for entry in &mut entries {
                entry.attr = self.overlay(entry.attr.clone());
            }
        }
        Ok((entries, more))
    }

    /// One extended attribute.
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Error> {
        self.bytes_of(&Query::GetXattr { ino, name: name.to_vec() }).await
    }

    /// The names of the extended attributes.
    pub async fn list_xattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, Error> {
        match self.ask(&Query::ListXattr { ino }).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(unexpected("names")),
        }
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Error> {
        let command = Command::SetXattr { ino, name: name.to_vec(), value: value.to_vec(), mode };
        self.change(command).await.map(|_| ())
    }

    /// Takes an extended attribute away.
    pub async fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), Error> {
        self.change(Command::RemoveXattr { ino, name: name.to_vec() }).await.map(|_| ())
    }

    /// The inode at a path of the volume (`/dir/file`). Symlinks on the way are not followed: paths of
    /// commands name what is stored.
    pub async fn resolve(&self, path: &[u8]) -> Result<Attr, Error> {
        let mut attr = None;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let parent = attr.as_ref().map_or(self.root(), |attr: &Attr| attr.ino);
            attr = Some(self.lookup(parent, name).await?);
        }
        match attr {
            Some(attr) => Ok(attr),
            None => self.attr(self.root()).await,
        }
    }

    /// Room in the volume: what its nodes report, divided by what the code adds. Nodes that do not answer
    /// count as full.
    pub async fn space(&self) -> Result<Space, Error> {
        let members = self.places().members();
        let asked = members.iter().map(|node| self.cluster.node_status(*node));
        let reports = futures::future::join_all(asked).await;
        let (mut total, mut free) = (0u64, Vec::new());
        for report in reports.iter().flatten() {
            total += report.used_bytes + report.free_bytes;
            free.push(report.free_bytes);
        }
        let code = self.record.code;
        let data_part = |raw: u64| (u128::from(raw) * u128::from(code.k) / code.n() as u128) as u64;
        // Every block takes a share on n nodes: with n nodes in all, the fullest decides.
        let free_raw = if members.len() == code.n() {
            free.iter().min().copied().unwrap_or(0) * free.len() as u64
        } else {
            free.iter().sum()
        };
        let inodes = self.record_now().await?.inodes;
        Ok(Space { total_bytes: data_part(total), free_bytes: data_part(free_raw), inodes })
    }

    /// Opens a file. What others committed before is seen from here on (close-to-open). Whoever has looked its name up just before
    /// still gets it when that has gone meanwhile.
    pub async fn open(self: &Arc<Self>, ino: Ino) -> Result<Arc<OpenFile>, Error> {
        let _opening = self.cluster.openings.begin();
        let open_here = self.file(ino).is_some_and(|file| file.is_open());
        let query = if open_here { Query::GetAttr { ino } } else { Query::Open { ino } };
        let Answer::Attr(attr) = self.ask(&query).await? else {
            return Err(unexpected("an inode"));
        };
        match attr.kind {
            FileKind::File => Ok(self.open_with(attr, false)),
            FileKind::Directory => Err(NsError::IsDirectory.into()),
            _ => Err(NsError::Invalid("only files have data".into()).into()),
        }
    }

    fn open_with(self: &Arc<Self>, attr: Attr, made: bool) -> Arc<OpenFile> {
        let ino = attr.ino;
        let seen = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&ino).copied();
        let mut files = self.files();
        let (file, keep_cache) = match files.get(&ino) {
            Some(file) => (file.clone(), file.opened_again(attr)),
            None => {
                let same = made || seen == Some(attr.version);
                let file = Arc::new(FileState::new(attr));
                files.insert(ino, file.clone());
                (file, same)
            }
        };
        OpenFile::new(self.clone(), file, keep_cache)
    }

    /// Remembers which version of a file this client knows.
    pub(crate) fn remember_version(&self, ino: Ino, version: u64) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if versions.len() >= VERSIONS_KEPT_MAX {
            versions.pop_first();
        }
        versions.insert(ino, version);
    }

    /// Stores and commits everything written so far to any file, and everything else that was done. Tries them all; gives the first error.
    pub async fn flush_all(&self) -> Result<(), Error> {
        let stored = self.store_all().await;
        stored.and(self.settle().await)
    }

    /// Stores and commits everything written so far to any file.
    pub(crate) async fn store_all(&self) -> Result<(), Error> {
        let waits = |file: &&Arc<FileState>| file.is_dirty() || file.is_leaving();
        let dirty: Vec<_> = self.files().values().filter(waits).cloned().collect();
        let mut first = Ok(());
        for file in dirty {
            let flushed = file.flush(self).await.and(file.let_go(self).await);
            self.close_if_idle(&file);
            if first.is_ok() {
                first = flushed;
            }
        }
        first
    }

    /// Forgets a file that nobody has open and that has nothing to store.
    pub(crate) fn close_if_idle(&self, file: &Arc<FileState>) {
        let mut files = self.files();
        if file.is_idle() {
            if let Some(version) = file.trusted_version() {
                self.remember_version(file.ino(), version);
            }
            files.remove(&file.ino());
            self.writeback.closed(file.ino());
        }
    }
}

async fn flush_idle_for_ever(volume: Weak<Volume>) {
    loop {
        tokio::time::sleep(FLUSH_IDLE_EVERY).await;
        let Some(volume) = volume.upgrade() else { return };
        if let Err(error) = volume.store_all().await {
            tracing::warn!(%error, "written data could not be stored yet; it stays in memory and is tried again");
        }
    }
}
