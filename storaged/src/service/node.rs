//! `Node`: who this node is and how it does.

use crate::metadata::MetadataService;
use crate::node::Shared;
use crate::ring::RingStatus;
use crate::worker::WorkerCounters;
use rain_proto::v1;
use rain_proto::v1::node_server::Node;
use rain_ring::{Eligible, Phase};
use rain_types::NodeId;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::Stream;
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
        let spec = shared.spec.clone();
        Ok(Response::new(v1::DescribeResponse {
            node: shared.node().map_or(0, |node| node.0),
            cluster: shared.cluster().map(|id| id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            leader: shared.leader(),
            session_ttl_ms: shared.config.session_ttl.as_millis() as u64,
            address: spec.address,
            domain: spec.domain,
            weight: spec.weight,
            witness: spec.witness,
            folder: spec.folder,
            others: spec.others,
            peers: shared.config.peers.clone(),
            wish: shared.config.node_id.map_or(0, |node| node.0),
        }))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::AdmitResponse>, Status> {
        let shared = &self.shared;
        let asked = request.into_inner();
        let cluster = shared.cluster().map(|id| id.to_string()).unwrap_or_default();
        let mut response = v1::AdmitResponse { cluster, ..v1::AdmitResponse::default() };
        for node in shared.nodes() {
            if node.folder == asked.folder {
                response.node = node.id.0;
                response.refused = String::new();
                break;
            }
            if node.address == asked.address && !node.draining {
                response.refused = format!(
                    "{} is the address of node {} of cluster {}, which has another data folder: start that node with its own \
                     folder, or put this one in its place (rain node replace {} {})",
                    node.address, node.id, response.cluster, node.id, node.address
                );
            }
        }
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        _request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusResponse>, Status> {
        let shared = &self.shared;
        let leads = shared.metadata().is_some_and(|metadata| metadata.leadership().borrow().mine);
        let usage = shared.store.as_ref().map(|store| store.usage()).unwrap_or_default();
        Ok(Response::new(v1::NodeStatusResponse {
            node: shared.node().map_or(0, |node| node.0),
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
            leads,
            applied_index: shared.metadata().map_or(0, |metadata| metadata.applied_index()),
            repair: leads.then(|| worker_status(&shared.repair)),
            reclaim: leads.then(|| worker_status(&shared.reclaim)),
            moves: leads.then(|| worker_status(&shared.moves)),
            witness: shared.spec.witness,
            consensus: shared.metadata().map(|metadata| consensus(shared, metadata)),
        }))
    }

    async fn check(
        &self,
        _request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let metadata = self.shared.metadata_or_status()?.clone();
        let checked = tokio::task::spawn_blocking(move || metadata.check()).await;
        let checked = checked
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        let violations = checked.violations.into_iter().take(VIOLATIONS_MAX).collect();
        let (position, digest) = (checked.position, checked.digest.to_vec().into());
        Ok(Response::new(v1::CheckResponse { position, digest, violations }))
    }

    async fn ring(&self, _request: Request<v1::RingRequest>) -> Result<Response<v1::RingResponse>, Status> {
        let shared = &self.shared;
        let status = shared.ring().map(|ring| ring.status().borrow().clone()).unwrap_or_default();
        Ok(Response::new(ring_response(shared, &status)))
    }

    type WatchRingStream = Pin<Box<dyn Stream<Item = Result<v1::RingResponse, Status>> + Send>>;

    async fn watch_ring(
        &self,
        _request: Request<v1::RingRequest>,
    ) -> Result<Response<Self::WatchRingStream>, Status> {
        let ring = self.shared.ring().ok_or_else(|| Status::unavailable("the ring has not started here"))?;
        let (shared, mut status) = (self.shared.clone(), ring.status());
        let mut leadership = self.shared.metadata_or_status()?.leadership();
        let mut stopping = self.shared.stopping.subscribe();
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut told = None;
            let mut told_at = Instant::now();
            loop {
                let now = status.borrow_and_update().clone();
                let response = ring_response(&shared, &now);
                let news = told.as_ref() != Some(&what_matters(&response));
                if news || told_at.elapsed() >= WATCH_EVERY {
                    told = Some(what_matters(&response));
                    told_at = Instant::now();
                    if send.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                // The status changes with each token; nobody wants to hear of that more often than this.
                let changed = async {
                    tokio::time::sleep(WATCH_AT_MOST_EVERY).await;
                    tokio::select! {
                        changed = status.changed() => changed,
                        changed = leadership.changed() => changed,
                    }
                };
                let changed = tokio::time::timeout(WATCH_EVERY, changed);
                tokio::select! {
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                    changed = changed => match changed {
                        Ok(Ok(())) | Err(_) => {}
                        Ok(Err(_)) => return,
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receive))))
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

/// Violations that are sent.
const VIOLATIONS_MAX: usize = 100;

/// Of a watched ring: the time without news, and between two pieces of it.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const WATCH_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// What a watcher is told of at once: not the token's hops and the counters.
fn what_matters(response: &v1::RingResponse) -> impl PartialEq + use<> {
    let starving = response.phase == v1::ring_response::Phase::Starving as i32;
    let view = (response.epoch, response.founder, starving, response.members.clone());
    (view, response.links.clone(), response.leader.clone())
}

fn ring_response(shared: &Shared, status: &RingStatus) -> v1::RingResponse {
    let view = status.view.clone().unwrap_or_default();
    let members = view.members.iter().zip(&status.reports).map(|(member, report)| v1::RingMember {
        node: member.node.0,
        incarnation: member.incarnation,
        load: report.about.load.into(),
        addresses: report.about.addresses.clone(),
        links_down: report.about.links_down.iter().map(|node| node.0).collect(),
    });
    let nodes = |eligible: &Eligible| eligible.nodes.iter().map(|node| node.0).collect();
    let links = status.links.iter().map(|(path, up, transitions)| v1::RingLink {
        peer: path.peer.0,
        link: path.link.into(),
        up: *up,
        transitions: *transitions,
    });
    let recent = status.recent.iter().map(|(time, what)| v1::RingEvent {
        time_ns: time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64),
        what: what.clone(),
    });
    let counts = status.counts;
    v1::RingResponse {
        node: shared.node().map_or(0, |node| node.0),
        phase: match status.phase {
            None => v1::ring_response::Phase::Unspecified,
            Some(Phase::Hungry) => v1::ring_response::Phase::Hungry,
            Some(Phase::Eating) => v1::ring_response::Phase::Eating,
            Some(Phase::Starving) => v1::ring_response::Phase::Starving,
            Some(Phase::Gone) => v1::ring_response::Phase::Gone,
        } as i32,
        epoch: view.epoch.number,
        founder: view.epoch.founder.0,
        primary: view.primary,
        members: members.collect(),
        seq: status.stamp.seq,
        round_us: status.round.map_or(0, |round| round.as_micros() as u64),
        eligible_version: status.eligible.installed.version,
        eligible: nodes(&status.eligible.installed),
        eligible_next: status.eligible.pending.as_ref().map(nodes).unwrap_or_default(),
        links: links.collect(),
        recent: recent.collect(),
        synced: status.synced,
        applied: status.applied,
        tokens: counts.tokens,
        passes_failed: counts.passes_failed,
        starved: counts.starved,
        regenerated: counts.regenerated,
        reformed: counts.reformed,
        bytes_sent: status.bytes_sent,
        bytes_received: status.bytes_received,
        cpu_us: status.cpu.as_micros() as u64,
        dropped: status.dropped + counts.nonsense,
        uptime_ms: shared.started.elapsed().as_millis() as u64,
        leader: shared.leader(),
    }
}

fn consensus(shared: &Shared, metadata: &MetadataService) -> v1::Consensus {
    let (stats, leadership) = (metadata.stats(), metadata.leadership());
    let leadership = leadership.borrow();
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let matched =
        stats.matched.iter().map(|(node, position)| v1::MemberProgress { node: node.0, position: *position });
    v1::Consensus {
        leader: shared.leader(),
        voters: numbers(&leadership.voters),
        learners: numbers(&leadership.learners),
        log_last: stats.log_last,
        log_bytes: stats.log_bytes,
        age_ms: metadata.age().as_millis().min(u128::from(u64::MAX)) as u64,
        matched: matched.collect(),
        stopped: stats.stopped.unwrap_or_default(),
    }
}

fn worker_status(counters: &WorkerCounters) -> v1::WorkerStatus {
    v1::WorkerStatus {
        done: counters.done.load(Relaxed),
        failed: counters.failed.load(Relaxed),
        waiting: counters.waiting.load(Relaxed),
        bytes: counters.bytes.load(Relaxed),
        read: counters.read.load(Relaxed),
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
