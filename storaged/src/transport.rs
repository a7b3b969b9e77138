//! gRPC between members of the metadata service.
//!
//! A connection that owes an answer for [`STUCK_AFTER`] is replaced: after a network cut, TCP itself would
//! wait for seconds before it tries again. The replacement goes to the node's next address, over another
//! network.

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

/// Time for which a connection may owe an answer before it is replaced: three leases, so that it is not the
/// network's usual delay, and less than the time after which a silent leader is replaced.
const STUCK_AFTER: Duration = Duration::from_millis(600);

#[derive(Debug)]
struct Connection {
    /// All addresses of the node.
    addresses: Vec<String>,
    /// Index of the address in use.
    at: usize,
    channel: Channel,
    /// Time of the oldest message without an answer.
    owes_since: Option<Instant>,
}

/// The connections to the other members.
#[derive(Debug)]
pub(crate) struct GrpcTransport {
    addresses: Arc<Addresses>,
    connections: Mutex<HashMap<NodeId, Connection>>,
}

impl GrpcTransport {
    pub(crate) fn new(addresses: Arc<Addresses>) -> GrpcTransport {
        GrpcTransport { addresses, connections: Mutex::default() }
    }

    /// Returns a client over the connection to a node and notes that a message goes out. `address` is for a
    /// node without a known address.
    fn client(&self, to: NodeId, address: &str) -> Result<RaftClient<Channel>, TransportError> {
        let mut addresses = self.addresses.all_of(to);
        if addresses.is_empty() {
            addresses.push(address.to_owned());
        }
        let mut connections = self.connections.lock();
        let is_stuck = |connection: &Connection| {
            connection.owes_since.is_some_and(|since| since.elapsed() > STUCK_AFTER)
        };
        let new = match connections.get(&to) {
            Some(connection) if connection.addresses == addresses && !is_stuck(connection) => None,
            // The node may be reached over another network.
            Some(connection) if connection.addresses == addresses => {
                Some((connection.at + 1) % addresses.len())
            }
            _ => Some(0),
        };
        if let Some(at) = new {
            let address = &addresses[at];
            let endpoint =
                grpc_endpoint(address).map_err(|error| TransportError(format!("{address}: {error}")))?;
            let channel = endpoint.connect_lazy();
            connections.insert(to, Connection { channel, addresses, at, owes_since: None });
        }
        let connection = connections.get_mut(&to).expect("just put there");
        connection.owes_since.get_or_insert_with(Instant::now);
        Ok(RaftClient::new(connection.channel.clone())
            .max_decoding_message_size(rain_proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rain_proto::MESSAGE_BYTES_MAX))
    }

    fn asked(&self, to: NodeId) {
        if let Some(connection) = self.connections.lock().get_mut(&to) {
            connection.owes_since.get_or_insert_with(Instant::now);
        }
    }

    fn answered(&self, to: NodeId) {
        if let Some(connection) = self.connections.lock().get_mut(&to) {
            connection.owes_since = None;
        }
    }
}

/// An append stream over one gRPC stream, opened with the first message and after each failure.
#[derive(Debug)]
struct GrpcAppendStream {
    transport: Arc<GrpcTransport>,
    to: NodeId,
    address: String,
    stream: Option<(mpsc::Sender<RaftMessage>, Streaming<RaftMessage>)>,
}

impl AppendStream for GrpcAppendStream {
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a> {
        Box::pin(async move {
            let failed = |why: &str| TransportError(format!("node {}: {why}", self.to));
            let message = RaftMessage { bytes: message };
            let (send, mut answers) = match self.stream.take() {
                Some((send, answers)) => {
                    self.transport.asked(self.to);
                    send.send(message).await.map_err(|_| failed("the stream is broken"))?;
                    (send, answers)
                }
                None => {
                    let mut client = self.transport.client(self.to, &self.address)?;
                    let (send, messages) = mpsc::channel(1);
                    send.try_send(message).map_err(|_| failed("a new stream takes no message"))?;
                    let opened = client.stream(ReceiverStream::new(messages)).await;
                    (send, opened.map_err(|status| failed(status.message()))?.into_inner())
                }
            };
            let answer = answers.message().await.map_err(|status| failed(status.message()))?;
            let answer = answer.ok_or_else(|| failed("the stream has ended"))?;
            self.transport.answered(self.to);
            self.stream = Some((send, answers));
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
            let mut client = self.client(to, address)?;
            let answer = client.call(RaftMessage { bytes: message }).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to);
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
            let mut client = self.client(to, address)?;
            let messages = tokio_stream::once(head).chain(ReceiverStream::new(pieces));
            let answer = client.install_snapshot(messages.map(|bytes| RaftMessage { bytes })).await;
            let answer =
                answer.map_err(|status| TransportError(format!("node {to}: {}", status.message())))?;
            self.answered(to);
            Ok(answer.into_inner().bytes)
        })
    }
}
