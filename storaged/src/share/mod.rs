//! The share store: a node's shares on its disk, each of which describes itself.
//!
//! - [`layout`]: a share's bytes on disk. [`space`]: which bytes of the segments are free (pure). [`segments`]: their
//!   files. [`index`]: where each share is, in sled, rebuildable from the shares. [`store`]: puts gathered
//!   under few fdatasyncs, verified reads, deletes that give space back. [`recover`]: what is done at the start, by what
//!   [`state`] remembers.
//!
//! Invariants:
//! 1. A share that was acknowledged is durable (`acknowledged_shares_survive_a_power_loss_anywhere`).
//! 2. A share that the index names was complete when it was named.
//! 3. Every byte read is verified before it is given (`a_flipped_bit_is_found_wherever_it_is`).
//! 4. The index can be lost, damaged or old at any time; it costs a scan, never data.
//!
//! It knows nothing of volumes, files, other nodes or the network.

mod index;
mod layout;
mod recover;
mod segments;
mod space;
mod state;
mod store;

pub use layout::{CHUNK_BYTES, UNIT_BYTES};
pub use recover::RebuildReport;
pub use store::{ShareStore, StoreOptions, Usage};

use bytes::Bytes;
use rain_types::{BlockId, CodeSpec, ShareIndex};
use std::io;
use std::path::Path;
use thiserror::Error;

/// Which share of which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// The block.
    pub block: BlockId,
    /// Which of its shares.
    pub index: ShareIndex,
}

impl std::fmt::Display for ShareKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "share {} of block {}", self.index, self.block)
    }
}

/// What is known of a share without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareMeta {
    /// Which.
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
    /// What is known of the share.
    pub meta: ShareMeta,
    /// Where the payload begins in the share: a multiple of [`CHUNK_BYTES`].
    pub first_byte: u32,
    /// Whole chunks (the share's last one may be short).
    pub payload: Bytes,
    /// Their checksums.
    pub chunk_crcs: Vec<u64>,
}

/// Why the store cannot be opened or used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file of the store.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: String,
        /// As the system said it.
        source: io::Error,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Options(String),
    /// A file of the store is not what it should be.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The index failed, and could not be made anew.
    #[error("the index of shares failed: {0}")]
    Index(String),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { doing, path, source }
}

/// Why a share was not kept.
#[derive(Debug, Clone, Error)]
pub enum PutError {
    /// No room on the disk or under the limit.
    #[error("no room for {bytes} bytes")]
    NoSpace {
        /// What was needed.
        bytes: u64,
    },
    /// Lengths or checksums that do not fit each other.
    #[error("{key}: {why}")]
    Invalid {
        /// Which share.
        key: ShareKey,
        /// What does not fit.
        why: String,
    },
    /// The disk.
    #[error("{key}: {why}")]
    Io {
        /// Which share.
        key: ShareKey,
        /// As the system said it.
        why: String,
    },
    /// The store is closed.
    #[error("the share store is closed")]
    Closed,
}

/// Why a share was not given.
#[derive(Debug, Clone, Error)]
pub enum GetError {
    /// It is not here.
    #[error("{key} is not here")]
    NotFound {
        /// Which share.
        key: ShareKey,
    },
    /// It is here, and damaged.
    #[error("{key} is damaged: {what}")]
    Corrupt {
        /// Which share.
        key: ShareKey,
        /// What of it.
        what: String,
    },
    /// It is shorter than what was asked for.
    #[error("bytes {offset}+{len} of {key}, which has {share_len}")]
    Range {
        /// Which share.
        key: ShareKey,
        /// First byte asked for.
        offset: u32,
        /// Bytes asked for.
        len: u32,
        /// Bytes there are.
        share_len: u32,
    },
    /// The disk or the index.
    #[error("{key}: {why}")]
    Io {
        /// Which share.
        key: ShareKey,
        /// As the system said it.
        why: String,
    },
}
