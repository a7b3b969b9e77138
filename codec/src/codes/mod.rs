//! The codes, and [`mod@array`], which makes a code of any XOR array's geometry.
//!
//! To add an XOR array code, write its [`Geometry`](crate::geometry::Geometry), wrap it in
//! [`array::XorArray`], and name it here.

pub mod array;
pub mod bcode;
pub mod cauchy;
pub mod evenodd;
pub mod rdp;
pub mod rs;
pub mod small;
pub mod star;
pub mod xcode;

use std::sync::Arc;

use crate::{Code, CodeError};

type Make = fn(usize, usize) -> Result<Arc<dyn Code>, CodeError>;

const COUNT: usize = 9;

const NAMES: [&str; COUNT] = [
    rdp::NAME,
    evenodd::NAME,
    star::NAME,
    xcode::NAME,
    bcode::NAME,
    cauchy::NAME,
    rs::NAME,
    small::MIRROR,
    small::PARITY,
];

const MAKERS: [Make; COUNT] = [
    rdp::make,
    evenodd::make,
    star::make,
    xcode::make,
    bcode::make,
    cauchy::make,
    rs::make,
    small::make_mirror,
    small::make_parity,
];

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

/// The name of the code to take for k and m when nobody asks for another: of those that divide a 4 KiB page into whole
/// stripes and run at the speed of memory the one whose repair reads least (`docs/codec.md`).
pub fn default_name(k: usize, m: usize) -> &'static str {
    match (k, m) {
        (1, _) => small::MIRROR,
        (_, 1) => small::PARITY,
        (2..=16, 2) => rdp::NAME,
        (_, 0) => rs::NAME,
        _ => cauchy::NAME,
    }
}
