//! Erasure codes for RAIN: a block becomes n shares, and any k of them give it back.
//!
//! Pure: no I/O, no clock, no randomness, and no other part of the workspace. [`Code`] is what every code can
//! do; [`by_name`] finds one.
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
//! A share is a sequence of stripes, a stripe a few rows of 64 bytes. One stripe of all shares is an array of
//! packets, and one code word. Here is RDP 4+2, where stripes are four rows:
//!
//! ```text
//!             share 0   share 1   share 2   share 3   share 4      share 5
//!             (data)    (data)    (data)    (data)    (row parity) (diagonal parity)
//!           +---------+---------+---------+---------+------------+-----------------+
//!         / | d00     | d01     | d02     | d03     | p0         | q0              |  row 0, 64 bytes of each share
//! stripe  | | d10     | d11     | d12     | d13     | p1         | q1              |  row 1
//!   0     | | d20     | d21     | d22     | d23     | p2         | q2              |
//!         \ | d30     | d31     | d32     | d33     | p3         | q3              |
//!           +---------+---------+---------+---------+------------+-----------------+
//! stripe 1  | ..      |         |         |         |            |                 |
//!
//!   p0 = d00 + d01 + d02 + d03          + is XOR; likewise the other rows
//!   q0 = d00 + p1 + d23 + d32           a diagonal goes through row parity, too; likewise the other diagonals
//! ```
//!
//! # How it works
//!
//! ```text
//! geometry  ---- elimination over GF(2) --->  schedule  ---- registers ---->  machine code  ---> bytes
//! (equations)    (schedule::solve)            (XORs of packets)               (xor, where it can; else portable)
//! ```
//!
//! A code is its [`geometry`]: equations over packets. Encoding, decoding of any pattern of lost shares, and
//! repair are [`schedule`]s found from it, and one executor runs them all, on x86-64 and AArch64 by code made for the schedule
//! ([`instructions`] tells). Reed-Solomon ([`codes::rs`]) works over GF(256) and goes its own way behind the same trait.
//!
//! Which code to take, and what each costs: [`default_name`], and `docs/codec.md`.

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
