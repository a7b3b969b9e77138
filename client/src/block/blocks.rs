//! The block layer of one client: what storing, retrieving and repairing share.

use super::cache::BlockCache;
use super::report::Reports;
use crate::error::Error;
use crate::options::Options;
use crate::rpc::nodes::Nodes;
use crate::session::Session;
use crate::stats::Counters;
use parking_lot::Mutex;
use rain_codec::Code;
use rain_types::{CodeSpec, NodeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// The block layer of one client.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) nodes: Arc<Nodes>,
    codes: Mutex<HashMap<CodeSpec, Arc<dyn Code>>>,
    pub(super) cache: BlockCache,
    pub(super) reports: Reports,
    /// The nodes that an operation has waited for in vain; empty once one of them answers.
    outage: Mutex<Vec<NodeId>>,
    /// Counts reads, for the policy that takes nodes in turn.
    pub(super) turn: AtomicUsize,
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
    pub(super) fn patience(&self) -> Duration {
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
    pub(super) fn begin_outage(&self, missing: &[NodeId]) {
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
