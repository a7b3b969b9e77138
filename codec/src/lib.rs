//! Erasure codes for RAIN: a code turns a block into n shares, and any k of the shares restore the block.
//!
//! [`Code`] is the interface of every code; [`by_name`] returns one.
//!
//! Invariants:
//! 1. Any k of n shares restore the block (`every_code_survives_every_loss_up_to_14_shares`).
//! 2. A call that returns an error has written to no buffer (`wrong_buffers_are_refused`, and the patterns of
//!    more than m lost shares in `every_code_survives_every_loss_up_to_14_shares`).
//! 3. The machine code made at run time writes the same bytes as the portable executor
//!    (`machine_code_does_what_schedules_say`).
//! 4. The crate is pure: no I/O, no clock, no randomness, and no other crate of the workspace
//!    (`tests/tests/layering.rs`).
//!
//! Left out: share headers, checksums, and the choice of nodes.
//!
//! ```
//! use rain_codec::{ShareSet, by_name};
//! let code = by_name("rdp", 4, 2)?;
//! let block = b"any four of six shares give this back".repeat(100);
//! let mut shares = vec![vec![0; code.share_bytes(block.len())]; code.n()];
//! let mut views: Vec<&mut [u8]> = shares.iter_mut().map(Vec::as_mut_slice).collect();
//! code.split(&block, &mut views)?;
//! code.encode(&mut views)?;
//! views[1].fill(0xdb); // two shares are lost
//! views[2].fill(0xdb);
//! let lost: ShareSet = [1, 2].into_iter().collect();
//! code.reconstruct(&mut views, ShareSet::all(6).minus(lost), lost)?;
//! let views: Vec<&[u8]> = shares.iter().map(Vec::as_slice).collect();
//! let mut read = vec![0; block.len()];
//! code.join(&views, &mut read)?;
//! assert_eq!(read, block);
//! # Ok::<(), rain_codec::CodeError>(())
//! ```
//!
//! # The array
//!
//! A share is a sequence of stripes. A stripe is a few rows of 64 bytes. The same stripe of all shares is an
//! array of packets, which is one code word. Here is RDP 4+2, whose stripes have four rows:
//!
//! ```text
//!             share 0   share 1   share 2   share 3   share 4      share 5
//!             (data)    (data)    (data)    (data)    (row parity) (diagonal parity)
//!           +---------+---------+---------+---------+------------+-----------------+
//!         / | d00     | d01     | d02     | d03     | p0         | q0              |  row 0, 64 bytes each
//! stripe  | | d10     | d11     | d12     | d13     | p1         | q1              |  row 1
//!   0     | | d20     | d21     | d22     | d23     | p2         | q2              |
//!         \ | d30     | d31     | d32     | d33     | p3         | q3              |
//!           +---------+---------+---------+---------+------------+-----------------+
//! stripe 1  | ..      |         |         |         |            |                 |
//!
//!   p0 = d00 + d01 + d02 + d03          + is XOR; likewise the other rows
//!   q0 = d00 + p1 + d23 + d32           a diagonal includes row parity; likewise the other diagonals
//! ```
//!
//! # How it works
//!
//! ```text
//! geometry  ---- elimination over GF(2) --->  schedule  ---- registers ---->  machine code  ---> bytes
//! (equations)    (schedule::solve)            (XORs of packets)               (xor; else portable)
//! ```
//!
//! A code is its [`geometry`]: equations over packets. Elimination turns the equations into [`schedule`]s for
//! encoding, for decoding any pattern of lost shares, and for repair. One executor runs all schedules. On
//! x86-64 and AArch64 it runs machine code made for the schedule; [`instructions`] returns the instruction
//! set in use. Reed-Solomon ([`codes::rs`]) works over GF(256) and implements the same trait without
//! schedules.
//!
//! [`default_name`] and `docs/codec.md` say which code to choose and what each code costs.

mod cache;
mod code;
pub mod codes;
mod error;
mod exec;
pub mod geometry;
mod plan;
pub mod schedule;
mod share_set;
mod xor;

pub use code::{Code, Piece, Verdict};
pub use codes::{by_name, default_name, names};
pub use error::CodeError;
pub use plan::{RepairPlan, ShareRead, pack_rows};
pub use share_set::{Iter, ShareSet};
pub use xor::{Stores, instructions};
