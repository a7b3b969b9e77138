//! Takes part in elections: gathers the facts for [`Election`], asks for pre-votes, then has openraft request
//! votes.

use super::election::{Election, ElectionFacts};
use super::lease::{LeaderLease, Times};
use super::log_store::LogStore;
use super::network::Network;
use super::pre_vote;
use super::types::Raft;
use parking_lot::Mutex;
use rain_types::NodeId;
use std::sync::Arc;
use tokio::time::Instant;

/// The parts of a member that an election needs.
pub(crate) struct Candidate {
    pub(crate) me: NodeId,
    pub(crate) times: Times,
    pub(crate) raft: Raft,
    pub(crate) network: Network,
    pub(crate) leader_lease: Arc<Mutex<LeaderLease>>,
    pub(crate) log: LogStore,
}

impl Candidate {
    /// Requests votes when that is due and a majority would grant them. `view`: the nodes that answer, by the
    /// ring.
    pub(crate) async fn run(&self, election: &mut Election, view: Option<&[NodeId]>) {
        let metrics = self.raft.server_metrics();
        let (membership, leader) = {
            let metrics = metrics.borrow();
            (metrics.membership_config.membership().clone(), metrics.current_leader)
        };
        if leader == Some(self.me) {
            // A leader that loses its place does not stand against its successor for a lease.
            self.leader_lease.lock().leads_now(Instant::now());
        }
        let facts = ElectionFacts {
            me: self.me,
            now: Instant::now(),
            voters: membership.get_joint_config(),
            leader,
            last_contact: Some(self.leader_lease.lock().last_leader()),
            view,
        };
        if !election.decide(&self.times, &facts) {
            return;
        }
        if !pre_vote::would_win(&self.network, self.me, self.log.durable(), &membership, view).await {
            election.refused();
        } else if self.request_votes() {
            tracing::info!(?leader, "the namespace's leader does not answer: this node requests votes");
        }
    }

    /// Has openraft request votes. Returns false while this node's own promise to a leader lasts.
    fn request_votes(&self) -> bool {
        let trigger = self.raft.trigger();
        let mut electing = Box::pin(trigger.elect());
        let leader_lease = self.leader_lease.lock();
        if !leader_lease.may_request_votes(Instant::now()) {
            return false;
        }
        // The lock is held until openraft has the request in its queue. A leader's message takes the same
        // lock (`Receiver::answer`). So it comes before this request and forbids it, or is handled after it.
        let waker = futures::task::noop_waker();
        let sent = electing.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        drop(leader_lease);
        matches!(sent, std::task::Poll::Ready(Ok(())))
    }
}
