//! `rain bench`: measurements of this machine and this cluster, as a table or as JSON.

mod codec;
mod fs;
mod net;
mod shared;

use crate::output;
use clap::Subcommand;
use serde::Serialize;
use tokio::runtime::Runtime;

/// Measure the codes, the network, a mounted directory, or two mounts of one volume.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Codec(codec::BenchCodec),
    Net(net::BenchNet),
    Fs(fs::BenchFs),
    Shared(shared::BenchShared),
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Row {
    row: String,
    value: f64,
    unit: &'static str,
    /// CPU seconds of the whole machine during the measurement; None where that is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_s: Option<f64>,
}

impl Row {
    fn new(row: impl Into<String>, value: f64, unit: &'static str) -> Row {
        Row { row: row.into(), value, unit, cpu_s: None, wall_s: None }
    }
}

fn show(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&rows);
    }
    let mut table = vec![["row", "value", "unit", "cpu s", "wall s"].map(str::to_owned).to_vec()];
    let seconds = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
    for row in rows {
        let value = if row.value < 100.0 { format!("{:.2}", row.value) } else { format!("{:.0}", row.value) };
        table.push(vec![row.row.clone(), value, row.unit.into(), seconds(row.cpu_s), seconds(row.wall_s)]);
    }
    output::table(&table)
}

impl Bench {
    pub(crate) fn run(self, given: Option<&str>, runtime: &Runtime) -> anyhow::Result<()> {
        match self {
            Bench::Codec(bench) => bench.run(),
            Bench::Net(bench) => runtime.block_on(bench.run(given)),
            Bench::Fs(bench) => bench.run(),
            Bench::Shared(bench) => bench.run(),
        }
    }
}
