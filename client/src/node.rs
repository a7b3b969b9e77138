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
//! Calls go to nodes that are up first. A node that is not is probed in the background, so that nobody's
//! read or write pays for finding out that it is back.

use crate::hedge::Usual;
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_proto::v1::shares_client::SharesClient;
use rain_types::NodeId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Between probes of a node that does not answer.
const PROBE_EVERY: Duration = Duration::from_millis(150);

/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(600);

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
    usual: Usual,
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
    pub(crate) address: String,
    channel: Channel,
    state: Mutex<State>,
}

impl Node {
    pub(crate) fn new(id: NodeId, address: &str) -> Result<Arc<Node>, tonic::transport::Error> {
        Ok(Arc::new(Node {
            id,
            address: address.to_owned(),
            channel: grpc_endpoint(address)?.connect_lazy(),
            state: Mutex::new(State {
                health: NodeHealth::Up,
                usual: Usual::default(),
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
        SharesClient::new(self.channel.clone())
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn control(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
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

    pub(crate) fn usual(&self) -> Usual {
        self.state().usual
    }

    /// For choosing among nodes: those up first, then by the expected time to an answer.
    pub(crate) fn cost(&self) -> (bool, Duration) {
        let state = self.state();
        let away = state.health != NodeHealth::Up || !state.in_view;
        (away, state.usual.mean() * (1 + state.in_flight))
    }

    /// The load index that the ring carries, 0 to 1000.
    pub(crate) fn load(&self) -> u16 {
        self.state().load
    }

    /// Counts a call as under way until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        self.state().in_flight += 1;
        Call { node: self.clone(), begun: Instant::now() }
    }

    /// The call was not answered in time; the node may come back any moment.
    pub(crate) fn lags(self: &Arc<Self>) {
        let mut state = self.state();
        if state.health == NodeHealth::Up {
            state.health = NodeHealth::Lagging;
            drop(state);
            tracing::warn!(node = %self.id, address = %self.address, "node lags: it did not answer in time");
            self.probe();
        }
    }

    /// Whether it says within a time that it is there.
    pub(crate) async fn answers_within(&self, time: Duration) -> bool {
        let mut control = self.control();
        let asked = control.describe(v1::DescribeRequest {});
        matches!(tokio::time::timeout(time, asked).await, Ok(Ok(_)))
    }

    fn answered(&self) {
        let mut state = self.state();
        if state.health != NodeHealth::Up {
            tracing::info!(node = %self.id, address = %self.address, "node answers again");
            state.health = NodeHealth::Up;
        }
    }

    fn broken(self: &Arc<Self>, why: &str) {
        let mut state = self.state();
        if !matches!(state.health, NodeHealth::Down(_)) {
            tracing::warn!(node = %self.id, address = %self.address, why, "node does not answer");
        }
        state.health = NodeHealth::Down(why.to_owned());
        drop(state);
        self.probe();
    }

    /// Asks in the background until it answers; one asker at a time. Ends when the client lets go of the node.
    fn probe(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.probing {
                return;
            }
            state.probing = true;
        }
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE_EVERY).await;
                let Some(node) = node.upgrade() else { return };
                let mut control = node.control();
                let asked = control.describe(v1::DescribeRequest {});
                if let Ok(Ok(answer)) = tokio::time::timeout(PROBE_TIMEOUT, asked).await
                    && answer.get_ref().node == node.id.0
                {
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
}

impl Call {
    /// The node answered, be it with a refusal; only a broken connection says something about the node.
    pub(crate) fn ended<T>(self, result: &Result<T, Status>) {
        match result {
            Err(status) if is_broken(status) => self.node.broken(status.message()),
            Err(_) => self.node.answered(),
            Ok(_) => {
                self.node.answered();
                self.node.state().usual.record(self.begun.elapsed());
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
