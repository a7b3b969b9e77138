//! Histories of several clients that work on one volume of a real cluster while parts of it fail.
//!
//! The nodes are real processes in network namespaces. Four clients of the library, each with a session of
//! its own, work on one directory of four names, one file with a value and with permission bits, one log to which all append, and one lock.
//! They cache what their leases allow. `rain_sim::history`
//! checks that each history is linearizable.
//!
//! The seed chooses the operations and the faults. The machine decides their timing, so a seed does not give
//! the same history twice.

mod client;
mod cluster;

pub use cluster::{HistoryCluster, HistoryOptions, HistoryReport, expect_linearizable};
