//! The background work of the node that leads the metadata service.
//!
//! Each worker is a loop with a pause, a bound on its work at a time, and, where an operator wants them,
//! counters ([`crate::counters`]). Pure functions of `rain_namespace` plan the work.
//!
//! `repair`, `rebalance`, `gc` and `stray_shares` touch shares; they act by the [`authority`] of the term in which
//! this node leads. The others only read this node's state and propose commands, which take effect under no
//! other leader.
//!
//! | worker | what it does |
//! |---|---|
//! | `members` | keeps the right nodes voting |
//! | `leases` | ends the sessions of silent clients |
//! | `delegations` | revokes delegations that a client does not return |
//! | `unlinked_files` | frees removed files that no session has open |
//! | `repair` | makes missing shares again |
//! | `rebalance` | opens groups that fit the current nodes, and moves blocks into them |
//! | `gc` | deletes the shares of blocks that no file uses |
//! | `stray_shares` | deletes shares that belong to no block, or lie on the wrong node |

mod authority;
mod block_list;
mod block_records;
mod delegations;
mod gc;
mod leases;
mod members;
mod rebalance;
mod repair;
mod stray_shares;
mod unlinked_files;

pub(crate) use self::authority::Authority;
pub(crate) use self::block_records::PlacementLock;
#[cfg(test)]
pub(crate) use self::stray_shares::search_node;

use crate::counters::Counters;
use crate::metadata::MetadataService;
use crate::open_files::OpenFileReports;
use crate::own_client::OwnClient;
use crate::ring::Ring;
use crate::sessions::SessionLeases;
use rain_client::WorkTerm;
use rain_types::LeaderTerm;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pause between two tries to connect the node's own client.
const CONNECT_EVERY: Duration = Duration::from_millis(300);

/// Interval at which the node's own client asks for new nodes and new addresses.
const NODES_EVERY: Duration = Duration::from_secs(2);

/// Ended sessions that wait for the search for their shares. A session that finds no room is found by the
/// search through everything.
const ENDED_SESSIONS_MAX: usize = 256;

/// All workers, and the parts of the node that they use.
#[derive(Clone)]
pub(crate) struct Workers {
    pub(crate) metadata: Arc<MetadataService>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) sessions: Arc<SessionLeases>,
    pub(crate) open_files: Arc<OpenFileReports>,
    pub(crate) counters: Counters,
    pub(crate) own_client: Arc<OwnClient>,
}

impl Workers {
    /// Runs the workers while this node leads and stops them when it does not. Ends with the node.
    pub(crate) async fn run(self) {
        let mut leadership = self.metadata.leadership();
        loop {
            let term = match leadership.wait_for(|now| now.mine).await {
                Ok(now) => LeaderTerm { term: now.term, node: self.metadata.member().node },
                Err(_) => return,
            };
            tracing::info!(%term, "this node leads the namespace");
            // Under another leader the sessions have renewed and reported elsewhere.
            self.sessions.forget();
            self.open_files.forget();
            let work_term = WorkTerm::new(term);
            let work = async {
                self.clone().work(work_term.clone()).await;
                // A node has refused this term: its end is only not known here yet.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = work => {}
                lost = leadership.wait_for(|now| !now.mine || now.term != term.term) => {
                    work_term.end();
                    if lost.is_err() {
                        return;
                    }
                    tracing::info!("this node does not lead the namespace in this term any more");
                }
            }
        }
    }

    /// Returns when the term is over.
    async fn work(self, term: Arc<WorkTerm>) {
        let Workers { metadata, ring, sessions, open_files, counters, own_client } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(members::run(metadata.clone(), ring));
        tasks.spawn(delegations::run(metadata.clone(), sessions.clone()));
        tasks.spawn(unlinked_files::run(metadata.clone(), open_files));
        let authority = loop {
            match Authority::take(metadata.clone(), &own_client, term.clone()).await {
                Ok(authority) => break authority,
                Err(error) => tracing::debug!(%error, "reaching the cluster for the workers; trying again"),
            }
            tokio::time::sleep(CONNECT_EVERY).await;
        };
        let (ended, sessions_ended) = mpsc::channel(ENDED_SESSIONS_MAX);
        tasks.spawn(leases::run(metadata, sessions, ended));
        tasks.spawn(repair::run(authority.clone(), counters.repair));
        tasks.spawn(gc::run(authority.clone(), counters.gc));
        let lock = PlacementLock::default();
        tasks.spawn(rebalance::run(authority.clone(), counters.rebalance, lock.clone()));
        tasks.spawn(stray_shares::run(authority.clone(), sessions_ended, lock));
        tasks.spawn(follow_nodes(authority.clone()));
        let watch = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "a worker broke an invariant and stopped; restart this node");
                }
            }
        };
        tokio::select! {
            () = watch => {}
            () = authority.ended() => {}
        }
    }
}

/// Keeps the client's list of nodes up to date.
async fn follow_nodes(authority: Authority) {
    loop {
        tokio::time::sleep(NODES_EVERY).await;
        if let Err(error) = authority.refresh_nodes().await {
            tracing::debug!(%error, "asking for the nodes");
        }
    }
}
