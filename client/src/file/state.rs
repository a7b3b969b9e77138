//! The state of one file in this client.

use super::buffer::{Dirty, Segment};
use super::owners::LockOwners;
use super::ranges::RangeSet;
use crate::error::Error;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::extent::ExtentMap;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::Ino;
use std::time::Instant;

/// The maximum length of a file, bytes: offsets are signed for the kernel.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// The state of one file, shared by all programs of this client that have it open.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(super) inner: Mutex<Inner>,
    /// Held while a flush or a change of the length runs.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held while locks of owners that have closed the file are released.
    pub(super) releasing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// The attributes that the namespace gave last.
    pub(super) attr: Attr,
    /// The length as this client's programs see it.
    pub(super) size: u64,
    /// The time of the last write that is not committed yet.
    pub(super) mtime: Option<Time>,
    /// The time of the last write, or of the last change of a time, that is not committed yet.
    pub(super) changed: Option<Time>,
    pub(super) dirty: Dirty,
    pub(super) flushing: Vec<Segment>,
    pub(super) inline: Option<Bytes>,
    pub(super) extents: ExtentMap,
    /// The ranges whose extents are known.
    pub(super) known: RangeSet,
    /// When the first of the extents was learned.
    pub(super) learned: Option<Instant>,
    /// The kernel may have pages from before another client's change.
    pub(super) mistrusted: bool,
    /// The last name of the file is gone.
    pub(super) unlinked: bool,
    /// A program has closed the file since it was last stored: other clients that open it must see what was
    /// written.
    pub(super) closed_unstored: bool,
    /// How often this client has the file open.
    pub(super) opens: u32,
    /// The error of the last background flush, for the next caller of a flush.
    pub(super) failed: Option<Error>,
    pub(super) locks: LockOwners,
}

impl FileState {
    /// The state of a file that this client just opened.
    pub(crate) fn new(attr: Attr) -> FileState {
        let (mut known, mut inline) = (RangeSet::default(), None);
        if attr.version == 0 {
            // Version 0 means that the file never had data.
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
                unlinked: false,
                closed_unstored: false,
                opens: 0,
                failed: None,
                locks: LockOwners::default(),
            }),
            releasing: tokio::sync::Mutex::new(()),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Locks the state. Never held across an await.
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(crate) fn ino(&self) -> Ino {
        self.inner().attr.ino
    }

    /// Whether written data is not committed yet.
    pub(crate) fn is_dirty(&self) -> bool {
        let inner = self.inner();
        !inner.dirty.is_empty() || !inner.flushing.is_empty()
    }

    /// Whether no program has the file open, nothing of it waits to be stored, and no lock of it is left.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.opens == 0 && inner.dirty.is_empty() && inner.flushing.is_empty() && inner.locks.is_empty()
    }

    /// The version of contents that the kernel's pages have, if that is certain.
    pub(crate) fn trusted_version(&self) -> Option<u64> {
        let inner = self.inner();
        (!inner.mistrusted && !inner.unlinked).then_some(inner.attr.version)
    }

    /// Marks that the last name is gone. Data of a file without a name need not be stored after its last
    /// close.
    pub(crate) fn mark_unlinked(&self) {
        self.inner().unlinked = true;
    }

    /// Whether a program has closed the file and other clients do not see yet what it wrote.
    pub(crate) fn is_closed_unstored(&self) -> bool {
        let inner = self.inner();
        inner.closed_unstored && !(inner.dirty.is_empty() && inner.flushing.is_empty())
    }

    /// Whether a program has the file open.
    pub(crate) fn is_open(&self) -> bool {
        self.inner().opens > 0
    }

    /// Takes in the attributes that the namespace gave for another open. Returns whether no other client has
    /// changed the contents.
    pub(crate) fn opened_again(&self, attr: Attr) -> bool {
        let mut inner = self.inner();
        let same = inner.attr.version == attr.version && !inner.mistrusted;
        // A commit of this client may have overtaken the question. Versions only grow.
        if attr.version > inner.attr.version {
            inner.forget_layout();
            inner.take_attr(attr);
        }
        inner.mistrusted = false;
        same
    }

    /// Lays this client's writes that are not committed yet over the attributes.
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
    /// Forgets extents and inline data.
    pub(super) fn forget_layout(&mut self) {
        self.extents = ExtentMap::default();
        self.known.clear();
        self.learned = None;
        self.inline = None;
    }

    /// Takes in attributes, unless they are older. The length stays at least as large as this client's writes
    /// made it.
    pub(super) fn take_attr(&mut self, attr: Attr) {
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

    /// Takes in the result of a commit of this client.
    pub(super) fn committed(&mut self, attr: Attr, segments: &[Segment], extents: Vec<Extent>) {
        if attr.version == self.attr.version + 1 {
            for extent in extents {
                self.known.insert(extent.offset..extent.end());
                self.extents.insert(extent);
            }
            if attr.extents == 0 {
                // The inline data changed. It is small, and asked for again when it is needed.
                self.inline = None;
            }
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        debug_assert!(!segments.is_empty(), "only segments that were taken out are committed");
        self.settle_times();
        self.take_attr(attr);
    }

    /// Forgets the times of writes once all of them are committed.
    pub(super) fn settle_times(&mut self) {
        if self.dirty.is_empty() {
            self.mtime = None;
            self.changed = None;
            self.closed_unstored = false;
        }
    }

    /// Takes in the result of a change of the length by this client.
    pub(super) fn truncated(&mut self, attr: Attr, size: u64) {
        if attr.version == self.attr.version + 1 {
            self.extents.truncate(size);
            self.inline = None;
        } else {
            self.mistrusted = true;
            self.forget_layout();
        }
        self.size = size.max(self.dirty.end());
        self.settle_times();
        self.attr = attr;
    }
}
