//! The block layer: distributed store (n shares to n nodes) and retrieve (any k shares, the best placed
//! first).
//!
//! - [`store`] encodes a block, sends the n shares at once, and says which shares could not be placed.
//! - [`retrieve`] reads the shares that hold the wanted bytes. Where one is late, damaged or missing it asks
//!   for others, and decodes the first k that arrive. [`cache`] keeps whole blocks.
//! - [`repair`] makes missing shares again and moves shares between nodes.
//! - [`work`] is what the puts and deletes of a leader's workers go by.
//! - [`share`] reads one share of one node; [`crc`] has the checksums; [`report`] tells the namespace of
//!   missing shares.
//!
//! Every checksum is verified here, at the end that uses the bytes. Extents, files and garbage are the
//! namespace's: this rung does not know what a block means.

mod blocks;
mod cache;
mod crc;
mod location;
mod repair;
mod report;
mod retrieve;
mod share;
mod store;
mod work;

pub(crate) use blocks::Blocks;
pub use crc::chunk_checksums;
pub use location::BlockLocation;
pub use repair::Repaired;
pub use share::ShareState;
pub use work::{WorkOrder, WorkTerm};
