//! `rain node`: the nodes of the cluster, and drills.

use crate::{connect, output};
use anyhow::{bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rain_client::Client;
use rain_namespace::record::{NodeRecord, VolumeRecord};
use rain_types::NodeId;
use std::time::{Duration, Instant};

/// The time between two looks at how far a move is. Short enough for a smooth bar; a look is one query.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The shortest time between two lines about how far a move is, where there is no terminal for a bar.
const PRINT_INTERVAL: Duration = Duration::from_secs(5);

/// How long an added node may take to join. Longer than a healthy node takes.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

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
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Add a node to the cluster. It must run already: storaged --advertise ADDRESS --peers (some nodes of the
/// cluster). Its part of the data is moved to it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node add 10.0.0.7:7400")]
pub(crate) struct Add {
    /// The address that the node advertises.
    address: String,
}

/// Move a node's shares to the other nodes. The shares of a node that is gone are made again from the
/// remaining ones.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain node drain 7\n  rain node drain --cancel 7")]
pub(crate) struct Drain {
    /// The number of the node.
    node: NodeId,
    /// Stop draining: the node stays.
    #[arg(long)]
    cancel: bool,
}

/// Remove a node: drain it, wait until it has no shares, and take it out of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node remove 7")]
pub(crate) struct Remove {
    /// The number of the node.
    node: NodeId,
}

/// Replace a node by a new one: drain the old one, add the new one, wait, and remove the old one. The old one
/// may be lost, with its disk or its machine.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node replace 2 10.0.0.7:7400")]
pub(crate) struct Replace {
    /// The number of the node to replace.
    node: NodeId,
    /// The address that the new node advertises. It must run already, with a data folder of its own.
    address: String,
}

/// Switch a node's shares off, as if its disk were gone, or on again; for drills and tests.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain node shares off 3")]
pub(crate) struct Shares {
    /// Off or on.
    to: Switch,
    /// The number of the node.
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
            Node::Drain(drain) => self::drain(&client, drain).await,
            Node::Remove(remove) => self::remove(&client, remove.node).await,
            Node::Replace(replace) => self::replace(&client, replace).await,
            Node::Shares(shares) => {
                let switched = client.switch_shares(shares.node, matches!(shares.to, Switch::On)).await;
                switched.map(|_| ()).map_err(Into::into)
            }
        };
        client.close().await;
        done
    }
}

/// All nodes. Fails if this one is not among them.
async fn known_nodes(client: &Client, node: NodeId) -> anyhow::Result<Vec<NodeRecord>> {
    let nodes = client.nodes().await?;
    ensure!(
        nodes.iter().any(|known| known.id == node),
        "there is no node {node}; `rain node list` lists the nodes"
    );
    Ok(nodes)
}

/// Why `without` cannot be drained: the volume that needs more nodes than take shares without it. With None:
/// why no node can be drained at all. None if there are enough nodes.
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

/// Drains a node, or stops that; prints what happens next.
async fn drain(client: &Client, drain: Drain) -> anyhow::Result<()> {
    let node = drain.node;
    let nodes = known_nodes(client, node).await?;
    client.set_draining(node, !drain.cancel).await?;
    if drain.cancel {
        return output::line(format!("node {node} stays; shares that have moved move back"));
    }
    match too_few(&nodes, &client.volumes().await?, Some(node)) {
        Some(why) => output::line(format!(
            "node {node} is to leave, but {why}: its shares move once another node is added (rain node add)"
        )),
        None => output::line(format!(
            "node {node} is draining: its shares move to the other nodes (see rain status); then run `rain node remove {node}`"
        )),
    }
}

async fn remove(client: &Client, node: NodeId) -> anyhow::Result<()> {
    let nodes = known_nodes(client, node).await?;
    let has_shares = client.groups_with(node).await? > 0;
    if has_shares && let Some(why) = too_few(&nodes, &client.volumes().await?, Some(node)) {
        bail!(
            "{why}: add a node first (rain node add), or replace this one (rain node replace {node} ADDRESS)"
        );
    }
    client.set_draining(node, true).await?;
    remove_drained(client, node).await
}

async fn replace(client: &Client, replace: Replace) -> anyhow::Result<()> {
    let Replace { node, address } = replace;
    let nodes = known_nodes(client, node).await?;
    // Nothing is changed before the new node has answered.
    let described = client.describe_node(&address).await?;
    ensure!(
        described.node != node.0,
        "{address} is node {node} itself; start the new node with a data folder of its own"
    );
    if let Some(old) = nodes.iter().find(|known| known.id == node) {
        ensure!(
            old.witness == described.witness,
            "node {node} is {}, but the node at {address} is {}; replace a node by one of its kind",
            kind(old.witness),
            kind(described.witness)
        );
    }
    client.set_draining(node, true).await?;
    let new = client.add_node(&address).await?;
    joined(client, &address, new).await?;
    remove_drained(client, node).await
}

fn kind(witness: bool) -> &'static str {
    if witness { "a witness" } else { "not a witness" }
}

/// Waits until a draining node has no shares, and takes it out of the cluster.
async fn remove_drained(client: &Client, node: NodeId) -> anyhow::Result<()> {
    let all = client.groups_with(node).await?;
    if all > 0 {
        output::say(format!(
            "node {node}: its shares move to the other nodes. You can interrupt this command: the move goes on. Then \
             `rain node remove {node}` removes the node, and `rain node drain --cancel {node}` keeps it."
        ));
    }
    let bar = output::counting(all, "placement groups are empty");
    let (mut printed, mut printed_at) = (all, Instant::now());
    loop {
        let left = client.groups_with(node).await?;
        bar.set_length(all.max(left));
        bar.set_position(all.max(left) - left);
        if left == 0 {
            break;
        }
        if bar.is_hidden() && left != printed && printed_at.elapsed() >= PRINT_INTERVAL {
            output::say(format!("node {node}: {left} placement groups still have blocks there"));
            (printed, printed_at) = (left, Instant::now());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bar.finish_and_clear();
    client.remove_node(node).await?;
    output::line(format!("node {node} is no longer of the cluster; its process can be stopped"))
}

/// Waits until an added node knows its number, and prints that. Fails after [`JOIN_TIMEOUT`].
async fn joined(client: &Client, address: &str, id: NodeId) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < JOIN_TIMEOUT {
        if client.describe_node(address).await.is_ok_and(|described| described.node == id.0) {
            return output::line(format!("node {id} at {address} has joined"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("node {id} at {address} is added, but has not joined within {JOIN_TIMEOUT:?}: look at its log")
}

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
                (true, true) => "witness, draining",
                (false, true) => "draining",
                (false, false) => "",
            }
            .to_owned(),
        ]);
    }
    output::table(&rows)
}
