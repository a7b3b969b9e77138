//! gRPC between keepers.
//!
//! A connection that has not answered for a while is thrown away: after a cut, TCP itself would wait for seconds before it tries
//! again.

use crate::metadata::{Carried, Line, Transport, TransportError};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rain_client::grpc_endpoint;
use rain_proto::v1::RaftMessage;
use rain_proto::v1::raft_client::RaftClient;
use rain_types::NodeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// A connection that has been asked and has not answered for so long is replaced.
const STUCK_AFTER: Duration = Duration::from_millis(600);

/// Where the nodes are: as the namespace has it, or as they said themselves since. Nodes that have all moved must find each other before
/// the namespace can be told.
#[derive(Debug, Default)]
pub(crate) struct Addresses(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// All of a node's, the first first.
    recorded: BTreeMap<NodeId, Vec<String>>,
    heard: BTreeMap<NodeId, String>,
}

impl Addresses {
    pub(crate) fn get(&self, node: NodeId) -> Option<String> {
        self.ways(node).into_iter().next()
    }

    /// All ways to a node, the usual one first.
    fn ways(&self, node: NodeId) -> Vec<String> {
        let known = self.0.read();
        match known.heard.get(&node) {
            Some(heard) => vec![heard.clone()],
            None => known.recorded.get(&node).cloned().unwrap_or_default(),
        }
    }

    /// Where all known nodes are.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, String> {
        let known = self.0.read();
        let first = |(node, all): (&NodeId, &Vec<String>)| Some((*node, all.first()?.clone()));
        let mut all: BTreeMap<NodeId, String> = known.recorded.iter().filter_map(first).collect();
        all.extend(known.heard.clone());
        all
    }

    /// What the namespace has. A record that changes is newer than what was heard.
    pub(crate) fn record(&self, recorded: BTreeMap<NodeId, Vec<String>>) {
        let mut known = self.0.write();
        let Known { recorded: before, heard } = &mut *known;
        heard.retain(|node, _| !before.contains_key(node) || before.get(node) == recorded.get(node));
        *before = recorded;
    }

    /// What a node said of itself just now.
    pub(crate) fn hear(&self, node: NodeId, address: String) {
        self.0.write().heard.insert(node, address);
    }
}

#[derive(Debug)]
struct Connection {
    ways: Vec<String>,
    /// Which of the ways it goes.
    way: usize,
    channel: Channel,
    /// Since when it is asked without an answer.
    asked: Option<Instant>,
}

/// The connections to the others.
#[derive(Debug)]
pub(crate) struct GrpcTransport {
    addresses: Arc<Addresses>,
    lines: Mutex<HashMap<NodeId, Connection>>,
}

impl GrpcTransport {
    pub(crate) fn new(addresses: Arc<Addresses>) -> GrpcTransport {
        GrpcTransport { addresses, lines: Mutex::default() }
    }

    fn client(&self, to: NodeId, address: &str) -> Result<RaftClient<Channel>, TransportError> {
        let mut ways = self.addresses.ways(to);
        if ways.is_empty() {
            ways.push(address.to_owned());
        }
        let mut lines = self.lines.lock();
        let stuck = |line: &Connection| line.asked.is_some_and(|asked| asked.elapsed() > STUCK_AFTER);
        let way = match lines.get(&to) {
            Some(line) if line.ways == ways && !stuck(line) => None,
            // It may be reached over another network.
            Some(line) if line.ways == ways => Some((line.way + 1) % ways.len()),
            _ => Some(0),
        };
        if let Some(way) = way {
            let address = &ways[way];
            let endpoint =
                grpc_endpoint(address).map_err(|error| TransportError(format!("{address}: {error}")))?;
            lines.insert(to, Connection { channel: endpoint.connect_lazy(), ways, way, asked: None });
        }
        let line = lines.get_mut(&to).expect("just put there");
        line.asked.get_or_insert_with(Instant::now);
        Ok(RaftClient::new(line.channel.clone())
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX))
    }

    fn asked(&self, to: NodeId) {
        if let Some(line) = self.lines.lock().get_mut(&to) {
            line.asked.get_or_insert_with(Instant::now);
        }
    }

    fn answered(&self, to: NodeId) {
        if let Some(line) = self.lines.lock().get_mut(&to) {
            line.asked = None;
        }
    }
}

/// Messages on their way over one stream, and who waits for their answers, in their order.
#[derive(Debug)]
struct GrpcLine {
    transport: Arc<GrpcTransport>,
    to: NodeId,
    address: String,
    stream: Option<(mpsc::Sender<RaftMessage>, Streaming<RaftMessage>)>,
}

impl Line for GrpcLine {
    fn ask<'a>(&'a mut self, message: Bytes) -> Carried<'a> {
        Box::pin(async move {
            let failed = |why: &str| TransportError(format!("node {}: {why}", self.to));
            let message = RaftMessage { bytes: message };
            let (send, mut answers) = match self.stream.take() {
                Some((send, answers)) => {
                    self.transport.asked(self.to);
                    send.send(message).await.map_err(|_| failed("the line is broken"))?;
                    (send, answers)
                }
                None => {
                    let mut client = self.transport.client(self.to, &self.address)?;
                    let (send, messages) = mpsc::channel(1);
                    send.try_send(message).map_err(|_| failed("a new line takes no message"))?;
                    let opened = client.stream(ReceiverStream::new(messages)).await;
                    (send, opened.map_err(|status| failed(status.message()))?.into_inner())
                }
            };
            let answer = answers.message().await.map_err(|status| failed(status.message()))?;
            let answer = answer.ok_or_else(|| failed("the line has ended"))?;
            self.transport.answered(self.to);
            self.stream = Some((send, answers));
            Ok(answer.bytes)
        })
    }
}

impl Transport for Arc<GrpcTransport> {
    fn line(&self, to: NodeId, address: &str) -> Box<dyn Line> {
        Box::new(GrpcLine { transport: self.clone(), to, address: address.to_owned(), stream: None })
    }

    fn call<'a>(&'a self, to: NodeId, address: &'a str, message: Bytes) -> Carried<'a> {
        Box::pin(async move {
            let mut client = self.client(to, address)?;
            let answer = client.call(RaftMessage { bytes: message }).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to);
            Ok(answer.into_inner().bytes)
        })
    }

    fn send<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        message: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Carried<'a> {
        Box::pin(async move {
            let mut client = self.client(to, address)?;
            let messages = tokio_stream::once(message).chain(ReceiverStream::new(pieces));
            let answer = client.install_snapshot(messages.map(|bytes| RaftMessage { bytes })).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to);
            Ok(answer.into_inner().bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_counts_until_its_record_changes() {
        let addresses = Addresses::default();
        let record =
            |address: &str| addresses.record(BTreeMap::from([(NodeId(1), vec![address.to_owned()])]));
        record("a:1");
        addresses.hear(NodeId(1), "b:1".into());
        record("a:1");
        assert_eq!(addresses.get(NodeId(1)).as_deref(), Some("b:1"));
        record("b:1");
        record("c:1");
        assert_eq!(addresses.get(NodeId(1)).as_deref(), Some("c:1"));
    }
}
