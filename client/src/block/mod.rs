//! The block layer: distributed store (n shares to n nodes) and retrieve (any k, the best placed first).
//!
//! - [`store`](self) encodes a block, sends the n shares at once, and says which could not be placed.
//! - retrieve reads just the shares that hold what is asked; when one is late, damaged or gone it asks for
//!   others and decodes the first k that arrive.
//! - repair makes missing shares again, by the same two.
//!
//! Every checksum is verified here, at the end that uses the bytes. It leaves out what a block means: extents,
//! files and garbage are the namespace's.

mod cache;
mod crc;
mod repair;
mod report;
mod retrieve;
mod store;

use crate::error::Error;
use crate::options::Options;
use crate::rpc::node::{Node, is_broken};
use crate::stats::{Counters, count};
use bytes::Bytes;
use cache::BlockCache;
use rain_codec::{Code, RepairPlan};
use rain_proto::{CHUNK_BYTES, convert, v1};
use rain_types::{BlockId, CodeSpec, GroupId, NodeId, ShareIndex};
pub use repair::Repaired;
use report::Reports;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

pub use crc::chunk_checksums;

/// Where a block is: everything needed to reach its shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLocation {
    /// Which block.
    pub id: BlockId,
    /// Its length, bytes.
    pub len: u32,
    /// Its volume's code.
    pub code: CodeSpec,
    /// Its placement group.
    pub group: GroupId,
    /// The group's nodes: of shares 0 to n.
    pub nodes: Arc<[NodeId]>,
}

/// What a node says of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareState {
    /// There, and whole.
    Present,
    /// Not there.
    Absent,
    /// There, but its checksums do not hold.
    Damaged,
}

/// The block layer of one client.
#[derive(Debug)]
pub(crate) struct Blocks {
    options: Options,
    counters: Arc<Counters>,
    nodes: RwLock<Arc<BTreeMap<NodeId, Arc<Node>>>>,
    codes: Mutex<HashMap<CodeSpec, Arc<dyn Code>>>,
    cache: BlockCache,
    reports: Reports,
    /// Nodes that somebody has waited for in vain, until one of them answers.
    outage: Mutex<Vec<NodeId>>,
    /// Counts reads, for taking nodes in turn.
    turn: AtomicUsize,
}

/// Why one share could not be had.
#[derive(Debug)]
enum ShareFault {
    /// Its node does not answer.
    Unreachable,
    /// Its node has no space (when storing).
    Full,
    /// Its node has lost it.
    Absent,
    /// Its bytes are wrong.
    Damaged,
    /// Its node answers what makes no sense.
    Refused(String),
}

impl Blocks {
    pub(crate) fn new(options: Options, counters: Arc<Counters>) -> Blocks {
        Blocks {
            cache: BlockCache::new(options.cache_bytes_max),
            options,
            counters,
            nodes: RwLock::default(),
            codes: Mutex::default(),
            reports: Reports::default(),
            outage: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// How long to wait for unreachable nodes: once somebody has waited in vain, nobody else waits until one of
    /// those nodes is back. (The kernel asks for a failed stretch again page by page.)
    fn patience(&self) -> Duration {
        let nodes = self.nodes();
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let back = outage.iter().any(|node| nodes.get(node).is_none_or(|node| node.is_up()));
        if back {
            tracing::info!("a node that was missing answers again");
            outage.clear();
        }
        if outage.is_empty() { self.options.dead_after } else { Duration::ZERO }
    }

    /// Too few nodes answered until patience ran out.
    fn outage_begins(&self, missing: &[NodeId]) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.is_empty() {
            tracing::error!(?missing, "too few nodes answer: reads and writes fail until one returns");
            outage.extend_from_slice(missing);
        }
    }

    pub(crate) fn set_nodes(&self, nodes: BTreeMap<NodeId, Arc<Node>>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(nodes);
    }

    fn nodes(&self) -> Arc<BTreeMap<NodeId, Arc<Node>>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a node answers, as far as it is known. One that is not known does not.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.nodes().get(&node).is_some_and(|node| node.is_up())
    }

    pub(crate) fn code(&self, spec: CodeSpec) -> Result<Arc<dyn Code>, Error> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = codes.get(&spec) {
            return Ok(code.clone());
        }
        let code = rain_codec::by_name(spec.codec.name(), spec.k.into(), spec.m.into())
            .map_err(|error| Error::Protocol(error.to_string()))?;
        codes.insert(spec, code.clone());
        Ok(code)
    }

    /// Reads a range of one share, or of that what a plan needs; the chunks are verified, and cut to the range.
    async fn get_share(
        &self,
        node: &Arc<Node>,
        place: &BlockLocation,
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
            key: Some(convert::share_key(place.id, ShareIndex(index as u8))),
            offset: range.start as u32,
            length: range.len() as u32,
            only: rows,
        };
        let call = node.begin();
        let mut shares = node.shares();
        let answer = match tokio::time::timeout(self.options.slow_after, shares.get(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                node.lags();
                return Err(ShareFault::Unreachable);
            }
        };
        call.ended(&answer);
        count(&self.counters.shares_read);
        match answer {
            Ok(answer) => verified(answer.into_inner(), sent),
            Err(status) if is_broken(&status) => Err(ShareFault::Unreachable),
            Err(status) => Err(match status.code() {
                tonic::Code::NotFound => ShareFault::Absent,
                tonic::Code::DataLoss => ShareFault::Damaged,
                _ => ShareFault::Refused(status.message().to_owned()),
            }),
        }
        .inspect_err(|fault| self.note_fault(node.id, place, index, fault))
    }

    /// A share that should be there and is not, or is wrong, is counted, logged, and told to the namespace.
    fn note_fault(&self, node: NodeId, place: &BlockLocation, index: usize, fault: &ShareFault) {
        let block = place.id;
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
        self.reports.missing(place, index);
    }

    /// Tells the namespace which shares were found missing since the last time.
    pub(crate) async fn report_now(&self, cluster: &crate::client::Client) {
        self.reports.send(cluster).await;
    }

    /// Whether a node has a share, and whole: it is read and verified there.
    pub(crate) async fn share_state(
        &self,
        node: &Arc<Node>,
        block: BlockId,
        index: ShareIndex,
    ) -> Result<ShareState, Error> {
        // The list begins after a key: the one before this share's.
        let after = match index.0.checked_sub(1) {
            Some(before) => Some(convert::share_key(block, ShareIndex(before))),
            None if block.seq > 0 => {
                let before = BlockId { session: block.session, seq: block.seq - 1 };
                Some(convert::share_key(before, ShareIndex(u8::MAX)))
            }
            None => None,
        };
        let request = v1::ListSharesRequest { session: block.session.0, after, limit: 1, verify: true };
        let mut shares = node.shares();
        let what = || format!("asking node {} for share {index} of block {block}", node.id);
        let answer = tokio::time::timeout(Duration::from_secs(2), shares.list(request)).await;
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

/// Checks the chunks of an answer and cuts out the range asked for.
/// What a plan reads of a share.
fn rows(plan: &RepairPlan, index: usize) -> v1::Rows {
    v1::Rows {
        row_bytes: plan.row_bytes() as u32,
        stripe_rows: plan.stripe_rows() as u32,
        rows: plan.rows_of(index).iter().map(|row| *row as u32).collect(),
    }
}

fn verified(answer: v1::GetShareResponse, range: Range<usize>) -> Result<Bytes, ShareFault> {
    let first = answer.first_byte as usize;
    let refuse = |why: &str| ShareFault::Refused(format!("a share's range that makes no sense: {why}"));
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
