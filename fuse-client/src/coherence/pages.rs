//! Pages of files: what the kernel may keep of them after an open, a lock, a change by another mount, and a write
//! that goes past them; and the length up to which the kernel reads them.
//!
//! Invariants:
//! 1. A write past the kernel's pages (O_DIRECT, O_APPEND) is answered after the kernel has dropped the pages that
//!    it has changed. A read that the kernel asks for later gets the new bytes.
//! 2. An append is written where the namespace has the end, which may be behind the end that the kernel knows. The
//!    kernel's length includes it when the append is answered.
//! 3. A read(2) at the end of a file sees the length that the file has when the kernel asks for it. The kernel
//!    ignores attributes of a GETATTR that was sent before other attributes were dropped, and would go on with an
//!    older length. So after another mount's change the length is told by a way that the kernel does not ignore
//!    ([`Coherence::tell_length`]).
//!
//! All waits for the kernel's pages but those of opens and locks are bounded: a request under way may wait for the
//! same thing that waits for this.

use super::lengths::{LOWERED_WITHIN, Lowered};
use super::writes::{PAGE_BYTES, WriteUnderWay, between};
use super::{Coherence, NAME_FRESH};
use fuser::FopenFlags;
use rain_client::OpenFile;
use rain_namespace::record::Attr;
use rain_types::Ino;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The longest wait for pages that a request under way has locked.
const PAGES_LOCKED_MAX: Duration = Duration::from_millis(200);

/// The longest wait for pages that a read has locked which waits for the cluster: longer than the client's deadline.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(35);

/// The longest wait for a page that a write under way may have locked. Such a page has no older contents: it was
/// never read.
const WRITTEN_PAGE_LOCKED_MAX: Duration = Duration::from_millis(5);

/// Writes past the kernel's pages, none of them after a read, until the kernel drops all pages of the file. A write
/// costs two to five times as much while the kernel has pages.
const UNREAD_WRITES_MAX: u32 = 32;

/// Opens and locks: what the kernel may keep.
impl Coherence {
    /// Whether the thread looked up a name of the inode just before this open. It is asked before the
    /// namespace is, once for each open.
    pub(crate) fn name_is_fresh(&self, ino: Ino, thread: u32) -> bool {
        self.inodes.take_name_age(ino, thread).is_some_and(|age| age < NAME_FRESH)
    }

    /// Whether the name by which the kernel came to this file may be gone, or mean another file by now. Then
    /// the open is answered with ESTALE, on which the kernel looks the name up again, once.
    ///
    /// Behind a fresh name the file is as it was a moment ago, which is as good. A file that is open here
    /// already is one that its programs may go on to use.
    pub(crate) fn name_may_be_gone(&self, file: &OpenFile, name_is_fresh: bool) -> bool {
        file.attr().nlink == 0 && !file.is_shared() && !name_is_fresh
    }

    /// A file was opened: the kernel drops what it has of other contents. The reply comes after this, and may
    /// tell the kernel to keep its pages.
    pub(crate) async fn opened(&self, ino: Ino, file: &OpenFile) {
        if !self.drop_older_pages(ino, file).await && !self.inodes.has_version(ino, file.attr().version) {
            self.notifications.drop_attributes(ino);
        }
    }

    /// Has the kernel drop its pages and attributes, if pages may be of contents from before another client's
    /// change. Returns whether they were.
    async fn drop_older_pages(&self, ino: Ino, file: &OpenFile) -> bool {
        // Read before the kernel drops anything: a change that is learned meanwhile is a later one. A read of
        // the kernel that is under way has its page locked, so the kernel waits for it and drops the page.
        let since = file.own_since();
        let drops = self.inodes.pages_from(ino).is_some_and(|from| from < since);
        if drops {
            self.notifications.drop_pages(ino).await;
        }
        self.inodes.pages_are_from(ino, since);
        drops
    }

    /// An open has emptied a file (O_TRUNC): the kernel drops its attributes. The reply comes after this.
    pub(crate) fn emptied(&self, ino: Ino) {
        self.notifications.drop_attributes(ino);
    }

    /// How the kernel is to treat a handle: past its cache (O_DIRECT, O_APPEND), or keeping its pages. Pages that are
    /// to go were dropped before ([`Coherence::opened`]).
    ///
    /// Never FOPEN_NOFLUSH: it would lose errors at close.
    pub(crate) fn open_flags(&self, past_pages: bool) -> FopenFlags {
        if past_pages {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        }
    }

    /// A lock was granted: the kernel must not show what was there before it. The reply comes after this.
    pub(crate) async fn lock_granted(&self, ino: Ino, file: &OpenFile) {
        if !self.drop_older_pages(ino, file).await {
            self.notifications.drop_attributes(ino);
        }
    }
}

/// Reads and writes.
impl Coherence {
    /// A request begins that may give the kernel pages of the file.
    pub(crate) fn pages_filled(&self, ino: Ino) {
        self.inodes.pages_filled(ino);
    }

    /// A read was answered with bytes that the kernel must not keep: it drops their pages.
    pub(crate) async fn drop_read(&self, ino: Ino, offset: u64, size: u32) {
        self.drop_pages_of(ino, offset, offset + u64::from(size.max(1))).await;
    }

    /// Whether the kernel may have pages of the file. Asked after a write past them was taken: a read of the kernel
    /// that begins later has the new bytes.
    pub(crate) fn may_have_pages(&self, ino: Ino) -> bool {
        self.inodes.pages(ino).is_some()
    }

    /// Bytes were written past the kernel's pages: the kernel drops the pages that they are in, from `from` to `end`.
    /// The reply comes after this.
    pub(crate) async fn written_past_pages(&self, ino: Ino, from: u64, end: u64) {
        if !self.may_have_pages(ino) {
            return;
        }
        if self.inodes.written_past(ino) >= UNREAD_WRITES_MAX {
            // Nobody reads the file: without pages the next writes need no notification.
            self.drop_pages_within(ino).await;
            return;
        }
        self.drop_pages_of(ino, from, end).await;
    }

    /// Has the kernel drop the pages that the bytes from `from` to `end` are in.
    async fn drop_pages_of(&self, ino: Ino, from: u64, end: u64) {
        let from = from - from % PAGE_BYTES;
        let dropped = self.notifications.drop_range(ino, from, (end - from).max(1));
        let _ = tokio::time::timeout(PAGES_LOCKED_MAX, dropped).await;
    }

    /// A write through the kernel's pages waits for its answer. It ends when the result is dropped.
    pub(crate) fn write_under_way(&self, ino: Ino, offset: u64, len: usize) -> WriteUnderWay<'_> {
        self.writes.begin(ino, offset, len)
    }

    /// An append through the kernel's pages, of a handle that got O_APPEND after its open, went elsewhere than the
    /// kernel believed the end to be, and the kernel put the bytes into its pages there. The pages are dropped in the
    /// background, as the write's own reply must not wait for it.
    pub(crate) fn append_misplaced(&self, ino: Ino) {
        self.inodes.doubt_length(ino);
        drop(self.notifications.drop_pages(ino));
    }

    /// Has the kernel drop the pages of a file, but those that writes under way may have locked. Returns whether it has.
    async fn drop_between(&self, ino: Ino, locked: &BTreeSet<u64>, within: Duration) -> bool {
        let ranges = between(locked).into_iter();
        let dropped = ranges.map(|(from, len)| self.notifications.drop_range(ino, from, len));
        tokio::time::timeout(within, futures::future::join_all(dropped)).await.is_ok()
    }

    /// Has the kernel drop the pages of a file. Returns whether it has dropped all of them.
    pub(super) async fn drop_pages_within(&self, ino: Ino) -> bool {
        let filled = self.inodes.pages(ino);
        let locked = self.writes.locked(ino);
        let rest = self.drop_between(ino, &locked, PAGES_LOCKED_MAX);
        let written = locked.iter().map(|page| {
            let dropped = self.notifications.drop_range(ino, page * PAGE_BYTES, PAGE_BYTES);
            tokio::time::timeout(WRITTEN_PAGE_LOCKED_MAX, dropped)
        });
        let (rest, written) = tokio::join!(rest, futures::future::join_all(written));
        let all = rest && written.iter().all(Result::is_ok);
        if let Some(filled) = filled.filter(|_| all) {
            self.inodes.pages_dropped(ino, filled);
        }
        all
    }
}

/// The length of a file.
impl Coherence {
    /// Whether the kernel's length of the file may be from before another mount's change. Returns the clock of
    /// such doubts, for [`Coherence::length_is_known`].
    pub(crate) fn length_doubted(&self, ino: Ino) -> Option<u64> {
        self.inodes.length_doubted(ino)
    }

    /// The kernel's length is that of the file, and the leader calls back before another mount changes it.
    pub(crate) fn length_is_known(&self, ino: Ino, doubt: u64) {
        self.inodes.length_is_known(ino, doubt);
    }

    /// Excludes truncations of this mount until the result is dropped.
    pub(crate) async fn no_truncation(&self, ino: Ino) -> OwnedRwLockReadGuard<()> {
        self.truncations(ino).read_owned().await
    }

    /// A truncation by this mount begins; it ends when the result is dropped.
    pub(crate) async fn truncating(&self, ino: Ino) -> OwnedRwLockWriteGuard<()> {
        self.truncations(ino).write_owned().await
    }

    fn truncations(&self, ino: Ino) -> Arc<RwLock<()>> {
        self.truncations[ino.0 as usize % self.truncations.len()].clone()
    }

    /// A read of a thread is about to be answered, up to the end of the file.
    pub(crate) fn read_to_end(&self, ino: Ino, thread: u32, end: u64) {
        self.ends.answered(ino, thread, end);
    }

    /// Before an answer to a read that is shorter than was asked for, up to the end of the file: makes the kernel's
    /// length no greater, where the answer may not do it; see [`super::lengths`]. Returns whether the file still ends
    /// there.
    pub(crate) async fn lower_length(&self, ino: Ino, end: u64, file: &Arc<OpenFile>) -> bool {
        if !self.lengths.may_be_lowered() {
            return true;
        }
        let Some(length_max) = self.inodes.lower_length(ino, end) else { return true };
        let (lengths, read) = (self.lengths.clone(), file.clone());
        let lowering = tokio::task::spawn_blocking(move || lengths.lower(ino, end, || read.size() <= end));
        // The thread may wait for others to be free, and for the mount point.
        let lowered = tokio::time::timeout(LOWERED_WITHIN, lowering).await;
        let is_lower = matches!(lowered, Ok(Ok(Lowered::Yes)));
        tracing::debug!(%ino, end, ?lowered, "a read meets a shorter file");
        let is_end = file.size() <= end && !matches!(lowered, Ok(Ok(Lowered::Longer)));
        if !is_lower || !is_end {
            self.inodes.length_reaches(ino, length_max);
        }
        is_end
    }

    /// Waits until the kernel may have a length of the file, for which a thread asks; see [`super::ends`].
    pub(crate) async fn may_have_length(&self, attr: &Attr, thread: u32) {
        // This mount's own writes raise the length at once in any case.
        if self.inodes.length_doubted(attr.ino).is_some() {
            self.ends.looked(attr.ino, thread, attr.size).await;
        }
    }

    /// Waits until the reads of a file that are under way are answered, and drops their pages. Returns whether it is so,
    /// within the time that a read may take.
    pub(crate) async fn reads_are_over(&self, ino: Ino) -> bool {
        self.drop_read_pages(ino, READ_WITHIN).await
    }

    /// Has the kernel drop the pages of a file that a read has filled: all but those that a write under way may have
    /// locked. Returns whether it has.
    async fn drop_read_pages(&self, ino: Ino, within: Duration) -> bool {
        !self.may_have_pages(ino) || self.drop_between(ino, &self.writes.locked(ino), within).await
    }

    /// Tells the kernel the length of a file, for which a thread asks, after another mount may have changed it. The
    /// pages go before: the last one has zeros behind the older length. Returns whether the kernel has the length.
    pub(crate) async fn tell_changed_length(
        &self,
        attr: &Attr,
        thread: u32,
        no_truncation: OwnedRwLockReadGuard<()>,
    ) -> bool {
        if !self.drop_read_pages(attr.ino, PAGES_LOCKED_MAX).await {
            return false;
        }
        self.may_have_length(attr, thread).await;
        self.tell_length(attr.ino, attr.size, Some(no_truncation)).await
    }

    /// Raises the kernel's length of a file to `length`, if it is lower. `no_truncation` is held until the kernel has
    /// it. Returns whether the kernel has it.
    pub(crate) async fn tell_length(
        &self,
        ino: Ino,
        length: u64,
        no_truncation: Option<OwnedRwLockReadGuard<()>>,
    ) -> bool {
        self.inodes.length_reaches(ino, length);
        let begun = Arc::new(AtomicBool::new(false));
        let raised = self.notifications.raise_length(ino, length, begun.clone(), no_truncation);
        let raised = tokio::time::timeout(PAGES_LOCKED_MAX, raised).await;
        // Once more: a read may have found the kernel's length lower in between.
        self.inodes.length_reaches(ino, length);
        // Or the kernel has taken the length, and waits for the page.
        raised.is_ok() || begun.load(Ordering::Acquire)
    }
}
