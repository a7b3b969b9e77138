//! The network between the simulated nodes: it delays messages, loses them, and is cut.

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use rain_types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storaged::metadata::{AppendStream, Delivery, MetadataService, Transport, TransportError};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Which nodes are connected, and how well.
#[derive(Debug)]
pub(super) struct NetworkState {
    pub(super) rng: Rng,
    /// Running nodes, each with the number of its start.
    pub(super) members: BTreeMap<NodeId, (u32, Arc<MetadataService>)>,
    /// The side of a partition that each node is on; nodes that are not listed are on side 0.
    pub(super) side: BTreeMap<NodeId, u32>,
    /// Messages lost, per thousand.
    pub(super) lossy: u32,
}

/// The network that all nodes and clients share.
#[derive(Debug, Clone)]
pub(super) struct Network(pub(super) Arc<Mutex<NetworkState>>);

impl Network {
    pub(super) fn metadata(&self, id: NodeId) -> Option<Arc<MetadataService>> {
        self.0.lock().members.get(&id).map(|(_, metadata)| metadata.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<MetadataService>> {
        self.0.lock().members.values().map(|(_, metadata)| metadata.clone()).collect()
    }

    /// The nodes that a node reaches. In the daemon the ring answers this question.
    pub(super) fn view(&self, from: NodeId) -> Vec<NodeId> {
        let state = self.0.lock();
        let side = |node: &NodeId| state.side.get(node).copied().unwrap_or(0);
        state.members.keys().filter(|node| side(node) == side(&from)).copied().collect()
    }
}

/// How one node sends messages, from one start to its power loss.
#[derive(Debug, Clone)]
pub(super) struct NodeTransport {
    pub(super) from: NodeId,
    /// Number of the start. A node that has lost its power sends nothing any more.
    pub(super) life: u32,
    pub(super) network: Network,
}

impl NodeTransport {
    /// Returns the receiver and the delay of a message; none when the message is lost.
    fn reach(&self, to: NodeId) -> Option<(Duration, Arc<MetadataService>)> {
        let mut state = self.network.0.lock();
        let side = |node: &NodeId| state.side.get(node).copied().unwrap_or(0);
        let lives = state.members.get(&self.from).is_some_and(|(life, _)| *life == self.life);
        if !lives || side(&self.from) != side(&to) {
            return None;
        }
        let metadata = state.members.get(&to)?.1.clone();
        let lossy = state.lossy;
        if state.rng.u32(..1000) < lossy {
            return None;
        }
        let delay = state.rng.u64(1..3) + if state.rng.u8(..50) == 0 { state.rng.u64(..40) } else { 0 };
        Some((Duration::from_millis(delay), metadata))
    }

    async fn carry(self, to: NodeId, message: Bytes) -> Result<Bytes, TransportError> {
        let silence = async {
            sleep(Duration::from_secs(5)).await;
            TransportError("no answer".into())
        };
        let Some((delay, metadata)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        // The receiver handles a message that has arrived even when its sender waits no longer.
        let answer = tokio::spawn(async move { metadata.message(message).await });
        let answer = answer.await.map_err(|_| TransportError("no answer".into()))?;
        let Some((delay, _)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        answer.map_err(|error| TransportError(error.to_string()))
    }
}

#[derive(Debug)]
struct NodeAppendStream(NodeTransport, NodeId);

impl AppendStream for NodeAppendStream {
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a> {
        Box::pin(self.0.clone().carry(self.1, message))
    }
}

impl Transport for NodeTransport {
    fn append_stream(&self, to: NodeId, _address: &str) -> Box<dyn AppendStream> {
        Box::new(NodeAppendStream(self.clone(), to))
    }

    fn call<'a>(&'a self, to: NodeId, _address: &'a str, message: Bytes) -> Delivery<'a> {
        Box::pin(self.clone().carry(to, message))
    }

    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        message: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a> {
        let port = self.clone();
        Box::pin(async move {
            let gone = || TransportError("no answer".into());
            let (delay, metadata) = port.reach(to).ok_or_else(gone)?;
            sleep(delay).await;
            let taken = tokio::spawn(async move { metadata.snapshot(message, pieces).await });
            taken.await.map_err(|_| gone())?.map_err(|error| TransportError(error.to_string()))
        })
    }
}
