//! Wire to domain and back. Anything a peer may have got wrong is an error with the value in it.

use crate::v1;
use rain_types::{BlockId, CodeSpec, Codec, SessionId, ShareIndex};
use thiserror::Error;

/// A message that no honest peer sends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number outside its range.
    #[error("{what} is {value}, at most {limit} is possible")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        limit: u64,
    },
    /// A code this version does not know.
    #[error("codec number {0} is not known to this version")]
    UnknownCodec(u32),
    /// A code whose numbers make no sense.
    #[error("code {k}+{m} is not possible")]
    BadCode {
        /// Shares that suffice.
        k: u32,
        /// Shares that may be lost.
        m: u32,
    },
    /// A checksum table that is not a whole number of checksums.
    #[error("a checksum table of {0} bytes is not a multiple of 8")]
    ChecksumTable(usize),
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

impl From<BlockId> for v1::BlockId {
    fn from(id: BlockId) -> Self {
        v1::BlockId { session: id.session.0, seq: id.seq }
    }
}

impl From<v1::BlockId> for BlockId {
    fn from(id: v1::BlockId) -> Self {
        BlockId { session: SessionId(id.session), seq: id.seq }
    }
}

/// A share's key for the wire.
pub fn share_key(block: BlockId, index: ShareIndex) -> v1::ShareKey {
    v1::ShareKey { block: Some(block.into()), index: index.0.into() }
}

/// A share's key from the wire.
pub fn read_share_key(key: Option<v1::ShareKey>) -> Result<(BlockId, ShareIndex), WireError> {
    let key = key.ok_or(WireError::Missing("the share's key"))?;
    let block = key.block.ok_or(WireError::Missing("the block's id"))?;
    let index = u8::try_from(key.index).map_err(|_| WireError::Range {
        what: "the share's index",
        value: key.index.into(),
        limit: u8::MAX.into(),
    })?;
    Ok((block.into(), ShareIndex(index)))
}

impl From<CodeSpec> for v1::Code {
    fn from(code: CodeSpec) -> Self {
        v1::Code { codec: code.codec as u32, k: code.k.into(), m: code.m.into() }
    }
}

/// A code from the wire.
pub fn read_code(code: Option<v1::Code>) -> Result<CodeSpec, WireError> {
    let code = code.ok_or(WireError::Missing("the code"))?;
    let codec = u8::try_from(code.codec)
        .ok()
        .and_then(Codec::from_number)
        .ok_or(WireError::UnknownCodec(code.codec))?;
    let bad = || WireError::BadCode { k: code.k, m: code.m };
    let spec = CodeSpec {
        codec,
        k: u8::try_from(code.k).map_err(|_| bad())?,
        m: u8::try_from(code.m).map_err(|_| bad())?,
    };
    if spec.k == 0 || spec.n() > 255 { Err(bad()) } else { Ok(spec) }
}

/// A table of checksums for the wire: 8 bytes little endian each.
pub fn checksum_table(crcs: &[u64]) -> bytes::Bytes {
    let mut table = bytes::BytesMut::with_capacity(crcs.len() * 8);
    for crc in crcs {
        table.extend_from_slice(&crc.to_le_bytes());
    }
    table.freeze()
}

/// A table of checksums from the wire.
pub fn read_checksum_table(table: &[u8]) -> Result<Vec<u64>, WireError> {
    let (words, rest) = table.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(WireError::ChecksumTable(table.len()));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let block = BlockId { session: SessionId(5), seq: 6 };
        assert_eq!(read_share_key(Some(share_key(block, ShareIndex(3)))), Ok((block, ShareIndex(3))));
        let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
        assert_eq!(read_code(Some(code.into())), Ok(code));
        assert_eq!(read_checksum_table(&checksum_table(&[1, u64::MAX])), Ok(vec![1, u64::MAX]));
    }

    #[test]
    fn lies_are_refused() {
        assert_eq!(read_share_key(None), Err(WireError::Missing("the share's key")));
        let key = v1::ShareKey { block: Some(v1::BlockId::default()), index: 256 };
        assert!(matches!(read_share_key(Some(key)), Err(WireError::Range { .. })));
        assert!(matches!(
            read_code(Some(v1::Code { codec: 99, k: 4, m: 2 })),
            Err(WireError::UnknownCodec(99))
        ));
        for (k, m) in [(0, 2), (254, 2), (300, 1)] {
            assert!(matches!(read_code(Some(v1::Code { codec: 1, k, m })), Err(WireError::BadCode { .. })));
        }
        assert_eq!(read_checksum_table(&[0; 9]), Err(WireError::ChecksumTable(9)));
    }
}
