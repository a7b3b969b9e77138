//! Calls to one node, with a deadline and without a retry elsewhere.

use super::endpoint::{is_broken, refusal};
use super::node::{Node, Probe};
use super::nodes::Nodes;
use crate::error::Error;
use rain_proto::v1;
use rain_types::NodeId;
use std::time::Duration;
use tonic::{Response, Status};

/// Deadline of a call that a person waits for.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Deadline of a worker's call. Workers are more patient than people, and their next round tries again.
const WORKER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a probe over a node's other addresses may take before the node counts as unreachable.
const OTHER_ADDRESS_WITHIN: Duration = Duration::from_millis(300);

/// Calls one node. Fails with `Unreachable` when the connection breaks or the deadline passes.
pub(crate) async fn call<T>(
    node: NodeId,
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if !is_broken(&status) => Err(refusal(what, &status)),
        _ => Err(Error::Unreachable { what: what.into(), missing: vec![node] }),
    }
}

/// As [`call`]; repeats the call once when the node answers over another of its addresses.
pub(crate) async fn call_any_address<T, F>(node: &Node, what: &str, make: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    match call(node.id, what, make()).await {
        Err(Error::Unreachable { .. })
            if node.probe_within(OTHER_ADDRESS_WITHIN).await == Probe::OtherAddress =>
        {
            call(node.id, what, make()).await
        }
        answered => answered,
    }
}

/// Calls one node for a background worker. Every failure counts as `Unreachable` or `TimedOut`.
pub(crate) async fn call_patiently<T>(
    node: NodeId,
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(WORKER_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%node, what, status = status.message(), "a worker's call failed");
            Err(Error::Unreachable { what: what.into(), missing: vec![node] })
        }
        Err(_) => Err(Error::TimedOut { what: format!("{what} on node {node}"), after: WORKER_TIMEOUT }),
    }
}

/// Asks a node for its status. Fails when another node, or a node of no cluster, answers at the node's
/// address.
pub(crate) async fn node_status(nodes: &Nodes, id: NodeId) -> Result<v1::NodeStatusResponse, Error> {
    let node = nodes.get(id)?;
    let ask = || async { node.control().status(v1::NodeStatusRequest {}).await };
    let status = call_any_address(&node, "asking for a node's status", ask).await?;
    if status.node != id.0 {
        let who = match status.node {
            0 => "a node of no cluster".to_owned(),
            other => format!("node {other}"),
        };
        return Err(Error::Protocol(format!("{who} answers at node {id}'s address {}", node.address())));
    }
    Ok(status)
}
