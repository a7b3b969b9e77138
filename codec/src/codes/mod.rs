//! The codes: [`rdp`] and [`rs`], and [`mod@array`], which makes a code of any XOR array's geometry.
//!
//! To add an XOR array code, write its [`Geometry`](crate::geometry::Geometry), wrap it in
//! [`array::XorArray`], and name it here.

pub mod array;
pub mod rdp;
pub mod rs;

use std::sync::Arc;

use crate::{Code, CodeError};

type Make = fn(usize, usize) -> Result<Arc<dyn Code>, CodeError>;

const NAMES: [&str; 2] = [rdp::NAME, rs::NAME];
const MAKERS: [Make; 2] = [rdp::make, rs::make];

/// The names of the codes there are.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The code of this name with k data and m parity shares.
pub fn by_name(name: &str, k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    match NAMES.iter().position(|&known| known == name) {
        Some(i) => MAKERS[i](k, m),
        None => Err(CodeError::UnknownCode { name: name.to_owned(), known: &NAMES }),
    }
}
