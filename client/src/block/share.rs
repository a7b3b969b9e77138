//! One share on one node: reading a range of it, verified, and asking for its state.

use super::blocks::Blocks;
use super::crc;
use super::location::BlockLocation;
use crate::error::Error;
use crate::rpc::endpoint::{is_broken, is_misdirected};
use crate::rpc::node::Node;
use crate::stats::count;
use bytes::Bytes;
use rain_codec::RepairPlan;
use rain_proto::{CHUNK_BYTES, convert, v1};
use rain_types::{BlockId, ShareIndex};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Deadline for the question whether a node has a share. The node reads and verifies the share for it.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a share on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareState {
    /// The node has the share, and its checksums hold.
    Present,
    /// The node does not have the share.
    Absent,
    /// The node has the share, but a checksum does not hold.
    Damaged,
}

/// Why a share could not be read or stored.
#[derive(Debug)]
pub(super) enum ShareFault {
    /// The node does not answer, or another one answers at its address.
    Unreachable,
    /// The node has no space for the share.
    Full,
    /// The node does not have the share.
    Absent,
    /// The share's bytes are wrong.
    Damaged,
    /// The node refuses, or its answer makes no sense; the reason.
    Refused(String),
}

impl Blocks {
    /// Reads a range of one share; with `only` just the rows of it that a repair plan needs, packed. The
    /// chunks are verified.
    pub(super) async fn get_share(
        &self,
        node: &Arc<Node>,
        location: &BlockLocation,
        index: usize,
        range: Range<usize>,
        only: Option<&RepairPlan>,
    ) -> Result<Bytes, ShareFault> {
        let rows = only.map(|plan| rows(plan, index));
        let sent = match &rows {
            None => range.clone(),
            Some(only) => 0..range.len() / only.stripe_rows.max(1) as usize * only.rows.len(),
        };
        let request = v1::GetShareRequest {
            key: Some(convert::share_key(location.id, ShareIndex(index as u8))),
            offset: range.start as u32,
            length: range.len() as u32,
            only: rows,
            to: Some(node.addressee()),
        };
        let call = node.begin();
        let mut shares = node.shares();
        let answer = match tokio::time::timeout(self.options.slow_after, shares.get(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                node.mark_lagging();
                return Err(ShareFault::Unreachable);
            }
        };
        call.ended(&answer);
        count(&self.counters.shares_read);
        match answer {
            Ok(answer) => verified(answer.into_inner(), sent),
            Err(status) if is_broken(&status) || is_misdirected(&status) => Err(ShareFault::Unreachable),
            Err(status) => Err(match status.code() {
                tonic::Code::NotFound => ShareFault::Absent,
                tonic::Code::DataLoss => ShareFault::Damaged,
                _ => ShareFault::Refused(status.message().to_owned()),
            }),
        }
        .inspect_err(|fault| self.note_fault(node, location, index, fault))
    }

    /// Counts and logs a share that is missing or damaged, and has it reported to the namespace.
    fn note_fault(&self, node: &Node, location: &BlockLocation, index: usize, fault: &ShareFault) {
        let (node, block) = (node.id, location.id);
        match fault {
            ShareFault::Damaged => {
                count(&self.counters.shares_damaged);
                tracing::warn!(%node, %block, share = index, "damaged share found; the others answer");
            }
            ShareFault::Absent => {
                count(&self.counters.shares_absent);
                tracing::warn!(%node, %block, share = index, "share is not on its node; the others answer");
            }
            ShareFault::Refused(why) => {
                tracing::warn!(%node, %block, share = index, why, "share refused");
                return;
            }
            ShareFault::Unreachable | ShareFault::Full => return,
        }
        self.reports.missing(location, index);
    }

    /// The state of a share: the node reads and verifies it. Fails when the node does not answer.
    pub(crate) async fn share_state(
        &self,
        node: &Arc<Node>,
        block: BlockId,
        index: ShareIndex,
    ) -> Result<ShareState, Error> {
        // The list begins after a key, so the key before this share's is given.
        let after = match index.0.checked_sub(1) {
            Some(before) => Some(convert::share_key(block, ShareIndex(before))),
            None if block.seq > 0 => {
                let before = BlockId { session: block.session, seq: block.seq - 1 };
                Some(convert::share_key(before, ShareIndex(u8::MAX)))
            }
            None => None,
        };
        let (session, to) = (block.session.0, Some(node.addressee()));
        let request = v1::ListSharesRequest { session, after, limit: 1, verify: true, to };
        let mut shares = node.shares();
        let what = || format!("asking node {} for share {index} of block {block}", node.id);
        let answer = tokio::time::timeout(STATE_TIMEOUT, shares.list(request)).await;
        let Ok(Ok(found)) = answer else {
            return Err(Error::Unreachable { what: what(), missing: vec![node.id] });
        };
        let wanted = Some(convert::share_key(block, index));
        Ok(match found.into_inner().shares.into_iter().find(|entry| entry.key == wanted) {
            None => ShareState::Absent,
            Some(entry) if entry.damaged => ShareState::Damaged,
            Some(_) => ShareState::Present,
        })
    }
}

/// The rows that a repair plan reads of a share.
fn rows(plan: &RepairPlan, index: usize) -> v1::Rows {
    v1::Rows {
        row_bytes: plan.row_bytes() as u32,
        stripe_rows: plan.stripe_rows() as u32,
        rows: plan.rows_of(index).iter().map(|row| *row as u32).collect(),
    }
}

/// Verifies the chunks of an answer and cuts out the wanted range.
fn verified(answer: v1::GetShareResponse, range: Range<usize>) -> Result<Bytes, ShareFault> {
    let first = answer.first_byte as usize;
    let refuse =
        |why: &str| ShareFault::Refused(format!("the node's range of a share makes no sense: {why}"));
    if !first.is_multiple_of(CHUNK_BYTES) || first > range.start {
        return Err(refuse("it begins elsewhere"));
    }
    if first + answer.payload.len() < range.end {
        return Err(refuse("it is too short"));
    }
    let crcs =
        convert::read_checksum_table(&answer.chunk_crcs).map_err(|error| refuse(&error.to_string()))?;
    if crcs.len() != answer.payload.len().div_ceil(CHUNK_BYTES) {
        return Err(refuse("checksums and chunks differ in number"));
    }
    if !crc::holds(&answer.payload, &crcs) {
        return Err(ShareFault::Damaged);
    }
    Ok(answer.payload.slice(range.start - first..range.end - first))
}
