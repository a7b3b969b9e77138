//! `rain fsck`: every node checks its copy of the namespace. Copies at the same position of the log must be
//! equal.
//!
//! JSON: `sound`, `nodes` (id, position, digest, violations, error), `differ` (nodes whose copy differs from
//! that of the first node at the same position).

use super::status::join_all;
use crate::{observe, output};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Check that the tree of names is sound, on every node that answers. It only reads, and other clients go on
/// meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rain fsck\n  rain fsck --json | jq .sound")]
pub(crate) struct Fsck {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = observe(given, "fsck").await?;
        let nodes = client.nodes().await?;
        let checks = join_all(nodes.iter().map(|node| client.check_node(node.id))).await;
        client.close().await;
        let (mut sound, mut rows, mut lines) = (true, Vec::new(), Vec::new());
        let mut first: BTreeMap<u64, (u32, Vec<u8>)> = BTreeMap::new();
        let mut differ = Vec::new();
        let mut checked = 0;
        for (node, check) in nodes.iter().zip(checks) {
            let id = node.id.0;
            match check {
                Ok(check) => {
                    checked += 1;
                    let (like, digest) =
                        first.entry(check.position).or_insert_with(|| (id, check.digest.to_vec()));
                    if *digest != check.digest {
                        differ.push(id);
                        lines.push(format!(
                            "the namespace of node {id} differs from that of node {like} at log entry {}",
                            check.position
                        ));
                    }
                    for violation in &check.violations {
                        lines.push(format!("node {id}: {violation}"));
                    }
                    sound &= check.violations.is_empty();
                    let digest: String = check.digest.iter().map(|byte| format!("{byte:02x}")).collect();
                    rows.push(json!({
                        "id": id, "position": check.position, "digest": digest, "violations": check.violations,
                        "error": Value::Null,
                    }));
                }
                Err(error) => {
                    lines.push(format!("node {id} was not checked: {error}"));
                    rows.push(json!({"id": id, "error": error.to_string()}));
                }
            }
        }
        anyhow::ensure!(
            checked > 0,
            "none of the {} nodes could be checked ({}); start them and run this again",
            nodes.len(),
            lines.join("; ")
        );
        sound &= differ.is_empty();
        if self.json {
            output::json(&json!({"sound": sound, "nodes": rows, "differ": differ}))?;
        } else {
            lines.iter().try_for_each(output::line)?;
            output::line(format!(
                "{checked} of {} nodes checked: {}",
                nodes.len(),
                if sound { "sound" } else { "NOT SOUND" }
            ))?;
        }
        anyhow::ensure!(
            sound,
            "the namespace is not sound; keep the data folders of the nodes as they are and report this"
        );
        Ok(())
    }
}
