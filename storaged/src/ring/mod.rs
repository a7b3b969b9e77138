//! The driver of the token ring: sockets, clock and disk around [`rain_ring::Endpoint`], which decides
//! everything.
//!
//! The ring uses datagrams (UDP, the port of the node's own address), not gRPC. A lost packet must cost one
//! retry of 20 ms, not a stalled stream; and the machine of a process that is gone says so at once (ICMP,
//! "port unreachable"). The loop has a thread of its own, with a higher priority where that is allowed. The
//! thread never waits for a disk or for the async runtime, because a ring excludes living nodes when their
//! thread does not run. A second thread writes the durable state.
//!
//! - `thread`: the loop. `packets`: envelopes as datagrams.
//!   `file`: the durable state. `load`: the load index.
//!
//! A node with several addresses listens on each. The nth addresses of two nodes are one link.

mod file;
pub mod load;
mod packets;
mod thread;

use anyhow::Context;
use file::{RingState, RingStateFile};
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

/// The settings of a node in the ring.
#[derive(Debug, Clone)]
pub struct RingOptions {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The file with the durable state.
    pub file: PathBuf,
    /// The addresses to listen on: one for each interface.
    pub listen: Vec<SocketAddr>,
    /// The same addresses for others, in the same order.
    pub advertise: Vec<String>,
    /// Times and limits.
    pub settings: Settings,
    /// The eligible nodes that a new cluster begins with. Only for its first node; ignored unless the file is
    /// new.
    pub birth: Option<Eligible>,
}

/// The state of the ring, as this node sees it.
#[derive(Debug, Clone, Default)]
pub struct RingStatus {
    /// This node's phase; `None` before the ring has started.
    pub phase: Option<Phase>,
    /// The nodes that answer.
    pub view: Option<View>,
    /// The members' reports on the token, in the view's order.
    pub reports: Vec<Report>,
    /// The stamp of the last token here.
    pub stamp: Stamp,
    /// The eligible nodes of the cluster.
    pub eligible: Configuration,
    /// Duration of the last round of the token.
    pub round: Option<Duration>,
    /// True when the shared data is complete here.
    pub synced: bool,
    /// Last applied entry of the shared data.
    pub applied: u64,
    /// Counters since the start.
    pub counts: Counts,
    /// Bytes of datagrams with their headers, since the start.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub bytes_received: u64,
    /// Datagrams that were damaged or of another cluster.
    pub dropped: u64,
    /// Processor time of the ring's thread.
    pub cpu: Duration,
    /// Each link, true when it is up, and the number of its transitions.
    pub links: Vec<(LinkPath, bool, u64)>,
    /// The last events with their times.
    pub recent: Vec<(SystemTime, String)>,
}

impl RingStatus {
    /// Returns true while this node is in a ring.
    pub fn in_a_ring(&self) -> bool {
        matches!(self.phase, Some(Phase::Hungry | Phase::Eating)) && self.view.is_some()
    }
}

/// Notices to the users of the shared data, in one order on all nodes.
#[derive(Debug, Clone)]
pub enum RingNotice {
    /// A change of the shared data.
    Data(Notice),
    /// This node has got the master lock.
    Master(Fence),
    /// This node has lost the master lock.
    MasterLost,
}

/// An order to the thread of the ring.
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
    /// Opens the file, raises the incarnation, binds the sockets and starts the threads. Blocks on the disk.
    pub fn start(options: RingOptions) -> anyhow::Result<Ring> {
        options.settings.validate()?;
        let path = options.file.display().to_string();
        let (mut file, state) =
            RingStateFile::open(&options.file).with_context(|| format!("opening {path}"))?;
        let mut state = state.unwrap_or_else(|| {
            let mut state = RingState::default();
            state.durable.configuration.installed = options.birth.clone().unwrap_or_default();
            state
        });
        state.durable.incarnation += 1;
        file.write(&state).with_context(|| format!("writing {path}"))?;
        let known = state.addresses.clone();
        let (status, watched) = watch::channel(Arc::default());
        let (notices, _) = broadcast::channel(4096);
        let (orders, given) = std::sync::mpsc::channel();
        let wake = Arc::new(thread::Wake::new().context("making an eventfd")?);
        let threads = thread::spawn(
            options,
            file,
            state,
            wake.clone(),
            orders.clone(),
            given,
            status,
            notices.clone(),
        )?;
        Ok(Ring { orders, wake, status: watched, notices, threads, known })
    }

    fn order(&self, order: Order) {
        // A ring that has stopped takes no orders.
        if self.orders.send(order).is_ok() {
            self.wake.wake();
        }
    }

    /// Returns a watch of the state.
    pub fn status(&self) -> watch::Receiver<Arc<RingStatus>> {
        self.status.clone()
    }

    /// Subscribes to the notices. A subscriber that is too slow misses some and learns their number.
    pub fn notices(&self) -> broadcast::Receiver<RingNotice> {
        self.notices.subscribe()
    }

    /// Gives the node a fact.
    pub fn tell(&self, input: Input) {
        self.order(Order::Tell(input));
    }

    /// Replaces the addresses of the other nodes, resolved and as text. Each list has one address for each
    /// interface, in the node's order.
    pub fn set_peers(
        &self,
        resolved: BTreeMap<NodeId, Vec<SocketAddr>>,
        addresses: BTreeMap<NodeId, Vec<String>>,
    ) {
        self.order(Order::Peers(resolved, addresses));
    }

    /// Has a change of the shared data ordered. Returns when it is committed and applied here: made, or
    /// refused by all nodes alike. In an orphan ring it waits.
    pub async fn change(&self, change: Change) -> anyhow::Result<Result<(), Refused>> {
        let (done, answer) = oneshot::channel();
        self.order(Order::Change(change, done));
        answer.await.context("the ring has stopped")?
    }

    /// Sets this node's load index.
    pub fn set_load(&self, load: u16) {
        self.order(Order::Load(load));
    }

    /// Leaves the ring with a farewell, so that the others need not detect a failure; gives up after
    /// `within`.
    pub async fn leave(&self, within: Duration) {
        self.order(Order::Tell(Input::Leave));
        let mut status = self.status();
        let gone = status.wait_for(|status| status.phase == Some(Phase::Gone));
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::info!("leaving the ring took over {within:?}; the others will detect the failure");
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
