//! A node's life: take the data folder, open the stores, serve, join a cluster, work, stop.
//!
//! - `serve`: the gRPC server and its services. `join`: from the start to a member that is ready. `upkeep`:
//!   the loops of the metadata service that run on every member. `stop`: what ends a node.
//!
//! A stop (SIGTERM, SIGINT, or the end of standard input where that was asked for) runs in this order: the
//! node ends its own session, retires from the metadata service, and leaves the ring; then the server
//! finishes the requests under way within [`DRAIN`]; then the stores close. A killed node loses nothing: the
//! stores are made for that.
//!
//! No other part uses this one. It puts the parts together and does nothing else.

mod join;
mod parts;
mod serve;
mod stop;
#[cfg(test)]
mod tests;
mod upkeep;

use crate::addresses::Addresses;
use crate::config::Config;
use crate::counters::Counters;
use crate::disk::DiskMedia;
use crate::identity::Identity;
use crate::joined::Joined;
use crate::obeyed::Obeyed;
use crate::own_client::OwnClient;
use crate::sessions::SessionLeases;
use crate::share::{ShareStore, StoreOptions};
use anyhow::Context;
use parts::Parts;
use rain_namespace::command::NodeSpec;
use rain_types::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Time for requests under way to finish once the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Time for the end of this node's own session, with the data that it has not stored yet.
const OWN_SESSION: Duration = Duration::from_secs(1);

/// Time for the ring to take this node's farewell.
const FAREWELL: Duration = Duration::from_millis(300);

/// Runs a node until it is told to stop. Calls `ready` with its number and address once it serves and has
/// joined.
pub async fn run(
    config: Config,
    ready: impl FnOnce(NodeId, SocketAddr) + Send + 'static,
) -> anyhow::Result<()> {
    let identity = Identity::take(&config.data, config.node_id, config.witness)?;
    // The identity ends once the node has joined, but no other process may take the folder before the stores
    // are closed.
    let _folder = identity.hold()?;
    let (listeners, bound) = listen(&config).await?;
    let parts = Arc::new(put_together(config, &identity, bound).await?);
    let serving = tokio::spawn(serve::serve(listeners, parts.clone()));
    let (fail, mut failed) = mpsc::channel(1);
    let join = join::join(parts.clone(), identity, bound, ready);
    let work = tokio::spawn(async move {
        if let Err(error) = join.await {
            let _ = fail.send(error).await;
        }
        // A node that has joined goes on: the end of this future would close the channel of failures.
        std::future::pending::<()>().await;
    });
    let failed = tokio::select! {
        () = stop::wait_for_stop(parts.config.exit_with_parent) => None,
        failed = failed.recv() => failed,
    };
    tracing::info!("stopping");
    work.abort();
    parts.own_client.close(OWN_SESSION).await;
    if let Some(metadata) = parts.joined.metadata() {
        metadata.retire().await;
    }
    if let Some(ring) = parts.joined.ring() {
        ring.leave(FAREWELL).await;
    }
    parts.stopping.send_replace(true);
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(Ok(served)) => served.context("serving")?,
        Ok(Err(error)) => tracing::error!(%error, "the server panicked"),
        Err(_) => tracing::warn!("some requests did not end within {DRAIN:?}"),
    }
    if let Some(metadata) = parts.joined.metadata() {
        metadata.close().await;
    }
    let closing =
        tokio::task::spawn_blocking(move || parts.store.as_ref().map_or(Ok(()), |store| store.shut_down()));
    closing.await.context("closing the stores")?.context("closing the share store")?;
    tracing::info!("stopped");
    failed.map_or(Ok(()), Err)
}

/// Opens the share store and makes all other parts.
async fn put_together(config: Config, identity: &Identity, bound: SocketAddr) -> anyhow::Result<Parts> {
    let address = config.advertise.clone().unwrap_or_else(|| bound.to_string());
    let spec = NodeSpec {
        // Over its other networks the node is reached at its ring addresses.
        others: config.ring_addresses(&address).into_iter().skip(1).collect(),
        address,
        domain: config.domain.clone(),
        weight: config.weight,
        witness: config.witness,
        folder: identity.folder().to_owned(),
    };
    let store = if config.witness { None } else { Some(Arc::new(open_store(&config).await?)) };
    let obeyed = open_obeyed(&config, identity.member().is_some())?;
    let addresses: Arc<Addresses> = Arc::default();
    let joined = Arc::new(Joined::new(spec.address.clone(), addresses.clone()));
    // A node that listens on all addresses of its machine reaches itself at the loopback address.
    let own_ip = if bound.ip().is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
    let own_address = SocketAddr::new(own_ip, bound.port()).to_string();
    Ok(Parts {
        spec,
        store,
        gate: Arc::default(),
        obeyed,
        counters: Counters::default(),
        sessions: Arc::new(SessionLeases::new(config.session_ttl)),
        open_files: Arc::default(),
        addresses,
        own_client: Arc::new(OwnClient::new(own_address, joined.clone())),
        joined,
        stopping: watch::Sender::new(false),
        config: Arc::new(config),
    })
}

/// Binds all addresses of a node; returns the listeners and the address of the first one.
async fn listen(config: &Config) -> anyhow::Result<(Vec<TcpListener>, SocketAddr)> {
    let mut listeners = vec![bind(config.listen, "listen").await?];
    let bound = listeners[0].local_addr().context("asking for the bound address")?;
    for other in config.ring_listen.iter().skip(1) {
        // A listener on all addresses of the machine has this one.
        if !(bound.ip().is_unspecified() && bound.port() == other.port()) {
            listeners.push(bind(*other, "ring-listen").await?);
        }
    }
    if !bound.ip().is_loopback() && !config.insecure {
        tracing::warn!(
            "nothing is encrypted or authenticated yet: anybody who reaches {bound} can read and change everything. Use a \
             trusted network; --insecure says that it is one"
        );
    }
    Ok((listeners, bound))
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program using the port? Choose another --{flag}")
    })
}

fn open_obeyed(config: &Config, is_member: bool) -> anyhow::Result<Obeyed> {
    let path = config.data.join("obeyed-mandate");
    Obeyed::open(&DiskMedia, &path, is_member).with_context(|| format!("opening {}", path.display()))
}

async fn open_store(config: &Config) -> anyhow::Result<ShareStore> {
    let data = config.data.clone();
    let options = StoreOptions { capacity_bytes: config.capacity, ..StoreOptions::default() };
    let opening = tokio::task::spawn_blocking(move || {
        ShareStore::open(&data.join("shares"), options).context("opening the share store")
    });
    opening.await.context("opening the stores")?
}
