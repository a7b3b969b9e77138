//! The durable state of a node.

use crate::eligible::Configuration;
use serde::{Deserialize, Serialize};

/// The state that a node keeps on its own disk. A node without this state is another node: it must not come
/// back under the same number, because the cluster relies on the promises of the lost one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Durable {
    /// Number of the node's start; the driver increments it durably before each start.
    pub incarnation: u64,
    /// The node may have promised every epoch up to this number. It is ahead of the real promises, so that
    /// they seldom wait for the disk.
    pub epoch_ceiling: u64,
    /// Eligible membership, as the node knows it.
    pub configuration: Configuration,
}
