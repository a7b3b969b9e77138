//! `rain node`: the eligible nodes, and drills.

use crate::{connect, output};
use anyhow::{bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rain_client::Client;
use rain_namespace::record::{NodeRecord, VolumeRecord};
use rain_types::NodeId;
use std::time::{Duration, Instant};

/// List nodes; add, drain, remove or replace one; switch a node's shares off for a drill.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    List(List),
    Add(Add),
    Drain(Drain),
    Remove(Remove),
    Replace(Replace),
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

/// Take a node into the cluster. It runs already: storaged --advertise ADDRESS --peers (some nodes of the cluster). Its part of the data
/// moves to it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node add 10.0.0.7:7400")]
pub(crate) struct Add {
    /// Its address, as it advertises it.
    address: String,
}

/// Have a node's shares moved to the others, also those of a node that is gone: they are made from what is left.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain node drain 7\n  rain node drain --cancel 7")]
pub(crate) struct Drain {
    /// Which node.
    node: NodeId,
    /// It stays after all.
    #[arg(long)]
    cancel: bool,
}

/// Let a node go: drain it, wait until it holds nothing any more, and take it out of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node remove 7")]
pub(crate) struct Remove {
    /// Which node.
    node: NodeId,
}

/// Put a new node in the place of one: drain the old, add the new, wait, and let the old go. For a node whose disk or machine is lost, too.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node replace 2 10.0.0.7:7400")]
pub(crate) struct Replace {
    /// Which node goes.
    node: NodeId,
    /// The address of the new one, as it advertises it. It runs already, with a data folder of its own.
    address: String,
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
        let client = connect(given, "node").await?;
        let done = match self {
            Node::List(list) => show(&client.nodes().await?, list.json),
            Node::Add(add) => match client.add_node(&add.address).await {
                Ok(id) => joined(&client, &add.address, id).await,
                Err(error) => Err(error.into()),
            },
            Node::Drain(drain) => drained(&client, drain).await,
            Node::Remove(remove) => removed(&client, remove.node).await,
            Node::Replace(replace) => replaced(&client, replace).await,
            Node::Shares(shares) => {
                let switched = client.switch_shares(shares.node, matches!(shares.to, Switch::On)).await;
                switched.map(|_| ()).map_err(Into::into)
            }
        };
        client.close().await;
        done
    }
}

async fn known(client: &Client, node: NodeId) -> anyhow::Result<Vec<NodeRecord>> {
    let nodes = client.nodes().await?;
    ensure!(
        nodes.iter().any(|known| known.id == node),
        "there is no node {node}; `rain node list` has those there are"
    );
    Ok(nodes)
}

/// The volume that needs more nodes than take shares without one of them, with what it needs and what there is.
pub(super) fn too_few(
    nodes: &[NodeRecord],
    volumes: &[VolumeRecord],
    without: Option<NodeId>,
) -> Option<String> {
    let left = nodes.iter().filter(|node| node.takes_shares() && Some(node.id) != without).count();
    let volume =
        volumes.iter().filter(|volume| volume.code.n() > left).max_by_key(|volume| volume.code.n())?;
    let (name, needed) = (&volume.name, volume.code.n());
    Some(format!(
        "volume {name} ({}) needs {needed} nodes with shares, and {left} would be left",
        volume.code
    ))
}

async fn drained(client: &Client, drain: Drain) -> anyhow::Result<()> {
    let node = drain.node;
    let nodes = known(client, node).await?;
    client.set_draining(node, !drain.cancel).await?;
    if drain.cancel {
        return output::line(format!("node {node} stays; what has moved moves back"));
    }
    match too_few(&nodes, &client.volumes().await?, Some(node)) {
        Some(why) => output::line(format!(
            "node {node} is to leave, but {why}: its shares move when there is another node (rain node add)"
        )),
        None => output::line(format!(
            "node {node} leaves: its shares move to the others (rain status shows how far); then `rain node remove {node}`"
        )),
    }
}

async fn removed(client: &Client, node: NodeId) -> anyhow::Result<()> {
    let nodes = known(client, node).await?;
    let has_shares = client.groups_with(node).await? > 0;
    if has_shares && let Some(why) = too_few(&nodes, &client.volumes().await?, Some(node)) {
        bail!(
            "{why}: add one first (rain node add), or put one in its place (rain node replace {node} ADDRESS)"
        );
    }
    client.set_draining(node, true).await?;
    let_go(client, node).await
}

async fn replaced(client: &Client, replace: Replace) -> anyhow::Result<()> {
    let Replace { node, address } = replace;
    let nodes = known(client, node).await?;
    // Nothing is changed before the new one has answered.
    let said = client.describe_node(&address).await?;
    ensure!(
        said.node != node.0,
        "{address} is node {node} itself; the new node runs with a data folder of its own"
    );
    if let Some(old) = nodes.iter().find(|known| known.id == node) {
        ensure!(
            old.witness == said.witness,
            "node {node} is {}, and the one at {address} is {}",
            if old.witness { "a witness" } else { "none" },
            if said.witness { "one" } else { "none" }
        );
    }
    client.set_draining(node, true).await?;
    let new = client.add_node(&address).await?;
    joined(client, &address, new).await?;
    let_go(client, node).await
}

/// Waits until a node that leaves holds nothing any more, and takes it out of the cluster.
async fn let_go(client: &Client, node: NodeId) -> anyhow::Result<()> {
    let all = client.groups_with(node).await?;
    if all > 0 {
        output::say(format!(
            "node {node}: its shares move to the others. This can be interrupted: the move goes on, and `rain node remove {node}` again \
             lets it go; `rain node drain --cancel {node}` keeps it."
        ));
    }
    let bar = output::counting(all, "placement groups are empty");
    let (mut said, mut said_at) = (all, Instant::now());
    loop {
        let left = client.groups_with(node).await?;
        bar.set_length(all.max(left));
        bar.set_position(all.max(left) - left);
        if left == 0 {
            break;
        }
        if bar.is_hidden() && left != said && said_at.elapsed() >= SAY_EVERY {
            output::say(format!("node {node}: {left} placement groups still have blocks there"));
            (said, said_at) = (left, Instant::now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    client.remove_node(node).await?;
    output::line(format!("node {node} is no longer of the cluster; its process can be stopped"))
}

/// How often it is looked how far a move is, and said where there is no terminal.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Waits until a node that was added has taken its place.
async fn joined(client: &Client, address: &str, id: NodeId) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < JOINS_WITHIN {
        if client.describe_node(address).await.is_ok_and(|described| described.node == id.0) {
            return output::line(format!("node {id} at {address} has joined"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("node {id} at {address} is taken in, but has not come within {JOINS_WITHIN:?}: look at its log")
}

const JOINS_WITHIN: Duration = Duration::from_secs(20);

fn show(nodes: &[NodeRecord], json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = nodes
            .iter()
            .map(|node| {
                serde_json::json!({
                    "id": node.id.0, "address": node.address, "domain": node.domain, "weight": node.weight,
                    "witness": node.witness, "leaving": node.draining,
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
            match (node.witness, node.draining) {
                (true, false) => "witness",
                (true, true) => "witness, leaves",
                (false, true) => "leaves",
                (false, false) => "",
            }
            .to_owned(),
        ]);
    }
    output::table(&rows)
}
