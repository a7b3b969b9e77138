//! The driver of the token ring: sockets, clock and disk around [`rain_ring::Endpoint`], which decides everything.
//!
//! Datagrams (UDP, the port of the node's own address), not gRPC: a lost packet must cost one retry of 20 ms and not a stalled
//! stream, and a process that is gone is told at once by its machine (ICMP, "port unreachable"). On a thread of its own, with a higher
//! priority where that is allowed, which never waits for a disk or for the async runtime: what makes a ring exclude the living is a
//! thread that did not run. What must be durable is written by a second thread.
//!
//! - `follow`: who the others are, and the load index. `thread`: the loop. `packets`: envelopes as datagrams. `file`: what must not be forgotten. `load`: the load index.
//!
//! A node with several addresses listens on each; its nth and another's nth are one link.

mod file;
pub(crate) mod follow;
pub mod load;
mod packets;
mod thread;

use anyhow::Context;
use file::{Kept, KeptFile};
use rain_ring::link::Path as LinkPath;
use rain_ring::{
    Change, Configuration, Counts, Eligible, Fence, Input, Notice, Phase, Refused, Report, Settings, Stamp,
    View,
};
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::{broadcast, oneshot, watch};

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct RingOptions {
    /// Which node.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The file with what must not be forgotten.
    pub file: PathBuf,
    /// Where to listen: one for each interface.
    pub listen: Vec<SocketAddr>,
    /// Where others reach these, in the same order.
    pub advertise: Vec<String>,
    /// Times and limits.
    pub settings: Settings,
    /// The eligible membership that a new cluster begins with: only for its first node, and only counted when the
    /// file is new.
    pub birth: Option<Eligible>,
}

/// How the ring is, as this node sees it.
#[derive(Debug, Clone, Default)]
pub struct RingStatus {
    /// This node's state; nothing before it has started.
    pub phase: Option<Phase>,
    /// Who answers now.
    pub view: Option<View>,
    /// What the token told of each member, in the view's order.
    pub reports: Vec<Report>,
    /// The stamp of the last token here.
    pub stamp: Stamp,
    /// Who is of the cluster.
    pub eligible: Configuration,
    /// The last round of the token.
    pub round: Option<Duration>,
    /// The shared data is whole here.
    pub synced: bool,
    /// Last entry of the shared data applied.
    pub applied: u64,
    /// Since the start.
    pub counts: Counts,
    /// Since the start, datagrams with their headers.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub bytes_received: u64,
    /// Datagrams that were not whole or not of this cluster.
    pub dropped: u64,
    /// Processor time of the ring's thread.
    pub cpu: Duration,
    /// Each link: whether it is up, and the transitions of its history.
    pub links: Vec<(LinkPath, bool, u64)>,
    /// What happened last, with the time.
    pub recent: Vec<(SystemTime, String)>,
}

impl RingStatus {
    /// Whether this node is in a ring now.
    pub fn in_a_ring(&self) -> bool {
        matches!(self.phase, Some(Phase::Hungry | Phase::Eating)) && self.view.is_some()
    }
}

/// What users of the shared data hear, in one order on all nodes.
#[derive(Debug, Clone)]
pub enum RingNotice {
    /// Of the shared data.
    Data(Notice),
    /// The master lock is this node's.
    Master(Fence),
    /// Not any more.
    MasterLost,
}

pub(crate) enum Order {
    Tell(Input),
    Peers(BTreeMap<NodeId, Vec<SocketAddr>>, BTreeMap<NodeId, Vec<String>>),
    Change(Change, oneshot::Sender<anyhow::Result<Result<(), Refused>>>),
    Load(u16),
    Stop,
}

/// The running ring. Dropping it stops it without a farewell.
#[derive(Debug)]
pub struct Ring {
    orders: Sender<Order>,
    wake: Arc<thread::Wake>,
    status: watch::Receiver<Arc<RingStatus>>,
    notices: broadcast::Sender<RingNotice>,
    threads: Vec<JoinHandle<()>>,
    /// Addresses known from before the start.
    pub known: BTreeMap<NodeId, Vec<String>>,
}

impl Ring {
    /// Opens the file, counts this life of the node, binds and starts. Blocks on the disk.
    pub fn start(options: RingOptions) -> anyhow::Result<Ring> {
        options.settings.validate()?;
        let path = options.file.display().to_string();
        let (mut file, kept) = KeptFile::open(&options.file).with_context(|| format!("opening {path}"))?;
        let mut kept = kept.unwrap_or_else(|| {
            let mut kept = Kept::default();
            kept.durable.configuration.installed = options.birth.clone().unwrap_or_default();
            kept
        });
        kept.durable.incarnation += 1;
        file.write(&kept).with_context(|| format!("writing {path}"))?;
        let known = kept.addresses.clone();
        let (status, watched) = watch::channel(Arc::default());
        let (notices, _) = broadcast::channel(4096);
        let (orders, given) = std::sync::mpsc::channel();
        let wake = Arc::new(thread::Wake::new().context("making an eventfd")?);
        let threads =
            thread::spawn(options, file, kept, wake.clone(), orders.clone(), given, status, notices.clone())?;
        Ok(Ring { orders, wake, status: watched, notices, threads, known })
    }

    fn order(&self, order: Order) {
        // A ring that has stopped takes no orders.
        if self.orders.send(order).is_ok() {
            self.wake.wake();
        }
    }

    /// How it is, as it changes.
    pub fn status(&self) -> watch::Receiver<Arc<RingStatus>> {
        self.status.clone()
    }

    /// What the shared data and the master lock tell, from now on. Who is too slow misses some, and is told how many.
    pub fn notices(&self) -> broadcast::Receiver<RingNotice> {
        self.notices.subscribe()
    }

    /// Tells the node something.
    pub fn tell(&self, input: Input) {
        self.order(Order::Tell(input));
    }

    /// The other nodes, resolved and as text. Each list has one address for each interface, in the node's order.
    pub fn set_peers(
        &self,
        resolved: BTreeMap<NodeId, Vec<SocketAddr>>,
        addresses: BTreeMap<NodeId, Vec<String>>,
    ) {
        self.order(Order::Peers(resolved, addresses));
    }

    /// Has a change of the shared data ordered. Answers when it is committed and applied here: made, or refused as all nodes
    /// refuse it. In an orphan ring it waits.
    pub async fn change(&self, change: Change) -> anyhow::Result<Result<(), Refused>> {
        let (done, answer) = oneshot::channel();
        self.order(Order::Change(change, done));
        answer.await.context("the ring has stopped")?
    }

    /// This node's load index from now on.
    pub fn set_load(&self, load: u16) {
        self.order(Order::Load(load));
    }

    /// Says farewell, so that nobody has to find out; gives up after `within`.
    pub async fn leave(&self, within: Duration) {
        self.order(Order::Tell(Input::Leave));
        let mut status = self.status();
        let gone = status.wait_for(|status| status.phase == Some(Phase::Gone));
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::info!("the ring did not take the farewell in time; it will find out");
        }
    }

    fn stop(&mut self) {
        self.order(Order::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the ring broke an invariant");
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.stop();
    }
}
