//! What a node must not forget.

use crate::eligible::Configuration;
use serde::{Deserialize, Serialize};

/// On the node's own disk. Whoever loses it is another node: it must not come back under the same number while the cluster has
/// promises of the lost one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The node's life; the driver counts it up, durably, before each start.
    pub incarnation: u64,
    /// It may have promised every epoch up to this number. Ahead of what it has really promised.
    pub epoch_ceiling: u64,
    /// The eligible membership as it knows it.
    pub configuration: Configuration,
}
