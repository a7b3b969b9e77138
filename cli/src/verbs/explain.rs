//! `rain explain`: the location of a file's bytes, share by share.

use super::open_path;
use super::status::join_all;
use crate::{connect, output};
use anyhow::{Context, bail};
use clap::Args;
use rain_client::{Client, ShareState, Volume};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Extent, FileKind};
use rain_types::{NodeId, ShareIndex};
use serde::Serialize;
use std::collections::BTreeMap;

/// Show each extent's block, code and group, and each share's node and state.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain explain /main/movie.mkv")]
pub(crate) struct Explain {
    /// /VOLUME/path.
    path: String,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Explained {
    path: String,
    size: u64,
    inline: bool,
    extents: Vec<ExplainedExtent>,
}

#[derive(Debug, Serialize)]
struct ExplainedExtent {
    offset: u64,
    len: u32,
    block: String,
    block_len: u32,
    group: u32,
    code: String,
    /// How many more shares may be lost; negative: the block cannot be read.
    margin: i64,
    shares: Vec<ExplainedShare>,
}

#[derive(Debug, Clone, Serialize)]
struct ExplainedShare {
    index: u8,
    role: &'static str,
    node: u32,
    address: String,
    state: &'static str,
}

/// The inline data and all extents of a file.
async fn layout(client: &Client, ino: rain_types::Ino) -> anyhow::Result<(Vec<u8>, Vec<Extent>)> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let query = Query::Layout { ino, from, limit: 4096 };
        let Answer::Layout { inline, extents, more, .. } = client.query(&query).await? else {
            bail!("the namespace gives no layout");
        };
        from = extents.last().map_or(0, Extent::end);
        all.extend(extents);
        if !more {
            return Ok((inline, all));
        }
    }
}

async fn explain_extent(
    client: &Client,
    volume: &Volume,
    addresses: &BTreeMap<NodeId, String>,
    extent: &Extent,
) -> anyhow::Result<ExplainedExtent> {
    let location = volume.locate(extent)?;
    let asked = location.nodes.iter().enumerate().map(|(index, node)| async move {
        let state = client.node_has_share(*node, extent.block, ShareIndex(index as u8)).await;
        ExplainedShare {
            index: index as u8,
            role: if index < usize::from(location.code.k) { "data" } else { "parity" },
            node: node.0,
            address: addresses.get(node).cloned().unwrap_or_default(),
            state: match state {
                Ok(ShareState::Present) => "present",
                Ok(ShareState::Absent) => "absent",
                Ok(ShareState::Damaged) => "damaged",
                Err(_) => "unreachable",
            },
        }
    });
    let shares = join_all(asked).await;
    let present = shares.iter().filter(|share| share.state == "present").count();
    Ok(ExplainedExtent {
        offset: extent.offset,
        len: extent.len,
        block: extent.block.to_string(),
        block_len: extent.block_len,
        group: extent.group.0,
        code: location.code.to_string(),
        margin: present as i64 - i64::from(location.code.k),
        shares,
    })
}

fn print(explained: &Explained) -> anyhow::Result<()> {
    output::line(format!("{}: {} bytes", explained.path, explained.size))?;
    if explained.inline {
        output::line(
            "the data is inline in the namespace, as that of every file up to 4096 bytes: no block, no shares",
        )?;
    } else if explained.extents.is_empty() {
        output::line("no data: the file is empty or a hole")?;
    }
    for extent in &explained.extents {
        output::line(format!(
            "\nbytes {}..{}: block {} of {} in code {}, group {}, margin {}",
            extent.offset,
            extent.offset + u64::from(extent.len),
            extent.block,
            output::bytes(extent.block_len.into()),
            extent.code,
            extent.group,
            extent.margin
        ))?;
        let rows: Vec<Vec<String>> = extent
            .shares
            .iter()
            .map(|share| {
                vec![
                    format!("  share {}", share.index),
                    share.role.into(),
                    format!("node {}", share.node),
                    share.address.clone(),
                    share.state.into(),
                ]
            })
            .collect();
        output::table(&rows)?;
    }
    Ok(())
}

impl Explain {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "explain").await?;
        let (volume, inside) = open_path(&client, &self.path).await?;
        let attr = volume.resolve(inside.as_bytes()).await.with_context(|| self.path.clone())?;
        if attr.kind != FileKind::File {
            bail!("{} is not a file: only files have data to explain", self.path);
        }
        let (inline, extents) = layout(&client, attr.ino).await?;
        let addresses = client.nodes().await?.into_iter().map(|node| (node.id, node.address)).collect();
        let mut explained =
            Explained { path: self.path, size: attr.size, inline: !inline.is_empty(), extents: Vec::new() };
        for some in extents.chunks(16) {
            let asked = some.iter().map(|extent| explain_extent(&client, &volume, &addresses, extent));
            for extent in join_all(asked).await {
                explained.extents.push(extent?);
            }
        }
        client.close().await;
        if self.json { output::json(&explained) } else { print(&explained) }
    }
}
