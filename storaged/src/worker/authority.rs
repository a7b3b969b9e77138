//! The authority of a leader's workers: the only way in which they ask the namespace, change it, and touch
//! shares of other nodes. It holds for one term.
//!
//! A leader that has lost its majority goes on working until it hears of its successor. What it knows may be
//! old: it must not delete a share because its own state does not know the share's block. So:
//!
//! 1. A query is answered by this node's metadata service, linearizably, or not at all. There is no answer
//!    from another node and none from an old state (`a_leader_without_a_majority_deletes_nothing`).
//! 2. A command is proposed by this node itself, so that no later leader takes it for its own.
//! 3. Puts and deletes of shares carry the term, and the version of the cluster's layout that the work was
//!    decided by ([`WorkOrder`]). A node that has obeyed a later term refuses.
//! 4. After anything that shows another term, nothing more is done ([`WorkTerm`]).
//!
//! The node's own client stays in this file (`only_the_workers_authority_has_the_client`): its own queries may
//! be answered from an old state.

use crate::metadata::{AskError, MetadataService, ProposeError};
use crate::own_client::OwnClient;
use rain_client::{BlockLocation, Client, Repaired, WorkOrder, WorkTerm};
use rain_namespace::command::{Command, Outcome, Request};
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{NodeRecord, VolumeRecord};
use rain_types::{BlockId, LeaderTerm, NodeId, SessionId, ShareIndex};
use std::sync::Arc;
use thiserror::Error;

/// Why a piece of work failed. The worker's next round tries again.
#[derive(Debug, Error)]
pub(crate) enum WorkError {
    /// Another leader may work by now.
    #[error("this node's term {0} as the leader is over")]
    TermOver(LeaderTerm),
    /// The namespace has no certain answer.
    #[error("asking the namespace: {0}")]
    Ask(#[from] AskError),
    /// A command has no outcome.
    #[error("changing the namespace: {0}")]
    Propose(#[from] ProposeError),
    /// The namespace refuses.
    #[error("{0}")]
    Refused(#[from] NsError),
    /// Nodes do not answer, or refuse.
    #[error("{0}")]
    Nodes(#[from] rain_client::Error),
    /// The answer to a query is not of its kind.
    #[error("the namespace's answer is not {0}: restart this node, and report a fault")]
    Unexpected(&'static str),
}

/// A version of the cluster's layout: everything that is read from the namespace afterwards is of this version
/// or a newer one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout(u64);

/// The authority. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    metadata: Arc<MetadataService>,
    client: Arc<Client>,
    term: Arc<WorkTerm>,
}

impl Authority {
    /// Takes the authority of a term in which this node leads. Fails while the node's own client does not reach
    /// the cluster.
    pub(crate) async fn take(
        metadata: Arc<MetadataService>,
        own_client: &OwnClient,
        term: Arc<WorkTerm>,
    ) -> Result<Authority, WorkError> {
        let client = own_client.client().await?;
        Ok(Authority { metadata, client, term })
    }

    /// Waits until the term is over.
    pub(crate) async fn ended(&self) {
        self.term.ended().await;
    }

    /// Fails once this node does not lead in this term any more, as far as it knows.
    fn check(&self) -> Result<(), WorkError> {
        if self.metadata.leads_in() != Some(self.term.leader()) {
            self.term.end();
        }
        if self.term.is_over() { Err(WorkError::TermOver(self.term.leader())) } else { Ok(()) }
    }

    /// Asks the namespace. The answer is from a state that has every acknowledged change.
    pub(crate) async fn query(&self, query: &Query) -> Result<Answer, WorkError> {
        self.check()?;
        let answered = self.metadata.ask(query).await?;
        self.check()?;
        Ok(answered?)
    }

    /// The version of the cluster's layout. A worker that is to delete shares reads it before the records by
    /// which it decides.
    pub(crate) async fn layout(&self) -> Result<Layout, WorkError> {
        match self.query(&Query::Totals).await? {
            Answer::Totals(totals) => Ok(Layout(totals.places)),
            _ => Err(WorkError::Unexpected("totals")),
        }
    }

    /// The eligible nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRecord>, WorkError> {
        match self.query(&Query::Nodes).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(WorkError::Unexpected("nodes")),
        }
    }

    /// All volumes.
    pub(crate) async fn volumes(&self) -> Result<Vec<VolumeRecord>, WorkError> {
        match self.query(&Query::Volumes).await? {
            Answer::Volumes(volumes) => Ok(volumes),
            _ => Err(WorkError::Unexpected("volumes")),
        }
    }

    /// Takes the addresses of the nodes from the namespace.
    pub(crate) async fn refresh_nodes(&self) -> Result<(), WorkError> {
        Ok(self.client.take_nodes(&self.nodes().await?)?)
    }

    /// Whether a node answers, as far as this node's client knows.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.client.is_up(node)
    }

    /// Applies a command that needs no session and may be repeated.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, WorkError> {
        self.check()?;
        let applied = self.metadata.propose(Request::internal(command)).await?;
        self.check()?;
        Ok(applied?)
    }

    fn order(&self, Layout(places): Layout) -> WorkOrder {
        WorkOrder { term: self.term.clone(), places }
    }

    /// Makes the missing shares (bits) of a block again, for those of its nodes that answer.
    pub(crate) async fn repair_block(&self, at: &BlockLocation, missing: u64) -> Result<Repaired, WorkError> {
        // Read here, so that it is not older than the block's group.
        let order = self.order(self.layout().await?);
        let repaired = self.client.repair_block(at, missing, &order).await?;
        self.check()?;
        Ok(repaired)
    }

    /// Moves a block's shares from one location to another: those whose nodes differ.
    pub(crate) async fn move_block(
        &self,
        from: &BlockLocation,
        to: &BlockLocation,
        missing: u64,
    ) -> Result<Repaired, WorkError> {
        // Read here, so that it is not older than the block's new group.
        let order = self.order(self.layout().await?);
        let moved = self.client.move_block(from, to, missing, &order).await?;
        self.check()?;
        Ok(moved)
    }

    /// Deletes shares of one node, decided by records that were read after `layout`. Returns how many of them
    /// the node had.
    pub(crate) async fn delete_shares(
        &self,
        node: NodeId,
        shares: &[(BlockId, ShareIndex)],
        layout: Layout,
    ) -> Result<u64, WorkError> {
        self.check()?;
        let deleted = self.client.delete_shares(node, shares, &self.order(layout)).await;
        self.check()?;
        Ok(deleted?)
    }

    /// The shares of one node in the order of their keys, all of them or those of one session's blocks, and
    /// whether there are more.
    pub(crate) async fn list_shares(
        &self,
        node: NodeId,
        session: Option<SessionId>,
        after: Option<(BlockId, ShareIndex)>,
        limit: u32,
    ) -> Result<(Vec<(BlockId, ShareIndex)>, bool), WorkError> {
        self.check()?;
        Ok(self.client.list_shares(node, session, after, limit).await?)
    }
}
