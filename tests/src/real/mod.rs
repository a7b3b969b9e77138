//! Real clusters and mounts: processes that are started, killed and started again.

mod cluster;
pub mod lan;
mod mount;

pub use cluster::{ClusterOptions, TestCluster};
pub use mount::{TestMount, run};
