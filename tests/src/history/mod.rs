//! Histories of what several clients did to one volume, and whether they could have been done one after the other.
//!
//! - [`check`]: the search, over any model. [`model`]: what names, a value and a lock do. Both pure.
//! - [`run`]: clients at work on a real cluster while parts of it fail.

pub mod check;
pub mod model;
pub mod run;

pub use check::{Event, Violation, linearize};
pub use model::{Op, Reply};
pub use run::{Asked, Report, Stage};
