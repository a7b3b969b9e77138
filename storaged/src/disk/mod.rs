//! Every write of the stores goes to the disk through this module, so that a test can lose power, tear a
//! write, fill the disk or return EIO at any operation.
//!
//! - [`Media`] and [`MediaFile`]: the file operations. [`DiskMedia`] performs them on the operating system's
//!   files.
//! - `slots`: a small state in two slots of a file, which survives a torn write.
//! - `replace`: a whole file replaced in one step.
//!
//! Paths are absolute; a store joins its own folder to the names of its files. The namespace store reads
//! whole records ([`MediaFile::read_at`]); the share store reads past the end of a segment that is still
//! growing ([`MediaFile::read_padded_at`]).
//!
//! Exceptions, where a test cannot inject faults: sled has its own files (`share::index`); the identity and
//! the store's key are written with [`replace`]; the state files of the share store and of the ring always
//! use [`DiskMedia`].

mod media;
pub(crate) mod replace;
pub(crate) mod slots;

pub use media::{DiskMedia, Media, MediaFile};

use std::io;

/// Returns true for an error that means "no room", which may pass; any other error means a broken disk.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
