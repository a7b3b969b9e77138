//! A node's own client of the cluster: for the service `Store` and for the workers.

use crate::joined::Joined;
use parking_lot::Mutex;
use rain_client::{Client, Error, Options, Volume};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Memory for data of `Store` calls that is not stored yet, bytes. Less than a mount has: the node needs its
/// memory for shares.
const DIRTY_BYTES_MAX: u64 = 48 << 20;

/// Memory for blocks read for `Store` calls, bytes.
const CACHE_BYTES_MAX: u64 = 24 << 20;

/// The client, connected when it is first needed.
#[derive(Debug)]
pub(crate) struct OwnClient {
    /// The address at which this node itself listens; the client begins there.
    address: String,
    joined: Arc<Joined>,
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    volumes: Mutex<HashMap<String, Arc<Volume>>>,
}

impl OwnClient {
    pub(crate) fn new(address: String, joined: Arc<Joined>) -> OwnClient {
        OwnClient { address, joined, client: tokio::sync::Mutex::default(), volumes: Mutex::default() }
    }

    /// Returns the client. Fails while the cluster cannot be reached; the next call tries again.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let options = Options {
            label: format!("node {}, for itself", self.joined.node().unwrap_or_default()),
            dirty_bytes_max: DIRTY_BYTES_MAX,
            cache_bytes_max: CACHE_BYTES_MAX,
            ..Options::default()
        };
        let connected = Client::connect(std::slice::from_ref(&self.address), options).await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// Returns a volume by its name.
    pub(crate) async fn volume(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let known = self.volumes.lock().get(name).cloned();
        if let Some(volume) = known {
            return Ok(volume);
        }
        let volume = self.client().await?.volume(name).await?;
        self.volumes.lock().insert(name.to_owned(), volume.clone());
        Ok(volume)
    }

    /// Stores the rest and ends the client's session. Gives up after `within`; then the session's lease ends
    /// it.
    pub(crate) async fn close(&self, within: Duration) {
        let client = self.client.lock().await.take();
        if let Some(client) = client
            && tokio::time::timeout(within, client.close()).await.is_err()
        {
            tracing::warn!("this node's own session did not end within {within:?}; its lease will end it");
        }
    }
}
