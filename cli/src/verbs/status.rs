//! `rain status`: the state of the cluster. The first line is one sentence, the headline.
//!
//! JSON: `headline`, `state` (healthy, degraded, failed), `cluster`, `namespace` (see the module `quorum`),
//! `nodes` (id, address, state up or down, error, pid, version, uptime_ms, data, witness, shares,
//! payload_bytes, used_bytes, free_bytes, damaged_found, index_rebuilds, resident_bytes, shares_on, leads),
//! `volumes` (name, code, groups, inodes, bytes), `missing` (blocks, shares, without_margin), `blocks` (in
//! use), `garbage`, `repair` (done, failed, waiting, bytes, running, last_error), `moves` (the same for
//! blocks that move because nodes are added or drained), `leaving` (draining nodes: node, groups: the number
//! of placement groups that it is still in), `ring` (see the module `ring`; null if no node has one).

use super::node::too_few;
use super::quorum::Quorum;
use super::ring::Ring;
use crate::{observe, output};
use anyhow::bail;
use clap::Args;
use rain_client::Client;
use rain_namespace::query::{Answer, Query, Totals};
use rain_namespace::record::{NodeRecord, VolumeRecord};
use rain_proto::v1::{NodeStatusResponse, WorkerStatus};
use rain_types::NodeId;
use serde_json::{Value, json};
use std::time::Duration;

/// Show the state of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain status\n  rain status --watch\n  rain status --json | jq .state")]
pub(crate) struct Status {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
    /// Repeat every second.
    #[arg(long)]
    watch: bool,
}

/// The answers from which the status is made.
struct Report {
    cluster: String,
    quorum: Quorum,
    nodes: Vec<(NodeRecord, Result<NodeStatusResponse, String>)>,
    volumes: Vec<VolumeRecord>,
    totals: Totals,
    ring: Option<Ring>,
    /// Draining nodes, and the number of placement groups that each is still in.
    draining: Vec<(NodeId, u64)>,
    /// Why the shares of draining nodes cannot move, if they cannot.
    too_few: Option<String>,
}

/// The state (`healthy`, `degraded` or `failed`) and the headline.
fn headline(report: &Report) -> (&'static str, String) {
    let away: Vec<u32> = report
        .nodes
        .iter()
        .filter(|(_, status)| !matches!(status, Ok(status) if status.shares_on || status.witness))
        .map(|(node, _)| node.id.0)
        .collect();
    let list = away.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let who = if away.len() == 1 {
        format!("node {list} does not answer")
    } else {
        format!("nodes {list} do not answer")
    };
    let totals = &report.totals;
    // The volume that survives least decides.
    let weakest = report
        .volumes
        .iter()
        .map(|volume| {
            let lost = |group| {
                let nodes = volume.nodes_of(group).unwrap_or_default();
                nodes.iter().filter(|node| away.contains(&node.0)).count()
            };
            let worst = volume.open_groups().into_iter().map(lost).max().unwrap_or(0);
            (worst as i64 - i64::from(volume.code.m), volume.code)
        })
        .max_by_key(|(over, _)| *over);
    if let Some(failure) = report.quorum.failure() {
        return ("failed", format!("failed: {failure}"));
    }
    if let Some((over, code)) = weakest.filter(|(over, _)| *over > 0) {
        let text = format!(
            "failed: {who}, {over} more than code {code} bears; reads and writes fail until one answers again"
        );
        return ("failed", text);
    }
    let mut words = Vec::new();
    if !away.is_empty() {
        words.push(format!("{who}; reads and writes go on"));
        if weakest.is_some_and(|(over, _)| over == 0) {
            words.push("without margin: one more loss stops them".into());
        }
    }
    words.extend(report.quorum.warning());
    if let (Some(why), [(node, _), ..]) = (&report.too_few, &report.draining[..]) {
        words.push(format!("node {node} is to leave, but {why}: add one (rain node add)"));
    }
    if totals.shares_missing > 0 {
        words.push(format!("{} shares are missing", totals.shares_missing));
        if totals.blocks_without_margin > 0 {
            words.push(format!("{} blocks have no margin", totals.blocks_without_margin));
        }
    }
    if words.is_empty() {
        let count = report.nodes.len();
        return (
            "healthy",
            format!("healthy: {count} of {count} nodes answer; every block has its full margin"),
        );
    }
    ("degraded", format!("degraded: {}", words.join("; ")))
}

async fn gather(client: &Client) -> anyhow::Result<Report> {
    client.refresh_nodes().await?;
    let records = client.nodes().await?;
    let asked = records.iter().map(|node| client.node_status(node.id));
    let answers: Vec<_> = join_all(asked).await;
    let rings = join_all(records.iter().map(|node| client.ring_status(node.id))).await;
    let Answer::Totals(totals) = client.query(&Query::Totals).await? else {
        bail!("the namespace gives no totals")
    };
    let quorum = Quorum::of(answers.iter().flatten());
    let volumes = client.volumes().await?;
    let mut draining = Vec::new();
    for node in records.iter().filter(|node| node.draining) {
        draining.push((node.id, client.groups_with(node.id).await?));
    }
    let too_few = if draining.is_empty() { None } else { too_few(&records, &volumes, None) };
    let nodes =
        records.into_iter().zip(answers.into_iter().map(|answer| answer.map_err(|error| error.to_string())));
    Ok(Report {
        cluster: client.cluster_id().to_string(),
        quorum,
        nodes: nodes.collect(),
        volumes,
        draining,
        too_few,
        totals,
        ring: Ring::of(rings.into_iter().flatten().collect()),
    })
}

/// The results of all futures, which run at the same time.
pub(super) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::future::join_all(futures).await
}

fn as_json(report: &Report) -> Value {
    let (state, headline) = headline(report);
    let nodes: Vec<Value> = report
        .nodes
        .iter()
        .map(|(record, status)| match status {
            Ok(status) => json!({
                "id": record.id.0, "address": record.address, "state": "up", "pid": status.pid,
                "version": status.version, "uptime_ms": status.uptime_ms, "data": status.data, "shares": status.shares,
                "payload_bytes": status.payload_bytes, "used_bytes": status.used_bytes,
                "free_bytes": status.free_bytes, "damaged_found": status.damaged_found,
                "index_rebuilds": status.index_rebuilds, "resident_bytes": status.resident_bytes,
                "shares_on": status.shares_on, "leads": status.leads, "witness": status.witness,
            }),
            Err(error) => json!({"id": record.id.0, "address": record.address, "state": "down", "error": error}),
        })
        .collect();
    let volumes: Vec<Value> = report
        .volumes
        .iter()
        .map(|volume| {
            json!({
                "name": volume.name, "code": volume.code.to_string(), "groups": volume.open_groups().len(),
                "inodes": volume.inodes, "bytes": volume.stored_bytes,
            })
        })
        .collect();
    let leader =
        report.nodes.iter().filter_map(|(_, status)| status.as_ref().ok()).find(|status| status.leads);
    let worker = |worker: &WorkerStatus| {
        json!({
            "done": worker.done, "failed": worker.failed, "waiting": worker.waiting, "bytes": worker.bytes, "read": worker.read,
            "running": worker.running, "last_error": worker.last_error,
        })
    };
    let repair = leader.and_then(|status| status.repair.as_ref()).map(worker);
    let moves = leader.and_then(|status| status.moves.as_ref()).map(worker);
    let draining: Vec<Value> =
        report.draining.iter().map(|(node, groups)| json!({"node": node.0, "groups": groups})).collect();
    let totals = &report.totals;
    json!({
        "headline": headline, "state": state, "cluster": report.cluster, "nodes": nodes,
        "namespace": report.quorum.as_json(), "volumes": volumes,
        "missing": {
            "blocks": totals.blocks_missing, "shares": totals.shares_missing,
            "without_margin": totals.blocks_without_margin,
        },
        "blocks": totals.blocks, "garbage": totals.garbage, "repair": repair, "moves": moves, "leaving": draining, "ring": report.ring.as_ref().map(Ring::as_json),
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(headline(report).1)?;
    output::line(format!("cluster {}", report.cluster))?;
    for line in report.quorum.lines(report.nodes.len()) {
        output::line(line)?;
    }
    for (node, groups) in &report.draining {
        output::line(match groups {
            0 => format!("node {node} is drained and has no shares: rain node remove {node}"),
            _ => format!("node {node} is draining: {groups} placement groups still have blocks there"),
        })?;
    }
    output::line("")?;
    let head = ["node", "address", "state", "pid", "shares", "used", "free", "memory", "damaged"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (record, status) in &report.nodes {
        let mut row = vec![record.id.to_string(), record.address.clone()];
        match status {
            Ok(status) => row.extend([
                match (status.witness, status.shares_on, record.draining) {
                    (true, ..) => "up, witness",
                    (false, true, false) => "up",
                    (false, true, true) => "up, draining",
                    (false, false, _) => "up, shares off",
                }
                .to_owned(),
                status.pid.to_string(),
                status.shares.to_string(),
                output::bytes(status.used_bytes),
                output::bytes(status.free_bytes),
                output::bytes(status.resident_bytes),
                status.damaged_found.to_string(),
            ]),
            Err(_) => row.push("does not answer".into()),
        }
        rows.push(row);
    }
    output::table(&rows)?;
    output::line("")?;
    let mut rows = vec![["volume", "code", "inodes", "data"].map(str::to_owned).to_vec()];
    for volume in &report.volumes {
        let (code, inodes) = (volume.code.to_string(), volume.inodes.to_string());
        rows.push(vec![volume.name.clone(), code, inodes, output::bytes(volume.stored_bytes)]);
    }
    output::table(&rows)?;
    let totals = &report.totals;
    let leader =
        report.nodes.iter().filter_map(|(_, status)| status.as_ref().ok()).find(|status| status.leads);
    if totals.shares_missing > 0 {
        output::line(format!(
            "\nmissing: {} shares of {} blocks, {} blocks without margin",
            totals.shares_missing, totals.blocks_missing, totals.blocks_without_margin
        ))?;
    }
    if let Some(repair) =
        leader.and_then(|status| status.repair.as_ref()).filter(|repair| repair.done + repair.failed > 0)
    {
        let all = repair.done + totals.shares_missing;
        output::line(format!(
            "repair: {} of {all} shares made again ({} %), {}",
            repair.done,
            repair.done * 100 / all.max(1),
            output::bytes(repair.bytes)
        ))?;
    }
    if let Some(moves) =
        leader.and_then(|status| status.moves.as_ref()).filter(|moves| moves.running || moves.failed > 0)
    {
        output::line(format!("moves: {} blocks have moved, {}", moves.done, output::bytes(moves.bytes)))?;
        if !moves.last_error.is_empty() {
            output::line(format!("  last failure, tried again: {}", moves.last_error))?;
        }
    }
    if totals.garbage > 0 {
        output::line(format!("garbage: {} blocks to be deleted", totals.garbage))?;
    }
    if let Some(ring) = &report.ring {
        output::line("")?;
        ring.print()?;
    }
    Ok(())
}

impl Status {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = observe(given, "status").await?;
        loop {
            let report = gather(&client).await?;
            if self.watch {
                // Clears the screen and moves the cursor to its top.
                output::line("\u{1b}[2J\u{1b}[H")?;
            }
            if self.json {
                output::json(&as_json(&report))?;
            } else {
                print(&report)?;
            }
            if !self.watch {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::record::{Group, Time};
    use rain_types::{CodeSpec, Codec, Ino, VolumeId};

    fn report(away: &[u32], totals: Totals) -> Report {
        let nodes = (1..=6)
            .map(|id| {
                let address = format!("h:{id}");
                let joined = Time::default();
                let record = NodeRecord {
                    id: NodeId(id),
                    address,
                    domain: String::new(),
                    weight: 1,
                    joined,
                    witness: false,
                    folder: String::new(),
                    draining: false,
                    others: Vec::new(),
                };
                let up = NodeStatusResponse { shares_on: true, ..NodeStatusResponse::default() };
                (record, if away.contains(&id) { Err("refused".into()) } else { Ok(up) })
            })
            .collect();
        let volume = VolumeRecord {
            id: VolumeId(1),
            name: "main".into(),
            code: CodeSpec { codec: Codec::Rdp, k: 4, m: 2 },
            root: Ino(1),
            groups: vec![Group { slot: 0, nodes: (1..=6).map(NodeId).collect() }],
            inodes: 1,
            stored_bytes: 0,
            created: Time::default(),
        };
        Report {
            cluster: "c".into(),
            quorum: Quorum::default(),
            nodes,
            volumes: vec![volume],
            totals,
            ring: None,
            draining: Vec::new(),
            too_few: None,
        }
    }

    #[test]
    fn the_headline_says_how_it_is() {
        let calm = Totals::default();
        assert!(headline(&report(&[], calm)).1.starts_with("healthy: 6 of 6"));
        let (state, text) = headline(&report(&[3], calm));
        assert!(
            state == "degraded" && text.contains("node 3 does not") && !text.contains("margin"),
            "{text}"
        );
        let (_, text) = headline(&report(&[3, 5], calm));
        assert!(text.contains("nodes 3, 5 do not") && text.contains("without margin"), "{text}");
        let (state, text) = headline(&report(&[2, 4, 6], calm));
        assert!(state == "failed" && text.contains("1 more than code rdp 4+2 bears"), "{text}");
        let missing = Totals { shares_missing: 7, blocks_missing: 5, blocks_without_margin: 2, ..calm };
        let (state, text) = headline(&report(&[], missing));
        assert!(
            state == "degraded" && text.contains("7 shares") && text.contains("2 blocks have no margin"),
            "{text}"
        );
    }

    #[test]
    fn the_json_has_what_scripts_rely_on() {
        let value = as_json(&report(&[2], Totals::default()));
        assert_eq!(value["state"], "degraded");
        assert_eq!(value["nodes"][1]["state"], "down");
        assert_eq!(value["missing"]["shares"], 0);
        assert_eq!(value["volumes"][0]["code"], "rdp 4+2");
    }
}
