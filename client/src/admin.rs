//! What a node's own workers do with shares (repair, deletion, lists; the same block layer as everybody's), and what an administrator
//! does with nodes.

use crate::block::{BlockLocation, Repaired};
use crate::client::{Client, unexpected};
use crate::error::Error;
use rain_namespace::command::{Command, NodeSpec, Outcome};
use rain_namespace::query::{Answer, Query};
use rain_proto::{convert, v1};
use rain_types::{BlockId, NodeId, SessionId, ShareIndex};
use std::time::Duration;
use tonic::{Response, Status};

/// Workers wait longer than people; the next round tries again.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A node that is to be added says who it is within this.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// A million files take seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

impl Client {
    /// Makes missing shares (bits) of a block again, for those of its nodes that answer.
    pub async fn repair_block(&self, place: &BlockLocation, missing: u64) -> Result<Repaired, Error> {
        self.blocks.repair(place, missing).await
    }

    /// Puts the shares of a block whose nodes differ between two places onto their nodes in the second.
    pub async fn move_block(
        &self,
        from: &BlockLocation,
        to: &BlockLocation,
        missing: u64,
    ) -> Result<Repaired, Error> {
        self.blocks.move_shares(from, to, missing).await
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

    /// Has a node check the namespace as it has it. Takes as long as reading all of it does.
    pub async fn check_node(&self, node: NodeId) -> Result<v1::CheckResponse, Error> {
        let mut control = self.node(node)?.control();
        let call = control.check(v1::CheckRequest {});
        match tokio::time::timeout(CHECK_TIMEOUT, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::Protocol(format!("node {node}: {}", status.message()))),
            Err(_) => Err(Error::TimedOut { what: format!("node {node}'s check"), after: CHECK_TIMEOUT }),
        }
    }

    /// What the node at an address says of itself.
    pub async fn describe_node(&self, address: &str) -> Result<v1::DescribeResponse, Error> {
        let described = crate::rpc::leader::describe(address, ASK_TIMEOUT).await;
        let (described, _) =
            described.map_err(|why| Error::NoCluster { addresses: address.to_owned(), why })?;
        Ok(described)
    }

    /// Takes the node that runs at an address into the cluster; its number.
    pub async fn add_node(&self, address: &str) -> Result<NodeId, Error> {
        let said = self.describe_node(address).await?;
        let ours = self.cluster_id().to_string();
        if !said.cluster.is_empty() && said.cluster != ours {
            return Err(Error::Foreign { address: address.to_owned(), found: said.cluster, expected: ours });
        }
        let node = NodeSpec {
            address: said.address,
            domain: said.domain,
            weight: said.weight,
            witness: said.witness,
            folder: said.folder,
            others: said.others,
        };
        match self.propose_internal(Command::RegisterNode { id: NodeId(0), node }).await? {
            Outcome::Node(id) => Ok(id),
            _ => Err(unexpected("a node's number")),
        }
    }

    /// Has a node's shares moved to others, or not after all.
    pub async fn set_draining(&self, id: NodeId, draining: bool) -> Result<(), Error> {
        self.propose_internal(Command::SetDraining { id, draining }).await.map(|_| ())
    }

    /// In how many placement groups a node is, of the closed ones those that still have blocks. With none it can go.
    pub async fn groups_with(&self, node: NodeId) -> Result<u64, Error> {
        match self.query(&Query::GroupsWith { node }).await? {
            Answer::Groups(groups) => Ok(groups),
            _ => Err(unexpected("a number of groups")),
        }
    }

    /// Lets a node go that holds no shares any more.
    pub async fn remove_node(&self, id: NodeId) -> Result<(), Error> {
        self.propose_internal(Command::RemoveNode { id }).await.map(|_| ())
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
