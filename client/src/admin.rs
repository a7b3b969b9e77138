//! Calls of the nodes' own workers (repair, moves, deletion and lists of shares) and of administrators (nodes
//! that come and go). Both use the same block layer as every other client.

use crate::block::{BlockLocation, Repaired, WorkOrder};
use crate::client::Client;
use crate::error::Error;
use crate::rpc::{direct, discovery};
use rain_namespace::command::{Command, NodeSpec, Outcome};
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::NodeRecord;
use rain_proto::{convert, v1};
use rain_types::{BlockId, NodeId, SessionId, ShareIndex};
use std::time::Duration;

/// Deadline for the description of a node that is to be added.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Deadline for a node's check of its namespace. A million files take some seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

impl Client {
    /// Makes the missing shares (bits) of a block again, for those of its nodes that answer.
    pub async fn repair_block(
        &self,
        place: &BlockLocation,
        missing: u64,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        self.blocks.repair(place, missing, order).await
    }

    /// Moves a block's shares from one location to another: those whose nodes differ.
    pub async fn move_block(
        &self,
        from: &BlockLocation,
        to: &BlockLocation,
        missing: u64,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        self.blocks.move_shares(from, to, missing, order).await
    }

    /// Whether a node answers, as far as this client knows.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.blocks.is_up(node)
    }

    /// Deletes shares of one node. Returns how many of them the node had.
    ///
    /// Fails with `Unreachable` also where the node refuses the order, because it has obeyed a later term or a
    /// newer placement. A later term ends the term of the order.
    pub async fn delete_shares(
        &self,
        node: NodeId,
        shares: &[(BlockId, ShareIndex)],
        order: &WorkOrder,
    ) -> Result<u64, Error> {
        let what = "deleting shares";
        let keys = shares.iter().map(|(block, index)| convert::share_key(*block, *index)).collect();
        let target = self.session.nodes().get(node)?;
        let Some(mandate) = order.mandate() else {
            return Err(Error::Unreachable { what: what.into(), missing: vec![node] });
        };
        let (to, mut client) = (Some(target.addressee()), target.shares());
        let request = v1::DeleteSharesRequest { keys, to, mandate: Some(mandate) };
        let answer = async { client.delete(request).await.inspect_err(|status| order.refused(status)) };
        Ok(direct::call_patiently(node, what, answer).await?.deleted)
    }

    /// Takes in the eligible nodes and their addresses, as the caller has read them from the namespace.
    pub fn take_nodes(&self, records: &[NodeRecord]) -> Result<(), Error> {
        self.session.take_nodes(records)
    }

    /// The shares of one node in the order of their keys, all of them or those of one session's blocks, and
    /// whether there are more.
    pub async fn list_shares(
        &self,
        node: NodeId,
        session: Option<SessionId>,
        after: Option<(BlockId, ShareIndex)>,
        limit: u32,
    ) -> Result<(Vec<(BlockId, ShareIndex)>, bool), Error> {
        let after = after.map(|(block, index)| convert::share_key(block, index));
        let session = session.map_or(0, |session| session.0);
        let target = self.session.nodes().get(node)?;
        let (to, mut client) = (Some(target.addressee()), target.shares());
        let answer = client.list(v1::ListSharesRequest { session, after, limit, verify: false, to });
        let listed = direct::call_patiently(node, "listing shares", answer).await?;
        let mut shares = Vec::with_capacity(listed.shares.len());
        for entry in listed.shares {
            shares.push(
                convert::read_share_key(entry.key).map_err(|error| Error::Protocol(error.to_string()))?,
            );
        }
        Ok((shares, listed.more))
    }

    /// Has a node check its copy of the namespace, which takes as long as reading all of it.
    pub async fn check_node(&self, node: NodeId) -> Result<v1::CheckResponse, Error> {
        let mut control = self.session.nodes().get(node)?.control();
        let call = control.check(v1::CheckRequest {});
        match tokio::time::timeout(CHECK_TIMEOUT, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::Protocol(format!("node {node}: {}", status.message()))),
            Err(_) => Err(Error::TimedOut { what: format!("node {node}'s check"), after: CHECK_TIMEOUT }),
        }
    }

    /// The description that the node at an address gives of itself.
    pub async fn describe_node(&self, address: &str) -> Result<v1::DescribeResponse, Error> {
        let described = discovery::describe(address, ASK_TIMEOUT).await;
        let (described, _) =
            described.map_err(|why| Error::NoCluster { addresses: address.to_owned(), why })?;
        Ok(described)
    }

    /// Takes the node that runs at an address into the cluster. Returns its number; fails on a node of
    /// another cluster.
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
            _ => Err(Error::unexpected("a node's number")),
        }
    }

    /// Starts draining a node: its shares are moved to other nodes. Or stops draining it.
    pub async fn set_draining(&self, id: NodeId, draining: bool) -> Result<(), Error> {
        self.propose_internal(Command::SetDraining { id, draining }).await.map(|_| ())
    }

    /// The number of placement groups that need a node: open ones, and closed ones that still have blocks. At
    /// 0 the node can be removed.
    pub async fn groups_with(&self, node: NodeId) -> Result<u64, Error> {
        match self.query(&Query::GroupsWith { node }).await? {
            Answer::Groups(groups) => Ok(groups),
            _ => Err(Error::unexpected("a number of groups")),
        }
    }

    /// Removes a node that has no shares any more.
    pub async fn remove_node(&self, id: NodeId) -> Result<(), Error> {
        self.propose_internal(Command::RemoveNode { id }).await.map(|_| ())
    }
}
