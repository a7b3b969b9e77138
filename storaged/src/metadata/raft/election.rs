//! When this node stands for election. Pure: facts and time come in, a decision goes out.
//!
//! openraft would decide by a timeout alone. Here the ring's view comes first: it says within a tenth of a
//! second which nodes answer. So a leader that is gone is replaced at once, and a leader that is only slow is
//! not. Safety does not rest on these decisions: voters within their lease refuse a candidate that stands at
//! a wrong moment ([`super::lease`]).
//!
//! | the ring's view | the leader | decision |
//! |---|---|---|
//! | has too few voters | any | none: a candidate cannot win, and its higher term would disturb the others |
//! | lacks the leader, or no leader is known | no contact within its lease | stand, in turn |
//! | has the leader | silent for [`Times::silence`] | stand, in turn: the leader's disk or its Raft hangs |
//! | has enough voters again | no contact for [`Times::silence`] | wait [`Times::settle`] for a leader |
//! | no ring here | silent for [`Times::blind`] | stand, in turn |
//!
//! A node that is to stand first asks for pre-votes ([`super::pre_vote`]). Without them every second failover
//! of a pair took a second round: a node with a shorter log, or with a lease that ended a little before the
//! others', would only raise the term, vote for itself, and keep the others from winning for a lease.

use super::lease::Times;
use rain_types::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// The facts at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ElectionFacts<'a> {
    pub(crate) me: NodeId,
    pub(crate) now: Instant,
    /// The voters; two sets while the membership changes.
    pub(crate) voters: &'a [BTreeSet<NodeId>],
    /// The leader, if one is known. It may be this node itself.
    pub(crate) leader: Option<NodeId>,
    /// The last contact with a leader.
    pub(crate) last_contact: Option<Instant>,
    /// The nodes that answer, by the ring; `None`: there is no ring here.
    pub(crate) view: Option<&'a [NodeId]>,
}

/// Minimum time for which voters must be missing from the ring's view to count as away. 400 ms: the view
/// loses members for moments while it is made anew, and a node that was really away was away for longer.
const APART_FOR: Duration = Duration::from_millis(400);

/// The state of the decisions of one node.
#[derive(Debug, Default)]
pub struct Election {
    /// Since when enough voters answer, apart from gaps shorter than [`APART_FOR`].
    connected: Option<Instant>,
    /// Since when too few voters answer.
    apart: Option<Instant>,
    /// The last decision. A gap longer than [`APART_FOR`] means that this node itself was paused.
    decided: Option<Instant>,
    /// Since when there is a reason to stand.
    since: Option<Instant>,
    /// The last try.
    tried: Option<Instant>,
    /// True when the others refused their pre-votes at the last try.
    refused: bool,
}

/// Pause before members that have refused a pre-vote are asked again: short against a turn of 60 ms.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

impl Election {
    /// Notes that the others have refused their pre-votes: a lease is not over yet, or this node's log is
    /// shorter. That has disturbed nobody, so they may be asked again soon.
    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    /// Returns true when this node is to stand now. The caller then asks for pre-votes, and stands or calls
    /// [`Election::refused`].
    pub(crate) fn decide(&mut self, times: &Times, facts: &ElectionFacts<'_>) -> bool {
        let before = self.decided.replace(facts.now);
        if before.is_some_and(|before| facts.now.duration_since(before) > APART_FOR) {
            self.connected = None;
        }
        if !self.has_reason(times, facts) {
            (self.since, self.tried, self.refused) = (None, None, false);
            return false;
        }
        let since = *self.since.get_or_insert(facts.now);
        let order = turn_order(facts);
        let Some(turn) = order.iter().position(|node| *node == facts.me) else { return false };
        // A whole round of turns passes before the next try. Every node has a period of its own: with one
        // period, nodes whose turns fall together (each counts from its own reason) would split the votes for
        // ever.
        let round = times.step * (order.len() + 1 + turn) as u32;
        let due = match self.tried {
            None => since + times.step * turn as u32,
            Some(tried) if self.refused => tried + ASK_AGAIN_AFTER,
            Some(tried) => tried + round,
        };
        if facts.now < due {
            return false;
        }
        (self.tried, self.refused) = (Some(facts.now), false);
        true
    }

    /// Returns true when the table of the module head says "stand".
    fn has_reason(&mut self, times: &Times, facts: &ElectionFacts<'_>) -> bool {
        let votes = facts.voters.iter().any(|voters| voters.contains(&facts.me));
        if !votes || facts.leader == Some(facts.me) {
            return false;
        }
        let silent = |limit| facts.last_contact.is_none_or(|contact| facts.now > contact + limit);
        match facts.view {
            None => silent(times.blind),
            Some(view) => {
                let there =
                    |voters: &BTreeSet<NodeId>| view.iter().filter(|node| voters.contains(node)).count();
                if facts.voters.iter().any(|voters| there(voters) * 2 <= voters.len()) {
                    let apart = *self.apart.get_or_insert(facts.now);
                    if facts.now.duration_since(apart) > APART_FOR {
                        self.connected = None;
                    }
                    return false;
                }
                self.apart = None;
                let connected = *self.connected.get_or_insert(facts.now);
                let present = facts.leader.is_some_and(|leader| view.contains(&leader));
                if present {
                    return silent(times.silence) && facts.now >= connected + times.silence;
                }
                // A node with recent contact to a leader can hardly have missed the next one.
                silent(times.lease) && (!silent(times.silence) || facts.now >= connected + times.settle)
            }
        }
    }
}

/// Returns the voters that answer in the order of their turns. The order begins behind the lost leader, so
/// that the first turn is not always the same node's.
fn turn_order(facts: &ElectionFacts<'_>) -> Vec<NodeId> {
    let voters: BTreeSet<NodeId> = facts.voters.iter().flatten().copied().collect();
    let mut order: Vec<NodeId> = voters
        .into_iter()
        .filter(|node| facts.view.is_none_or(|view| view.contains(node)) && Some(*node) != facts.leader)
        .collect();
    let after = facts.leader.unwrap_or_default();
    let first = order.iter().position(|node| *node > after).unwrap_or(0);
    order.rotate_left(first);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    struct Scene {
        start: Instant,
        voters: Vec<BTreeSet<NodeId>>,
        leader: Option<u32>,
        view: Option<Vec<NodeId>>,
        heard: Duration,
    }

    impl Scene {
        fn new(leader: u32, view: Option<&[u32]>) -> Scene {
            let voters = vec![nodes(&[1, 2, 3, 4, 5]).into_iter().collect()];
            let view = view.map(nodes);
            Scene { start: Instant::now(), voters, leader: Some(leader), view, heard: ms(0) }
        }

        /// The first millisecond at which a node stands that has been there for long.
        fn stands(&self, me: u32, until: u64) -> Option<u64> {
            let long_ago = self.start.checked_sub(ms(60_000)).unwrap_or(self.start);
            self.stands_connected(me, until, Some(long_ago))
        }

        fn stands_connected(&self, me: u32, until: u64, connected: Option<Instant>) -> Option<u64> {
            let mut election = Election { connected, ..Election::default() };
            (0..until).find(|at| {
                let facts = ElectionFacts {
                    me: NodeId(me),
                    now: self.start + ms(*at),
                    voters: &self.voters,
                    leader: self.leader.map(NodeId),
                    last_contact: Some(self.start + self.heard),
                    view: self.view.as_deref(),
                };
                election.decide(&Times::default(), &facts)
            })
        }
    }

    #[test]
    fn a_leader_that_is_gone_is_replaced_when_its_lease_is_over_in_turn() {
        let scene = Scene::new(2, Some(&[1, 3, 4, 6]));
        assert_eq!(scene.stands(3, 1000), Some(201));
        assert_eq!(scene.stands(4, 1000), Some(261));
        assert_eq!(scene.stands(1, 1000), Some(321));
        assert_eq!(scene.stands(6, 1000), None, "it does not vote");
        assert_eq!(scene.stands(5, 1000), None, "it is not in the view it is told of");
    }

    #[test]
    fn a_leader_that_is_heard_stays_whatever_the_ring_says() {
        let mut scene = Scene::new(2, Some(&[1, 3, 4]));
        scene.heard = ms(10_000);
        assert_eq!(scene.stands(3, 10_000), None);
    }

    #[test]
    fn a_leader_that_is_there_and_silent_is_replaced_after_longer() {
        let scene = Scene::new(2, Some(&[1, 2, 3, 4, 5]));
        assert_eq!(scene.stands(3, 5000), Some(1501));
    }

    #[test]
    fn a_node_that_has_been_away_lets_itself_be_found() {
        // Its old leader is gone for all it knows, and there is a new one.
        let mut away = Scene::new(2, Some(&[1, 3, 4]));
        assert_eq!(away.stands_connected(3, 5000, None), Some(201), "it has heard one just now");
        away.start += ms(3000);
        let long_ago = |scene: &Scene| {
            let mut election = Election::default();
            (0..5000).find(|at| {
                let facts = ElectionFacts {
                    me: NodeId(3),
                    now: scene.start + ms(*at),
                    voters: &scene.voters,
                    leader: Some(NodeId(2)),
                    last_contact: scene.start.checked_sub(ms(3000)),
                    view: scene.view.as_deref(),
                };
                election.decide(&Times::default(), &facts)
            })
        };
        assert_eq!(long_ago(&away), Some(800));
        assert_eq!(Scene::new(2, Some(&[1, 2, 3, 4])).stands_connected(3, 5000, None), Some(1501));
        let mut found = Scene::new(2, Some(&[1, 3, 4]));
        found.heard = ms(10_000);
        assert_eq!(found.stands_connected(3, 5000, None), None);
    }

    #[test]
    fn a_moment_without_the_others_is_none_and_a_pause_of_its_own_is_one() {
        let (times, scene) = (Times::default(), Scene::new(2, Some(&[1, 3, 4])));
        let stands = |gap: std::ops::Range<u64>, seen: &[NodeId]| {
            let connected = scene.start.checked_sub(ms(60_000));
            let mut election = Election { connected, ..Election::default() };
            (0..5000).find(|at| {
                let view = if gap.contains(at) { seen } else { &nodes(&[1, 3, 4]) };
                if gap.contains(at) && seen.is_empty() {
                    return false;
                }
                let facts = ElectionFacts {
                    me: NodeId(3),
                    now: scene.start + ms(*at),
                    voters: &scene.voters,
                    leader: Some(NodeId(2)),
                    last_contact: Some(scene.start),
                    view: Some(view),
                };
                election.decide(&times, &facts)
            })
        };
        assert_eq!(stands(50..150, &nodes(&[3])), Some(201));
        assert_eq!(stands(50..650, &nodes(&[3])), Some(650), "the others were gone, and no leader for long");
        assert_eq!(stands(50..2650, &nodes(&[3])), Some(3450), "it was apart for long");
        assert_eq!(stands(50..2650, &[]), Some(3450), "it decided nothing for long");
    }

    #[test]
    fn a_minority_stays_quiet() {
        let scene = Scene::new(2, Some(&[3, 4]));
        assert_eq!(scene.stands(3, 60_000), None);
        let mut joint = Scene::new(2, Some(&[1, 3, 4]));
        joint.voters.push(nodes(&[5, 6, 7]).into_iter().collect());
        assert_eq!(joint.stands(3, 60_000), None, "both majorities are needed");
    }

    #[test]
    fn without_a_ring_the_long_timeout_decides() {
        let scene = Scene::new(2, None);
        assert_eq!(scene.stands(3, 5000), Some(2501));
        assert_eq!(scene.stands(4, 5000), Some(2561));
    }

    /// When a node stands, without a leader, in the view 1, 3, 4.
    fn tries(me: u32, until: u64) -> Vec<u64> {
        let (times, scene) = (Times::default(), Scene::new(2, Some(&[1, 3, 4])));
        let connected = scene.start.checked_sub(ms(60_000));
        let mut election = Election { connected, ..Election::default() };
        (0..until)
            .filter(|at| {
                let facts = ElectionFacts {
                    me: NodeId(me),
                    now: scene.start + ms(*at),
                    voters: &scene.voters,
                    leader: None,
                    last_contact: Some(scene.start),
                    view: scene.view.as_deref(),
                };
                election.decide(&times, &facts)
            })
            .collect()
    }

    #[test]
    fn the_leader_does_not_stand_and_a_candidate_tries_again_after_a_round() {
        assert_eq!(Scene::new(3, Some(&[1, 2, 3])).stands(3, 60_000), None);
        // Without a leader the order begins with node 1.
        assert_eq!(tries(1, 900), [201, 441, 681]);
        assert_eq!(tries(3, 900), [261, 561, 861]);
    }

    #[test]
    fn who_would_not_be_voted_for_asks_again_soon_and_keeps_its_turn() {
        let (times, scene) = (Times::default(), Scene::new(2, Some(&[1, 3, 4])));
        let connected = scene.start.checked_sub(ms(60_000));
        let mut election = Election { connected, ..Election::default() };
        let mut asked = Vec::new();
        for at in 0..600 {
            let facts = ElectionFacts {
                me: NodeId(3),
                now: scene.start + ms(at),
                voters: &scene.voters,
                leader: Some(NodeId(2)),
                last_contact: Some(scene.start),
                view: scene.view.as_deref(),
            };
            if election.decide(&times, &facts) {
                asked.push(at);
                // The fourth time they would, and it stands.
                if asked.len() < 4 {
                    election.refused();
                }
            }
        }
        assert_eq!(asked, [201, 221, 241, 261, 501], "after it has stood a whole round passes");
    }

    /// Nodes that were started at different moments count their turns from there, so two may begin to stand
    /// together. Found by simulation: with one period for all they split the votes for ever.
    #[test]
    fn candidates_that_meet_once_do_not_meet_for_ever() {
        let all = [tries(1, 5000), tries(3, 5000), tries(4, 5000)];
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            for shift in 0..300 {
                let near = |at: &&u64| all[other].iter().any(|than| (than + shift).abs_diff(**at) < 60);
                let met: Vec<u64> = all[one].iter().filter(near).copied().collect();
                let apart = all[one].len() - met.len();
                assert!(apart >= 3, "shifted by {shift} ms, {one} and {other} meet at {met:?}");
            }
        }
    }
}
