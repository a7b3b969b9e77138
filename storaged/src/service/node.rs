//! `Node`: who this node is and how it does.

use crate::node::Shared;
use crate::worker::WorkerCounters;
use rain_proto::v1;
use rain_proto::v1::node_server::Node;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub(crate) struct NodeService {
    pub(crate) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn describe(
        &self,
        _request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let shared = &self.shared;
        let keeper = shared.keeper_place();
        Ok(Response::new(v1::DescribeResponse {
            node: shared.config.node_id.0,
            cluster: shared.cluster().map(|id| id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            keeper_address: keeper.as_ref().map(|(_, address)| address.clone()).unwrap_or_default(),
            keeper_node: keeper.map_or(0, |(node, _)| node.0),
            session_ttl_ms: shared.config.session_ttl.as_millis() as u64,
        }))
    }

    async fn status(
        &self,
        _request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusResponse>, Status> {
        let shared = &self.shared;
        let usage = shared.store.usage();
        Ok(Response::new(v1::NodeStatusResponse {
            node: shared.config.node_id.0,
            cluster: shared.cluster().map(|id| id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: shared.started.elapsed().as_millis() as u64,
            data: shared.config.data.display().to_string(),
            shares: usage.shares,
            payload_bytes: usage.payload_bytes,
            used_bytes: usage.used_bytes,
            free_bytes: usage.free_bytes,
            damaged_found: usage.corrupt_found,
            index_rebuilds: u64::from(usage.rebuilt.is_some()),
            resident_bytes: resident_bytes(),
            shares_on: shared.shares_on.load(Relaxed),
            keeps_namespace: shared.keeper.is_some(),
            applied_index: shared.keeper.as_ref().map_or(0, |keeper| keeper.applied_index()),
            repair: shared.keeper.as_ref().map(|_| worker_status(&shared.repair)),
            reclaim: shared.keeper.as_ref().map(|_| worker_status(&shared.reclaim)),
        }))
    }

    async fn switch_shares(
        &self,
        request: Request<v1::SwitchSharesRequest>,
    ) -> Result<Response<v1::SwitchSharesResponse>, Status> {
        let on = request.get_ref().on;
        let was_on = self.shared.shares_on.swap(on, Relaxed);
        if was_on != on {
            tracing::warn!(on, "the shares of this node were switched {}", if on { "on" } else { "off" });
        }
        Ok(Response::new(v1::SwitchSharesResponse { was_on }))
    }
}

fn worker_status(counters: &WorkerCounters) -> v1::WorkerStatus {
    v1::WorkerStatus {
        done: counters.done.load(Relaxed),
        failed: counters.failed.load(Relaxed),
        waiting: counters.waiting.load(Relaxed),
        bytes: counters.bytes.load(Relaxed),
        last_error: counters.last_error(),
        running: counters.running.load(Relaxed),
    }
}

/// Memory this process holds, as the kernel counts it; 0 where it cannot be read.
fn resident_bytes() -> u64 {
    let kib = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) << 10
}
