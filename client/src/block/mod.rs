//! The block layer: distributed store (n shares to n nodes) and retrieve (any k shares, the best placed
//! first).
//!
//! - [`store`] encodes a block, sends the n shares at once, and says which shares could not be placed.
//! - [`retrieve`] reads the shares that hold the wanted bytes. Where one is late, damaged or missing it asks
//!   for others, and decodes the first k that arrive. [`cache`] keeps whole blocks.
//! - [`repair`] makes missing shares again and moves shares between nodes.
//! - [`share`] reads one share of one node; [`crc`] has the checksums; [`report`] tells the namespace of
//!   missing shares.
//!
//! Every checksum is verified here, at the end that uses the bytes. Extents, files and garbage are the
//! namespace's: this rung does not know what a block means.

mod cache;
mod crc;
mod repair;
mod report;
mod retrieve;
mod share;
mod store;

pub use crc::chunk_checksums;
pub use repair::Repaired;
pub use share::ShareState;

use crate::error::Error;
use crate::options::Options;
use crate::rpc::nodes::Nodes;
use crate::session::Session;
use crate::stats::Counters;
use cache::BlockCache;
use parking_lot::Mutex;
use rain_codec::Code;
use rain_types::{BlockId, CodeSpec, GroupId, NodeId};
use report::Reports;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// The location of a block: everything that is needed to reach its shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLocation {
    /// The block.
    pub id: BlockId,
    /// The block's length, bytes.
    pub len: u32,
    /// The code of the block's volume.
    pub code: CodeSpec,
    /// The block's placement group.
    pub group: GroupId,
    /// The group's nodes, in the order of the shares 0 to n - 1.
    pub nodes: Arc<[NodeId]>,
}

/// The block layer of one client.
#[derive(Debug)]
pub(crate) struct Blocks {
    options: Options,
    counters: Arc<Counters>,
    nodes: Arc<Nodes>,
    codes: Mutex<HashMap<CodeSpec, Arc<dyn Code>>>,
    cache: BlockCache,
    reports: Reports,
    /// The nodes that an operation has waited for in vain; empty once one of them answers.
    outage: Mutex<Vec<NodeId>>,
    /// Counts reads, for the policy that takes nodes in turn.
    turn: AtomicUsize,
}

impl Blocks {
    pub(crate) fn new(session: &Session) -> Arc<Blocks> {
        let options = session.options().clone();
        Arc::new(Blocks {
            cache: BlockCache::new(options.cache_bytes_max),
            options,
            counters: session.counters().clone(),
            nodes: session.nodes().clone(),
            codes: Mutex::default(),
            reports: Reports::default(),
            outage: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// The wait for unreachable nodes. After one operation has waited in vain, the others do not wait until
    /// one of those nodes is back: the kernel asks for a failed range again page by page, and each page would
    /// wait anew.
    fn patience(&self) -> Duration {
        let nodes = self.nodes.map();
        let mut outage = self.outage.lock();
        let back = outage.iter().any(|node| nodes.get(node).is_none_or(|node| node.is_up()));
        if back {
            tracing::info!("a node that was missing answers again");
            outage.clear();
        }
        if outage.is_empty() { self.options.dead_after } else { Duration::ZERO }
    }

    /// Begins an outage: too few nodes answered until the patience ran out.
    fn begin_outage(&self, missing: &[NodeId]) {
        let mut outage = self.outage.lock();
        if outage.is_empty() {
            tracing::error!(?missing, "too few nodes answer: reads and writes fail until one returns");
            outage.extend_from_slice(missing);
        }
    }

    /// Whether a node answers, as far as this client knows. An unknown node does not.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.is_up(node)
    }

    /// The code of a specification. Codes are kept, because making one builds its schedules.
    pub(crate) fn code(&self, spec: CodeSpec) -> Result<Arc<dyn Code>, Error> {
        let mut codes = self.codes.lock();
        if let Some(code) = codes.get(&spec) {
            return Ok(code.clone());
        }
        let code = rain_codec::by_name(spec.codec.name(), spec.k.into(), spec.m.into())
            .map_err(|error| Error::Protocol(error.to_string()))?;
        codes.insert(spec, code.clone());
        Ok(code)
    }

    /// Reports the shares that were found missing since the last report.
    pub(crate) async fn send_reports(&self, session: &Session) {
        self.reports.send(session).await;
    }
}
