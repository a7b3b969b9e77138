//! Settings of a share store.

use super::StoreError;
use super::layout::UNIT_BYTES;

/// Settings of a share store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Limit for the disk space of shares, bytes; `None`: the disk is the limit.
    pub capacity_bytes: Option<u64>,
    /// Memory for the index's pages, bytes. 8 MiB.
    pub index_cache_bytes: u64,
    /// Length of a segment, bytes: a multiple of 4096, 1 MiB to 1 TiB. 64 MiB: a start after a crash reads
    /// whole segments again.
    pub segment_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { capacity_bytes: None, index_cache_bytes: 8 << 20, segment_bytes: 64 << 20 }
    }
}

impl StoreOptions {
    /// Fails for a setting out of its range.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        if !self.segment_bytes.is_multiple_of(UNIT_BYTES)
            || self.segment_bytes < 1 << 20
            || self.segment_bytes > 1 << 40
        {
            return Err(StoreError::Options(format!(
                "segments of {} bytes: give a multiple of {UNIT_BYTES} from 1 MiB to 1 TiB",
                self.segment_bytes
            )));
        }
        Ok(())
    }
}
