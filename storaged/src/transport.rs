//! gRPC between members of the metadata service.
//!
//! After a network cut TCP waits for seconds before it tries again. So a connection that owes an answer for
//! [`OTHER_ADDRESS_AFTER`] is left for the one to the node's next address, over another network, and a
//! connection that owes one for [`STUCK_AFTER`] is made anew when it is used again.

use crate::addresses::Addresses;
use crate::metadata::{AppendStream, Delivery, Transport, TransportError};
use bytes::Bytes;
use parking_lot::Mutex;
use rain_client::grpc_endpoint;
use rain_proto::v1::RaftMessage;
use rain_proto::v1::raft_client::RaftClient;
use rain_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Time for which a connection may owe an answer before messages go to the node's next address: less than a
/// heartbeat, so that the repetition of a heartbeat without an answer goes there, and a voter hears of the leader
/// within its lease. On a busy machine an answer may take longer; then the messages go to and fro, over
/// connections that stay open.
const OTHER_ADDRESS_AFTER: Duration = Duration::from_millis(60);

/// Time for which a connection may owe an answer before it is replaced: three leases, so that it is not the
/// network's usual delay, and less than the time after which a silent leader is replaced.
const STUCK_AFTER: Duration = Duration::from_millis(600);

/// The connection to one address of a node.
#[derive(Debug)]
struct Connection {
    address: String,
    channel: Option<Channel>,
    /// Time of the oldest message without an answer.
    owes_since: Option<Instant>,
}

impl Connection {
    fn owes_for(&self, time: Duration) -> bool {
        self.owes_since.is_some_and(|since| since.elapsed() > time)
    }

    /// The channel, which is made where there is none or it is stuck.
    fn channel(&mut self) -> Result<Channel, TransportError> {
        if self.owes_for(STUCK_AFTER) {
            (self.channel, self.owes_since) = (None, None);
        }
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let address = &self.address;
        let endpoint =
            grpc_endpoint(address).map_err(|error| TransportError(format!("{address}: {error}")))?;
        Ok(self.channel.insert(endpoint.connect_lazy()).clone())
    }
}

/// The connections to all addresses of a node.
#[derive(Debug)]
struct NodeConnections {
    connections: Vec<Connection>,
    /// Index of the connection in use.
    at: usize,
}

impl NodeConnections {
    fn new(addresses: Vec<String>) -> NodeConnections {
        let connection = |address| Connection { address, channel: None, owes_since: None };
        NodeConnections { connections: addresses.into_iter().map(connection).collect(), at: 0 }
    }

    fn has_addresses(&self, addresses: &[String]) -> bool {
        self.connections.iter().map(|connection| &connection.address).eq(addresses)
    }

    /// The connection for the next message.
    fn next(&mut self) -> &mut Connection {
        if self.connections[self.at].owes_for(OTHER_ADDRESS_AFTER) {
            self.at = (self.at + 1) % self.connections.len();
        }
        &mut self.connections[self.at]
    }
}

/// The connections to the other members.
#[derive(Debug)]
pub(crate) struct GrpcTransport {
    addresses: Arc<Addresses>,
    nodes: Mutex<HashMap<NodeId, NodeConnections>>,
}

impl GrpcTransport {
    pub(crate) fn new(addresses: Arc<Addresses>) -> GrpcTransport {
        GrpcTransport { addresses, nodes: Mutex::default() }
    }

    /// Returns a client over a connection to a node, with the number of the address, and notes that a message goes
    /// out. `address` is for a node without a known address.
    fn client(&self, to: NodeId, address: &str) -> Result<(RaftClient<Channel>, usize), TransportError> {
        let mut addresses = self.addresses.all_of(to);
        if addresses.is_empty() {
            addresses.push(address.to_owned());
        }
        let mut nodes = self.nodes.lock();
        if !nodes.get(&to).is_some_and(|node| node.has_addresses(&addresses)) {
            nodes.insert(to, NodeConnections::new(addresses));
        }
        let node = nodes.get_mut(&to).expect("just put there");
        let connection = node.next();
        let channel = connection.channel()?;
        connection.owes_since.get_or_insert_with(Instant::now);
        let client = RaftClient::new(channel)
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX);
        Ok((client, node.at))
    }

    fn asked(&self, to: NodeId, at: usize) {
        self.with_connection(to, at, |connection| {
            connection.owes_since.get_or_insert_with(Instant::now);
        });
    }

    fn answered(&self, to: NodeId, at: usize) {
        self.with_connection(to, at, |connection| connection.owes_since = None);
    }

    fn with_connection(&self, to: NodeId, at: usize, then: impl FnOnce(&mut Connection)) {
        let mut nodes = self.nodes.lock();
        if let Some(connection) = nodes.get_mut(&to).and_then(|node| node.connections.get_mut(at)) {
            then(connection);
        }
    }
}

/// An append stream over one gRPC stream, opened with the first message and after each failure.
#[derive(Debug)]
struct GrpcAppendStream {
    transport: Arc<GrpcTransport>,
    to: NodeId,
    address: String,
    stream: Option<Open>,
}

/// An open stream.
#[derive(Debug)]
struct Open {
    send: mpsc::Sender<RaftMessage>,
    answers: Streaming<RaftMessage>,
    /// The number of the address that it goes to.
    at: usize,
}

impl AppendStream for GrpcAppendStream {
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a> {
        Box::pin(async move {
            let failed = |why: &str| TransportError(format!("node {}: {why}", self.to));
            let message = RaftMessage { bytes: message };
            let mut open = match self.stream.take() {
                Some(open) => {
                    self.transport.asked(self.to, open.at);
                    open.send.send(message).await.map_err(|_| failed("the stream is broken"))?;
                    open
                }
                None => {
                    let (mut client, at) = self.transport.client(self.to, &self.address)?;
                    let (send, messages) = mpsc::channel(1);
                    send.try_send(message).map_err(|_| failed("a new stream takes no message"))?;
                    let opened = client.stream(ReceiverStream::new(messages)).await;
                    let answers = opened.map_err(|status| failed(status.message()))?.into_inner();
                    Open { send, answers, at }
                }
            };
            let answer = open.answers.message().await.map_err(|status| failed(status.message()))?;
            let answer = answer.ok_or_else(|| failed("the stream has ended"))?;
            self.transport.answered(self.to, open.at);
            self.stream = Some(open);
            Ok(answer.bytes)
        })
    }
}

impl Transport for Arc<GrpcTransport> {
    fn append_stream(&self, to: NodeId, address: &str) -> Box<dyn AppendStream> {
        Box::new(GrpcAppendStream { transport: self.clone(), to, address: address.to_owned(), stream: None })
    }

    fn call<'a>(&'a self, to: NodeId, address: &'a str, message: Bytes) -> Delivery<'a> {
        Box::pin(async move {
            let (mut client, at) = self.client(to, address)?;
            let answer = client.call(RaftMessage { bytes: message }).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to, at);
            Ok(answer.into_inner().bytes)
        })
    }

    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        head: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a> {
        Box::pin(async move {
            let (mut client, at) = self.client(to, address)?;
            let messages = tokio_stream::once(head).chain(ReceiverStream::new(pieces));
            let answer = client.install_snapshot(messages.map(|bytes| RaftMessage { bytes })).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to, at);
            Ok(answer.into_inner().bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_owes_an_answer_is_left_and_a_stuck_one_is_made_anew() {
        let mut node = NodeConnections::new(vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
        let ago = |time| Some(Instant::now() - time);
        node.next().channel().expect("a channel");
        assert_eq!(node.at, 0, "it owes nothing");
        node.connections[0].owes_since = ago(OTHER_ADDRESS_AFTER * 2);
        assert_eq!(node.next().address, "127.0.0.1:2");
        node.connections[1].owes_since = ago(OTHER_ADDRESS_AFTER * 2);
        let first = node.next();
        assert_eq!(first.address, "127.0.0.1:1", "the other one owes an answer, too");
        first.channel().expect("a channel");
        assert!(first.owes_since.is_some(), "it is not stuck, so it is the same connection");
        first.owes_since = ago(STUCK_AFTER * 2);
        first.channel().expect("a channel");
        assert!(first.owes_since.is_none(), "it is a new connection");
    }
}
