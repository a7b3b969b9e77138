//! Shares that reads found missing or damaged. They are gathered, and reported to the namespace, which has
//! them repaired.

use super::location::BlockLocation;
use crate::session::Session;
use parking_lot::Mutex;
use rain_namespace::command::{Command, SharesOf};
use rain_types::{BlockId, GroupId};
use std::collections::BTreeMap;

/// Blocks whose finds wait to be reported. Further finds are dropped: a later read finds the share again.
const WAITING_MAX: usize = 4096;

/// Finds that are not reported yet: the bits of a block's missing shares.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Mutex<BTreeMap<(BlockId, GroupId), u64>>,
}

impl Reports {
    /// Records that a share was not on its node, or was damaged.
    pub(super) fn missing(&self, location: &BlockLocation, index: usize) {
        let found = (location.id, location.group);
        let mut waiting = self.waiting.lock();
        if index < 64 && (waiting.len() < WAITING_MAX || waiting.contains_key(&found)) {
            *waiting.entry(found).or_default() |= 1 << index;
        }
    }

    /// Reports the finds. Those that the namespace does not take wait for the next call.
    pub(super) async fn send(&self, session: &Session) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() {
            return;
        }
        let shares: Vec<SharesOf> =
            waiting.into_iter().map(|((block, group), bits)| SharesOf { block, group, bits }).collect();
        if let Err(error) = session.propose_internal(Command::MarkMissing { shares: shares.clone() }).await {
            tracing::debug!(%error, "reporting missing shares; the next report has them again");
            let mut waiting = self.waiting.lock();
            for SharesOf { block, group, bits } in shares {
                *waiting.entry((block, group)).or_default() |= bits;
            }
        }
    }
}
