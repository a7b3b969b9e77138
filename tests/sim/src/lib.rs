//! Simulation by seed: a cluster in virtual time, with a network and machines that fail, and checks that must
//! hold nevertheless.
//!
//! The simulator runs the same state machines as the daemon. Only sockets, clocks and disks are simulated.
//!
//! - [`ring`] over [`world`]: the token ring. [`demo`] shows one story of it.
//! - [`names`] over [`disk`]: the namespace under Raft, on disks that lose what was not synced.
//! - [`history`] and [`model`]: the check that the replies to several clients are linearizable.

pub mod demo;
pub mod disk;
pub mod history;
pub mod model;
pub mod names;
pub mod ring;
pub mod world;
