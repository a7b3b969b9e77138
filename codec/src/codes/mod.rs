//! The codes, and [`mod@array`], which turns the geometry of any XOR array into a code.
//!
//! To add an XOR array code, write its [`Geometry`](crate::geometry::Geometry), wrap it in
//! [`array::XorArray`], and add it to the lists here. `every_code_survives_every_loss_up_to_14_shares` then
//! checks it.

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

/// Number of codes.
const COUNT: usize = 9;

/// The names, in the order of [`MAKERS`].
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

/// The constructors, in the order of [`NAMES`].
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

/// Returns the names of all codes.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Returns the code of this name with k data and m parity shares. Fails when no code has the name, or when
/// the code does not exist for this k and m.
pub fn by_name(name: &str, k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    match NAMES.iter().position(|&known| known == name) {
        Some(i) => MAKERS[i](k, m),
        None => Err(CodeError::UnknownCode { name: name.to_owned(), known: &NAMES }),
    }
}

/// Returns the name of the default code for k and m: of the codes that divide a 4 KiB page into whole stripes
/// and run at memory speed, the one whose repair reads least (`docs/codec.md`).
pub fn default_name(k: usize, m: usize) -> &'static str {
    match (k, m) {
        (1, _) => small::MIRROR,
        (_, 1) => small::PARITY,
        (2..=16, 2) => rdp::NAME,
        (_, 0) => rs::NAME,
        _ => cauchy::NAME,
    }
}
