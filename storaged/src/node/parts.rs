//! The parts of a node, as `node` puts them together.

use crate::addresses::Addresses;
use crate::config::Config;
use crate::counters::Counters;
use crate::joined::Joined;
use crate::obeyed::Obeyed;
use crate::open_files::OpenFileReports;
use crate::own_client::OwnClient;
use crate::sessions::SessionLeases;
use crate::share::ShareStore;
use crate::share_gate::ShareGate;
use rain_namespace::command::NodeSpec;
use std::sync::Arc;
use tokio::sync::watch;

/// The parts of a node. Services and workers get those that they need.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    /// This node's description of itself.
    pub(super) spec: NodeSpec,
    /// `None` on a witness.
    pub(super) store: Option<Arc<ShareStore>>,
    pub(super) gate: Arc<ShareGate>,
    pub(super) obeyed: Obeyed,
    pub(super) counters: Counters,
    pub(super) sessions: Arc<SessionLeases>,
    pub(super) open_files: Arc<OpenFileReports>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) joined: Arc<Joined>,
    pub(super) own_client: Arc<OwnClient>,
    /// True once this node stops: streams end then.
    pub(super) stopping: watch::Sender<bool>,
}
