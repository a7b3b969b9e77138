//! Why the metadata service cannot be opened, changed or asked.

use super::log::LogError;
use super::raft::log_store::OpenError;
use super::store::StoreError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the metadata service cannot be opened, closed or reconfigured.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// A file of the directory failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("another process has the namespace in {dir} open: stop that one first", dir = dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another node or another cluster.
    #[error("{0}")]
    Foreign(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries between the store and the log are missing.
    #[error("{0}")]
    Gap(String),
    /// openraft does not start, or refuses.
    #[error("the namespace's consensus: {0}")]
    Raft(String),
}

impl MetadataError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MetadataError {
        move |source| MetadataError::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn raft(error: &dyn std::fmt::Display) -> MetadataError {
        MetadataError::Raft(error.to_string())
    }
}

impl From<OpenError> for MetadataError {
    fn from(error: OpenError) -> MetadataError {
        match error {
            OpenError::Log(error) => MetadataError::Log(error),
            OpenError::State { path, source } => MetadataError::Io { doing: "opening", path, source },
            OpenError::Gap { .. } => MetadataError::Gap(error.to_string()),
            OpenError::Foreign { .. } => MetadataError::Foreign(error.to_string()),
        }
    }
}

/// Why a query has no answer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum AskError {
    /// Another node leads, or none is known.
    #[error("this node does not lead the namespace")]
    NotLeader,
    /// No majority confirms that this node leads.
    #[error("no majority of the namespace's voters answers")]
    NoMajority,
    /// The store cannot be read.
    #[error("{0}")]
    Store(String),
}
