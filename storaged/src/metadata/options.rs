//! Settings and figures of the metadata service.

use super::proposer::ProposerOptions;
use super::raft::lease::Times;
use super::store::{StoreOptions, StoreStats};
use rain_types::{ClusterId, NodeId};

/// Size of a log segment, bytes. A purge drops whole segments, so smaller ones let it follow more closely.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Log records that stay for followers that lag, bytes: two segments. A follower that lags more gets a
/// snapshot.
const LOG_KEEP_BYTES: u64 = 32 << 20;

/// Settings of the metadata service.
#[derive(Debug, Clone)]
pub struct MetadataOptions {
    /// Settings of the store.
    pub store: StoreOptions,
    /// Settings of the proposer.
    pub proposer: ProposerOptions,
    /// Times of the protocol.
    pub times: Times,
    /// Size of a log segment, bytes. Two or three exist: the one in use, the next, and one not yet purged.
    pub segment_bytes: u64,
    /// Log records that stay for followers that lag, bytes.
    pub keep_bytes: u64,
}

impl Default for MetadataOptions {
    fn default() -> MetadataOptions {
        MetadataOptions {
            store: StoreOptions::default(),
            proposer: ProposerOptions::default(),
            times: Times::default(),
            segment_bytes: SEGMENT_BYTES,
            keep_bytes: LOG_KEEP_BYTES,
        }
    }
}

/// A member of the metadata service.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub node: NodeId,
    /// Its address for the other members.
    pub address: String,
}

/// Figures since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataStats {
    /// Figures of the store.
    pub store: StoreStats,
    /// Entries proposed by this node.
    pub entries: u64,
    /// Requests in these entries.
    pub requests: u64,
    /// fdatasyncs of the log.
    pub syncs: u64,
    /// Position of the first entry in the log.
    pub log_first: u64,
    /// Position of the last entry in the log.
    pub log_last: u64,
    /// Disk space of the log, bytes.
    pub log_bytes: u64,
    /// On the leader: the position up to which each member's log is known to match.
    pub matched: Vec<(NodeId, u64)>,
    /// Set once the service rejects all proposals: the reason.
    pub stopped: Option<String>,
}
