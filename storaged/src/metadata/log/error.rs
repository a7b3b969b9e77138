//! Why the log refuses an operation or stops.

use super::PAYLOAD_BYTES_MAX;
use crate::disk::is_full;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why an operation of the log failed.
#[derive(Debug, Error)]
pub enum LogError {
    /// Durable bytes differ from the bytes written.
    #[error(
        "the namespace log is damaged: {path} at byte {offset}: {what}. Nothing was changed. Look for disk errors, keep a copy \
         of the directory, and restore the file from a backup",
        path = path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The offset in the segment.
        offset: u64,
        /// The damage.
        what: String,
    },
    /// A segment is missing between others.
    #[error("the namespace log has a gap: segment {missing:016x} is not in {dir}", dir = dir.display())]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// Its sequence number.
        missing: u64,
    },
    /// The disk has no room. The append is undone, and the log accepts later appends.
    #[error("no room for the namespace log in {path}: {source}", path = path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// After an earlier failure the contents of the disk are unknown.
    #[error("the namespace log stopped earlier: {0}")]
    Stopped(String),
    /// An index does not follow the last one.
    #[error("entry {given} cannot follow entry {last} in the log")]
    NotNext {
        /// The last index in the log.
        last: u64,
        /// The index of the append.
        given: u64,
    },
    /// These entries are not in the log.
    #[error("entry {index} is not in the log, which holds {first} to {last}")]
    NotHeld {
        /// The index asked for.
        index: u64,
        /// The first index in the log.
        first: u64,
        /// The last index in the log.
        last: u64,
    },
    /// A payload is over the limit.
    #[error("an entry of {bytes} bytes is over the log's limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl LogError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> LogError {
        LogError::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, offset: u64, what: &str) -> LogError {
        LogError::Damaged { path: path.to_owned(), offset, what: what.to_owned() }
    }

    /// Makes the error of a write: a full disk passes, any other error means a broken disk.
    pub(super) fn writing(doing: &'static str, path: &Path, source: io::Error) -> LogError {
        if is_full(&source) {
            LogError::NoSpace { path: path.to_owned(), source }
        } else {
            LogError::io(doing, path, source)
        }
    }
}
