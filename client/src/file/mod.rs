//! A file's data: what is written here and not yet committed, laid over what the namespace says is stored.
//!
//! Layers of a read, newest first: `dirty` (written), `flushing` (being stored), extents, inline data, zeros.
//!
//! Invariants:
//! 1. Commits of one file follow the order of its writes: one flush at a time (`turn`).
//! 2. Extents are kept only as long as every change of the file's version is this client's own.
//! 3. A failed flush puts its data back below what was written since; the error is told to the caller of the
//!    flush, or, when nobody called, to the next one who flushes.
//!
//! [`flush`] is the way of written data to the cluster, [`read`] the way back, [`open`] what a program holds, [`locks`] who may.
//! It leaves out names and attributes (`volume`) and how blocks are stored (`block`).

pub(crate) mod buffer;
mod flush;
mod locks;
mod open;
pub(crate) mod pack;
pub(crate) mod ranges;
mod read;

pub use locks::LockGrant;
pub use open::OpenFile;

use crate::error::Error;
use crate::file::buffer::{Dirty, Segment};
use crate::file::ranges::RangeSet;
use bytes::Bytes;
use rain_namespace::extent::ExtentMap;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::Ino;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The largest offset plus one.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// One file, shared by everybody in this client who has it open.
#[derive(Debug)]
pub(crate) struct FileState {
    inner: Mutex<Inner>,
    /// Held by whoever stores and commits, or changes the length.
    turn: tokio::sync::Mutex<()>,
    /// Held by whoever lets locks go of those that have left.
    letting_go: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    attr: Attr,
    /// The length as this client's programs see it.
    size: u64,
    /// When this client last wrote what is not committed yet.
    mtime: Option<Time>,
    /// When this client last wrote, or set a time, since what is committed.
    changed: Option<Time>,
    dirty: Dirty,
    flushing: Vec<Segment>,
    inline: Option<Bytes>,
    extents: ExtentMap,
    known: RangeSet,
    /// Since when extents are known.
    learned: Option<Instant>,
    /// The kernel may hold pages from before somebody else's change.
    mistrusted: bool,
    orphan: bool,
    /// A program has closed it since it was last stored: others that open it are to see what it wrote.
    close: bool,
    opens: u32,
    /// Of a flush that nobody waited for.
    failed: Option<Error>,
    locks: locks::Locks,
}

impl FileState {
    pub(crate) fn new(attr: Attr) -> FileState {
        let (mut known, mut inline) = (RangeSet::default(), None);
        if attr.version == 0 {
            // It never had any data.
            known.insert(0..u64::MAX);
            inline = Some(Bytes::new());
        }
        FileState {
            inner: Mutex::new(Inner {
                size: attr.size,
                attr,
                mtime: None,
                changed: None,
                dirty: Dirty::default(),
                flushing: Vec::new(),
                inline,
                extents: ExtentMap::default(),
                known,
                learned: Some(Instant::now()),
                mistrusted: false,
                orphan: false,
                close: false,
                opens: 0,
                failed: None,
                locks: locks::Locks::default(),
            }),
            letting_go: tokio::sync::Mutex::new(()),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ino(&self) -> Ino {
        self.inner().attr.ino
    }

    pub(crate) fn is_dirty(&self) -> bool {
        let inner = self.inner();
        !inner.dirty.is_empty() || !inner.flushing.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.opens == 0 && inner.dirty.is_empty() && inner.flushing.is_empty() && inner.locks.is_empty()
    }

    /// The version whose contents the kernel's pages have, if that is certain.
    pub(crate) fn trusted_version(&self) -> Option<u64> {
        let inner = self.inner();
        (!inner.mistrusted && !inner.orphan).then_some(inner.attr.version)
    }

    /// Marks that the last name is gone: what nobody can read any more need not be stored.
    pub(crate) fn orphan(&self) {
        self.inner().orphan = true;
    }

    /// Whether somebody who opens it elsewhere is to see what is not stored yet.
    pub(crate) fn is_put_away(&self) -> bool {
        let inner = self.inner();
        inner.close && !(inner.dirty.is_empty() && inner.flushing.is_empty())
    }

    /// Whether a program has it open.
    pub(crate) fn is_open(&self) -> bool {
        self.inner().opens > 0
    }

    /// Takes in what the namespace says at another open. Gives whether nothing changed behind this client.
    pub(crate) fn opened_again(&self, attr: Attr) -> bool {
        let mut inner = self.inner();
        let same = inner.attr.version == attr.version && !inner.mistrusted;
        // A commit of ours may have overtaken the question; versions only grow.
        if attr.version > inner.attr.version {
            inner.forget_layout();
            inner.take_attr(attr);
        }
        inner.mistrusted = false;
        same
    }

    /// Puts this client's own writes over the attributes.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        let inner = self.inner();
        if !inner.dirty.is_empty() || !inner.flushing.is_empty() {
            attr.size = inner.size;
            attr.mtime = inner.mtime.unwrap_or(attr.mtime);
            attr.ctime = attr.ctime.max(inner.changed.unwrap_or(attr.ctime));
        }
    }
}

impl Inner {
    fn forget_layout(&mut self) {
        self.extents = ExtentMap::default();
        self.known.clear();
        self.learned = None;
        self.inline = None;
    }

    /// Takes in attributes that are at least as new; the length stays what this client's writes made it.
    fn take_attr(&mut self, attr: Attr) {
        if attr.version < self.attr.version {
            return;
        }
        self.size = if self.dirty.is_empty() && self.flushing.is_empty() {
            attr.size
        } else {
            attr.size.max(self.dirty.end()).max(self.flushing.last().map_or(0, Segment::end))
        };
        self.attr = attr;
    }

    fn committed(&mut self, attr: Attr, segments: &[Segment], extents: Vec<Extent>) {
        if attr.version == self.attr.version + 1 {
            for extent in extents {
                self.known.insert(extent.offset..extent.end());
                self.extents.insert(extent);
            }
            if attr.extents == 0 {
                // Inline data changed; it is small, and asked for again when it is needed.
                self.inline = None;
            }
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        debug_assert!(!segments.is_empty(), "only what was taken out is committed");
        self.written_none();
        self.take_attr(attr);
    }

    /// Where nothing waits to be stored the times are those that are stored.
    fn written_none(&mut self) {
        if self.dirty.is_empty() {
            self.mtime = None;
            self.changed = None;
            self.close = false;
        }
    }

    fn truncated(&mut self, attr: Attr, size: u64) {
        if attr.version == self.attr.version + 1 {
            self.extents.truncate(size);
            self.inline = None;
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        self.size = size.max(self.dirty.end());
        self.written_none();
        self.attr = attr;
    }
}
