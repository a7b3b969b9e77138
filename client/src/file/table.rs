//! The file table of a volume: the state of every file that is open in this client, or closed and not stored
//! yet.
//!
//! Invariants:
//! 1. A file has at most one state in the table.
//! 2. A state leaves the table when no program has the file open, nothing of it waits to be stored, and no
//!    lock of it is left.
//! 3. An open, and an answer that this client's programs get, show every change that this client had made when
//!    the open or the question began ([`Question`]). Both are decided under the table's lock.
//! 4. For a file without a state, the table remembers the versions that only this client has made, so that
//!    pages of an unchanged file stay valid.

use super::budget::DirtyBudget;
use super::lease::KernelCache;
use super::questions::Questions;
use super::state::{Closed, FileState, OwnVersions};
use crate::block::Blocks;
use crate::error::Error;
use crate::placement::Placement;
use crate::session::Session;
use crate::writeback::{self, UnstoredFiles, Writeback};
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::command::AttrChange;
use rain_namespace::record::{Attr, FileKind};
use rain_types::{CodeSpec, Ino};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Written data waits in memory for this long before it is stored unasked.
const STORE_IDLE_EVERY: Duration = Duration::from_secs(2);

/// Closed files whose versions are remembered, so that the kernel's pages of an unchanged file stay valid when
/// it is opened again.
const CLOSED_MAX: usize = 65_536;

/// Files stored at a time when other clients want them, or the directory that they are in.
pub(super) const STORED_AT_ONCE: usize = 16;

/// The file table, with what files need of the rungs below.
#[derive(Debug)]
pub(crate) struct FileTable {
    pub(super) session: Arc<Session>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) placement: Arc<Placement>,
    pub(super) writeback: Arc<Writeback>,
    pub(super) code: CodeSpec,
    pub(super) budget: DirtyBudget,
    /// What has cached this volume's names, attributes and pages.
    pub(super) kernel: OnceLock<Weak<dyn KernelCache>>,
    table: Mutex<Table>,
}

/// What is under the table's lock. Opening and closing a file happens under it.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The files that are open, or closed and not stored yet.
    states: HashMap<Ino, Arc<FileState>>,
    questions: Questions,
    /// The versions at the last close of files that are open no more.
    closed: BTreeMap<Ino, OwnVersions>,
}

/// A question to the namespace that may be answered with a file's attributes. It is begun before it is asked,
/// and kept until the answer is taken in.
pub(crate) struct Question<'a> {
    files: &'a FileTable,
    number: u64,
}

impl Question<'_> {
    /// The attributes of an answer, with what this client knows better laid over them. None: a change of this
    /// client has overtaken the answer, so the question is to be asked again.
    pub(crate) fn current(&self, mut attr: Attr) -> Option<Attr> {
        if attr.kind != FileKind::File {
            return Some(attr);
        }
        let table = self.files.table();
        let state = table.states.get(&attr.ino).cloned();
        let is_overtaken = table.questions.is_overtaken(attr.ino, attr.version);
        drop(table);
        match state {
            Some(state) => state.overlay(&mut attr),
            None if is_overtaken => return None,
            None => {}
        }
        Some(attr)
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.files.table().questions.end(self.number);
    }
}

impl Table {
    pub(super) fn state(&self, ino: Ino) -> Option<&Arc<FileState>> {
        self.states.get(&ino)
    }
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
            kernel: OnceLock::new(),
            table: Mutex::default(),
            session,
            blocks,
            placement,
        });
        let holder: Weak<FileTable> = Arc::downgrade(&files);
        files.session.leases().add_holder(holder);
        files.session.spawn_owned(store_idle_forever(Arc::downgrade(&files)));
        files
    }

    /// The write-back of the volume.
    pub(crate) fn writeback(&self) -> &Arc<Writeback> {
        &self.writeback
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Begins a question whose answer may have a file's attributes.
    pub(crate) fn question(&self) -> Question<'_> {
        Question { files: self, number: self.table().questions.begin() }
    }

    /// A file's state, if it has one.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.table().states.get(&ino).cloned()
    }

    /// Counts an open of a file with the attributes that the namespace gave, and returns the file's state. None:
    /// a change of this client has overtaken the attributes. `made`: the file was just created, so nobody has
    /// read it.
    pub(super) fn open_state(
        &self,
        attr: Attr,
        made: bool,
        question: &Question<'_>,
    ) -> Option<Arc<FileState>> {
        let ino = attr.ino;
        let mut table = self.table();
        // Under the table's lock: whoever publishes the inode looks for its state after that.
        let private = self.writeback.is_unpublished(ino);
        let state = match table.states.get(&ino) {
            Some(state) => {
                state.opened_again(attr);
                state.clone()
            }
            None if table.questions.is_overtaken(ino, attr.version) => return None,
            None => {
                let known = table.closed.get(&ino).filter(|known| known.last == attr.version);
                let own_since = if made { 0 } else { known.map_or(attr.version, |known| known.since) };
                let state = Arc::new(FileState::new(attr, own_since, private));
                table.states.insert(ino, state.clone());
                state
            }
        };
        debug_assert!(std::ptr::eq(question.files, self), "the question is to these files");
        state.count_open();
        Some(state)
    }

    /// Ends an open. The locks of the last one are marked for release in the same step, so that a file which is
    /// opened again meanwhile keeps its new locks.
    pub(super) fn close(&self, state: &FileState) -> Closed {
        let _table = self.table();
        let (closed, dropped) = state.count_close();
        self.budget.remove(dropped);
        closed
    }

    /// Notes a version of the contents that this client has made, before its programs can know of it.
    pub(super) fn take_in(&self, ino: Ino, version: u64) {
        self.table().questions.take_in(ino, version);
    }

    /// Takes in the outcome of a change of attributes, in the state for which it was made and in the one that
    /// the file has by now: the file may have been closed and opened meanwhile.
    pub(super) fn attributes_changed(&self, of: Option<&Arc<FileState>>, attr: &Attr, change: &AttrChange) {
        let mut table = self.table();
        table.questions.take_in(attr.ino, attr.version);
        let now = table.states.get(&attr.ino).filter(|now| of.is_none_or(|of| !Arc::ptr_eq(of, now)));
        if let Some(now) = now {
            now.attributes_changed(attr.clone(), change, false);
        }
        if let Some(of) = of {
            of.attributes_changed(attr.clone(), change, change.size.is_some());
        }
    }

    /// The states of all files that have one.
    pub(super) fn states(&self) -> Vec<Arc<FileState>> {
        self.table().states.values().cloned().collect()
    }

    /// The files that are open in this client, or closed and not stored yet.
    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.table().states.keys().copied().collect()
    }

    /// Stores and commits what was written to any file, and releases the locks of owners that have closed.
    /// Tries all files and returns the first error.
    pub(crate) async fn store_all(&self) -> Result<(), Error> {
        let waits = |file: &&Arc<FileState>| file.is_dirty() || file.has_locks_to_release();
        let waiting: Vec<_> = self.table().states.values().filter(waits).cloned().collect();
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

    /// Removes the state of a file that no program has open and that has nothing to store. Another state that
    /// the file has got since stays.
    pub(crate) fn remove_if_idle(&self, state: &Arc<FileState>) {
        let ino = state.ino();
        let mut table = self.table();
        let is_current = table.states.get(&ino).is_some_and(|current| Arc::ptr_eq(current, state));
        if !is_current || !state.is_idle() {
            return;
        }
        table.states.remove(&ino);
        if state.end_lease() {
            self.session.leases().unused(ino);
        }
        if let Some(versions) = state.own_versions() {
            if table.closed.len() >= CLOSED_MAX {
                table.closed.pop_first();
            }
            table.closed.insert(ino, versions);
        }
        self.writeback.closed(ino);
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
            let table = self.table();
            let files = inos.iter().filter_map(|ino| table.states.get(ino));
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

    fn publish<'a>(&'a self, inos: &'a [Ino], directories: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(self.end_privacy(inos, directories))
    }

    fn publish_all(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end_all_privacy())
    }

    fn unlinked(&self, ino: Ino) {
        let mut table = self.table();
        table.closed.remove(&ino);
        match table.states.get(&ino) {
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
