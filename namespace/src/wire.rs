//! The encoding of everything that is sent or stored: a version byte, then postcard. `tests/golden.rs` holds
//! the bytes.

use crate::error::NsError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version byte in front of every value. A reader refuses other versions.
pub const VERSION: u8 = 2;

/// Encodes a value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("values of the namespace can always be written")
}

/// Decodes a value. Fails when the version is another one, or when the value does not use every byte.
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
