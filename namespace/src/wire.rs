//! One encoding for everything that is sent or stored: a version byte, then postcard.

use crate::error::NsError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version byte.
pub const VERSION: u8 = 1;

/// Encodes a value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("values of the namespace can always be written")
}

/// Decodes a value; every byte must be used.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NsError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, left)) => Err(NsError::Malformed(format!("{} bytes too many", left.len()))),
            Err(error) => Err(NsError::Malformed(error.to_string())),
        },
        Some((version, _)) => Err(NsError::Malformed(format!("format version {version}, not {VERSION}"))),
        None => Err(NsError::Malformed("no bytes".into())),
    }
}
