//! Which members should vote, and the next change towards that. Pure.
//!
//! There are 2m+1 voters for the largest m of any volume, at least 3, so that the namespace survives as many
//! losses as the data. All other nodes are learners: they have the namespace, too, and get the vote of a
//! voter that stays away. With fewer nodes the number of voters is the largest odd one; of two nodes both
//! vote, so that both have every acknowledged change.

use super::types::{MemberAddress, Membership};
use rain_namespace::record::NodeRecord;
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// A change of the members. One is made at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MembershipChange {
    /// Adds a node without a vote.
    AddLearner(NodeId, MemberAddress),
    /// Gives the votes to these members.
    SetVoters(BTreeSet<NodeId>),
    /// Removes a node that has left the cluster.
    Remove(NodeId),
}

/// The facts for a decision about the voters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VoterFacts<'a> {
    /// The eligible nodes.
    pub(crate) nodes: &'a [NodeRecord],
    /// The largest m of any volume.
    pub(crate) losses: u8,
    /// Nodes that have been out of the ring for long.
    pub(crate) away: &'a BTreeSet<NodeId>,
    /// Learners with nearly all of the log.
    pub(crate) ready: &'a BTreeSet<NodeId>,
}

/// Returns the number of voters for a number of nodes and the largest m.
pub(crate) fn wanted(nodes: usize, losses: u8) -> usize {
    let full = (2 * usize::from(losses) + 1).max(3);
    match nodes.min(full) {
        few @ 0..=2 => few,
        some => some - usize::from(some % 2 == 0),
    }
}

/// Chooses the voters among the nodes that can vote. Preferred, in this order: nodes that answer, nodes that
/// stay, nodes in failure domains with few voters, witnesses (they exist to vote), present voters, lower
/// numbers.
fn choose(facts: &VoterFacts<'_>, now: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let able: Vec<&NodeRecord> =
        facts.nodes.iter().filter(|node| now.contains(&node.id) || facts.ready.contains(&node.id)).collect();
    let count = match wanted(able.len(), facts.losses) {
        // Two voters only where there is no third node: the loss of either stops both.
        2 if facts.nodes.len() > 2 && now.len() == 1 => 1,
        count => count,
    };
    let mut chosen: BTreeSet<NodeId> = BTreeSet::new();
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < count {
        let best = able.iter().filter(|node| !chosen.contains(&node.id)).min_by_key(|node| {
            let alone = node.domain.is_empty();
            let shared = if alone { 0 } else { domains.get(node.domain.as_str()).copied().unwrap_or(0) };
            (
                facts.away.contains(&node.id),
                node.draining,
                shared,
                !node.witness,
                !now.contains(&node.id),
                node.id,
            )
        });
        let Some(best) = best else { break };
        *domains.entry(&best.domain).or_default() += 1;
        chosen.insert(best.id);
    }
    chosen
}

/// Returns the next change from the present members; `None`: they are as they should be.
pub(crate) fn next_change(facts: &VoterFacts<'_>, membership: &Membership) -> Option<MembershipChange> {
    let voters = match &membership.get_joint_config()[..] {
        [one] => one.clone(),
        // A leader was lost in the middle of a change: that change is completed first.
        [.., last] => return Some(MembershipChange::SetVoters(last.clone())),
        [] => return None,
    };
    let members: BTreeSet<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
    if let Some(new) = facts.nodes.iter().find(|node| !members.contains(&node.id)) {
        return Some(MembershipChange::AddLearner(new.id, MemberAddress { address: new.address.clone() }));
    }
    let chosen = choose(facts, &voters);
    if chosen != voters && !chosen.is_empty() {
        return Some(MembershipChange::SetVoters(chosen));
    }
    let of_cluster = |id: &NodeId| facts.nodes.iter().any(|node| node.id == *id);
    members.into_iter().find(|id| !of_cluster(id) && !voters.contains(id)).map(MembershipChange::Remove)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::record::Time;

    fn node(id: u32, domain: &str, witness: bool) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            address: format!("h{id}:7400"),
            domain: domain.into(),
            weight: 1,
            joined: Time::default(),
            witness,
            folder: String::new(),
            draining: false,
            others: Vec::new(),
        }
    }

    fn set(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Makes changes until there are none; every learner is ready at once.
    fn settle(
        nodes: &[NodeRecord],
        losses: u8,
        away: &[u32],
        mut voters: BTreeSet<NodeId>,
    ) -> BTreeSet<NodeId> {
        let away = set(away);
        let mut members = voters.clone();
        for _ in 0..40 {
            let places: BTreeMap<NodeId, MemberAddress> =
                members.iter().map(|id| (*id, MemberAddress::default())).collect();
            let membership = Membership::new(vec![voters.clone()], places);
            let ready: BTreeSet<NodeId> = members.difference(&away).copied().collect();
            let facts = VoterFacts { nodes, losses, away: &away, ready: &ready };
            match next_change(&facts, &membership) {
                None => return voters,
                Some(MembershipChange::AddLearner(id, _)) => assert!(members.insert(id)),
                Some(MembershipChange::Remove(id)) => assert!(members.remove(&id) && !voters.contains(&id)),
                Some(MembershipChange::SetVoters(next)) => {
                    assert!(!next.is_empty() && next.is_subset(&members));
                    assert_ne!(next, voters);
                    voters = next;
                }
            }
        }
        panic!("no end");
    }

    #[test]
    fn as_many_vote_as_losses_are_to_be_survived() {
        assert_eq!([1, 2, 3, 4, 5, 6, 20].map(|nodes| wanted(nodes, 1)), [1, 2, 3, 3, 3, 3, 3]);
        assert_eq!([1, 2, 3, 4, 5, 6, 20].map(|nodes| wanted(nodes, 2)), [1, 2, 3, 3, 5, 5, 5]);
        assert_eq!(wanted(20, 3), 7);
    }

    #[test]
    fn a_cluster_grows_to_its_voters_from_its_founder() {
        let six: Vec<NodeRecord> = (1..=6).map(|id| node(id, "", false)).collect();
        assert_eq!(settle(&six, 2, &[], set(&[1])), set(&[1, 2, 3, 4, 5]));
        assert_eq!(settle(&six, 0, &[], set(&[1])), set(&[1, 2, 3]));
        assert_eq!(settle(&six[..2], 1, &[], set(&[1])), set(&[1, 2]));
        assert_eq!(settle(&six[..4], 1, &[], set(&[1])), set(&[1, 2, 3]));
    }

    #[test]
    fn a_witness_votes_before_others_and_domains_are_spread() {
        let pair = [node(1, "", false), node(2, "", false), node(3, "", true)];
        assert_eq!(settle(&pair, 1, &[], set(&[1])), set(&[1, 2, 3]));
        let mut racks: Vec<NodeRecord> = (1..=4).map(|id| node(id, "a", false)).collect();
        racks.extend([node(5, "b", false), node(6, "c", false)]);
        assert_eq!(settle(&racks, 1, &[], set(&[1])), set(&[1, 5, 6]));
    }

    #[test]
    fn a_voter_that_stays_away_is_replaced_and_one_that_is_removed_leaves() {
        let six: Vec<NodeRecord> = (1..=6).map(|id| node(id, "", false)).collect();
        assert_eq!(settle(&six, 2, &[4], set(&[1, 2, 3, 4, 5])), set(&[1, 2, 3, 5, 6]));
        assert_eq!(settle(&six[1..], 2, &[], set(&[1, 2, 3, 4, 5])), set(&[2, 3, 4, 5, 6]));
        // Nobody is there to take its place: it stays.
        assert_eq!(settle(&six[..5], 2, &[4], set(&[1, 2, 3, 4, 5])), set(&[1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_change_that_was_cut_off_is_finished() {
        let three: Vec<NodeRecord> = (1..=3).map(|id| node(id, "", false)).collect();
        let places: BTreeMap<NodeId, MemberAddress> =
            (1..=3).map(|id| (NodeId(id), MemberAddress::default())).collect();
        let membership = Membership::new(vec![set(&[1]), set(&[1, 2, 3])], places);
        let none = BTreeSet::new();
        let facts = VoterFacts { nodes: &three, losses: 1, away: &none, ready: &none };
        assert_eq!(next_change(&facts, &membership), Some(MembershipChange::SetVoters(set(&[1, 2, 3]))));
    }
}
