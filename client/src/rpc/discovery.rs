//! Finding a cluster and its leader from a list of addresses.

use super::endpoint::grpc_endpoint;
use crate::error::Error;
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_types::NodeId;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// Time for a node to say who leads, when the leader is doubted; a node that is slower is passed over. A client
/// that connects waits twice this for each answer.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_millis(400);

/// Pause between two rounds of looking for a leader.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(30);

/// The leader of a term, and the address at which it is called.
#[derive(Debug, Clone)]
pub(crate) struct LeaderAddress {
    pub(crate) term: u64,
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) channel: Channel,
}

/// Finds a cluster and its leader from any of these addresses. Fails with `NoCluster` when none is found in
/// time.
pub(crate) async fn find(
    addresses: &[String],
    within: Duration,
) -> Result<(v1::DescribeResponse, LeaderAddress), Error> {
    let begun = Instant::now();
    let mut why = String::from("the list is empty");
    while !addresses.is_empty() {
        let mut asked: futures::stream::FuturesUnordered<_> =
            addresses.iter().map(|address| ask_for_leader(address)).collect();
        while let Some(answer) = futures::StreamExt::next(&mut asked).await {
            match answer {
                Ok(found) => return Ok(found),
                Err(error) => why = error,
            }
        }
        if begun.elapsed() >= within {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::NoCluster { addresses: addresses.join(","), why })
}

/// As [`find`], but a cluster without a leader is found as well, by any of its nodes.
pub(crate) async fn find_any(
    addresses: &[String],
    within: Duration,
) -> Result<(v1::DescribeResponse, Option<LeaderAddress>), Error> {
    let error = match find(addresses, within).await {
        Ok((described, leader)) => return Ok((described, Some(leader))),
        Err(error) => error,
    };
    let asked = addresses.iter().map(|address| describe(address, ASK_TIMEOUT));
    let answers = futures::future::join_all(asked).await;
    let of_cluster = answers.into_iter().flatten().find(|(described, _)| !described.cluster.is_empty());
    of_cluster.map(|(described, _)| (described, None)).ok_or(error)
}

/// Asks the node at an address for the leader, and then the leader itself whether it leads.
async fn ask_for_leader(address: &str) -> Result<(v1::DescribeResponse, LeaderAddress), String> {
    let (described, channel) = describe(address, ASK_TIMEOUT * 2).await?;
    let leader = described.leader.clone();
    let leader = leader.ok_or_else(|| format!("{address} does not know yet who leads the namespace"))?;
    let (term, node) = (leader.term, NodeId(leader.node));
    if leader.node == described.node {
        return Ok((described, LeaderAddress { term, node, address: address.to_owned(), channel }));
    }
    let (described, channel) = describe(&leader.address, ASK_TIMEOUT * 2).await?;
    match described.leader {
        Some(ref itself) if itself.node == described.node => {
            Ok((described, LeaderAddress { term, node, address: leader.address, channel }))
        }
        _ => Err(format!("{} does not lead the namespace, as {address} says", leader.address)),
    }
}

/// Asks the node at an address who it is. The error says what happened, for people.
pub(crate) async fn describe(
    address: &str,
    within: Duration,
) -> Result<(v1::DescribeResponse, Channel), String> {
    let endpoint = grpc_endpoint(address).map_err(|error| format!("{address}: {error}"))?;
    let channel = endpoint.connect_lazy();
    let mut client = NodeClient::new(channel.clone());
    match tokio::time::timeout(within, client.describe(v1::DescribeRequest {})).await {
        Ok(Ok(described)) => Ok((described.into_inner(), channel)),
        Ok(Err(status)) => Err(format!("{address}: {}", status.message())),
        Err(_) => Err(format!("{address}: no answer within {within:?}")),
    }
}
