//! Simulation by seed of RAIN's pure parts: virtual time, a network and machines that fail, and what must hold nevertheless.
//!
//! The simulator runs the very state machines that the daemon runs; only sockets, clocks and disks are of its own making.

pub mod demo;
pub mod ring;
pub mod world;
