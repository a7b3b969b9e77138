//! The settings of every RAIN connection, and what a gRPC status says about it.

use crate::error::Error;
use std::error::Error as _;
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
///
/// A failed connection may get any code: "internal" where the node's HTTP/2 ends in the middle of a call. But only
/// a status that was made here has a source.
pub(crate) fn is_broken(status: &Status) -> bool {
    status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rain_proto::v1;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An empty SETTINGS frame of HTTP/2.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// A RST_STREAM frame of the first stream with the reason PROTOCOL_ERROR.
    const RESET: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 1];

    #[tokio::test]
    async fn a_connection_that_ends_in_the_middle_of_a_call_is_no_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let _ = connection.write_all(&SETTINGS).await;
            let mut bytes = [0; 4096];
            while connection.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                let _ = connection.write_all(&RESET).await;
            }
        });
        let channel = grpc_endpoint(&address).expect("an address").connect_lazy();
        let mut client = v1::namespace_client::NamespaceClient::new(channel);
        let asked = client.leases(v1::LeasesRequest::default()).await;
        let status = asked.expect_err("nobody answers");
        assert_eq!(status.code(), Code::Internal, "as seen when a node stops: {status}");
        assert!(is_broken(&status));
        assert!(!is_broken(&Status::internal("said by the node")));
    }
}
