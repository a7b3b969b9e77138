//! `Node`: identity and state of this node.

use crate::config::Config;
use crate::counters::{Counters, WorkerCounters};
use crate::joined::Joined;
use crate::metadata::MetadataService;
use crate::ring::RingStatus;
use crate::share::ShareStore;
use crate::share_gate::ShareGate;
use rain_namespace::command::NodeSpec;
use rain_proto::v1;
use rain_proto::v1::node_server::Node;
use rain_ring::{Eligible, Phase};
use rain_types::NodeId;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(crate) struct NodeService {
    pub(crate) config: Arc<Config>,
    /// This node's description of itself.
    pub(crate) spec: NodeSpec,
    /// Start of the process.
    pub(crate) started: Instant,
    /// `None` on a witness.
    pub(crate) store: Option<Arc<ShareStore>>,
    pub(crate) gate: Arc<ShareGate>,
    pub(crate) counters: Counters,
    pub(crate) joined: Arc<Joined>,
    /// True once this node stops: streams end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn describe(
        &self,
        _request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let joined = &self.joined;
        let spec = self.spec.clone();
        Ok(Response::new(v1::DescribeResponse {
            node: joined.node().map_or(0, |node| node.0),
            cluster: joined.cluster().map(|id| id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            leader: joined.leader(),
            session_ttl_ms: self.config.session_ttl.as_millis() as u64,
            address: spec.address,
            domain: spec.domain,
            weight: spec.weight,
            witness: spec.witness,
            folder: spec.folder,
            others: spec.others,
            peers: self.config.peers.clone(),
            wish: self.config.node_id.map_or(0, |node| node.0),
            majority: joined.sees_majority(),
        }))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::AdmitResponse>, Status> {
        let joined = &self.joined;
        let asked = request.into_inner();
        let cluster = joined.cluster().map(|id| id.to_string()).unwrap_or_default();
        let mut response = v1::AdmitResponse { cluster, ..v1::AdmitResponse::default() };
        for node in joined.nodes() {
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
        let joined = &self.joined;
        let leads = joined.metadata().is_some_and(|metadata| metadata.leadership().borrow().mine);
        let usage = self.store.as_ref().map(|store| store.usage()).unwrap_or_default();
        Ok(Response::new(v1::NodeStatusResponse {
            node: joined.node().map_or(0, |node| node.0),
            cluster: joined.cluster().map(|id| id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            data: self.config.data.display().to_string(),
            shares: usage.shares,
            payload_bytes: usage.payload_bytes,
            used_bytes: usage.used_bytes,
            free_bytes: usage.free_bytes,
            damaged_found: usage.corrupt_found,
            index_rebuilds: u64::from(usage.rebuilt.is_some()),
            resident_bytes: resident_bytes(),
            shares_on: self.gate.is_open(),
            leads,
            applied_index: joined.metadata().map_or(0, |metadata| metadata.applied_index()),
            repair: leads.then(|| worker_status(&self.counters.repair)),
            reclaim: leads.then(|| worker_status(&self.counters.gc)),
            moves: leads.then(|| worker_status(&self.counters.rebalance)),
            witness: self.spec.witness,
            consensus: joined.metadata().map(|metadata| consensus(joined, metadata)),
        }))
    }

    async fn check(
        &self,
        _request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let metadata = self.joined.metadata_or_status()?.clone();
        let checked = tokio::task::spawn_blocking(move || metadata.check()).await;
        let checked = checked
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        let violations = checked.violations.into_iter().take(VIOLATIONS_MAX).collect();
        let (position, digest) = (checked.position, checked.digest.to_vec().into());
        Ok(Response::new(v1::CheckResponse { position, digest, violations }))
    }

    async fn ring(&self, _request: Request<v1::RingRequest>) -> Result<Response<v1::RingResponse>, Status> {
        let joined = &self.joined;
        let status = joined.ring().map(|ring| ring.status().borrow().clone()).unwrap_or_default();
        Ok(Response::new(ring_response(joined, self.started, &status)))
    }

    type WatchRingStream = Pin<Box<dyn Stream<Item = Result<v1::RingResponse, Status>> + Send>>;

    async fn watch_ring(
        &self,
        _request: Request<v1::RingRequest>,
    ) -> Result<Response<Self::WatchRingStream>, Status> {
        let ring = self.joined.ring().ok_or_else(|| Status::unavailable("the ring has not started here"))?;
        let (joined, started, mut status) = (self.joined.clone(), self.started, ring.status());
        let mut leadership = self.joined.metadata_or_status()?.leadership();
        let mut stopping = self.stopping.clone();
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut sent = None;
            let mut sent_at = Instant::now();
            loop {
                let now = status.borrow_and_update().clone();
                let response = ring_response(&joined, started, &now);
                let news = sent.as_ref() != Some(&news_of(&response));
                if news || sent_at.elapsed() >= WATCH_EVERY {
                    sent = Some(news_of(&response));
                    sent_at = Instant::now();
                    if send.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                // The status changes with each token.
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
        let was_on = self.gate.switch(on);
        if was_on != on {
            tracing::warn!(on, "the shares of this node were switched {}", if on { "on" } else { "off" });
        }
        Ok(Response::new(v1::SwitchSharesResponse { was_on }))
    }
}

/// Violations in one answer; a broken namespace may have very many.
const VIOLATIONS_MAX: usize = 100;

/// Longest time between two messages to a watcher of the ring: the counters grow without news.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Shortest time between two looks at the status, which changes with each token.
const WATCH_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// Returns the part of a response whose change is news for a watcher: not the token's hops and not the
/// counters.
fn news_of(response: &v1::RingResponse) -> impl PartialEq + use<> {
    let starving = response.phase == v1::ring_response::Phase::Starving as i32;
    let view = (response.epoch, response.founder, starving, response.members.clone());
    (view, response.links.clone(), response.leader.clone())
}

fn ring_response(joined: &Joined, started: Instant, status: &RingStatus) -> v1::RingResponse {
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
        node: joined.node().map_or(0, |node| node.0),
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
        uptime_ms: started.elapsed().as_millis() as u64,
        leader: joined.leader(),
    }
}

fn consensus(joined: &Joined, metadata: &MetadataService) -> v1::Consensus {
    let (stats, leadership) = (metadata.stats(), metadata.leadership());
    let leadership = leadership.borrow();
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let matched =
        stats.matched.iter().map(|(node, position)| v1::MemberProgress { node: node.0, position: *position });
    v1::Consensus {
        leader: joined.leader(),
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

/// Returns the resident memory of this process, bytes; 0 where the kernel does not say.
fn resident_bytes() -> u64 {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.ok().and_then(|status| status.vmrss).unwrap_or(0) << 10
}
