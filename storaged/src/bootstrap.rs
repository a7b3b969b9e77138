//! Bootstrap: how a node gets its number and its cluster.
//!
//! All nodes of a new cluster are started with the same list of peers. The node with the least address begins
//! the cluster when all peers answer, none has a cluster, and all have the same list. The others ask the
//! peers to admit them. A node that is not in its own list waits until somebody adds it (`rain node add`).
//! The wait has no end; the log says once for what.
//!
//! [`next`] decides on the next step and is pure; the rest asks and records.

use crate::identity::{self, Identity};
use anyhow::Context;
use rain_client::grpc_endpoint;
use rain_namespace::command::NodeSpec;
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_types::{ClusterId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Pause between two questions to the peers.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Time for the answer of a peer.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);

/// The settings that this node was started with.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    pub(crate) spec: NodeSpec,
    pub(crate) wish: Option<NodeId>,
    pub(crate) peers: Vec<String>,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Begin the cluster as this node.
    Begin(NodeId),
    /// Ask the peers that have a cluster to admit this node.
    Ask,
    /// Wait, for this reason.
    Wait(String),
}

/// The peers' descriptions of themselves, by address. A peer that does not answer is missing.
type Heard = BTreeMap<String, v1::DescribeResponse>;

/// Returns the numbers of all nodes of a list: their wishes if these are all different, else their positions
/// in the list.
pub(crate) fn numbers(peers: &[String], wishes: &BTreeMap<String, u32>) -> BTreeMap<String, NodeId> {
    let wished: Vec<u32> = wishes.values().copied().filter(|wish| *wish != 0).collect();
    let clear = wished.iter().collect::<BTreeSet<_>>().len() == wished.len();
    let mut taken: BTreeSet<u32> = if clear { wished.into_iter().collect() } else { BTreeSet::new() };
    let mut numbers = BTreeMap::new();
    for (place, peer) in peers.iter().enumerate() {
        let wish = wishes.get(peer).copied().filter(|wish| clear && *wish != 0);
        let number = wish.unwrap_or_else(|| {
            let mut free = place as u32 + 1;
            while taken.contains(&free) {
                free += 1;
            }
            free
        });
        taken.insert(number);
        numbers.insert(peer.clone(), NodeId(number));
    }
    numbers
}

fn next(me: &Started, heard: &Heard) -> Next {
    if heard.values().any(|other| !other.cluster.is_empty()) {
        return Next::Ask;
    }
    let all: BTreeSet<&String> = me.peers.iter().collect();
    if !all.contains(&me.spec.address) {
        return Next::Wait(format!(
            "{} is not among --peers ({}), and none of these has a cluster yet",
            me.spec.address,
            me.peers.join(",")
        ));
    }
    let silent: Vec<&str> = all
        .iter()
        .filter(|peer| **peer != &me.spec.address && !heard.contains_key(**peer))
        .map(|peer| peer.as_str())
        .collect();
    if !silent.is_empty() {
        return Next::Wait(format!("waiting for {} to answer", silent.join(", ")));
    }
    for (peer, other) in heard {
        if other.address != *peer {
            return Next::Wait(format!(
                "{peer} says that it is {}: give it --advertise {peer}, or correct --peers",
                other.address
            ));
        }
        if other.peers.iter().collect::<BTreeSet<_>>() != all {
            return Next::Wait(format!(
                "{peer} was started with other --peers ({}) than this node ({})",
                other.peers.join(","),
                me.peers.join(",")
            ));
        }
    }
    let first = all.iter().next().copied();
    if first != Some(&me.spec.address) {
        return Next::Wait(format!("waiting for {} to begin the cluster", first.map_or("", String::as_str)));
    }
    if heard.values().all(|other| other.witness) && me.spec.witness {
        return Next::Wait("all nodes are witnesses: nobody would keep shares".into());
    }
    let mut wishes: BTreeMap<String, u32> =
        heard.iter().map(|(peer, other)| (peer.clone(), other.wish)).collect();
    wishes.insert(me.spec.address.clone(), me.wish.map_or(0, |wish| wish.0));
    Next::Begin(numbers(&me.peers, &wishes)[&me.spec.address])
}

/// Returns cluster and number of this node, and records them. Waits as long as that takes.
pub(crate) async fn find_cluster(
    me: &Started,
    identity: &mut Identity,
) -> anyhow::Result<(ClusterId, NodeId)> {
    let mut said = String::new();
    loop {
        if let Some(member) = identity.member() {
            return Ok(member);
        }
        let heard = describe_all(me).await;
        let waiting = match next(me, &heard) {
            Next::Begin(node) => {
                let cluster = ClusterId(identity::random()?);
                tracing::info!(%cluster, %node, "all peers answer: a new cluster begins");
                identity.join(cluster, node, true)?;
                continue;
            }
            Next::Ask => match admitted(me, &heard).await {
                Ok((cluster, node)) => {
                    identity.join(cluster, node, false)?;
                    continue;
                }
                Err(why) => why,
            },
            Next::Wait(why) => why,
        };
        if waiting != said {
            tracing::info!("not in a cluster yet: {waiting}");
            said = waiting;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Asks all peers but this node for their descriptions; returns those that answer.
pub(crate) async fn describe_all(me: &Started) -> Heard {
    let others: BTreeSet<&String> = me.peers.iter().filter(|peer| **peer != me.spec.address).collect();
    let asked = others.into_iter().map(|peer| async move { (peer.clone(), describe(peer).await) });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().filter_map(|(peer, answer)| Some((peer, answer.ok()?))).collect()
}

/// Asks the peers that have a cluster to admit this node; returns cluster and number, or the reason for
/// waiting.
async fn admitted(me: &Started, heard: &Heard) -> Result<(ClusterId, NodeId), String> {
    let mut why = String::new();
    for (peer, other) in heard.iter().filter(|(_, other)| !other.cluster.is_empty()) {
        let request = v1::AdmitRequest { folder: me.spec.folder.clone(), address: me.spec.address.clone() };
        match admit(peer, request).await {
            Ok(answer) if answer.node != 0 => {
                let cluster = answer.cluster.parse().map_err(|_| format!("{peer} names no cluster"))?;
                return Ok((cluster, NodeId(answer.node)));
            }
            Ok(answer) if !answer.refused.is_empty() => why = answer.refused,
            Ok(_) => {
                why = format!(
                    "cluster {} of {peer} does not know this node yet; to take it in: rain --cluster {peer} node add {}",
                    other.cluster, me.spec.address
                );
            }
            Err(error) => why = format!("{error:#}"),
        }
    }
    Err(why)
}

async fn admit(address: &str, request: v1::AdmitRequest) -> anyhow::Result<v1::AdmitResponse> {
    let mut client = client(address)?;
    let asked = tokio::time::timeout(ASK_TIMEOUT, client.admit(request)).await;
    let answer = asked.with_context(|| format!("{address} does not answer"))?;
    Ok(answer.map_err(|status| anyhow::anyhow!("{address}: {}", status.message()))?.into_inner())
}

fn client(address: &str) -> anyhow::Result<NodeClient<tonic::transport::Channel>> {
    let endpoint = grpc_endpoint(address).with_context(|| format!("address {address:?}"))?;
    Ok(NodeClient::new(endpoint.connect_lazy()))
}

/// Asks a node for its description of itself.
pub(crate) async fn describe(address: &str) -> anyhow::Result<v1::DescribeResponse> {
    let mut client = client(address)?;
    let asked = tokio::time::timeout(ASK_TIMEOUT, client.describe(v1::DescribeRequest {})).await;
    let answer = asked.with_context(|| format!("{address} does not answer"))?;
    let answer = answer.map_err(|status| anyhow::anyhow!("{address}: {}", status.message()))?;
    Ok(answer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(address: &str, peers: &[&str]) -> Started {
        let spec = NodeSpec { address: address.into(), weight: 1, ..NodeSpec::default() };
        Started { spec, wish: None, peers: peers.iter().map(|peer| (*peer).to_owned()).collect() }
    }

    fn other(address: &str, peers: &[&str]) -> v1::DescribeResponse {
        v1::DescribeResponse {
            address: address.into(),
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            ..v1::DescribeResponse::default()
        }
    }

    fn heard(others: &[v1::DescribeResponse]) -> Heard {
        others.iter().map(|other| (other.address.clone(), other.clone())).collect()
    }

    const ABC: [&str; 3] = ["b:1", "a:1", "c:1"];

    #[test]
    fn the_least_address_begins_when_all_are_there_with_the_same_list() {
        let all = heard(&[other("b:1", &["c:1", "b:1", "a:1"]), other("c:1", &ABC)]);
        // Its number is its place in its own list.
        assert_eq!(next(&me("a:1", &ABC), &all), Next::Begin(NodeId(2)));
        let all = heard(&[other("a:1", &ABC), other("c:1", &ABC)]);
        assert!(matches!(next(&me("b:1", &ABC), &all), Next::Wait(why) if why.contains("a:1 to begin")));
        assert_eq!(next(&me("a:1", &["a:1"]), &Heard::new()), Next::Begin(NodeId(1)));
    }

    #[test]
    fn who_is_missing_or_differs_is_named() {
        let some = heard(&[other("b:1", &ABC)]);
        assert!(matches!(next(&me("a:1", &ABC), &some), Next::Wait(why) if why.contains("waiting for c:1")));
        let odd = heard(&[other("b:1", &ABC), other("c:1", &["a:1", "c:1"])]);
        assert!(
            matches!(next(&me("a:1", &ABC), &odd), Next::Wait(why) if why.contains("c:1 was started with other"))
        );
        assert!(
            matches!(next(&me("d:1", &ABC), &Heard::new()), Next::Wait(why) if why.contains("not among"))
        );
        let mut renamed = heard(&[other("b:1", &ABC), other("c:1", &ABC)]);
        renamed.get_mut("c:1").expect("heard").address = "127.0.0.1:1".into();
        assert!(
            matches!(next(&me("a:1", &ABC), &renamed), Next::Wait(why) if why.contains("--advertise c:1"))
        );
    }

    #[test]
    fn a_cluster_that_is_there_is_asked_and_none_is_begun_beside_it() {
        let mut all = heard(&[other("b:1", &ABC), other("c:1", &ABC)]);
        all.get_mut("c:1").expect("heard").cluster = "07".into();
        assert_eq!(next(&me("a:1", &ABC), &all), Next::Ask);
    }

    #[test]
    fn wishes_count_unless_two_wish_the_same() {
        let peers: Vec<String> = ABC.iter().map(|peer| (*peer).to_owned()).collect();
        let wishes = |a: u32, b: u32, c: u32| {
            BTreeMap::from([("a:1".to_owned(), a), ("b:1".to_owned(), b), ("c:1".to_owned(), c)])
        };
        let of = |wishes| numbers(&peers, &wishes).into_values().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(of(wishes(0, 0, 0)), [2, 1, 3]);
        assert_eq!(of(wishes(1, 0, 0)), [1, 2, 3]);
        assert_eq!(of(wishes(7, 7, 0)), [2, 1, 3]);
        assert_eq!(of(wishes(9, 8, 3)), [9, 8, 3]);
    }
}
