//! One node as the client sees it: its connection, and whether it answers.
//!
//! States and what moves between them:
//!
//! | state | meaning | leaves by |
//! |---|---|---|
//! | up | the last call was answered | a refused or broken connection: down; a late write: lagging |
//! | lagging | it did not answer a write in time | any answer: up; a broken connection: down |
//! | down | the connection is refused or broken | a probe or call that is answered: up |
//!
//! Beside that stands the ring's word (`ring`): a node outside of its view is asked last, as one that is down.
//!
//! A node on several networks has several addresses. One of them is in use; another one is when that answers and the first does not.
//!
//! Calls go to nodes that are up first. A node that is not is probed in the background, so that nobody's
//! read or write pays for finding out that it is back.

use crate::rpc::hedge::LatencyEstimate;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_proto::v1::shares_client::SharesClient;
use rain_types::NodeId;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Between probes of a node that does not answer.
const PROBE_EVERY: Duration = Duration::from_millis(150);

/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(600);

/// When a node has answered over another way, the one in use has so much longer.
const OTHER_FIRST: Duration = Duration::from_millis(60);

/// Whether a node says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Over the way in use.
    There,
    /// Over another one, which is in use from now on.
    OtherWay,
    No,
}

/// The settings of every RAIN connection: large frames and windows (measured, see docs/benchmarks.md), no
/// delay, and keepalive, without which a connection stays dead after a partition.
pub fn grpc_endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_millis(500))
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_frame_size(1 << 20)
        .buffer_size(4096)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(false))
}

/// Whether a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeHealth {
    /// The last call was answered.
    Up,
    /// It did not answer a write in time.
    Lagging,
    /// The connection is refused or broken; why.
    Down(String),
}

#[derive(Debug)]
struct State {
    health: NodeHealth,
    latency: LatencyEstimate,
    /// Calls under way: the load as far as this client makes it.
    in_flight: u32,
    probing: bool,
    /// What the ring says: whether it is in the view, and its load index.
    in_view: bool,
    load: u16,
}

/// One node. Cheap to share; a call clones the channel.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    addresses: Vec<String>,
    channels: Vec<Channel>,
    /// Which address is in use.
    way: AtomicUsize,
    state: Mutex<State>,
}

impl Node {
    /// `addresses`: at least one, the usual one first.
    pub(crate) fn new(id: NodeId, addresses: Vec<String>) -> Result<Arc<Node>, tonic::transport::Error> {
        let channel = |address: &String| Ok(grpc_endpoint(address)?.connect_lazy());
        Ok(Arc::new(Node {
            id,
            channels: addresses.iter().map(channel).collect::<Result<_, tonic::transport::Error>>()?,
            addresses,
            way: AtomicUsize::new(0),
            state: Mutex::new(State {
                health: NodeHealth::Up,
                latency: LatencyEstimate::default(),
                in_flight: 0,
                probing: false,
                in_view: true,
                load: 0,
            }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shares(&self) -> SharesClient<Channel> {
        SharesClient::new(self.channel())
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The address in use.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[self.way.load(Relaxed)]
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channels[self.way.load(Relaxed)].clone()
    }

    pub(crate) fn control(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel())
    }

    pub(crate) fn health(&self) -> NodeHealth {
        self.state().health.clone()
    }

    /// Whether it answers, as far as this client and the ring know.
    pub(crate) fn is_up(&self) -> bool {
        let state = self.state();
        state.health == NodeHealth::Up && state.in_view
    }

    pub(crate) fn is_in_view(&self) -> bool {
        self.state().in_view
    }

    /// Takes in the ring's word. A node that comes into the view is worth asking at once.
    pub(crate) fn ring_says(&self, in_view: bool, load: u16) {
        let mut state = self.state();
        state.load = load;
        if state.in_view != in_view {
            state.in_view = in_view;
            if in_view {
                state.health = NodeHealth::Up;
            }
            drop(state);
            tracing::info!(node = %self.id, in_view, "the ring's view");
        }
    }

    pub(crate) fn latency(&self) -> LatencyEstimate {
        self.state().latency
    }

    /// For choosing among nodes: those up first, then by the expected time to an answer.
    pub(crate) fn cost(&self) -> (bool, Duration) {
        let state = self.state();
        let away = state.health != NodeHealth::Up || !state.in_view;
        (away, state.latency.mean() * (1 + state.in_flight))
    }

    /// The load index that the ring carries, 0 to 1000.
    pub(crate) fn load(&self) -> u16 {
        self.state().load
    }

    /// Counts a call as under way until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        self.state().in_flight += 1;
        Call { node: self.clone(), begun: Instant::now(), way: self.way.load(Relaxed) }
    }

    /// The call was not answered in time; the node may come back any moment.
    pub(crate) fn lags(self: &Arc<Self>) {
        let mut state = self.state();
        if state.health == NodeHealth::Up {
            state.health = NodeHealth::Lagging;
            drop(state);
            tracing::warn!(node = %self.id, address = self.address(), "node lags: it did not answer in time");
            self.probe(PROBE_EVERY);
        }
    }

    /// Whether it says within a time that it is there, and over which way.
    pub(crate) async fn answers_within(&self, time: Duration) -> Answers {
        let now = self.way.load(Relaxed);
        let ask = |way: usize| async move {
            let mut control = NodeClient::new(self.channels[way].clone());
            let answer = control.describe(v1::DescribeRequest {}).await;
            answer.is_ok_and(|answer| answer.get_ref().node == self.id.0).then_some(way)
        };
        let mut asked: FuturesUnordered<_> = (0..self.channels.len()).map(ask).collect();
        let (mut until, mut other) = (tokio::time::Instant::now() + time, None);
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.next()).await {
            match answer {
                Some(way) if way == now => return Answers::There,
                Some(way) => {
                    other.get_or_insert(way);
                    until = until.min(tokio::time::Instant::now() + OTHER_FIRST);
                }
                None => {}
            }
        }
        let Some(way) = other else { return Answers::No };
        self.way.store(way, Relaxed);
        tracing::warn!(node = %self.id, from = self.addresses[now], to = self.addresses[way], "another way to a node");
        Answers::OtherWay
    }

    fn answered(&self) {
        let mut state = self.state();
        if state.health != NodeHealth::Up {
            tracing::info!(node = %self.id, address = self.address(), "node answers again");
            state.health = NodeHealth::Up;
        }
    }

    fn broken(self: &Arc<Self>, why: &str) {
        let mut state = self.state();
        if !matches!(state.health, NodeHealth::Down(_)) {
            tracing::warn!(node = %self.id, address = self.address(), why, "node does not answer");
        }
        state.health = NodeHealth::Down(why.to_owned());
        drop(state);
        self.probe(PROBE_EVERY);
    }

    /// It is late, and may be reached another way.
    pub(crate) fn is_late(self: &Arc<Self>) {
        if self.channels.len() > 1 {
            self.probe(Duration::ZERO);
        }
    }

    /// Asks in the background until it answers; one asker at a time. Ends when the client lets go of the node.
    fn probe(self: &Arc<Self>, after: Duration) {
        {
            let mut state = self.state();
            if state.probing {
                return;
            }
            state.probing = true;
        }
        let node = Arc::downgrade(self);
        let mut pause = after;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                pause = PROBE_EVERY;
                let Some(node) = node.upgrade() else { return };
                if node.answers_within(PROBE_TIMEOUT).await != Answers::No {
                    node.state().probing = false;
                    node.answered();
                    return;
                }
            }
        });
    }
}

/// A call under way. Tell it how it ended; dropping it untold only ends the count.
#[derive(Debug)]
pub(crate) struct Call {
    node: Arc<Node>,
    begun: Instant,
    way: usize,
}

impl Call {
    /// The node answered, be it with a refusal; only a broken connection says something about the node.
    pub(crate) fn ended<T>(self, result: &Result<T, Status>) {
        match result {
            // What was sent over a way that is in use no more says nothing of the node.
            Err(status) if is_broken(status) && self.way != self.node.way.load(Relaxed) => {}
            Err(status) if is_broken(status) => self.node.broken(status.message()),
            Err(_) => self.node.answered(),
            Ok(_) => {
                self.node.answered();
                self.node.state().latency.record(self.begun.elapsed());
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.node.state();
        state.in_flight = state.in_flight.saturating_sub(1);
    }
}

/// Whether a status tells of the connection and not of the request.
pub(crate) fn is_broken(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}
