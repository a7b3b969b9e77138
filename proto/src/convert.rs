//! Conversions between wire and domain types. A value that a peer may have got wrong gives an error with the
//! value in it (`lies_are_refused`).

use crate::v1;
use rain_types::{BlockId, ClusterId, CodeSpec, Codec, LeaderTerm, NodeId, SessionId, ShareIndex};
use thiserror::Error;

/// The reason why a message is invalid. Correct peers do not send such messages.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// A required field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number is outside its range.
    #[error("{what} is {value}, at most {limit} is possible")]
    Range {
        /// Name of the field.
        what: &'static str,
        /// Value of the field.
        value: u64,
        /// Largest valid value.
        limit: u64,
    },
    /// The codec number is unknown to this version.
    #[error("codec number {0} is not known to this version")]
    UnknownCodec(u32),
    /// The code has an impossible k or m.
    #[error("code {k}+{m} is not possible")]
    BadCode {
        /// Number of shares that suffice.
        k: u32,
        /// Number of shares that may be lost.
        m: u32,
    },
    /// The length of a checksum table is not a multiple of 8.
    #[error("a checksum table of {0} bytes is not a multiple of 8")]
    ChecksumTable(usize),
    /// The id of a cluster does not have 16 bytes.
    #[error("a cluster id of {0} bytes, 16 are right")]
    ClusterId(usize),
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

impl From<LeaderTerm> for v1::LeaseTerm {
    fn from(term: LeaderTerm) -> Self {
        v1::LeaseTerm { term: term.term, leader: term.node.0 }
    }
}

impl From<v1::LeaseTerm> for LeaderTerm {
    fn from(term: v1::LeaseTerm) -> Self {
        LeaderTerm { term: term.term, node: NodeId(term.leader) }
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

/// Returns the wire form of a share's key.
pub fn share_key(block: BlockId, index: ShareIndex) -> v1::ShareKey {
    v1::ShareKey { block: Some(block.into()), index: index.0.into() }
}

/// Reads a share's key from the wire. Fails when a field is missing or the index is above 255.
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

/// Returns the wire form of the node that a request is meant for.
pub fn addressee(cluster: ClusterId, node: NodeId) -> v1::Addressee {
    v1::Addressee { cluster: cluster.0.to_be_bytes().to_vec().into(), node: node.0 }
}

/// Reads the node that a request is meant for. Fails when it is missing or its cluster id has a wrong length.
pub fn read_addressee(to: Option<v1::Addressee>) -> Result<(ClusterId, NodeId), WireError> {
    let to = to.ok_or(WireError::Missing("the node that the request is meant for"))?;
    let cluster =
        <[u8; 16]>::try_from(&to.cluster[..]).map_err(|_| WireError::ClusterId(to.cluster.len()))?;
    Ok((ClusterId(u128::from_be_bytes(cluster)), NodeId(to.node)))
}

/// What the workers of a leader act by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mandate {
    /// The term of the leader.
    pub term: LeaderTerm,
    /// Version of the cluster's layout that the work was decided by.
    pub places: u64,
}

impl From<Mandate> for v1::Mandate {
    fn from(mandate: Mandate) -> Self {
        v1::Mandate { term: mandate.term.term, leader: mandate.term.node.0, places: mandate.places }
    }
}

/// Reads a mandate. `None` where it is missing, or of no term.
pub fn read_mandate(mandate: Option<v1::Mandate>) -> Option<Mandate> {
    let mandate = mandate.filter(|mandate| mandate.term > 0)?;
    let term = LeaderTerm { term: mandate.term, node: NodeId(mandate.leader) };
    Some(Mandate { term, places: mandate.places })
}

impl From<CodeSpec> for v1::Code {
    fn from(code: CodeSpec) -> Self {
        v1::Code { codec: code.codec as u32, k: code.k.into(), m: code.m.into() }
    }
}

/// Reads a code from the wire. Fails when the code is missing, unknown or impossible.
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

/// Returns the wire form of a table of checksums: 8 bytes little endian each.
pub fn checksum_table(crcs: &[u64]) -> bytes::Bytes {
    let mut table = bytes::BytesMut::with_capacity(crcs.len() * 8);
    for crc in crcs {
        table.extend_from_slice(&crc.to_le_bytes());
    }
    table.freeze()
}

/// Reads a table of checksums from the wire. Fails when its length is not a multiple of 8.
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
        let to = (ClusterId(7 << 100 | 5), NodeId(3));
        assert_eq!(read_addressee(Some(addressee(to.0, to.1))), Ok(to));
        let mandate = Mandate { term: LeaderTerm { term: 4, node: NodeId(2) }, places: 9 };
        assert_eq!(read_mandate(Some(mandate.into())), Some(mandate));
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
        assert!(matches!(read_addressee(None), Err(WireError::Missing(_))));
        let short = v1::Addressee { cluster: vec![1; 15].into(), node: 1 };
        assert_eq!(read_addressee(Some(short)), Err(WireError::ClusterId(15)));
        assert_eq!(read_mandate(None), None);
        assert_eq!(read_mandate(Some(v1::Mandate { term: 0, leader: 2, places: 9 })), None);
    }
}
