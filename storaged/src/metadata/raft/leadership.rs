//! The leader and the members, as this node knows them.

use super::lease::LeaderLease;
use super::types::Raft;
use openraft::ServerState;
use parking_lot::Mutex;
use rain_types::NodeId;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The leader and the members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Grows with every election.
    pub term: u64,
    /// The leader; `None` during an election.
    pub leader: Option<NodeId>,
    /// The leader's address when it became a member; the namespace's record may be newer.
    pub address: String,
    /// True where this node leads.
    pub mine: bool,
    /// Where this node leads: since when.
    pub since: Option<Instant>,
    /// Members with a vote.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
}

/// Follows openraft's metrics: returns a watch of the leadership, and keeps the learners of the lease up to
/// date.
pub(crate) fn follow_leadership(
    me: NodeId,
    raft: &Raft,
    leader_lease: Arc<Mutex<LeaderLease>>,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (publish, published) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        // Term and begin of this node's own leadership.
        let mut leads: Option<(u64, Instant)> = None;
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                let membership = metrics.membership_config.membership();
                let leader = metrics.current_leader;
                let address = leader.and_then(|leader| membership.get_node(&leader));
                let mine = metrics.state == ServerState::Leader && leader == Some(me);
                let term = metrics.vote.leader_id.term;
                let before = leads.filter(|(before, _)| mine && *before == term);
                leads = mine.then(|| before.unwrap_or_else(|| (term, Instant::now())));
                Leadership {
                    since: leads.map(|(_, since)| since),
                    term,
                    leader,
                    address: address.map(|address| address.address.clone()).unwrap_or_default(),
                    mine,
                    voters: membership.voter_ids().collect(),
                    learners: membership.learner_ids().collect(),
                }
            };
            leader_lease.lock().set_learners(now.learners.iter().copied().collect());
            publish.send_if_modified(|published| {
                let changed = *published != now;
                *published = now;
                changed
            });
            if publish.is_closed() {
                return;
            }
            if metrics.changed().await.is_err() {
                // openraft has stopped on this node.
                publish.send_modify(|published| {
                    *published = Leadership { leader: None, mine: false, since: None, ..published.clone() }
                });
                return;
            }
        }
    });
    published
}
