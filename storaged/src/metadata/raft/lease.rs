//! The leader lease: whether this node may answer reads alone, as the leader, and when it last had contact
//! with one. Pure: time comes in.
//!
//! A read is linearizable if no other leader can have committed anything when the state is read. A read
//! index, the question to a majority for each read, proves that and costs a round trip. A lease proves it,
//! too. A node that has acknowledged a leader's message grants no vote for [`Times::lease`] from the
//! message's arrival. So a majority's acknowledgements rule out another leader for that time from the moment
//! at which the message was **sent**. The proof rests on this:
//!
//! 1. Voters keep their promise: openraft refuses votes within the lease. A candidate votes for itself
//!    without asking; it requests no votes within its own promise ([`LeaderLease::may_request_votes`],
//!    `nobody_stands_within_its_own_promise`). One lock orders the arrival of a message and the request for
//!    votes.
//! 2. The leader's clock runs at most a quarter slower than a voter's: the leader counts three quarters of
//!    the lease.
//! 3. A leader that has granted a vote, or has seen a higher one, has no lease ([`LeaderLease::saw`],
//!    `a_leader_that_has_seen_a_higher_vote_has_no_lease`). The lease ends before the answer to the candidate
//!    goes out.
//! 4. The lease is checked after the state was read: a pause before the check makes it fail.
//!
//! The ring has no part in this.

use super::types::{Membership, Vote};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Times of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Interval of a leader's messages without entries, and the deadline of a message before it is sent
    /// again. 70 ms: a lease has room for two of them.
    pub heartbeat: Duration,
    /// After a leader's message a voter grants no vote for this time. 200 ms: the most of a failover that is
    /// spent waiting.
    pub lease: Duration,
    /// A leader that is silent for this time is replaced even if it is in the ring's view. 1500 ms: its disk
    /// may be slow.
    pub silence: Duration,
    /// Time that a node which was cut off gives a leader to reach it before it stands for election itself.
    /// 800 ms.
    pub settle: Duration,
    /// A leader that is silent for this time is replaced where there is no ring to ask. 2500 ms.
    pub blind: Duration,
    /// Distance of the candidates' turns, so that they do not split the votes. 60 ms: a few round trips.
    pub step: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            heartbeat: Duration::from_millis(70),
            lease: Duration::from_millis(200),
            silence: Duration::from_millis(1500),
            settle: Duration::from_millis(800),
            blind: Duration::from_millis(2500),
            step: Duration::from_millis(60),
        }
    }
}

/// The facts about leaders that this node has.
#[derive(Debug)]
pub(crate) struct LeaderLease {
    me: NodeId,
    times: Times,
    /// The highest vote seen in any message.
    highest: Vote,
    /// Arrival of the last message of a leader.
    last_contact: Option<Instant>,
    /// The moment of this node's start, or the last at which it led.
    own: Instant,
    /// Members without a vote.
    learners: BTreeSet<NodeId>,
    /// A vote, the members that have acknowledged a message under it, and the moment at which that message
    /// was sent.
    acknowledged: (Vote, BTreeMap<NodeId, Instant>),
}

impl LeaderLease {
    pub(crate) fn new(me: NodeId, times: Times, now: Instant) -> LeaderLease {
        // A node that starts may have made a promise just before its stop: it keeps a whole lease.
        LeaderLease {
            me,
            times,
            highest: Vote::default(),
            last_contact: None,
            own: now,
            learners: BTreeSet::new(),
            acknowledged: (Vote::default(), BTreeMap::new()),
        }
    }

    /// Replaces the set of members without a vote.
    pub(crate) fn set_learners(&mut self, learners: BTreeSet<NodeId>) {
        self.learners = learners;
    }

    /// Returns true for a member without a vote.
    pub(crate) fn is_learner(&self, node: NodeId) -> bool {
        self.learners.contains(&node)
    }

    /// Notes a vote: a candidate's, a leader's, or one of an answer.
    pub(crate) fn saw(&mut self, vote: &Vote) {
        // Votes of one term and different nodes are ordered by node, as openraft has it.
        if *vote > self.highest {
            self.highest = *vote;
        }
    }

    /// Notes the arrival of a leader's message. A message under an old vote is no contact.
    pub(crate) fn leader_contact(&mut self, vote: &Vote, now: Instant) {
        self.saw(vote);
        if *vote >= self.highest {
            self.last_contact = Some(now);
        }
    }

    /// Notes that this node leads.
    pub(crate) fn leads_now(&mut self, now: Instant) {
        self.own = now;
    }

    /// Returns the last moment at which a leader may have relied on this node: the last contact, this node's
    /// own leadership, or its start.
    pub(crate) fn last_leader(&self) -> Instant {
        self.last_contact.map_or(self.own, |contact| contact.max(self.own))
    }

    /// Returns true when this node's own promise to a leader is over: only then it may vote for itself.
    pub(crate) fn may_request_votes(&self, now: Instant) -> bool {
        now > self.last_leader() + self.times.lease
    }

    /// Returns true when this node would vote for another: its promises to a leader and to a candidate are
    /// over.
    pub(crate) fn would_vote(&self, voted: Option<Instant>, now: Instant) -> bool {
        self.may_request_votes(now) && voted.is_none_or(|voted| now > voted + self.times.lease)
    }

    /// Notes that a member has acknowledged a message which was sent at `sent` under this vote.
    pub(crate) fn acknowledged(&mut self, vote: &Vote, by: NodeId, sent: Instant) {
        if *vote > self.acknowledged.0 {
            self.acknowledged = (*vote, BTreeMap::new());
        }
        if *vote == self.acknowledged.0 {
            let known = self.acknowledged.1.entry(by).or_insert(sent);
            *known = sent.max(*known);
        }
    }

    /// Returns the end of the lease under this node's own vote and this membership; `None`: this node has
    /// none.
    pub(crate) fn leads_until(&self, vote: &Vote, membership: &Membership, now: Instant) -> Option<Instant> {
        let mine = vote.committed && vote.leader_id.node_id == self.me;
        if !mine || self.highest > *vote {
            return None;
        }
        let none = BTreeMap::new();
        let acknowledged = if self.acknowledged.0 == *vote { &self.acknowledged.1 } else { &none };
        let mut earliest = None::<Instant>;
        for voters in membership.get_joint_config() {
            let mut times: Vec<Instant> = voters
                .iter()
                .filter_map(
                    |voter| if *voter == self.me { Some(now) } else { acknowledged.get(voter).copied() },
                )
                .collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let of_majority = *times.get(voters.len() / 2)?;
            earliest = Some(earliest.map_or(of_majority, |earliest| earliest.min(of_majority)));
        }
        Some(earliest? + self.times.lease * 3 / 4)
    }

    /// Returns a bound on the age of this node's state: the time since the last contact with a leader or,
    /// where this node leads until `leads_until`, since a majority's confirmation. `None`: no contact since
    /// the start.
    pub(crate) fn age(&self, leads_until: Option<Instant>, now: Instant) -> Option<Duration> {
        let confirmed = leads_until.and_then(|until| until.checked_sub(self.times.lease * 3 / 4));
        Some(now.saturating_duration_since(confirmed.or(self.last_contact)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::raft::types::MemberAddress;

    fn membership(configs: &[&[u32]]) -> Membership {
        let configs: Vec<BTreeSet<NodeId>> =
            configs.iter().map(|ids| ids.iter().map(|id| NodeId(*id)).collect()).collect();
        let nodes: BTreeMap<NodeId, MemberAddress> =
            configs.iter().flatten().map(|id| (*id, MemberAddress::default())).collect();
        Membership::new(configs, nodes)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn leading() -> (LeaderLease, Vote, Instant) {
        let start = Instant::now();
        let vote = Vote::new_committed(3, NodeId(1));
        let mut leader_lease = LeaderLease::new(NodeId(1), Times::default(), start);
        leader_lease.saw(&vote);
        (leader_lease, vote, start)
    }

    #[test]
    fn a_lease_is_counted_from_the_sending_of_what_a_majority_acknowledged() {
        let (mut leader_lease, vote, start) = leading();
        let five = membership(&[&[1, 2, 3, 4, 5]]);
        let now = start + ms(100);
        leader_lease.acknowledged(&vote, NodeId(2), start + ms(90));
        assert_eq!(leader_lease.leads_until(&vote, &five, now), None, "two of five are no majority");
        leader_lease.acknowledged(&vote, NodeId(3), start + ms(40));
        leader_lease.acknowledged(&vote, NodeId(3), start + ms(10));
        assert_eq!(leader_lease.leads_until(&vote, &five, now), Some(start + ms(40) + ms(150)));
        leader_lease.acknowledged(&vote, NodeId(4), start + ms(80));
        assert_eq!(leader_lease.leads_until(&vote, &five, now), Some(start + ms(80) + ms(150)));
    }

    #[test]
    fn while_the_membership_changes_both_majorities_count() {
        let (mut leader_lease, vote, start) = leading();
        let joint = membership(&[&[1, 2, 3], &[1, 4, 5]]);
        leader_lease.acknowledged(&vote, NodeId(2), start + ms(50));
        assert_eq!(leader_lease.leads_until(&vote, &joint, start + ms(60)), None);
        leader_lease.acknowledged(&vote, NodeId(5), start + ms(20));
        assert_eq!(leader_lease.leads_until(&vote, &joint, start + ms(60)), Some(start + ms(20) + ms(150)));
    }

    #[test]
    fn a_leader_that_has_seen_a_higher_vote_has_no_lease() {
        let (mut leader_lease, vote, start) = leading();
        let three = membership(&[&[1, 2, 3]]);
        leader_lease.acknowledged(&vote, NodeId(2), start);
        assert!(leader_lease.leads_until(&vote, &three, start).is_some());
        leader_lease.saw(&Vote::new(4, NodeId(3)));
        assert_eq!(leader_lease.leads_until(&vote, &three, start), None);
        // What is acknowledged under the old vote later does not count.
        leader_lease.acknowledged(&vote, NodeId(2), start + ms(10));
        assert_eq!(leader_lease.leads_until(&vote, &three, start + ms(10)), None);
        // Nor does it count for the next term of the same node.
        let next = Vote::new_committed(5, NodeId(1));
        leader_lease.saw(&next);
        assert_eq!(leader_lease.leads_until(&next, &three, start + ms(11)), None);
    }

    #[test]
    fn a_node_alone_leads_by_itself_and_a_follower_does_not() {
        let (leader_lease, vote, start) = leading();
        assert!(leader_lease.leads_until(&vote, &membership(&[&[1]]), start).is_some());
        let others = Vote::new_committed(9, NodeId(2));
        assert_eq!(leader_lease.leads_until(&others, &membership(&[&[1]]), start), None);
        assert_eq!(leader_lease.leads_until(&Vote::new(9, NodeId(1)), &membership(&[&[1]]), start), None);
    }

    #[test]
    fn a_leader_without_a_majority_gets_older() {
        let (mut leader_lease, vote, start) = leading();
        let three = membership(&[&[1, 2, 3]]);
        leader_lease.acknowledged(&vote, NodeId(2), start);
        leader_lease.leads_now(start + ms(5000));
        let later = start + ms(5000);
        assert_eq!(leader_lease.age(leader_lease.leads_until(&vote, &three, later), later), Some(ms(5000)));
        assert_eq!(leader_lease.age(None, later), None, "it has never heard of another");
        leader_lease.leader_contact(&Vote::new_committed(9, NodeId(2)), start + ms(6000));
        assert_eq!(leader_lease.age(None, start + ms(6100)), Some(ms(100)));
    }

    #[test]
    fn nobody_stands_within_its_own_promise() {
        let start = Instant::now();
        let mut leader_lease = LeaderLease::new(NodeId(2), Times::default(), start);
        assert!(
            !leader_lease.may_request_votes(start + ms(200)),
            "a node that starts keeps to a whole lease"
        );
        assert!(leader_lease.may_request_votes(start + ms(201)));
        leader_lease.leader_contact(&Vote::new_committed(2, NodeId(1)), start + ms(300));
        assert!(!leader_lease.may_request_votes(start + ms(400)));
        assert!(leader_lease.may_request_votes(start + ms(501)));
        assert!(!leader_lease.would_vote(Some(start + ms(400)), start + ms(501)), "it has voted just now");
        assert!(leader_lease.would_vote(Some(start + ms(400)), start + ms(601)));
        // An old leader's message is no promise.
        leader_lease.leader_contact(&Vote::new_committed(1, NodeId(3)), start + ms(500));
        assert!(leader_lease.may_request_votes(start + ms(501)));
    }
}
