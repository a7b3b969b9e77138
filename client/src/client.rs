//! The client: the facade over one session with a cluster. It alone knows all volumes in use, and it runs the
//! loop that renews the session and reports their open files.
//!
//! Volumes and open files keep the session alive, and its loops with it, when the `Client` itself is dropped.

use crate::block::{Blocks, ShareState};
use crate::error::Error;
use crate::file::FileTable;
use crate::options::Options;
use crate::rpc::direct;
use crate::rpc::node::NodeHealth;
use crate::session::{Renewed, Session};
use crate::stats::ClientStats;
use crate::volume::Volume;
use parking_lot::Mutex;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{NodeRecord, VolumeRecord};
use rain_proto::v1;
use rain_types::{BlockId, ClusterId, CodeSpec, NodeId, SessionId, ShareIndex, VolumeId};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Placement groups of a new volume: many more than nodes, so that load and rebuild spread evenly.
const GROUPS_OF_A_VOLUME: u32 = 64;

/// A connected client. Share it by `Arc`; [`Client::close`] ends its session at once.
#[derive(Debug)]
pub struct Client {
    pub(crate) session: Arc<Session>,
    pub(crate) blocks: Arc<Blocks>,
    files: Arc<FileTables>,
}

/// The file tables of the volumes in use. A file table lives as long as its volume, an open file, or
/// work on its files or its queue.
#[derive(Debug, Default)]
struct FileTables(Mutex<Vec<Weak<FileTable>>>);

impl FileTables {
    fn add(&self, files: &Arc<FileTable>) {
        let mut tables = self.0.lock();
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(files));
    }

    fn all(&self) -> Vec<Arc<FileTable>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Client {
    /// Finds the cluster from any of these addresses (`host:port`) and opens a session.
    ///
    /// Fails with `NoCluster` when no node of the list answers or none knows the leader.
    pub async fn connect(addresses: &[String], options: Options) -> Result<Arc<Client>, Error> {
        let session = Session::open(addresses, options).await?;
        let blocks = Blocks::new(&session);
        let files = Arc::new(FileTables::default());
        session.spawn_owned(renew_forever(Arc::downgrade(&session), blocks.clone(), files.clone()));
        Ok(Arc::new(Client { session, blocks, files }))
    }

    /// The cluster that the client is connected to.
    pub fn cluster_id(&self) -> ClusterId {
        self.session.cluster_id()
    }

    /// The bounds that the client was opened with.
    pub fn options(&self) -> &Options {
        self.session.options()
    }

    /// The session's number; 0 for a client that only observes.
    pub fn session_id(&self) -> SessionId {
        self.session.id()
    }

    /// Begins to use the volume with this name. Fails with `NotFound` where there is none.
    pub async fn volume(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let Answer::Volumes(found) = self.query(&Query::Volume { name: name.to_owned() }).await? else {
            return Err(Error::unexpected("a volume"));
        };
        let record = found.into_iter().next().ok_or(NsError::NotFound)?;
        self.refresh_nodes().await?;
        let volume = Volume::attach(self.session.clone(), self.blocks.clone(), record)?;
        self.files.add(volume.files());
        Ok(volume)
    }

    /// All volumes of the cluster in the order of their numbers.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        match self.query(&Query::Volumes).await? {
            Answer::Volumes(volumes) => Ok(volumes),
            _ => Err(Error::unexpected("volumes")),
        }
    }

    /// Makes a volume over the eligible nodes. Fails with `Invalid` for a code that does not exist.
    pub async fn create_volume(
        &self,
        name: &str,
        code: CodeSpec,
        uid: u32,
        gid: u32,
        mode: u16,
    ) -> Result<VolumeId, Error> {
        rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
            .map_err(|error| NsError::Invalid(error.to_string()))?;
        let groups = GROUPS_OF_A_VOLUME;
        let command = Command::CreateVolume { name: name.to_owned(), code, groups, uid, gid, mode };
        match self.propose(command).await? {
            Outcome::Volume(id) => Ok(id),
            _ => Err(Error::unexpected("a volume's number")),
        }
    }

    /// The eligible nodes in the order of their numbers.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        self.session.node_records().await
    }

    /// Reads the nodes and their addresses from the namespace.
    pub async fn refresh_nodes(&self) -> Result<(), Error> {
        self.session.refresh_nodes().await
    }

    /// Each node's health, as this client's calls have met it.
    pub fn health(&self) -> Vec<(NodeId, NodeHealth)> {
        self.session.nodes().health()
    }

    /// The nodes outside of the ring's view, by the view that was last reported to this client.
    pub fn out_of_view(&self) -> Vec<NodeId> {
        self.session.nodes().out_of_view()
    }

    /// The token ring as a node sees it. The node itself is asked, with a short deadline.
    pub async fn ring_status(&self, id: NodeId) -> Result<v1::RingResponse, Error> {
        let node = self.session.nodes().get(id)?;
        let ask = || async { node.control().ring(v1::RingRequest {}).await };
        direct::call_any_address(&node, "asking for the ring", ask).await
    }

    /// A node's status. The node itself is asked, with a short deadline.
    pub async fn node_status(&self, id: NodeId) -> Result<v1::NodeStatusResponse, Error> {
        direct::node_status(self.session.nodes(), id).await
    }

    /// Switches a node's shares off or on, for drills. Returns whether they were on.
    pub async fn switch_shares(&self, id: NodeId, on: bool) -> Result<bool, Error> {
        let mut control = self.session.nodes().get(id)?.control();
        let call = control.switch_shares(v1::SwitchSharesRequest { on });
        Ok(direct::call(id, "switching a node's shares", call).await?.was_on)
    }

    /// The state of a share on a node. The node reads and verifies the share.
    pub async fn node_has_share(
        &self,
        node: NodeId,
        block: BlockId,
        index: ShareIndex,
    ) -> Result<ShareState, Error> {
        self.blocks.share_state(&self.session.nodes().get(node)?, block, index).await
    }

    /// The leader's node and address, as far as this client knows.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        self.session.leader()
    }

    /// For how long this client has had no leader, and the age of the stale answers it gets meanwhile. None
    /// while a leader answers.
    pub fn without_leader(&self) -> Option<(Duration, Duration)> {
        self.session.without_leader()
    }

    /// Counters since the client was opened.
    pub fn stats(&self) -> ClientStats {
        self.session.stats()
    }

    /// Asks the namespace. Waits where another client holds the directory.
    ///
    /// Without a majority, and where [`Options::allow_stale`] allows it, the newest state of the nodes that
    /// answer is the answer.
    pub async fn query(&self, query: &Query) -> Result<Answer, Error> {
        self.session.query(query).await
    }

    /// Applies a command once, however often it has to be sent.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        self.session.propose(command).await
    }

    /// Applies a command that needs no session and may be repeated.
    pub async fn propose_internal(&self, command: Command) -> Result<Outcome, Error> {
        self.session.propose_internal(command).await
    }

    /// Stores every volume's files and ends the session. A failure is logged. Later calls fail, or open a new
    /// session.
    pub async fn close(&self) {
        for files in self.files.all() {
            if let Err(error) = files.flush_all().await {
                tracing::error!(%error, volume = files.volume_name(), "closing: some data could not be stored");
            }
        }
        self.blocks.send_reports(&self.session).await;
        self.session.stop_tasks();
        if let Err(error) = self.session.end().await {
            let session = self.session.id();
            tracing::warn!(%error, %session, "closing: the session will end by its lease");
        }
    }
}

/// Renews the session, takes in changes of nodes and groups, and reports missing shares, until the session is
/// dropped.
async fn renew_forever(session: Weak<Session>, blocks: Arc<Blocks>, tables: Arc<FileTables>) {
    loop {
        let Some(session) = session.upgrade() else { return };
        if let Err(error) = renew(&session, &tables).await {
            tracing::debug!(%error, "renewing the session");
        }
        blocks.send_reports(&session).await;
        let pause = session.renewal_pause();
        drop(session);
        tokio::time::sleep(pause).await;
    }
}

async fn renew(session: &Session, tables: &FileTables) -> Result<(), Error> {
    let mut in_use = Vec::new();
    // The tables are listed after the opens under way were looked at, so that a file opened before is in the
    // list.
    let open_files = || {
        in_use = tables.all();
        in_use.iter().flat_map(|files| files.inos()).collect()
    };
    if let Renewed::PlacementChanged(version) = session.renew(open_files).await? {
        session.refresh_nodes().await?;
        for files in &in_use {
            files.refresh_placement().await?;
        }
        session.placement_is(version);
    }
    Ok(())
}
