//! `rain node`: the eligible nodes, and drills.

use crate::{connect, output};
use clap::{Args, Subcommand, ValueEnum};
use rain_types::NodeId;

/// List nodes, add or remove one, switch a node's shares off for a drill.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    List(List),
    Add(Add),
    Remove(Remove),
    Shares(Shares),
}

/// List the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node list")]
pub(crate) struct List {
    /// For scripts.
    #[arg(long)]
    json: bool,
}

/// Take a node into the cluster. It runs already: storaged --advertise ADDRESS --peers (some nodes of the cluster).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node add 10.0.0.7:7400")]
pub(crate) struct Add {
    /// Its address, as it advertises it.
    address: String,
}

/// Let a node go. Refused while it holds shares of a volume.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node remove 7")]
pub(crate) struct Remove {
    /// Which node.
    node: NodeId,
}

/// Switch a node's shares off, as if its disk were gone, or on again. For drills and tests.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node shares off 3")]
pub(crate) struct Shares {
    /// off or on.
    to: Switch,
    /// Which node.
    node: NodeId,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    Off,
    On,
}

impl Node {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let cluster = connect(given, "node").await?;
        let done = match self {
            Node::List(list) => show(&cluster.nodes().await?, list.json),
            Node::Add(add) => match cluster.add_node(&add.address).await {
                Ok(id) => joined(&cluster, &add.address, id).await,
                Err(error) => Err(error.into()),
            },
            Node::Remove(remove) => match cluster.remove_node(remove.node).await {
                Ok(()) => output::line(format!(
                    "node {} is no longer of the cluster; its process can be stopped",
                    remove.node
                )),
                Err(error) => Err(error.into()),
            },
            Node::Shares(shares) => {
                let switched = cluster.switch_shares(shares.node, matches!(shares.to, Switch::On)).await;
                switched.map(|_| ()).map_err(Into::into)
            }
        };
        cluster.close().await;
        done
    }
}

/// Waits until a node that was added has taken its place.
async fn joined(cluster: &rain_client::Cluster, address: &str, id: NodeId) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < JOINS_WITHIN {
        if cluster.describe_node(address).await.is_ok_and(|described| described.node == id.0) {
            return output::line(format!("node {id} at {address} has joined"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!(
        "node {id} at {address} is taken in, but has not come within {JOINS_WITHIN:?}: look at its log"
    )
}

const JOINS_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

fn show(nodes: &[rain_namespace::record::NodeRecord], json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = nodes
            .iter()
            .map(|node| {
                serde_json::json!({
                    "id": node.id.0, "address": node.address, "domain": node.domain, "weight": node.weight,
                    "witness": node.witness,
                })
            })
            .collect();
        return output::json(&rows);
    }
    let mut rows = vec![["node", "address", "domain", "weight", "kind"].map(str::to_owned).to_vec()];
    for node in nodes {
        rows.push(vec![
            node.id.to_string(),
            node.address.clone(),
            node.domain.clone(),
            node.weight.to_string(),
            if node.witness { "witness" } else { "" }.to_owned(),
        ]);
    }
    output::table(&rows)
}
