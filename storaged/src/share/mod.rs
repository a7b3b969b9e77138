//! The share store: a node's shares on its disk. Every share describes itself.
//!
//! | file | what it is |
//! |---|---|
//! | `store`, `options` | the facade; its settings |
//! | `commit` | puts gathered under few fdatasyncs |
//! | `read` | verified reads |
//! | `inner` | the state that these share, checkpoints, deletes |
//! | `layout` | a share's bytes on disk |
//! | `segments` | the files that shares lie in |
//! | `space` | the free units of the segments (pure) |
//! | `index` | the position of each share, in sled; can be made again from the shares |
//! | `state` | whether the index can be trusted, and the segments written to since its checkpoint |
//! | `recover` | the start: makes the index right again |
//!
//! Invariants:
//! 1. A share that was acknowledged is durable (`acknowledged_shares_survive_a_power_loss_anywhere`).
//! 2. A share in the index was complete when the index got it.
//! 3. Every byte is verified before a read returns it (`a_flipped_bit_is_found_wherever_it_is`).
//! 4. A lost, damaged or old index costs a scan, never data
//!    (`acknowledged_shares_survive_a_power_loss_anywhere` loses, keeps or ages the index).
//!
//! The store knows nothing of volumes, files, other nodes or the network.

mod commit;
mod index;
mod inner;
mod layout;
mod options;
mod read;
mod recover;
mod segments;
mod space;
mod state;
mod store;

pub use layout::{CHUNK_BYTES, UNIT_BYTES};
pub use options::StoreOptions;
pub use recover::RebuildReport;
pub use store::{ShareStore, Usage};

use bytes::Bytes;
use rain_types::{BlockId, CodeSpec, ShareIndex};
use std::io;
use std::path::Path;
use thiserror::Error;

/// The key of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// The block.
    pub block: BlockId,
    /// Number of the share in its block.
    pub index: ShareIndex,
}

impl std::fmt::Display for ShareKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "share {} of block {}", self.index, self.block)
    }
}

/// The description of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareMeta {
    /// Its key.
    pub key: ShareKey,
    /// The block's code.
    pub code: CodeSpec,
    /// The whole block's length, bytes.
    pub block_len: u32,
    /// This share's length, bytes.
    pub share_len: u32,
}

/// Verified bytes of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRead {
    /// The share's description.
    pub meta: ShareMeta,
    /// Offset of the payload in the share: a multiple of [`CHUNK_BYTES`].
    pub first_byte: u32,
    /// Whole chunks; the share's last chunk may be short.
    pub payload: Bytes,
    /// Checksums of the chunks.
    pub chunk_crcs: Vec<u64>,
}

/// Why the store cannot be opened or used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file of the store failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Options(String),
    /// A file of the store is damaged.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// The damage.
        why: String,
    },
    /// The index failed, and no new one could be made.
    #[error("the index of shares failed: {0}")]
    Index(String),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { doing, path, source }
}

/// Why a share was not stored.
#[derive(Debug, Clone, Error)]
pub enum PutError {
    /// The disk or the limit has no room.
    #[error("no room for {bytes} bytes")]
    NoSpace {
        /// Bytes needed.
        bytes: u64,
    },
    /// Lengths or checksums do not fit each other.
    #[error("{key}: {why}")]
    Invalid {
        /// The share.
        key: ShareKey,
        /// What does not fit together.
        why: String,
    },
    /// The disk failed.
    #[error("{key}: {why}")]
    Io {
        /// The share.
        key: ShareKey,
        /// The system's error.
        why: String,
    },
    /// The store is closed.
    #[error("the share store is closed")]
    Closed,
}

/// Why a share was not read.
#[derive(Debug, Clone, Error)]
pub enum GetError {
    /// The share is not here.
    #[error("{key} is not here")]
    NotFound {
        /// The share.
        key: ShareKey,
    },
    /// The share is here, and damaged.
    #[error("{key} is damaged: {what}")]
    Corrupt {
        /// The share.
        key: ShareKey,
        /// Which check failed.
        what: String,
    },
    /// The range is empty or ends behind the share.
    #[error("bytes {offset}+{len} of {key}, which has {share_len}")]
    Range {
        /// The share.
        key: ShareKey,
        /// First byte of the range.
        offset: u32,
        /// Length of the range.
        len: u32,
        /// Length of the share.
        share_len: u32,
    },
    /// The disk or the index failed.
    #[error("{key}: {why}")]
    Io {
        /// The share.
        key: ShareKey,
        /// The system's error.
        why: String,
    },
}
