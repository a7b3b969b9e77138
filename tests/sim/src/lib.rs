//! Simulation by seed: virtual time, a network and machines that fail, and what must hold nevertheless.
//!
//! The simulator runs the very state machines that the daemon runs; only sockets, clocks and disks are of its own making.
//!
//! - [`ring`] over [`world`]: the token ring. [`names`] over [`disk`]: the namespace under Raft, on disks that lose what was not synced.
//! - [`history`] and [`model`]: whether what several clients saw has an order.

pub mod demo;
pub mod disk;
pub mod history;
pub mod model;
pub mod names;
pub mod ring;
pub mod world;
