//! One node as the client sees it: its connections, and whether it answers.
//!
//! | state | meaning | left by |
//! |---|---|---|
//! | up | the node answered the last call | a broken connection or another node at its address: down; a late write: lagging |
//! | lagging | the node did not answer a write in time | any answer: up; a broken connection: down |
//! | down | the connection is refused or broken | an answered call or probe: up |
//!
//! The ring's view is kept beside this state ([`super::view`]). A node outside of the view is asked last,
//! like a node that is down.
//!
//! A node on several networks has several addresses, and one of them is in use. Another address is used once
//! it answers while the one in use does not.
//!
//! Calls go to nodes that are up first. A background task probes every other node, so that no read or write
//! pays for finding out that a node is back.

use super::endpoint::{grpc_endpoint, is_broken, is_misdirected};
use super::hedge::LatencyEstimate;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use rain_proto::v1::node_client::NodeClient;
use rain_proto::v1::shares_client::SharesClient;
use rain_proto::{convert, v1};
use rain_types::{ClusterId, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::Channel;

/// Pause between two probes of a node that does not answer.
const PROBE_EVERY: Duration = Duration::from_millis(150);

/// A probe fails after this.
const PROBE_TIMEOUT: Duration = Duration::from_millis(600);

/// Head start of the address in use: after another address has answered, the one in use may answer within
/// this.
const IN_USE_GRACE: Duration = Duration::from_millis(60);

/// The result of probing a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The node answered over the address in use.
    Answers,
    /// The node answered over another address, which has become the one in use.
    OtherAddress,
    /// The node did not answer over any address.
    Silent,
}

/// Whether a node answers, as this client's calls have met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeHealth {
    /// The node answered the last call.
    Up,
    /// The node did not answer a write in time.
    Lagging,
    /// The connection is refused or broken, for this reason.
    Down(String),
}

#[derive(Debug)]
struct State {
    health: NodeHealth,
    latency: LatencyEstimate,
    /// Calls of this client under way.
    in_flight: u32,
    probing: bool,
    /// Whether the ring's view contains the node.
    in_view: bool,
    /// The load index that the ring carries, 0 to 1000.
    load: u16,
}

/// One node. Share it by `Arc`; each call clones a channel, which is cheap.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    cluster: ClusterId,
    addresses: Vec<String>,
    channels: Vec<Channel>,
    /// Index of the address in use.
    in_use: AtomicUsize,
    state: Mutex<State>,
}

impl Node {
    /// Makes a node of a cluster from at least one address (`host:port`), the preferred one first. Does not connect yet.
    ///
    /// Fails on an address that is not a valid authority.
    pub(crate) fn new(
        cluster: ClusterId,
        id: NodeId,
        addresses: Vec<String>,
    ) -> Result<Arc<Node>, tonic::transport::Error> {
        let channel = |address: &String| Ok(grpc_endpoint(address)?.connect_lazy());
        Ok(Arc::new(Node {
            id,
            cluster,
            channels: addresses.iter().map(channel).collect::<Result<_, tonic::transport::Error>>()?,
            addresses,
            in_use: AtomicUsize::new(0),
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
        self.state.lock()
    }

    /// A client of the node's share service, over the address in use. Every request names the node, see
    /// [`Node::addressee`].
    pub(crate) fn shares(&self) -> SharesClient<Channel> {
        SharesClient::new(self.channel())
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
    }

    /// The node, as requests to its share service name it.
    pub(crate) fn addressee(&self) -> v1::Addressee {
        convert::addressee(self.cluster, self.id)
    }

    /// All addresses of the node.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The address in use.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[self.in_use.load(Relaxed)]
    }

    /// The connection over the address in use.
    pub(crate) fn channel(&self) -> Channel {
        self.channels[self.in_use.load(Relaxed)].clone()
    }

    /// A client of the node's `Node` service, over the address in use.
    pub(crate) fn control(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel())
    }

    /// Whether the node answers, as this client's calls have met it.
    pub(crate) fn health(&self) -> NodeHealth {
        self.state().health.clone()
    }

    /// Whether the node answers, as far as this client and the ring know.
    pub(crate) fn is_up(&self) -> bool {
        let state = self.state();
        state.health == NodeHealth::Up && state.in_view
    }

    /// Whether the ring's view contains the node.
    pub(crate) fn is_in_view(&self) -> bool {
        self.state().in_view
    }

    /// Takes in the ring's view and load index of the node. A node that enters the view counts as up at once.
    pub(crate) fn update_view(&self, in_view: bool, load: u16) {
        let mut state = self.state();
        state.load = load;
        if state.in_view != in_view {
            state.in_view = in_view;
            if in_view {
                state.health = NodeHealth::Up;
            }
            drop(state);
            tracing::info!(node = %self.id, in_view, "the ring's view of a node has changed");
        }
    }

    /// How long the node's answers usually take.
    pub(crate) fn latency(&self) -> LatencyEstimate {
        self.state().latency
    }

    /// Sort key for choosing among nodes: nodes that are up first, then the shortest expected time to an
    /// answer.
    pub(crate) fn cost(&self) -> (bool, Duration) {
        let state = self.state();
        let away = state.health != NodeHealth::Up || !state.in_view;
        (away, state.latency.mean() * (1 + state.in_flight))
    }

    /// The load index that the ring carries, 0 to 1000.
    pub(crate) fn load(&self) -> u16 {
        self.state().load
    }

    /// Counts a call as under way until the returned guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        self.state().in_flight += 1;
        Call { node: self.clone(), begun: Instant::now(), address: self.in_use.load(Relaxed) }
    }

    /// Marks the node as lagging after a call that it did not answer in time, and starts probing it.
    pub(crate) fn mark_lagging(self: &Arc<Self>) {
        let mut state = self.state();
        if state.health == NodeHealth::Up {
            state.health = NodeHealth::Lagging;
            drop(state);
            tracing::warn!(node = %self.id, address = self.address(), "the node lags: it did not answer in time");
            self.start_probing(PROBE_EVERY);
        }
    }

    /// Asks the node over all of its addresses who it is. An address at which another node or
    /// another cluster answers does not count.
    pub(crate) async fn probe_within(&self, time: Duration) -> Probe {
        let in_use = self.in_use.load(Relaxed);
        let ask = |index: usize| async move {
            let mut control = NodeClient::new(self.channels[index].clone());
            let answer = control.describe(v1::DescribeRequest {}).await;
            let is_it = |said: &v1::DescribeResponse| {
                said.node == self.id.0 && said.cluster == self.cluster.to_string()
            };
            answer.is_ok_and(|answer| is_it(answer.get_ref())).then_some(index)
        };
        let mut asked: FuturesUnordered<_> = (0..self.channels.len()).map(ask).collect();
        let (mut until, mut other) = (tokio::time::Instant::now() + time, None);
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.next()).await {
            match answer {
                Some(index) if index == in_use => return Probe::Answers,
                Some(index) => {
                    other.get_or_insert(index);
                    until = until.min(tokio::time::Instant::now() + IN_USE_GRACE);
                }
                None => {}
            }
        }
        let Some(index) = other else { return Probe::Silent };
        self.in_use.store(index, Relaxed);
        tracing::warn!(node = %self.id, from = self.addresses[in_use], to = self.addresses[index], "a node is reached over another address");
        Probe::OtherAddress
    }

    /// Records an answer: the node is up.
    fn record_answer(&self) {
        let mut state = self.state();
        if state.health != NodeHealth::Up {
            tracing::info!(node = %self.id, address = self.address(), "the node answers again");
            state.health = NodeHealth::Up;
        }
    }

    /// Records a broken connection: the node is down and is probed.
    fn record_failure(self: &Arc<Self>, why: &str) {
        let mut state = self.state();
        if !matches!(state.health, NodeHealth::Down(_)) {
            tracing::warn!(node = %self.id, address = self.address(), why, "the node does not answer");
        }
        state.health = NodeHealth::Down(why.to_owned());
        drop(state);
        self.start_probing(PROBE_EVERY);
    }

    /// Probes a late node at once where it has other addresses.
    pub(crate) fn try_other_addresses(self: &Arc<Self>) {
        if self.channels.len() > 1 {
            self.start_probing(Duration::ZERO);
        }
    }

    /// Starts a task that probes the node until it answers. There is at most one such task; it ends when the
    /// node is dropped.
    fn start_probing(self: &Arc<Self>, after: Duration) {
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
                if node.probe_within(PROBE_TIMEOUT).await != Probe::Silent {
                    node.state().probing = false;
                    node.record_answer();
                    return;
                }
            }
        });
    }
}

/// A call under way. [`Call::ended`] records its result; dropping it without a result only ends the count.
#[derive(Debug)]
pub(crate) struct Call {
    node: Arc<Node>,
    begun: Instant,
    /// Index of the address in use when the call began.
    address: usize,
}

impl Call {
    /// Records how the call ended. A refusal is an answer. A broken connection counts against the node,
    /// and so does the answer of another node at its address.
    pub(crate) fn ended<T>(self, result: &Result<T, Status>) {
        match result {
            // A failure over an address that is no longer in use says nothing about the node.
            Err(status) if is_away(status) && self.address != self.node.in_use.load(Relaxed) => {}
            Err(status) if is_away(status) => self.node.record_failure(status.message()),
            Err(_) => self.node.record_answer(),
            Ok(_) => {
                self.node.record_answer();
                self.node.state().latency.record(self.begun.elapsed());
            }
        }
    }
}

/// Whether a status of the share service says that the node is not reached.
fn is_away(status: &Status) -> bool {
    is_broken(status) || is_misdirected(status)
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.node.state();
        state.in_flight = state.in_flight.saturating_sub(1);
    }
}
