//! What a node's own workers do with shares: repair, deletion, lists. The same block layer as everybody's.

use crate::block::{BlockPlace, Repaired};
use crate::cluster::Cluster;
use crate::error::Error;
use rain_proto::{convert, v1};
use rain_types::{BlockId, NodeId, SessionId, ShareIndex};
use std::time::Duration;
use tonic::{Response, Status};

/// Workers wait longer than people; the next round tries again.
const TIMEOUT: Duration = Duration::from_secs(20);

impl Cluster {
    /// Makes missing shares (bits) of a block again, for those of its nodes that answer.
    pub async fn repair_block(&self, place: &BlockPlace, missing: u64) -> Result<Repaired, Error> {
        self.blocks.repair(place, missing).await
    }

    /// Whether a node answers, as far as this client knows.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.blocks.is_up(node)
    }

    /// Deletes shares of one node.
    pub async fn delete_shares(&self, node: NodeId, shares: &[(BlockId, ShareIndex)]) -> Result<u64, Error> {
        let keys = shares.iter().map(|(block, index)| convert::share_key(*block, *index)).collect();
        let mut client = self.node(node)?.shares();
        let answer = client.delete(v1::DeleteSharesRequest { keys });
        Ok(answered(node, "deleting shares", answer).await?.deleted)
    }

    /// Shares of one node in order of their keys, all or those of one session's blocks; and whether there are more.
    pub async fn list_shares(
        &self,
        node: NodeId,
        session: Option<SessionId>,
        after: Option<(BlockId, ShareIndex)>,
        limit: u32,
    ) -> Result<(Vec<(BlockId, ShareIndex)>, bool), Error> {
        let after = after.map(|(block, index)| convert::share_key(block, index));
        let session = session.map_or(0, |session| session.0);
        let mut client = self.node(node)?.shares();
        let answer = client.list(v1::ListSharesRequest { session, after, limit, verify: false });
        let listed = answered(node, "listing shares", answer).await?;
        let mut shares = Vec::with_capacity(listed.shares.len());
        for entry in listed.shares {
            shares.push(
                convert::read_share_key(entry.key).map_err(|error| Error::Protocol(error.to_string()))?,
            );
        }
        Ok((shares, listed.more))
    }
}

async fn answered<T>(
    node: NodeId,
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%node, what, status = status.message(), "a worker's call failed");
            Err(Error::Unreachable { what: what.into(), missing: vec![node] })
        }
        Err(_) => Err(Error::TimedOut { what: format!("{what} on node {node}"), after: TIMEOUT }),
    }
}
