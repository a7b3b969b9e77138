//! Histories of several clients that work on one volume of a real cluster while parts of it fail.
//! `rain_sim::history` checks that each history is linearizable.

mod run;

pub use run::{HistoryCluster, HistoryOptions, HistoryReport, expect_linearizable};
