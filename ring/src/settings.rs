//! The ring's times and limits.
//!
//! The defaults come from what a scheduler does to a thread on a busy machine (stalls of 10 to 20 ms are usual), not from what the
//! network takes: an acknowledgement is late after three times that, and a token lost after two rounds and one failed pass.

use crate::paths::Strategy;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// What becomes of a node that does not take the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detection {
    /// It is out at the first failed pass. Fast; a broken link between two neighbours costs one of them a leave and a rejoin.
    #[default]
    Aggressive,
    /// It changes places in the ring first, and is out after failing twice in a row, from different senders. Broken
    /// links then exclude nobody.
    Conservative,
}

/// Times and limits. All members of a ring should have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How failures are judged.
    pub detection: Detection,
    /// One round of the token when nothing goes on.
    pub rotation: Duration,
    /// A pass not acknowledged in this time is sent again, over the next address.
    pub ack_timeout: Duration,
    /// So many sends, on each address of the target, before a pass has failed.
    pub pass_tries: u32,
    /// A node without the token for so long starves.
    pub starving_after: Duration,
    /// A 911 call not answered in this time is sent again.
    pub call_timeout: Duration,
    /// So many sends of a 911 call before those who have not answered count as gone.
    pub call_tries: u32,
    /// After a denial the next 911 call comes so late.
    pub retry_after: Duration,
    /// Between two pings of a link.
    pub ping_every: Duration,
    /// How several addresses of one node are used.
    pub strategy: Strategy,
    /// Between two greetings to eligible nodes outside of the view.
    pub hello_every: Duration,
    /// Exclusive acts end so long after the token came. Shorter than `starving_after`, after which others may act.
    pub lease: Duration,
    /// Changes on the token, bytes; a holder adds nothing above it.
    pub token_bytes_max: usize,
    /// Changes of this node that wait for the token, bytes; more are refused.
    pub outbox_bytes_max: usize,
    /// Promises are made durable for so many epochs at once, so that a promise seldom waits for the disk.
    pub epoch_reserve: u64,
    /// Bytes of one part of a snapshot.
    pub snapshot_part_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::for_nodes(6)
    }
}

impl Settings {
    /// What suits so many nodes: up to 16 the defaults; above, 3 ms for every hop, so that a node's work stays the same.
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
            // So that a node sends and hears as many pings a second at every size.
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

    /// Checks the relations that safety and liveness rest on.
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

/// Settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// It would starve while the token is on its way.
    #[error(
        "starving-after is {starving_after:?}, less than a rotation and one failed pass take ({least:?})"
    )]
    StarvesTooSoon {
        /// As given.
        starving_after: Duration,
        /// What it must be.
        least: Duration,
    },
    /// A holder could act after others may have replaced it.
    #[error("lease is {lease:?}; it must be less than starving-after, {starving_after:?}")]
    Lease {
        /// As given.
        lease: Duration,
        /// The bound.
        starving_after: Duration,
    },
    /// A count of nothing.
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
