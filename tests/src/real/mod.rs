//! Real clusters: processes started, killed and started again, and mounts.

mod cluster;
pub mod lan;
mod mount;

pub use cluster::{ClusterOptions, TestCluster};
pub use mount::{TestMount, run};
