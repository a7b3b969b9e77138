//! Files' data: the data written here and not yet committed, laid over the data that the namespace says is
//! stored.
//!
//! Layers of a read, newest first: `dirty` (written), `flushing` (being stored), extents, inline data, zeros.
//!
//! - [`table`] has the [`state`] of every open file, [`open`] is an open file as one program holds it.
//! - [`questions`] tells answers that a change of this client has overtaken; [`attributes`] changes length and
//!   times.
//! - [`buffer`] gathers written data within [`budget`]; [`flush`] stores it, by way of [`pack`]; [`read`]
//!   reads.
//! - [`clone`] copies ranges that share blocks.
//! - [`leases`], with [`lease`], is what this client may rely on of a file, while other clients may have it, too.
//! - [`locks`] are a file's locks over all clients, [`owners`] their owners here. [`ranges`] is a set of byte
//!   ranges.
//!
//! Invariants:
//! 1. Commits of one file follow the order of its writes: there is one flush at a time (`turn`).
//! 2. Extents are kept only as long as every change of the file's version is this client's own.
//! 3. A failed flush puts its data back into the buffer, below data written since. Its caller gets the error;
//!    the error of a background flush goes to the caller of the next flush.
//!
//! This rung knows nothing of names (`volume`) and of how blocks are stored (`block`).

mod attributes;
mod budget;
mod buffer;
mod clone;
mod flush;
mod lease;
mod leases;
mod locks;
mod open;
mod owners;
mod pack;
mod questions;
mod ranges;
mod read;
mod state;
mod table;

pub use lease::{Dropped, KernelCache};
pub use open::OpenFile;
pub(crate) use table::{FileTable, Question};
