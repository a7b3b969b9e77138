//! The plain identifiers that all parts of RAIN share.
//!
//! Invariants (`every_identifier_reads_back_what_it_prints`):
//! 1. Every type is `Copy` and compares by value.
//! 2. `FromStr` reads the text that `Display` prints.
//!
//! Left out: behaviour and I/O. A type with a policy belongs to the crate that owns the policy.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The error of a text that is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdError {
    /// The expected kind, for people: "a node id".
    pub wanted: &'static str,
    /// The given text.
    pub given: String,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.given, self.wanted)
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.parse().map($name).map_err(|_| ParseIdError { wanted: $wanted, given: text.to_owned() })
            }
        }
    };
}

number_id!(
    /// A node: the daemon of one machine. The number is 1 or more and never reused.
    NodeId, u32, "a node id (a whole number)"
);
number_id!(
    /// A volume: a mountable directory tree with its erasure code.
    VolumeId, u32, "a volume id (a whole number)"
);
number_id!(
    /// A placement group of a volume: an ordered set of n nodes.
    GroupId, u32, "a placement group id (a whole number)"
);
number_id!(
    /// A client's session with the metadata service. Numbers are never reused.
    SessionId, u64, "a session id (a whole number)"
);
number_id!(
    /// An inode number: 16 bits of shard, 48 bits of counter. The number 0 means no inode.
    Ino, u64, "an inode number"
);
number_id!(
    /// The index of one of a block's n shares. In a systematic code, 0..k are data and k..n are parity.
    ShareIndex, u8, "a share index (0 to 254)"
);

impl Ino {
    /// Number of bits of the counter, which are below the shard number.
    pub const COUNTER_BITS: u32 = 48;

    /// Joins a shard and a counter.
    ///
    /// # Panics
    /// When the counter does not fit into 48 bits.
    pub fn new(shard: u16, counter: u64) -> Ino {
        assert!(counter < 1 << Self::COUNTER_BITS, "inode counter {counter} is over 48 bits");
        Ino(u64::from(shard) << Self::COUNTER_BITS | counter)
    }

    /// Returns the shard of the namespace that stores this inode.
    pub fn shard(self) -> u16 {
        (self.0 >> Self::COUNTER_BITS) as u16
    }
}

macro_rules! pair_id {
    ($(#[$doc:meta])* $name:ident, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name {
            /// Session that created it.
            pub session: SessionId,
            /// Number within the session, counted from 1.
            pub seq: u64,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.session, self.seq)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let wrong = || ParseIdError { wanted: $wanted, given: text.to_owned() };
                let (session, seq) = text.split_once('.').ok_or_else(wrong)?;
                Ok($name {
                    session: session.parse().map_err(|_| wrong())?,
                    seq: seq.parse().map_err(|_| wrong())?,
                })
            }
        }
    };
}

pair_id!(
    /// A block: up to 1 MiB of file data that are encoded together and never changed. Ids are unique without
    /// a round trip, because the metadata service grants sessions and a client counts within its own session.
    BlockId, "a block id (SESSION.SEQ)"
);
pair_id!(
    /// A client's request. The id lets a retried request apply once.
    RequestId, "a request id (SESSION.SEQ)"
);

/// The term of one leader. Terms are ordered by number, then by node: in one term of the consensus a leader may
/// be followed by another one whose node has a higher number. Prints as `TERM.NODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LeaderTerm {
    /// Number of the term. The first is 1; 0 is before every term.
    pub term: u64,
    /// The node that leads.
    pub node: NodeId,
}

impl fmt::Display for LeaderTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.node)
    }
}

impl FromStr for LeaderTerm {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError { wanted: "a leader's term (TERM.NODE)", given: text.to_owned() };
        let (term, node) = text.split_once('.').ok_or_else(wrong)?;
        Ok(LeaderTerm { term: term.parse().map_err(|_| wrong())?, node: node.parse().map_err(|_| wrong())? })
    }
}

/// A cluster. Nodes refuse nodes of another cluster. The id has 128 bits and is printed as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError { wanted: "a cluster id (32 hex digits)", given: text.to_owned() };
        if text.len() != 32 {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(ClusterId).map_err(|_| wrong())
    }
}

/// The family of an erasure code. Disk and wire formats use the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Codec {
    /// Reed-Solomon over GF(256), any k and m.
    Rs = 1,
    /// Row-diagonal parity (Corbett et al. 2004), m = 2. This and the following families use XOR only.
    Rdp = 2,
    /// EVENODD (Blaum et al. 1995), m = 2.
    EvenOdd = 3,
    /// STAR (Huang, Xu 2008), m = 3.
    Star = 4,
    /// X-Code (Xu, Bruck 1999), m = 2, k + 2 a prime.
    XCode = 5,
    /// B-Code (Xu et al. 1999), m = 2.
    BCode = 6,
    /// Cauchy bit matrices (Bloemer et al. 1995), any k and m.
    Cauchy = 7,
    /// Mirroring: every share is a copy, k = 1.
    Mirror = 8,
    /// Single parity: the parity share is the sum of the data shares, m = 1.
    Parity = 9,
}

impl Codec {
    /// All families, in the order of their numbers.
    pub const ALL: [Codec; 9] = [
        Codec::Rs,
        Codec::Rdp,
        Codec::EvenOdd,
        Codec::Star,
        Codec::XCode,
        Codec::BCode,
        Codec::Cauchy,
        Codec::Mirror,
        Codec::Parity,
    ];

    /// Returns the name that commands and `rain-codec` use.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Rs => "rs",
            Codec::Rdp => "rdp",
            Codec::EvenOdd => "evenodd",
            Codec::Star => "star",
            Codec::XCode => "xcode",
            Codec::BCode => "bcode",
            Codec::Cauchy => "cauchy",
            Codec::Mirror => "mirror",
            Codec::Parity => "parity",
        }
    }

    /// Returns the family with this number; `None` when there is none.
    pub fn from_number(number: u8) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| *codec as u8 == number)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Codec::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| ParseIdError {
            wanted: "a codec (rdp, evenodd, star, xcode, bcode, cauchy, mirror, parity, rs)",
            given: text.to_owned(),
        })
    }
}

/// The code of a volume: n = k + m shares, of which any k restore a block. It prints as `rdp 4+2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeSpec {
    /// Family of the code.
    pub codec: Codec,
    /// Number of shares that suffice.
    pub k: u8,
    /// Number of shares that may be lost.
    pub m: u8,
}

impl CodeSpec {
    /// Returns the number of shares of a block.
    pub fn n(self) -> usize {
        usize::from(self.k) + usize::from(self.m)
    }
}

impl fmt::Display for CodeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}+{}", self.codec, self.k, self.m)
    }
}

impl FromStr for CodeSpec {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError { wanted: "a code (rdp 4+2)", given: text.to_owned() };
        let (codec, shares) = text.split_once(' ').ok_or_else(wrong)?;
        let (k, m) = shares.split_once('+').ok_or_else(wrong)?;
        let code = CodeSpec {
            codec: codec.parse().map_err(|_| wrong())?,
            k: k.parse().map_err(|_| wrong())?,
            m: m.parse().map_err(|_| wrong())?,
        };
        if code.k == 0 || code.n() > 255 {
            return Err(wrong());
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identifier_reads_back_what_it_prints() {
        assert_eq!(NodeId(7).to_string().parse(), Ok(NodeId(7)));
        let block = BlockId { session: SessionId(3), seq: 9 };
        assert_eq!(block.to_string().parse(), Ok(block));
        let term = LeaderTerm { term: 12, node: NodeId(3) };
        assert_eq!(term.to_string().parse(), Ok(term));
        let cluster = ClusterId(0xfeed);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
        assert_eq!(code.to_string().parse(), Ok(code));
        for codec in Codec::ALL {
            assert_eq!(Codec::from_number(codec as u8), Some(codec));
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_text_in_the_message() {
        assert!("x".parse::<NodeId>().unwrap_err().to_string().contains("\"x\""));
        for text in ["", "1", "1.", ".1", "1.2.3", "-1.2"] {
            assert!(text.parse::<BlockId>().is_err(), "{text:?}");
            assert!(text.parse::<LeaderTerm>().is_err(), "{text:?}");
        }
        for text in ["rdp", "rdp 4", "rdp 0+2", "rdp 250+9", "xx 4+2"] {
            assert!(text.parse::<CodeSpec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_inode_number_carries_its_shard() {
        let ino = Ino::new(5, 77);
        assert_eq!(ino.shard(), 5);
        assert_eq!(ino.0 & ((1 << Ino::COUNTER_BITS) - 1), 77);
    }
}
