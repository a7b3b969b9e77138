//! The lease of one file, as its state has it, and what is told to a kernel that has cached a volume.

use futures::future::BoxFuture;
use rain_namespace::lease::Mode;
use rain_types::Ino;
use std::fmt::Debug;

/// What a kernel has cached of a volume.
pub trait KernelCache: Debug + Send + Sync {
    /// Drops names, attributes and pages. Returns when no program can get any of it any more.
    fn drop_cached<'a>(&'a self, dropped: &'a [Dropped]) -> BoxFuture<'a, ()>;

    /// Drops all names and attributes, and the pages of these files.
    fn drop_all<'a>(&'a self, files: &'a [Ino]) -> BoxFuture<'a, ()>;

    /// Drops the names and attributes that may not be used any more ([`crate::Volume::read_for`]), and the pages of
    /// these files.
    fn drop_unleased<'a>(&'a self, files: &'a [Ino]) -> BoxFuture<'a, ()>;
}

/// What is to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// The attributes and pages of an inode.
    Inode(Ino),
    /// A name in this directory.
    Name(Ino, Vec<u8>),
    /// All names in this directory.
    Names(Ino),
}

/// A file's lease.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileLease {
    /// No other client can know of the file.
    pub(super) private: bool,
    pub(super) mode: Option<Mode>,
    /// How many others want the file at this moment: no write is admitted.
    pub(super) wanted: u32,
    /// Grows with every registration: what was wanted before it does not matter any more.
    pub(super) registration: u64,
    /// Writes that were admitted and are not in the buffer yet.
    pub(super) admitted: u32,
}

impl FileLease {
    /// The lease of a file that only this client may know of, or that has none yet.
    pub(super) fn new(private: bool) -> FileLease {
        FileLease { private, ..FileLease::default() }
    }
}
