//! Verified reads.

use super::index::Located;
use super::inner::Inner;
use super::layout::{self, CHUNK_BYTES, chunk_crc};
use super::{GetError, ShareKey, ShareRead};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

impl Inner {
    /// Reads the whole chunks that cover a range, verified.
    pub(super) fn get(&self, key: ShareKey, offset: u32, len: u32) -> Result<ShareRead, GetError> {
        let mut last = None;
        // A share may be deleted, or replaced because it was damaged, while it is read: then it is looked up
        // again.
        loop {
            let found = self
                .with_index(|index| index.get(key))
                .map_err(|error| GetError::Io { key, why: error.to_string() })?;
            let Some(located) = found else { return Err(GetError::NotFound { key }) };
            if last.as_ref() == Some(&located) {
                self.counters.corrupt_found.fetch_add(1, Relaxed);
                return Err(GetError::Corrupt { key, what: "its header or checksums do not hold".into() });
            }
            match self.read(&located, offset, len)? {
                Some(read) => return Ok(read),
                None => last = Some(located),
            }
        }
    }

    /// Reads at the position in the index; `None` when header or checksums do not hold.
    pub(super) fn read(
        &self,
        located: &Located,
        offset: u32,
        len: u32,
    ) -> Result<Option<ShareRead>, GetError> {
        let key = located.meta.key;
        let share_len = located.meta.share_len;
        let end = offset.checked_add(len).filter(|end| *end <= share_len && len > 0);
        let Some(end) = end else { return Err(GetError::Range { key, offset, len, share_len }) };
        let io = |error: io::Error| GetError::Io { key, why: error.to_string() };
        let file = self.segments.open(located.position.segment).map_err(io)?;
        let first_chunk = offset as usize / CHUNK_BYTES;
        let last_chunk = (end as usize).div_ceil(CHUNK_BYTES);
        let from = first_chunk * CHUNK_BYTES;
        let to = (last_chunk * CHUNK_BYTES).min(share_len as usize);
        let mut head = vec![0; layout::head_bytes(share_len)];
        file.read_padded_at(located.position.offset(), &mut head).map_err(io)?;
        let Some(decoded) = layout::decode(&self.key, &head, located.position.segment, located.position.unit)
        else {
            return Ok(None);
        };
        if decoded.meta != located.meta {
            return Ok(None);
        }
        let mut payload = vec![0; to - from];
        file.read_padded_at(located.position.offset() + (head.len() + from) as u64, &mut payload)
            .map_err(io)?;
        let crcs = &decoded.crcs[first_chunk..last_chunk];
        if payload.chunks(CHUNK_BYTES).zip(crcs).any(|(chunk, crc)| chunk_crc(chunk) != *crc) {
            return Ok(None);
        }
        Ok(Some(ShareRead {
            meta: located.meta,
            first_byte: from as u32,
            payload: payload.into(),
            chunk_crcs: crcs.to_vec(),
        }))
    }
}
