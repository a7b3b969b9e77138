//! The gRPC server of a node and its services.

use super::parts::Parts;
use crate::inode_leases::InodeLeases;
use crate::service::checkpoint::CheckpointService;
use crate::service::files::StoreService;
use crate::service::namespace::NamespaceService;
use crate::service::node::NodeService;
use crate::service::raft::RaftService;
use crate::service::shares::SharesService;
use anyhow::Context;
use rain_proto::v1::checkpoint_server::CheckpointServer;
use rain_proto::v1::namespace_server::NamespaceServer;
use rain_proto::v1::node_server::NodeServer;
use rain_proto::v1::raft_server::RaftServer;
use rain_proto::v1::shares_server::SharesServer;
use rain_proto::v1::store_server::StoreServer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Flow-control window of a stream, bytes: some shares of a whole block are on their way at a time.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Flow-control window of a connection, bytes: several streams' windows.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Largest HTTP/2 frame, bytes: a share in few frames.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Interval of HTTP/2 pings, and the time for their answers.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Streams of a connection at a time.
const STREAMS_MAX: u32 = 1024;

/// Serves until the node stops; then lets the requests under way finish.
pub(super) async fn serve(listeners: Vec<TcpListener>, parts: Arc<Parts>) -> anyhow::Result<()> {
    let mut stopped = parts.stopping.subscribe();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SharesServer<SharesService>>().await;
    health.set_serving::<StoreServer<StoreService>>().await;
    health.set_serving::<NamespaceServer<NamespaceService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rain_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("preparing reflection")?;
    let joined = || parts.joined.clone();
    let raft = RaftServer::new(RaftService { joined: joined(), stopping: parts.stopping.subscribe() });
    let namespace = NamespaceServer::new(NamespaceService {
        joined: joined(),
        sessions: parts.sessions.clone(),
        open_files: parts.open_files.clone(),
        leases: InodeLeases::new(),
    });
    let shares = SharesService::new(parts.store.clone(), parts.gate.clone(), parts.obeyed.clone(), joined());
    let shares = SharesServer::new(shares);
    let files = StoreServer::new(StoreService::new(parts.own_client.clone(), joined()));
    let checkpoints = CheckpointServer::new(CheckpointService::new(parts.own_client.clone()));
    let node = NodeServer::new(NodeService {
        config: parts.config.clone(),
        spec: parts.spec.clone(),
        started: Instant::now(),
        store: parts.store.clone(),
        gate: parts.gate.clone(),
        counters: parts.counters.clone(),
        joined: joined(),
        stopping: parts.stopping.subscribe(),
    });
    let incoming = futures::stream::select_all(listeners.into_iter().map(TcpListenerStream::new));
    let incoming =
        tokio_stream::StreamExt::map(incoming, |connection: std::io::Result<tokio::net::TcpStream>| {
            connection.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        });
    let max = rain_proto::MESSAGE_BYTES_MAX;
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(node)
        .add_service(shares.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(namespace.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(raft.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(files.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(checkpoints.max_decoding_message_size(max).max_encoding_message_size(max))
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
            health.set_not_serving::<SharesServer<SharesService>>().await;
            health.set_not_serving::<StoreServer<StoreService>>().await;
        })
        .await
        .context("serving")
}
