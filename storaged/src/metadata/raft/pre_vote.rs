//! The pre-vote of Ongaro's thesis, section 9.6: a node asks the others whether they would vote for it before
//! it raises the term. So a node with a shorter log, or with a lease that ended a little before theirs, does
//! not disturb the others.

use super::network::Network;
use super::types::{EntryLogId, Membership};
use futures::stream::{FuturesUnordered, StreamExt};
use rain_types::NodeId;
use std::collections::BTreeSet;

/// Returns true when a majority would vote for this node, whose log ends at `last`. Only nodes of the ring's
/// view are asked. Returns as soon as there is a majority.
pub(crate) async fn would_win(
    network: &Network,
    me: NodeId,
    last: Option<EntryLogId>,
    membership: &Membership,
    view: Option<&[NodeId]>,
) -> bool {
    let answers = |node: &NodeId| view.is_none_or(|view| view.contains(node));
    let others = membership.voter_ids().filter(|node| *node != me && answers(node));
    let mut asked: FuturesUnordered<_> = others
        .filter_map(|node| Some((node, membership.get_node(&node)?)))
        .map(|(node, address)| async move { (node, network.would_vote(node, address, last).await) })
        .collect();
    let mut granted = BTreeSet::from([me]);
    loop {
        let is_majority =
            |voters: &BTreeSet<NodeId>| voters.intersection(&granted).count() * 2 > voters.len();
        if membership.get_joint_config().iter().all(is_majority) {
            return true;
        }
        let Some((node, would_vote)) = asked.next().await else { return false };
        if would_vote {
            granted.insert(node);
        }
    }
}
