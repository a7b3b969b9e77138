//! Files' data: the data written here and not yet committed, laid over the data that the namespace says is
//! stored.
//!
//! Layers of a read, newest first: `dirty` (written), `flushing` (being stored), extents, inline data, zeros.
//!
//! - [`table`] has the state of every open file, [`open`] is an open file as one program holds it.
//! - [`buffer`] gathers written data within [`budget`]; [`flush`] stores it, by way of [`pack`]; [`read`]
//!   reads.
//! - [`locks`] are a file's locks over all clients. [`ranges`] is a set of byte ranges.
//!
//! Invariants:
//! 1. Commits of one file follow the order of its writes: there is one flush at a time (`turn`).
//! 2. Extents are kept only as long as every change of the file's version is this client's own.
//! 3. A failed flush puts its data back into the buffer, below data written since. Its caller gets the error;
//!    the error of a background flush goes to the caller of the next flush.
//!
//! This rung knows nothing of names (`volume`) and of how blocks are stored (`block`).

mod budget;
mod buffer;
mod flush;
mod locks;
mod open;
mod pack;
mod ranges;
mod read;
mod table;

pub use locks::LockGrant;
pub use open::OpenFile;

pub(crate) use table::FileTable;

use crate::error::Error;
use buffer::{Dirty, Segment};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rain_namespace::extent::ExtentMap;
use rain_namespace::record::{Attr, Extent, Time};
use rain_types::Ino;
use ranges::RangeSet;
use std::time::Instant;

/// The maximum length of a file, bytes: offsets are signed for the kernel.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// The state of one file, shared by all programs of this client that have it open.
#[derive(Debug)]
pub(crate) struct FileState {
    inner: Mutex<Inner>,
    /// Held while a flush or a change of the length runs.
    turn: tokio::sync::Mutex<()>,
    /// Held while locks of owners that have closed the file are released.
    releasing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    /// The attributes that the namespace gave last.
    attr: Attr,
    /// The length as this client's programs see it.
    size: u64,
    /// The time of the last write that is not committed yet.
    mtime: Option<Time>,
    /// The time of the last write, or of the last change of a time, that is not committed yet.
    changed: Option<Time>,
    dirty: Dirty,
    flushing: Vec<Segment>,
    inline: Option<Bytes>,
    extents: ExtentMap,
    /// The ranges whose extents are known.
    known: RangeSet,
    /// When the first of the extents was learned.
    learned: Option<Instant>,
    /// The kernel may have pages from before another client's change.
    mistrusted: bool,
    /// The last name of the file is gone.
    unlinked: bool,
    /// A program has closed the file since it was last stored: other clients that open it must see what was
    /// written.
    closed_unstored: bool,
    /// How often this client has the file open.
    opens: u32,
    /// The error of the last background flush, for the next caller of a flush.
    failed: Option<Error>,
    locks: locks::Locks,
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
                locks: locks::Locks::default(),
            }),
            releasing: tokio::sync::Mutex::new(()),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
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
    fn forget_layout(&mut self) {
        self.extents = ExtentMap::default();
        self.known.clear();
        self.learned = None;
        self.inline = None;
    }

    /// Takes in attributes, unless they are older. The length stays at least as large as this client's writes
    /// made it.
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

    /// Takes in the result of a commit of this client.
    fn committed(&mut self, attr: Attr, segments: &[Segment], extents: Vec<Extent>) {
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
    fn settle_times(&mut self) {
        if self.dirty.is_empty() {
            self.mtime = None;
            self.changed = None;
            self.closed_unstored = false;
        }
    }

    /// Takes in the result of a change of the length by this client.
    fn truncated(&mut self, attr: Attr, size: u64) {
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
