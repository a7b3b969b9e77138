//! Changes the members, one change at a time. [`super::voters`] decides on each.

use super::types::{Membership, Raft, position_of};
use super::voters::{self, MembershipChange};
use crate::metadata::error::MetadataError;
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use rain_namespace::record::NodeRecord;
use rain_types::NodeId;
use std::collections::BTreeSet;

/// A learner may get a vote when it lacks fewer entries than this: commits then hardly wait for it.
const READY_WITHIN: u64 = 1000;

/// Makes the next change of the membership. Returns true if it made one; false if none is due, or if another
/// node leads and goes on with it.
pub(crate) async fn settle(
    raft: &Raft,
    nodes: &[NodeRecord],
    losses: u8,
    away: &BTreeSet<NodeId>,
) -> Result<bool, MetadataError> {
    let membership = raft.server_metrics().borrow().membership_config.membership().clone();
    let ready = ready_learners(raft, &membership, away);
    let facts = voters::VoterFacts { nodes, losses, away, ready: &ready };
    let Some(change) = voters::next_change(&facts, &membership) else { return Ok(false) };
    tracing::info!(?change, "the namespace's membership changes");
    let changed = match change {
        MembershipChange::AddLearner(id, address) => raft.add_learner(id, address, false).await,
        MembershipChange::SetVoters(voters) => raft.change_membership(voters, true).await,
        MembershipChange::Remove(id) => {
            let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
            raft.change_membership(gone, false).await
        }
    };
    match changed {
        Ok(_) => Ok(true),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Ok(false),
        Err(error) => Err(MetadataError::raft(&error)),
    }
}

/// Returns the learners that answer and have nearly all of the log; empty on a node that does not lead.
fn ready_learners(raft: &Raft, membership: &Membership, away: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let last = metrics.last_log_index.unwrap_or(0);
    let Some(replication) = &metrics.replication else { return BTreeSet::new() };
    membership
        .learner_ids()
        .filter(|id| !away.contains(id))
        .filter(|id| {
            replication.get(id).is_some_and(|matched| position_of(matched.as_ref()) + READY_WITHIN > last)
        })
        .collect()
}
