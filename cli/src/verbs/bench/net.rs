//! `rain bench net`: round trips to every node, and blocks stored and retrieved through the client.

use super::{Row, show};
use crate::connect;
use anyhow::Context;
use clap::Args;
use rain_client::NewInode;
use rain_namespace::query::Query;
use rain_namespace::record::FileKind;
use std::time::{Duration, Instant};

/// Questions for each row of round trips: enough for a 99th percentile.
const ROUND_TRIPS: usize = 400;

/// Measure round trips and throughput to the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain bench net")]
pub(crate) struct BenchNet {
    /// The volume in which a file of 64 MiB is stored and then deleted.
    #[arg(long, default_value = "main")]
    volume: String,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// The percentile of some times, in microseconds; `part` is 0.5 for the median.
fn percentile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() - 1) as f64 * part) as usize;
    times[at].as_secs_f64() * 1e6
}

impl BenchNet {
    pub(super) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "bench net").await?;
        let mut rows = Vec::new();
        for node in client.nodes().await? {
            let mut times = Vec::with_capacity(ROUND_TRIPS);
            for _ in 0..ROUND_TRIPS {
                let begun = Instant::now();
                client.node_status(node.id).await.with_context(|| format!("node {}", node.id))?;
                times.push(begun.elapsed());
            }
            rows.push(Row::new(
                format!("node {} round trip, median", node.id),
                percentile(&mut times, 0.5),
                "us",
            ));
            rows.push(Row::new(
                format!("node {} round trip, 99 %", node.id),
                percentile(&mut times, 0.99),
                "us",
            ));
        }
        let mut times = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let begun = Instant::now();
            client.query(&Query::Totals).await?;
            times.push(begun.elapsed());
        }
        rows.push(Row::new("namespace query, median", percentile(&mut times, 0.5), "us"));
        let volume = super::super::open_volume(&client, &self.volume).await?;
        let name = format!(".rain-bench-{}", client.session_id());
        let new = NewInode::new(FileKind::File, 0o600, 0, 0);
        let (_, file) = volume.create(volume.root(), name.as_bytes(), new).await?;
        let (piece, len) = (vec![7u8; 1 << 20], 64u64 << 20);
        let begun = Instant::now();
        for at in (0..len).step_by(piece.len()) {
            file.write(at, &piece).await?;
        }
        file.flush().await?;
        let rate = |begun: Instant| len as f64 / begun.elapsed().as_secs_f64() / 1e6;
        rows.push(Row::new("store 64 MiB, durable", rate(begun), "MB/s"));
        let begun = Instant::now();
        for at in (0..len).step_by(piece.len()) {
            anyhow::ensure!(
                file.read(at, 1 << 20).await? == piece,
                "the bytes read differ from those written"
            );
        }
        rows.push(Row::new("retrieve 64 MiB", rate(begun), "MB/s"));
        volume.unlink(volume.root(), name.as_bytes()).await?;
        drop(file);
        client.close().await;
        show(&rows, self.json)
    }
}
