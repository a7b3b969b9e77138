//! Why the log refuses or stops.

use super::PAYLOAD_BYTES_MAX;
use crate::disk::is_full;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the log cannot do what was asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// Bytes that were durable are not what was written.
    #[error(
        "the namespace log is damaged: {path} at byte {offset}: {what}. Nothing was changed. Look for disk errors, keep a copy \
         of the directory, and bring back the file from a backup",
        path = path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment is missing between others.
    #[error("the namespace log has a gap: segment {missing:016x} is not in {dir}", dir = dir.display())]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// Sequence number.
        missing: u64,
    },
    /// No room; nothing of the append stays, and the log goes on.
    #[error("no room for the namespace log in {path}: {source}", path = path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// As the system said it.
        source: io::Error,
    },
    /// The disk refused.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// As the system said it.
        source: io::Error,
    },
    /// An earlier failure left it unknown what is on the disk.
    #[error("the namespace log stopped earlier: {0}")]
    Stopped(String),
    /// Entries must follow each other.
    #[error("entry {given} cannot follow entry {last} in the log")]
    NotNext {
        /// The last index in the log.
        last: u64,
        /// What was to be appended.
        given: u64,
    },
    /// These entries are not in the log.
    #[error("entry {index} is not in the log, which holds {first} to {last}")]
    NotHeld {
        /// Asked for.
        index: u64,
        /// First held.
        first: u64,
        /// Last held.
        last: u64,
    },
    /// A payload over the limit.
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

    /// A full disk passes, all else is a broken one.
    pub(super) fn writing(doing: &'static str, path: &Path, source: io::Error) -> LogError {
        if is_full(&source) {
            LogError::NoSpace { path: path.to_owned(), source }
        } else {
            LogError::io(doing, path, source)
        }
    }
}
