//! Whether this node may answer reads alone, as the leader; and when it last heard of one. Pure: time comes in.
//!
//! A read is linearizable if no other leader can have committed anything when the state is read. Asking a majority for each read
//! (read index) shows that, and costs a round. A lease shows it, too: a node that has acknowledged a leader's message grants no vote
//! for [`Times::lease`] from when it took the message, so from the moment it was **sent** a majority that has acknowledged rules out
//! another leader for that long. What that rests on, and where it is held:
//!
//! 1. Voters keep to it: openraft refuses votes within the lease; a candidate, which votes for itself without asking, does not stand
//!    within its own ([`LeaderLease::may_stand`]). The order of a message's arrival and of standing is decided under one lock.
//! 2. The leader's clock runs at most a quarter faster than the voters': it counts three quarters of the lease.
//! 3. A leader that has itself granted a vote, or has heard of a higher one, has no lease any more ([`LeaderLease::saw`]), and says so
//!    before it answers whoever asked.
//! 4. The check comes after the state was read: a pause before it makes it fail.
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
    /// Between a leader's messages when there is nothing to say; and how long one may take before it is sent again.
    pub heartbeat: Duration,
    /// A voter that has heard a leader votes for no other for so long.
    pub lease: Duration,
    /// A leader that is not heard for so long is replaced even if the ring thinks it well.
    pub silence: Duration,
    /// A node that has been away gives a leader so long to find it before it stands itself.
    pub settle: Duration,
    /// The same where there is no ring to ask.
    pub blind: Duration,
    /// The next candidate waits so much longer than the one before, so that they do not stand against each other.
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

/// What this node knows of leaders.
#[derive(Debug)]
pub(crate) struct LeaderLease {
    me: NodeId,
    times: Times,
    /// The highest vote seen, by whatever way.
    highest: Vote,
    /// When a message of a leader arrived last.
    heard: Option<Instant>,
    /// When this node started, or led last.
    own: Instant,
    /// Members without a vote.
    learners: BTreeSet<NodeId>,
    /// The vote under which these nodes have acknowledged, and when what they acknowledged was sent.
    acknowledged: (Vote, BTreeMap<NodeId, Instant>),
}

impl LeaderLease {
    pub(crate) fn new(me: NodeId, times: Times, now: Instant) -> LeaderLease {
        // A node that starts may have promised something just before: it keeps to a whole lease.
        LeaderLease {
            me,
            times,
            highest: Vote::default(),
            heard: None,
            own: now,
            learners: BTreeSet::new(),
            acknowledged: (Vote::default(), BTreeMap::new()),
        }
    }

    /// Who follows without a vote now.
    pub(crate) fn set_learners(&mut self, learners: BTreeSet<NodeId>) {
        self.learners = learners;
    }

    /// Whether a node follows without a vote.
    pub(crate) fn is_learner(&self, node: NodeId) -> bool {
        self.learners.contains(&node)
    }

    /// A vote was seen: a candidate's, a leader's, or one that a node answers with.
    pub(crate) fn saw(&mut self, vote: &Vote) {
        // Votes of one term and different nodes are ordered by node, as openraft has it.
        if *vote > self.highest {
            self.highest = *vote;
        }
    }

    /// A message of a leader arrived.
    pub(crate) fn hears(&mut self, vote: &Vote, now: Instant) {
        self.saw(vote);
        if *vote >= self.highest {
            self.heard = Some(now);
        }
    }

    /// This node leads.
    pub(crate) fn leads_now(&mut self, now: Instant) {
        self.own = now;
    }

    /// When there was last a leader for all this node knows: it was heard, or this node was one, or has just started.
    pub(crate) fn led(&self) -> Instant {
        self.heard.map_or(self.own, |heard| heard.max(self.own))
    }

    /// Whether this node's own promise to the leader it has heard is over: only then it may vote for itself.
    pub(crate) fn may_stand(&self, now: Instant) -> bool {
        now > self.led() + self.times.lease
    }

    /// Whether it would vote for another now: its promises are over, to a leader it has heard and to a candidate it has voted for.
    pub(crate) fn would_vote(&self, voted: Option<Instant>, now: Instant) -> bool {
        self.may_stand(now) && voted.is_none_or(|voted| now > voted + self.times.lease)
    }

    /// A node has acknowledged a message that was sent under this vote at this moment.
    pub(crate) fn acknowledged(&mut self, vote: &Vote, by: NodeId, sent: Instant) {
        if *vote > self.acknowledged.0 {
            self.acknowledged = (*vote, BTreeMap::new());
        }
        if *vote == self.acknowledged.0 {
            let known = self.acknowledged.1.entry(by).or_insert(sent);
            *known = sent.max(*known);
        }
    }

    /// Until when this node is certainly the only leader, under this vote of its own and with this membership; none: it is not
    /// known to be one.
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

    /// How old what this node knows may be: since it heard a leader, or, if it leads itself until `leads_until`, since a majority has
    /// confirmed that. None: it has not heard of one since it started.
    pub(crate) fn age(&self, leads_until: Option<Instant>, now: Instant) -> Option<Duration> {
        let confirmed = leads_until.and_then(|until| until.checked_sub(self.times.lease * 3 / 4));
        Some(now.saturating_duration_since(confirmed.or(self.heard)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::raft::types::Place;

    fn membership(configs: &[&[u32]]) -> Membership {
        let configs: Vec<BTreeSet<NodeId>> =
            configs.iter().map(|ids| ids.iter().map(|id| NodeId(*id)).collect()).collect();
        let nodes: BTreeMap<NodeId, Place> =
            configs.iter().flatten().map(|id| (*id, Place::default())).collect();
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
        leader_lease.hears(&Vote::new_committed(9, NodeId(2)), start + ms(6000));
        assert_eq!(leader_lease.age(None, start + ms(6100)), Some(ms(100)));
    }

    #[test]
    fn nobody_stands_within_its_own_promise() {
        let start = Instant::now();
        let mut leader_lease = LeaderLease::new(NodeId(2), Times::default(), start);
        assert!(!leader_lease.may_stand(start + ms(200)), "a node that starts keeps to a whole lease");
        assert!(leader_lease.may_stand(start + ms(201)));
        leader_lease.hears(&Vote::new_committed(2, NodeId(1)), start + ms(300));
        assert!(!leader_lease.may_stand(start + ms(400)));
        assert!(leader_lease.may_stand(start + ms(501)));
        assert!(!leader_lease.would_vote(Some(start + ms(400)), start + ms(501)), "it has voted just now");
        assert!(leader_lease.would_vote(Some(start + ms(400)), start + ms(601)));
        // An old leader's message is no promise.
        leader_lease.hears(&Vote::new_committed(1, NodeId(3)), start + ms(500));
        assert!(leader_lease.may_stand(start + ms(501)));
    }
}
