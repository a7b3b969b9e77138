//! Shares found missing, gathered until they are told to the namespace, which has them repaired.

use super::BlockLocation;
use crate::client::Client;
use rain_namespace::command::{Command, SharesOf};
use rain_types::{BlockId, GroupId};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Beyond this the finds wait to be found again: they are hints, nothing is lost.
const WAITING_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Mutex<BTreeMap<(BlockId, GroupId), u64>>,
}

impl Reports {
    pub(super) fn missing(&self, place: &BlockLocation, index: usize) {
        let found = (place.id, place.group);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if index < 64 && (waiting.len() < WAITING_MAX || waiting.contains_key(&found)) {
            *waiting.entry(found).or_default() |= 1 << index;
        }
    }

    pub(super) async fn send(&self, cluster: &Client) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return;
        }
        let shares: Vec<SharesOf> =
            waiting.into_iter().map(|((block, group), bits)| SharesOf { block, group, bits }).collect();
        if let Err(error) = cluster.propose_internal(Command::MarkMissing { shares: shares.clone() }).await {
            tracing::debug!(%error, "telling of missing shares; it is tried again");
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            for SharesOf { block, group, bits } in shares {
                *waiting.entry((block, group)).or_default() |= bits;
            }
        }
    }
}
