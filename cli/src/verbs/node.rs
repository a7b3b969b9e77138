//! `rain node`: the eligible nodes, and drills.

use crate::{connect, output};
use clap::{Args, Subcommand, ValueEnum};
use rain_types::NodeId;

/// List nodes, switch a node's shares off for a drill.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    List(List),
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
            Node::Shares(shares) => {
                let switched = cluster.switch_shares(shares.node, matches!(shares.to, Switch::On)).await;
                switched.map(|_| ()).map_err(Into::into)
            }
        };
        cluster.close().await;
        done
    }
}

fn show(nodes: &[rain_namespace::record::NodeRecord], json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = nodes
            .iter()
            .map(|node| {
                serde_json::json!({
                    "id": node.id.0, "address": node.address, "domain": node.domain, "weight": node.weight,
                })
            })
            .collect();
        return output::json(&rows);
    }
    let mut rows = vec![["node", "address", "domain", "weight"].map(str::to_owned).to_vec()];
    for node in nodes {
        rows.push(vec![
            node.id.to_string(),
            node.address.clone(),
            node.domain.clone(),
            node.weight.to_string(),
        ]);
    }
    output::table(&rows)
}
