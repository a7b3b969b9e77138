//! The work that goes on behind the services, on the node that leads the namespace. Each worker is a loop with
//! a pause, a bound on what it does at a time, and counters that anybody can look at; what to do is planned by
//! pure functions elsewhere.

mod block_list;
pub(crate) mod delegations;
pub(crate) mod gc;
pub(crate) mod leases;
pub(crate) mod members;
pub(crate) mod rebalance;
pub(crate) mod repair;
pub(crate) mod stray_shares;
pub(crate) mod unlinked_files;

use crate::metadata::MetadataService;
use crate::node::Shared;
use crate::service::namespace::Leases;
use parking_lot::Mutex;
use rain_client::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Between two tries to connect the workers' client.
const CONNECT_EVERY: Duration = Duration::from_millis(300);

/// How often the workers' client learns of new nodes.
const NODES_EVERY: Duration = Duration::from_secs(2);

/// Runs the workers while this node leads, and stops them when it does not. Ends with the node.
pub(crate) async fn lead(shared: Arc<Shared>, metadata: Arc<MetadataService>, leases: Arc<Leases>) {
    let mut leadership = metadata.leadership();
    loop {
        if leadership.wait_for(|now| now.mine).await.is_err() {
            return;
        }
        tracing::info!(term = leadership.borrow().term, "this node leads the namespace");
        // Under another leader the sessions were renewed elsewhere.
        leases.forget();
        shared.reports.forget();
        let work = work(shared.clone(), metadata.clone(), leases.clone());
        tokio::select! {
            () = work => {}
            lost = leadership.wait_for(|now| !now.mine) => {
                if lost.is_err() {
                    return;
                }
                tracing::info!("this node leads the namespace no more");
            }
        }
    }
}

async fn work(shared: Arc<Shared>, metadata: Arc<MetadataService>, leases: Arc<Leases>) {
    let mut tasks = JoinSet::new();
    tasks.spawn(members::run(shared.clone(), metadata.clone()));
    tasks.spawn(delegations::run(metadata.clone(), leases.clone()));
    tasks.spawn(unlinked_files::run(metadata.clone(), shared.reports.clone()));
    let cluster = loop {
        match shared.client().await {
            Ok(cluster) => break cluster,
            Err(error) => tracing::debug!(%error, "the workers' client; trying on"),
        }
        tokio::time::sleep(CONNECT_EVERY).await;
    };
    let (ended, to_sweep) = mpsc::channel(256);
    tasks.spawn(leases::run(metadata, leases, ended));
    tasks.spawn(repair::run(cluster.clone(), shared.repair.clone()));
    tasks.spawn(gc::run(cluster.clone(), shared.reclaim.clone()));
    let turn = rebalance::Turn::default();
    tasks.spawn(rebalance::run(cluster.clone(), shared.moves.clone(), turn.clone()));
    tasks.spawn(stray_shares::run(cluster.clone(), to_sweep, turn));
    tasks.spawn(follow_nodes(cluster));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a worker broke an invariant and stopped; restart this node");
        }
    }
}

/// The workers' client learns of new nodes and new addresses.
async fn follow_nodes(cluster: Arc<Client>) {
    loop {
        tokio::time::sleep(NODES_EVERY).await;
        if let Err(error) = cluster.refresh_nodes().await {
            tracing::debug!(%error, "asking for the nodes");
        }
    }
}

/// What a worker has done since the start.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    /// Pieces of work done.
    pub(crate) done: AtomicU64,
    /// Pieces of work that failed; they are tried again.
    pub(crate) failed: AtomicU64,
    /// Pieces of work waiting, as last seen.
    pub(crate) waiting: AtomicU64,
    /// Bytes written or freed.
    pub(crate) bytes: AtomicU64,
    /// Bytes read from other nodes.
    pub(crate) read: AtomicU64,
    /// Whether it is at work now.
    pub(crate) running: AtomicBool,
    last_error: Mutex<String>,
}

impl WorkerCounters {
    pub(crate) fn last_error(&self) -> String {
        self.last_error.lock().clone()
    }

    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Relaxed);
        *self.last_error.lock() = error.to_string();
    }
}
