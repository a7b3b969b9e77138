//! The encoding of messages and of the durable state: a version byte, then postcard. `docs/formats.md`
//! describes it; `the_bytes_are_those_of_version_one` holds it.

use crate::message::Message;
use crate::token::Member;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version byte in front of every value; a reader refuses other versions.
pub const VERSION: u8 = 1;

/// A message with its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// Sender with its incarnation.
    pub from: Member,
    /// Receiver.
    pub to: rain_types::NodeId,
    /// Number of the pair of addresses.
    pub link: u8,
    /// Content.
    pub body: Body,
}

/// The content of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Body {
    /// A message of the ring.
    Ring(Message),
    /// A ping of the link monitor, for one pair of addresses.
    Ping(crate::link::Ping),
}

/// The reason why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// There are no bytes.
    #[error("no bytes")]
    Empty,
    /// The version is unknown to this program.
    #[error("version {0}; this program knows version {VERSION}")]
    Version(u8),
    /// The bytes are no value of the expected type.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("everything here has an encoding")
}

/// Decodes a value. Fails when the version is unknown, or when the value does not use every byte.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (version, rest) = bytes.split_first().ok_or(WireError::Empty)?;
    if *version != VERSION {
        return Err(WireError::Version(*version));
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok((_, left)) => Err(WireError::Malformed(format!("{} bytes left over", left.len()))),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}
