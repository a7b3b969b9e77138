//! The file table of a volume: the state of every file that is open in this client, or closed and not stored
//! yet.
//!
//! Invariants:
//! 1. A file has at most one state in the table.
//! 2. A state leaves the table when no program has the file open, nothing of it waits to be stored, and no
//!    lock of it is left.
//! 3. For a file without a state, the table remembers the version of contents that the kernel's pages may
//!    have.

use super::budget::DirtyBudget;
use super::state::FileState;
use crate::block::Blocks;
use crate::error::Error;
use crate::placement::Placement;
use crate::session::Session;
use crate::writeback::{self, UnstoredFiles, Writeback};
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::record::{Attr, FileKind};
use rain_types::{CodeSpec, Ino};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Written data waits in memory for this long before it is stored unasked.
const STORE_IDLE_EVERY: Duration = Duration::from_secs(2);

/// Closed files whose version is remembered, so that the kernel's pages of an unchanged file stay valid when
/// it is opened again.
const VERSIONS_MAX: usize = 65_536;

/// Closed files stored at a time when their directory is returned.
const STORED_AT_ONCE: usize = 16;

/// The file table, with what files need of the rungs below.
#[derive(Debug)]
pub(crate) struct FileTable {
    pub(super) session: Arc<Session>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) placement: Arc<Placement>,
    pub(super) writeback: Arc<Writeback>,
    pub(super) code: CodeSpec,
    pub(super) budget: DirtyBudget,
    states: Mutex<HashMap<Ino, Arc<FileState>>>,
    pub(super) versions: Mutex<BTreeMap<Ino, u64>>,
}

impl FileTable {
    /// Makes the file table of a volume, its write-back, and the task that stores idle files.
    pub(crate) fn start(
        session: Arc<Session>,
        blocks: Arc<Blocks>,
        placement: Arc<Placement>,
    ) -> Arc<FileTable> {
        let files = Arc::new_cyclic(|files: &Weak<FileTable>| FileTable {
            code: placement.groups().record().code,
            writeback: writeback::start(session.clone(), placement.clone(), files.clone()),
            budget: DirtyBudget::new(session.options().dirty_bytes_max),
            states: Mutex::default(),
            versions: Mutex::default(),
            session,
            blocks,
            placement,
        });
        files.session.spawn_owned(store_idle_forever(Arc::downgrade(&files)));
        files
    }

    /// The write-back of the volume.
    pub(crate) fn writeback(&self) -> &Arc<Writeback> {
        &self.writeback
    }

    /// All states. Opening and closing a file happens under this lock.
    pub(super) fn states(&self) -> MutexGuard<'_, HashMap<Ino, Arc<FileState>>> {
        self.states.lock()
    }

    /// A file's state, if it has one.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.states().get(&ino).cloned()
    }

    /// Whether no file has a state.
    pub(crate) fn is_empty(&self) -> bool {
        self.states().is_empty()
    }

    /// The files that are open in this client, or closed and not stored yet.
    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.states().keys().copied().collect()
    }

    /// Lays this client's writes that are not committed yet over an inode's attributes.
    pub(crate) fn overlay(&self, mut attr: Attr) -> Attr {
        if attr.kind == FileKind::File
            && let Some(file) = self.get(attr.ino)
        {
            file.overlay(&mut attr);
        }
        attr
    }

    /// Remembers the version of contents that the kernel's pages of a file have.
    pub(crate) fn remember_version(&self, ino: Ino, version: u64) {
        let mut versions = self.versions.lock();
        if versions.len() >= VERSIONS_MAX {
            versions.pop_first();
        }
        versions.insert(ino, version);
    }

    /// Stores and commits what was written to any file, and releases the locks of owners that have closed.
    /// Tries all files and returns the first error.
    pub(crate) async fn store_all(&self) -> Result<(), Error> {
        let waits = |file: &&Arc<FileState>| file.is_dirty() || file.has_locks_to_release();
        let waiting: Vec<_> = self.states().values().filter(waits).cloned().collect();
        let mut first = Ok(());
        for file in waiting {
            let stored = file.flush(self).await.and(file.release_closed(self).await);
            self.remove_if_idle(&file);
            if first.is_ok() {
                first = stored;
            }
        }
        first
    }

    /// Stores and commits everything written so far to any file, and applies every change of a name. Tries
    /// all files and returns the first error.
    pub(crate) async fn flush_all(&self) -> Result<(), Error> {
        let stored = self.store_all().await;
        stored.and(self.writeback.drain().await)
    }

    /// The volume's name, for messages.
    pub(crate) fn volume_name(&self) -> String {
        self.placement.groups().record().name.clone()
    }

    /// Removes the state of a file that no program has open and that has nothing to store.
    pub(crate) fn remove_if_idle(&self, file: &Arc<FileState>) {
        let mut states = self.states();
        if file.is_idle() {
            if let Some(version) = file.trusted_version() {
                self.remember_version(file.ino(), version);
            }
            states.remove(&file.ino());
            self.writeback.closed(file.ino());
        }
    }

    /// Reads the volume's placement groups from the namespace.
    pub(crate) async fn refresh_placement(&self) -> Result<(), Error> {
        // In this order: a directory that is delegated in between already gets the new groups.
        let record = self.placement.refresh(&self.session).await?;
        self.writeback.volume_changed(&record);
        Ok(())
    }
}

impl UnstoredFiles for FileTable {
    fn store_closed<'a>(&'a self, inos: &'a [Ino]) -> BoxFuture<'a, ()> {
        let closed: Vec<_> = {
            let states = self.states();
            let files = inos.iter().filter_map(|ino| states.get(ino));
            files.filter(|file| file.is_closed_unstored()).cloned().collect()
        };
        let stores = closed.into_iter().map(move |file| async move {
            if let Err(error) = file.flush(self).await {
                tracing::warn!(
                    %error,
                    ino = %file.ino(),
                    "storing a file whose directory is being returned; its data stays in memory"
                );
            }
            self.remove_if_idle(&file);
        });
        Box::pin(async move {
            futures::stream::iter(stores).buffer_unordered(STORED_AT_ONCE).for_each(|()| async {}).await;
        })
    }

    fn unlinked(&self, ino: Ino) {
        self.versions.lock().remove(&ino);
        match self.get(ino) {
            Some(file) => file.mark_unlinked(),
            None => self.writeback.closed(ino),
        }
    }
}

/// Stores written data in the background although no program has asked for it, until the volume is dropped.
async fn store_idle_forever(files: Weak<FileTable>) {
    loop {
        tokio::time::sleep(STORE_IDLE_EVERY).await;
        let Some(files) = files.upgrade() else { return };
        if let Err(error) = files.store_all().await {
            tracing::warn!(%error, "written data could not be stored yet; it stays in memory and is tried again");
        }
    }
}
