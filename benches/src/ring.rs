//! Processor time that mirroring shared items costs each node of a token ring.
//!
//! It repeats Figure B of Raincore's paper (Fan and Bruck 2001, "Raincore Performance"): 10,000 items through
//! the Group Data Manager, updates of items at a given rate, and the processor load of a node, averaged over
//! the nodes. The paper's text gives two points for items of 1 KB. With 500 updates a second by each node the
//! load is below 1 %. A cluster of two nodes takes 1,000 new items a second without significant load. The
//! paper gives no figure for four nodes: the cluster of one, two and four Sun Ultra-5 belongs to Figure A,
//! the throughput of the RainWall firewall.
//!
//! Here the nodes are real ring drivers with real sockets and files, all in one process. Each ring thread is
//! measured by its own processor clock.

use anyhow::{Context, ensure};
use clap::Parser;
use rain_ring::{Bytes, Change, Eligible, Settings};
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storaged::ring::{Ring, RingOptions};

/// The allocator of the daemon, so that costs compare.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Shared items: as many as in the paper.
const ITEMS: usize = 10_000;

/// Updates that each node makes per second: the paper's point.
const UPDATES_PER_S: u32 = 500;

/// Measure the processor time of mirroring shared items over a ring.
#[derive(Debug, Parser)]
struct Cli {
    /// Seconds of measurement for each row.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Print one JSON object for each row.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if !cli.json {
        say(
            "nodes  item, bytes  updates/s each  made/s in all  CPU of a core, each: idle, busy  the paper: 2 nodes, 1 KB",
        );
    }
    for nodes in [2, 4] {
        for bytes in [100, 1000] {
            let row = runtime.block_on(row(nodes, bytes, cli.seconds))?;
            if cli.json {
                say(&format!(
                    "{{\"nodes\":{nodes},\"bytes\":{bytes},\"updates_per_s\":{UPDATES_PER_S},\"made_per_s\":{:.0},\"cpu_idle_percent\":{:.2},\"cpu_percent\":{:.2},\"latency_ms\":{:.1}}}",
                    row.made, row.idle, row.busy, row.latency_ms
                ));
            } else {
                say(&format!(
                    "{nodes:>5}  {bytes:>11}  {UPDATES_PER_S:>14}  {:>13.0}  {:>20.2} %, {:>5.2} %  below 1 %   (an update is everywhere after {:.0} ms)",
                    row.made, row.idle, row.busy, row.latency_ms
                ));
            }
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "standard output is the result")]
fn say(line: &str) {
    println!("{line}");
}

/// Figures of one size of ring and item.
struct Row {
    /// Updates made per second by all nodes together.
    made: f64,
    /// Mean load of a node's ring thread without updates, percent of a core.
    idle: f64,
    /// Mean load of a node's ring thread under updates, percent of a core.
    busy: f64,
    /// Mean time until an update has been applied, milliseconds.
    latency_ms: f64,
}

async fn row(nodes: u32, bytes: usize, seconds: u64) -> anyhow::Result<Row> {
    let folder = tempfile::tempdir()?;
    let rings = start(nodes, folder.path()).await?;
    // The first node creates the items.
    for chunk in (0..ITEMS).collect::<Vec<_>>().chunks(500) {
        let made = chunk.iter().map(|item| {
            rings[0].change(Change::Create { key: item.to_string(), value: Bytes(vec![0; bytes]) })
        });
        for made in futures::future::join_all(made).await {
            made?.context("creating an item")?;
        }
    }
    let idle = cpu(&rings, Duration::from_secs(2)).await;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut writers = Vec::new();
    for (at, ring) in rings.iter().cloned().enumerate() {
        writers.push(tokio::spawn(write(ring, at, bytes, until)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let busy = cpu(&rings, Duration::from_secs(seconds.saturating_sub(1).max(1))).await;
    let (mut made, mut waited) = (0u64, Duration::ZERO);
    for writer in writers {
        let (count, time) = writer.await??;
        made += count;
        waited += time;
    }
    ensure!(made > 0, "no update was made");
    let latency_ms = waited.as_secs_f64() * 1000.0 / made as f64;
    Ok(Row { made: made as f64 / seconds as f64, idle, busy, latency_ms })
}

/// Updates items at the set rate, ten at a time. Returns the number of updates and the sum of their
/// latencies.
async fn write(ring: Arc<Ring>, at: usize, bytes: usize, until: Instant) -> anyhow::Result<(u64, Duration)> {
    let mut ticks = tokio::time::interval(Duration::from_secs(10) / UPDATES_PER_S);
    let (mut item, mut tasks) = (at * 1000, tokio::task::JoinSet::new());
    while Instant::now() < until {
        ticks.tick().await;
        for _ in 0..10 {
            item = (item + 1) % ITEMS;
            let (ring, key) = (ring.clone(), item.to_string());
            tasks.spawn(async move {
                let begun = Instant::now();
                let value = Bytes(vec![1; bytes]);
                ring.change(Change::Write { key, value }).await?.context("writing an item")?;
                anyhow::Ok(begun.elapsed())
            });
        }
    }
    let (mut made, mut waited) = (0, Duration::ZERO);
    while let Some(done) = tasks.join_next().await {
        waited += done??;
        made += 1;
    }
    Ok((made, waited))
}

/// Returns the mean processor time of the ring threads during `time`, percent of a core.
async fn cpu(rings: &[Arc<Ring>], time: Duration) -> f64 {
    let sum = || rings.iter().map(|ring| ring.status().borrow().cpu.as_secs_f64()).sum::<f64>();
    let (before, begun) = (sum(), Instant::now());
    tokio::time::sleep(time).await;
    (sum() - before) * 100.0 / begun.elapsed().as_secs_f64() / rings.len() as f64
}

async fn start(nodes: u32, folder: &std::path::Path) -> anyhow::Result<Vec<Arc<Ring>>> {
    let sockets: Vec<UdpSocket> =
        (0..nodes).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let listen: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    drop(sockets);
    let all = (1..=nodes).map(NodeId).collect();
    let mut rings = Vec::new();
    for node in 1..=nodes {
        let address = listen[node as usize - 1];
        rings.push(Arc::new(Ring::start(RingOptions {
            node: NodeId(node),
            cluster: ClusterId(1),
            file: folder.join(node.to_string()),
            listen: vec![address],
            advertise: vec![address.to_string()],
            settings: Settings::for_nodes(nodes as usize),
            birth: Some(Eligible { version: 1, nodes: std::collections::BTreeSet::clone(&all) }),
        })?));
    }
    for (at, ring) in rings.iter().enumerate() {
        let others = |with: &dyn Fn(SocketAddr) -> SocketAddr| -> BTreeMap<NodeId, Vec<SocketAddr>> {
            let others = (0..nodes as usize).filter(|other| *other != at);
            others.map(|other| (NodeId(other as u32 + 1), vec![with(listen[other])])).collect()
        };
        let resolved = others(&|address| address);
        let texts = resolved.iter().map(|(node, of)| (*node, of.iter().map(ToString::to_string).collect()));
        ring.set_peers(resolved.clone(), texts.collect());
    }
    for ring in &rings {
        let whole = |status: &Arc<storaged::ring::RingStatus>| {
            status.view.as_ref().is_some_and(|view| view.primary && view.members.len() == nodes as usize)
        };
        let mut status = ring.status();
        let formed = tokio::time::timeout(Duration::from_secs(10), status.wait_for(whole)).await;
        formed.context("the nodes did not form one ring within 10 s")??;
    }
    Ok(rings)
}
