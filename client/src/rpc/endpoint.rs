//! The settings of every RAIN connection, and what a gRPC status says about it.

use crate::error::Error;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// An endpoint for `host:port` with RAIN's settings: large frames and windows (docs/benchmarks.md has the
/// measurement), no delay, and keepalive. Without keepalive a connection stays dead after a partition.
///
/// Fails when the address is not a valid authority.
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

/// Whether a status tells that the connection failed. Any other status is the node's answer.
pub(crate) fn is_broken(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

/// Whether a node's share service says that a request is not for it: another node, or one of another cluster,
/// runs at the address. The node that was meant is not there.
pub(crate) fn is_misdirected(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition
}

/// The client's error for a status by which a node refused `what`.
pub(crate) fn refusal(what: &str, status: &Status) -> Error {
    match status.code() {
        Code::ResourceExhausted => Error::NoSpace { nodes: Vec::new() },
        Code::DeadlineExceeded => Error::TimedOut { what: what.into(), after: Duration::ZERO },
        code => Error::Protocol(format!("{what}: {code:?}: {}", status.message())),
    }
}
