//! The ring's times and limits.
//!
//! The scheduler of a busy machine determines the defaults, not the network: it commonly stalls a thread for
//! 10 to 20 ms. An acknowledgement is late after three times that. A token is lost after two rounds and one
//! failed pass.

use crate::paths::Strategy;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// The treatment of a node that does not take the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detection {
    /// The node is removed at the first failed pass. This is fast. A broken link between two neighbours costs
    /// one of them a leave and a rejoin.
    #[default]
    Aggressive,
    /// The node changes its position in the ring first. It is removed after two failed passes in a row, from
    /// different senders. So a broken link excludes no node.
    Conservative,
}

/// Times and limits. All members of a ring should have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Treatment of a node that does not take the token.
    pub detection: Detection,
    /// Duration of one round of the token when the ring is idle.
    pub rotation: Duration,
    /// Time after which a pass without acknowledgement is sent again, over the next address.
    pub ack_timeout: Duration,
    /// Number of sends on each address of the target before a pass has failed.
    pub pass_tries: u32,
    /// Time without the token after which a node starves.
    pub starving_after: Duration,
    /// Time after which a 911 call without answer is sent again.
    pub call_timeout: Duration,
    /// Number of sends of a 911 call before silent nodes count as gone.
    pub call_tries: u32,
    /// Time between a denial and the next 911 call.
    pub retry_after: Duration,
    /// Interval between pings of a link.
    pub ping_every: Duration,
    /// Use of the several addresses of a node.
    pub strategy: Strategy,
    /// Interval between announcements to eligible nodes outside of the view.
    pub hello_every: Duration,
    /// Time after the token's arrival at which exclusive actions end. It is shorter than `starving_after`,
    /// after which others may act.
    pub lease: Duration,
    /// Largest size of the changes on the token, bytes; a holder adds nothing above it.
    pub token_bytes_max: usize,
    /// Largest size of this node's changes that wait for the token, bytes; further changes are refused.
    pub outbox_bytes_max: usize,
    /// Number of epochs for which promises are made durable at once, so that a promise seldom waits for the
    /// disk.
    pub epoch_reserve: u64,
    /// Length of one part of a snapshot, bytes.
    pub snapshot_part_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::for_nodes(6)
    }
}

impl Settings {
    /// Returns the settings for a number of nodes: the defaults for up to 16 nodes, and 3 ms a hop above, so
    /// that the work of each node stays the same.
    pub fn for_nodes(nodes: usize) -> Settings {
        let rotation = Duration::from_millis(50).max(Duration::from_millis(3) * nodes as u32);
        Settings {
            detection: Detection::Aggressive,
            rotation,
            ack_timeout: Duration::from_millis(20),
            pass_tries: 3,
            starving_after: rotation * 2 + Duration::from_millis(60),
            call_timeout: Duration::from_millis(20),
            call_tries: 3,
            retry_after: Duration::from_millis(40),
            // At every size a node sends and receives the same number of pings a second.
            ping_every: Duration::from_millis(50).max(Duration::from_millis(8) * nodes as u32),
            strategy: Strategy::Sequence,
            hello_every: Duration::from_millis(200),
            lease: rotation * 2,
            token_bytes_max: 256 << 10,
            outbox_bytes_max: 4 << 20,
            epoch_reserve: 1024,
            snapshot_part_bytes: 32 << 10,
        }
    }

    /// Checks the relations between settings on which safety and liveness rest. Fails with the first violated
    /// one.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let least = self.rotation + self.ack_timeout * self.pass_tries;
        if self.starving_after < least {
            return Err(SettingsError::StarvesTooSoon { starving_after: self.starving_after, least });
        }
        if self.lease >= self.starving_after {
            return Err(SettingsError::Lease { lease: self.lease, starving_after: self.starving_after });
        }
        if self.pass_tries == 0 || self.call_tries == 0 || self.epoch_reserve < 2 {
            return Err(SettingsError::Zero);
        }
        Ok(())
    }
}

/// A contradiction between settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A node would starve while the token is on its way.
    #[error(
        "starving-after is {starving_after:?}, less than a rotation and one failed pass take ({least:?})"
    )]
    StarvesTooSoon {
        /// Given value.
        starving_after: Duration,
        /// Smallest valid value.
        least: Duration,
    },
    /// A holder could act after other nodes may have replaced it.
    #[error("lease is {lease:?}; it must be less than starving-after, {starving_after:?}")]
    Lease {
        /// Given value.
        lease: Duration,
        /// Upper bound.
        starving_after: Duration,
    },
    /// A count is too small.
    #[error("pass-tries and call-tries must be 1 or more, epoch-reserve 2 or more")]
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_at_every_size_and_contradictions_are_not() {
        for nodes in 1..=100 {
            Settings::for_nodes(nodes).validate().expect("valid");
        }
        let wrong = Settings { lease: Duration::from_secs(1), ..Settings::default() };
        assert!(matches!(wrong.validate(), Err(SettingsError::Lease { .. })));
        let wrong = Settings { starving_after: Duration::from_millis(70), ..Settings::default() };
        assert!(matches!(wrong.validate(), Err(SettingsError::StarvesTooSoon { .. })));
    }
}
