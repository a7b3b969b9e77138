//! The wires between the simulated nodes: they delay, lose and are cut.

use bytes::Bytes;
use fastrand::Rng;
use rain_types::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storaged::metadata::{Carried, Line, MetadataService, Transport, TransportError};
use tokio::sync::mpsc;
use tokio::time::sleep;

#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) rng: Rng,
    pub(super) members: BTreeMap<NodeId, (u32, Arc<MetadataService>)>,
    pub(super) side: BTreeMap<NodeId, u32>,
    /// Of a thousand messages so many are lost.
    pub(super) lossy: u32,
}

/// The wires, and who is at their ends.
#[derive(Debug, Clone)]
pub(super) struct Wires(pub(super) Arc<Mutex<Wiring>>);

impl Wires {
    pub(super) fn wiring(&self) -> MutexGuard<'_, Wiring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn metadata(&self, id: NodeId) -> Option<Arc<MetadataService>> {
        self.wiring().members.get(&id).map(|(_, metadata)| metadata.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<MetadataService>> {
        self.wiring().members.values().map(|(_, metadata)| metadata.clone()).collect()
    }

    /// Who answers a node: what the ring would say.
    pub(super) fn view(&self, from: NodeId) -> Vec<NodeId> {
        let wiring = self.wiring();
        let side = |node: &NodeId| wiring.side.get(node).copied().unwrap_or(0);
        wiring.members.keys().filter(|node| side(node) == side(&from)).copied().collect()
    }
}

/// A node's end, in one of its lives.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) from: NodeId,
    pub(super) life: u32,
    pub(super) wires: Wires,
}

impl Port {
    /// Who is reached, if the message arrives, and after how long.
    fn reach(&self, to: NodeId) -> Option<(Duration, Arc<MetadataService>)> {
        let mut wiring = self.wires.wiring();
        let side = |node: &NodeId| wiring.side.get(node).copied().unwrap_or(0);
        let lives = wiring.members.get(&self.from).is_some_and(|(life, _)| *life == self.life);
        if !lives || side(&self.from) != side(&to) {
            return None;
        }
        let metadata = wiring.members.get(&to)?.1.clone();
        let lossy = wiring.lossy;
        if wiring.rng.u32(..1000) < lossy {
            return None;
        }
        let delay = wiring.rng.u64(1..3) + if wiring.rng.u8(..50) == 0 { wiring.rng.u64(..40) } else { 0 };
        Some((Duration::from_millis(delay), metadata))
    }

    async fn carry(self, to: NodeId, message: Bytes) -> Result<Bytes, TransportError> {
        let silence = async {
            sleep(Duration::from_secs(5)).await;
            TransportError("gone".into())
        };
        let Some((delay, metadata)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        // What has arrived is dealt with, also when nobody waits for the answer.
        let answer = tokio::spawn(async move { metadata.message(message).await });
        let answer = answer.await.map_err(|_| TransportError("gone".into()))?;
        let Some((delay, _)) = self.reach(to) else { return Err(silence.await) };
        sleep(delay).await;
        answer.map_err(|error| TransportError(error.to_string()))
    }
}

#[derive(Debug)]
struct PortLine(Port, NodeId);

impl Line for PortLine {
    fn ask<'a>(&'a mut self, message: Bytes) -> Carried<'a> {
        Box::pin(self.0.clone().carry(self.1, message))
    }
}

impl Transport for Port {
    fn line(&self, to: NodeId, _address: &str) -> Box<dyn Line> {
        Box::new(PortLine(self.clone(), to))
    }

    fn call<'a>(&'a self, to: NodeId, _address: &'a str, message: Bytes) -> Carried<'a> {
        Box::pin(self.clone().carry(to, message))
    }

    fn send<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        message: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Carried<'a> {
        let port = self.clone();
        Box::pin(async move {
            let gone = || TransportError("gone".into());
            let (delay, metadata) = port.reach(to).ok_or_else(gone)?;
            sleep(delay).await;
            let taken = tokio::spawn(async move { metadata.snapshot(message, pieces).await });
            taken.await.map_err(|_| gone())?.map_err(|error| TransportError(error.to_string()))
        })
    }
}
