//! A file's lease: what this client may answer from what it has of the file, and whether it may keep written
//! data back.
//!
//! A file that no other client can know of (`private`) needs none. Without a read lease every read first asks
//! for the file's attributes; without a write lease a write first gets one. Both end when another client wants
//! the file: then written data is stored, and what was read is asked for again.
//!
//! A client that keeps no leases ([`crate::Options::caches`]) answers from what it has, and keeps written data
//! back as it likes.

use super::lease::{Dropped, KernelCache};
use super::state::{FileState, Inner};
use super::table::{FileTable, STORED_AT_ONCE};
use crate::error::Error;
use crate::session::leases::{Grant, LeaseHolder};
use futures::StreamExt;
use futures::future::BoxFuture;
use rain_namespace::lease::{Mode, Subject, WRITE_OVERDUE, Wanted};
use rain_namespace::query::{Answer, Query};
use rain_proto::v1::LeaseKind;
use rain_types::Ino;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Pause before data that another client wants is stored once more.
const STORE_AGAIN: Duration = Duration::from_millis(50);

/// Longest wait for writes under way before their file is stored for another client. A write under way only
/// copies bytes.
const ADMITTED_MAX: Duration = Duration::from_secs(1);

impl FileTable {
    /// Whether what is known of a file is the truth, or as good as any other answer while there is no leader.
    fn may_read(&self, inner: &Inner) -> bool {
        !self.session.caches()
            || inner.lease.private
            || inner.lease.mode.is_some() && self.session.leases().are_valid()
            || self.session.without_leader().is_some()
    }

    /// Whether written data may be kept back.
    pub(super) fn may_write(&self, inner: &Inner) -> bool {
        if !self.session.caches() {
            return true;
        }
        let may =
            inner.lease.private || inner.lease.mode == Some(Mode::Write) && self.session.leases().are_valid();
        may && inner.lease.wanted == 0
    }

    /// Whether other clients must not read the file at the leader: it has data here that they do not see there.
    fn is_written(inner: &Inner) -> bool {
        let is_dirty = !inner.dirty.is_empty() || !inner.flushing.is_empty();
        !inner.lease.private && (is_dirty || inner.lease.mode == Some(Mode::Write))
    }
}

impl FileState {
    /// Takes in a lease that came with an answer about the file.
    pub(super) fn take_lease(&self, files: &FileTable, grant: &Grant) {
        let mut inner = self.inner();
        // Under the file's lock: whoever gives the lease up does that after the releases were noted.
        if let Some(mode) = files.session.leases().take(grant, inner.attr.ino) {
            inner.lease.mode = inner.lease.mode.max(Some(mode));
        }
    }

    /// Makes what is known of the file the truth at some moment after the call.
    pub(super) async fn ensure_current(&self, files: &FileTable) -> Result<(), Error> {
        if files.may_read(&self.inner()) {
            return Ok(());
        }
        let query = Query::GetAttr { ino: self.ino() };
        let (answer, grant) = files.writeback.ask_for(&query, LeaseKind::LeaseReadOpen).await?;
        let Answer::Attr(attr) = answer else { return Err(Error::unexpected("an inode")) };
        self.opened_again(attr);
        self.take_lease(files, &grant);
        Ok(())
    }

    /// Gets a write lease, and admits a write under it.
    pub(super) async fn admit_write<'a>(&'a self, files: &FileTable) -> Result<Admitted<'a>, Error> {
        loop {
            {
                let mut inner = self.inner();
                if files.may_write(&inner) {
                    inner.lease.admitted += 1;
                    return Ok(Admitted(self));
                }
            }
            // The leader knows no file whose making is still queued here.
            files.writeback.wait_until_known(self.ino()).await?;
            let (attr, grant) = files.session.write_lease(self.ino()).await?;
            self.opened_again(attr);
            self.take_lease(files, &grant);
        }
    }

    /// From here on no write is admitted. Returns once those that were are in the buffer.
    async fn stop_writes(&self) {
        let until = tokio::time::Instant::now() + ADMITTED_MAX;
        loop {
            let left = self.written.notified();
            if self.inner().lease.admitted == 0 {
                return;
            }
            if tokio::time::timeout_at(until, left).await.is_err() {
                return;
            }
        }
    }

    /// Gives up what another client wants of the file: written data is stored.
    ///
    /// Until it is, the file counts as written: a new leader must hear of it.
    async fn give_up(&self, files: &FileTable, keep_read: bool) {
        let registration = {
            let mut inner = self.inner();
            inner.lease.wanted += 1;
            inner.lease.registration
        };
        self.stop_writes().await;
        self.store_wanted(files).await;
        let mut inner = self.inner();
        inner.lease.wanted -= 1;
        inner.lease.private = false;
        if inner.lease.registration == registration {
            inner.lease.mode = inner.lease.mode.filter(|_| keep_read).map(|_| Mode::Read);
        }
    }

    /// Stores written data for another client, and tries for as long as the leader waits for it. Without contact
    /// this client does not know of a leader that waits: most likely there is none, and the other client has to
    /// wait, too.
    async fn store_wanted(&self, files: &FileTable) {
        let mut begun = Instant::now();
        while let Err(error) = self.flush(files).await {
            if files.session.caches() && !files.session.leases().are_valid() {
                begun = Instant::now();
            }
            let for_good = matches!(error, Error::Refused(_) | Error::LockLost);
            if for_good || begun.elapsed() > WRITE_OVERDUE {
                let ino = self.ino();
                tracing::warn!(
                    %error,
                    %ino,
                    "another client wants a file whose data cannot be stored; the data stays in memory and is stored later"
                );
                return;
            }
            tokio::time::sleep(STORE_AGAIN).await;
        }
    }

    /// Ends the lease of a file that is open no more. Returns whether there was one.
    pub(super) fn end_lease(&self) -> bool {
        self.inner().lease.mode.take().is_some()
    }
}

/// A write that may be kept back. The lease is not given up before this is dropped.
pub(super) struct Admitted<'a>(&'a FileState);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.inner().lease.admitted -= 1;
        self.0.written.notify_waiters();
    }
}

impl FileTable {
    /// Sets what has cached this volume's names, attributes and pages.
    pub(crate) fn set_kernel_cache(&self, kernel: Weak<dyn KernelCache>) {
        let _ = self.kernel.set(kernel);
    }

    async fn drop_in_kernel(&self, dropped: &[Dropped]) {
        if let Some(kernel) = self.kernel.get().and_then(Weak::upgrade) {
            kernel.drop_cached(dropped).await;
        }
    }

    async fn drop_all_in_kernel(&self, files: &[Ino]) {
        if let Some(kernel) = self.kernel.get().and_then(Weak::upgrade) {
            kernel.drop_all(files).await;
        }
    }

    /// Gives files up, several at a time. `true`: a read lease is kept.
    async fn give_up_each(&self, files: Vec<(Arc<FileState>, bool)>) {
        let gives =
            files.into_iter().map(|(file, keep_read)| async move { file.give_up(self, keep_read).await });
        futures::stream::iter(gives).buffer_unordered(STORED_AT_ONCE).for_each(|()| async {}).await;
    }

    /// The delegations of this client are lost: no file is private any more.
    pub(super) async fn end_all_privacy(&self) {
        for file in self.states() {
            if file.inner().lease.private {
                file.give_up(self, false).await;
            }
        }
        self.drop_all_in_kernel(&self.inos()).await;
    }

    /// Other clients are about to know of these inodes, which only this client knew or whose names it alone had:
    /// from here on it needs leases for them. Files are stored.
    pub(super) async fn end_privacy(&self, inos: &[Ino], directories: &[Ino]) {
        self.give_up_each(inos.iter().filter_map(|ino| Some((self.get(*ino)?, false))).collect()).await;
        let inodes = inos.iter().chain(directories).map(|ino| Dropped::Inode(*ino));
        // An inode that is no directory has no names.
        let names = inos.iter().chain(directories).map(|ino| Dropped::Names(*ino));
        let dropped: Vec<Dropped> = inodes.chain(names).collect();
        self.drop_in_kernel(&dropped).await;
    }
}

impl LeaseHolder for FileTable {
    fn give_up<'a>(&'a self, wanted: &'a [Wanted]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let gives = wanted.iter().filter_map(|wanted| match wanted.subject {
                Subject::Inode(ino) => Some((self.get(ino)?, wanted.keep_read)),
                Subject::Name(..) => None,
            });
            self.give_up_each(gives.collect()).await;
            let dropped = wanted.iter().filter(|wanted| !wanted.keep_read);
            let dropped = dropped.map(|wanted| match &wanted.subject {
                Subject::Inode(ino) => Dropped::Inode(*ino),
                Subject::Name(parent, name) => Dropped::Name(*parent, name.clone()),
            });
            let dropped: Vec<Dropped> = dropped.collect();
            if !dropped.is_empty() {
                self.drop_in_kernel(&dropped).await;
            }
        })
    }

    fn drop_unleased(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut files = Vec::new();
            for file in self.states() {
                let mut inner = file.inner();
                let is_leased = inner.lease.mode.is_some() || !inner.lease.private;
                if is_leased && self.session.leases().read_for(&Subject::Inode(inner.attr.ino)).is_zero() {
                    // The pages of a file with a write lease, too: another client may get the lease. And those of
                    // a file that is just being given up.
                    files.push(inner.attr.ino);
                    inner.lease.mode = inner.lease.mode.filter(|mode| *mode == Mode::Write);
                }
            }
            if let Some(kernel) = self.kernel.get().and_then(Weak::upgrade) {
                kernel.drop_unleased(&files).await;
            }
        })
    }

    fn writes(&self) -> Vec<Ino> {
        let writes = |file: Arc<FileState>| {
            let inner = file.inner();
            FileTable::is_written(&inner).then_some(inner.attr.ino)
        };
        self.states().into_iter().filter_map(writes).collect()
    }

    fn writes_kept(&self, kept: &HashMap<Ino, u64>) {
        for file in self.states() {
            let mut inner = file.inner();
            inner.lease.registration += 1;
            if kept.contains_key(&inner.attr.ino) {
                inner.lease.mode = Some(Mode::Write);
            } else if inner.lease.mode == Some(Mode::Write) {
                inner.lease.mode = None;
            }
        }
    }
}
