//! The state of one file in this client.

use super::buffer::{Dirty, Segment};
use super::lease::FileLease;
use super::owners::LockOwners;
use super::ranges::RangeSet;
use crate::error::Error;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::command::{AttrChange, TimeChange};
use rain_namespace::extent::ExtentMap;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::Ino;
use std::time::Instant;

/// The maximum length of a file, bytes: offsets are signed for the kernel.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// What a close leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Other programs of this client have the file open.
    StillOpen,
    /// Data is to be stored, or locks are to be released.
    ToStore,
    /// Nothing.
    Idle,
}

/// The versions of a file's contents that this client knows to follow each other by its own changes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnVersions {
    pub(crate) last: u64,
    pub(crate) since: u64,
}

/// The state of one file, shared by all programs of this client that have it open.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(super) inner: Mutex<Inner>,
    /// Held while a flush or a change of the length runs.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held while locks of owners that have closed the file are released.
    pub(super) releasing: tokio::sync::Mutex<()>,
    /// Signalled when a write that was admitted is in the buffer.
    pub(super) written: tokio::sync::Notify,
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
    /// The version since which every change of the contents has been this client's own, as far as it knows.
    /// Contents that were read at this version or later, with this client's writes, are right.
    pub(super) own_since: u64,
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
    pub(super) lease: FileLease,
}

impl FileState {
    /// The state of a file that this client just opened. `own_since`: see [`Inner::own_since`]. `private`: no other
    /// client can know of the file.
    pub(crate) fn new(attr: Attr, own_since: u64, private: bool) -> FileState {
        let (mut known, mut inline) = (RangeSet::default(), None);
        if attr.version == 0 {
            // Version 0 means that the file never had data.
            known.insert(0..u64::MAX);
            inline = Some(Bytes::new());
        }
        FileState {
            inner: Mutex::new(Inner {
                size: attr.size,
                unlinked: attr.nlink == 0,
                attr,
                mtime: None,
                changed: None,
                dirty: Dirty::default(),
                flushing: Vec::new(),
                inline,
                extents: ExtentMap::default(),
                known,
                learned: None,
                own_since,
                closed_unstored: false,
                opens: 0,
                failed: None,
                locks: LockOwners::default(),
                lease: FileLease::new(private),
            }),
            releasing: tokio::sync::Mutex::new(()),
            written: tokio::sync::Notify::new(),
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

    /// The version of the contents, and the version since which every change has been this client's own. None
    /// for a file without a name, which nobody opens again.
    pub(crate) fn own_versions(&self) -> Option<OwnVersions> {
        let inner = self.inner();
        (!inner.unlinked).then_some(OwnVersions { last: inner.attr.version, since: inner.own_since })
    }

    /// Marks that the last name is gone. Data of a file without a name need not be stored after its last
    /// close.
    pub(crate) fn mark_unlinked(&self) {
        self.inner().unlinked = true;
    }

    /// Marks that a file which was made without a name has got one.
    pub(super) fn mark_named(&self, nlink: u32) {
        let mut inner = self.inner();
        inner.unlinked = false;
        inner.attr.nlink = nlink;
    }

    /// Whether a program has the file open, and it has no name.
    pub(super) fn is_open_unnamed(&self) -> bool {
        let inner = self.inner();
        inner.unlinked && inner.opens > 0
    }

    /// Counts an open. The caller holds the table's lock.
    pub(super) fn count_open(&self) {
        self.inner().opens += 1;
    }

    /// Counts a close. The last one marks all locks for release, and drops what was written to a file without a
    /// name. Returns what remains to be done, and the bytes dropped. The caller holds the table's lock.
    pub(super) fn count_close(&self) -> (Closed, u64) {
        let mut inner = self.inner();
        inner.opens -= 1;
        if inner.opens > 0 {
            return (Closed::StillOpen, 0);
        }
        let mut dropped = 0;
        if inner.unlinked {
            dropped = inner.dirty.bytes();
            inner.dirty = Dirty::default();
        }
        let has_locks = inner.locks.mark_closed(|_| true);
        let is_dirty = !inner.dirty.is_empty() || !inner.flushing.is_empty();
        (if has_locks || !inner.unlinked && is_dirty { Closed::ToStore } else { Closed::Idle }, dropped)
    }

    /// Takes in the outcome of this client's change of attributes. `is_cut`: it was a change of the length that had the
    /// turn, and what was written and is in no block yet was behind it.
    pub(super) fn attributes_changed(&self, attr: Attr, change: &AttrChange, is_cut: bool) {
        let mut inner = self.inner();
        if is_cut {
            inner.flushing.clear();
            // If a later version was taken in before, what was cut off counted for the length.
            inner.size = inner.size.min(inner.attr.size.max(inner.dirty.end()));
        }
        let timed = change.mtime.is_some_and(|mtime| mtime != TimeChange::Now);
        if timed && !inner.dirty.is_empty() {
            inner.mtime = Some(attr.mtime);
            inner.changed = Some(attr.ctime);
        }
        if let Some(size) = change.size {
            inner.truncated(attr, size);
        } else {
            if attr.version > inner.attr.version {
                // Another client has changed the contents: its length does not fit the extents known here.
                inner.changed_elsewhere(attr.version);
            }
            inner.take_attr(attr);
        }
        if timed {
            inner.settle_times();
        }
    }

    /// Takes in the outcome of this client's hole.
    pub(super) fn punched(&self, attr: Attr) {
        let mut inner = self.inner();
        if attr.version > inner.attr.version + 1 {
            inner.changed_elsewhere(attr.version);
        }
        inner.forget_layout();
        inner.take_attr(attr);
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

    /// Takes in the attributes that the namespace gave for another open, for a lock, or with a lease.
    pub(crate) fn opened_again(&self, attr: Attr) {
        let mut inner = self.inner();
        // A commit of this client may have overtaken the question. Versions only grow.
        if attr.version > inner.attr.version {
            inner.changed_elsewhere(attr.version);
            inner.take_attr(attr);
        }
    }

    /// Lays what this client knows better over attributes that the namespace gave: its own newer commits, and
    /// its writes that are not committed yet.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        let inner = self.inner();
        if inner.attr.version > attr.version {
            // The contents, and what goes with them. All else may be newer in the answer.
            let Attr { size, stored_bytes, mtime, version, extents, .. } = inner.attr;
            *attr = Attr { size, stored_bytes, mtime, version, extents, ..attr.clone() };
            attr.ctime = attr.ctime.max(inner.attr.ctime);
        }
        if !inner.dirty.is_empty() || !inner.flushing.is_empty() {
            attr.size = inner.size;
            attr.mtime = inner.mtime.unwrap_or(attr.mtime);
            attr.ctime = attr.ctime.max(inner.changed.unwrap_or(attr.ctime));
        }
    }
}

impl Inner {
    /// Notes that another client has changed the contents: this is the first version with its change, or a
    /// later one.
    pub(super) fn changed_elsewhere(&mut self, version: u64) {
        self.own_since = version;
        self.forget_layout();
    }

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
        } else if attr.version > self.attr.version {
            self.changed_elsewhere(attr.version);
        }
        debug_assert!(!segments.is_empty(), "only segments that were taken out are committed");
        self.settle_times();
        self.take_attr(attr);
    }

    /// Puts written data that was taken out back into the buffer, below what was written since. Returns the bytes that
    /// are kept: those that were overwritten meanwhile are not needed.
    pub(super) fn put_back(&mut self, segments: &[Segment]) -> u64 {
        let before = self.dirty.bytes();
        for segment in segments {
            self.dirty.write_below(segment);
        }
        self.dirty.bytes() - before
    }

    /// Forgets the times of writes once all of them are committed.
    pub(super) fn settle_times(&mut self) {
        if self.dirty.is_empty() {
            self.mtime = None;
            self.changed = None;
            self.closed_unstored = false;
        }
    }

    /// Takes in the result of a change of the length by this client. Attributes that are older than those
    /// known say nothing new.
    pub(super) fn truncated(&mut self, attr: Attr, size: u64) {
        if attr.version < self.attr.version {
            return;
        }
        if attr.version == self.attr.version + 1 {
            self.extents.truncate(size);
            self.inline = None;
        } else if attr.version > self.attr.version {
            self.changed_elsewhere(attr.version);
        }
        self.size = size.max(self.dirty.end());
        self.settle_times();
        self.attr = attr;
    }
}
