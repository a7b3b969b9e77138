//! Bytes of messages and of what is durable: postcard, a version byte before. `docs/formats.md` has them.

use crate::message::Message;
use crate::token::Member;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of everything here.
pub const VERSION: u8 = 1;

/// A message with who sends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender, in this life of it.
    pub from: Member,
    /// To whom.
    pub to: rain_types::NodeId,
    /// Over which pair of addresses.
    pub link: u8,
    /// What.
    pub body: Body,
}

/// What goes between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Body {
    /// Of the ring.
    Ring(Message),
    /// Of the link monitor, over one pair of addresses.
    Ping(crate::link::Ping),
}

/// Bytes that are no such thing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// Nothing at all.
    #[error("no bytes")]
    Empty,
    /// Of a version that this program does not know.
    #[error("version {0}; this program knows version {VERSION}")]
    Version(u8),
    /// Not decodable.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// Encodes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("everything here has an encoding")
}

/// Decodes; nothing may be left over.
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
