//! The quorum of the namespace: its part of `rain status` (leader, voters, lag, losses that it still
//! survives), and the warning of `rain volume create`.
//!
//! JSON: `leader` (null: none), `term`, `voters` and `learners` (node, answers, lag in entries; null where
//! unknown), `bears` (how many more voters may be lost; null: there is no majority), `age_ms` (without a
//! leader: the greatest age of data that can be read; else null), `log_bytes`.

use crate::output;
use rain_proto::v1::{Consensus, NodeStatusResponse};
use rain_types::CodeSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The state of the namespace's quorum, by the answers of the nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Quorum {
    pub(super) leader: Option<u32>,
    term: u64,
    voters: Vec<u32>,
    learners: Vec<u32>,
    /// The nodes that answer.
    answers: Vec<u32>,
    /// How many entries the log of a node lacks.
    lag: BTreeMap<u32, u64>,
    log_bytes: u64,
    /// Without a leader: the greatest age of data that can be read, in milliseconds.
    age_ms: Option<u64>,
}

impl Quorum {
    /// The state by the answers of all nodes that answer. The leader's own answer counts, else that of the
    /// node which had contact with a leader last.
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a NodeStatusResponse>) -> Quorum {
        let said: Vec<(u32, &Consensus)> =
            all.filter_map(|status| Some((status.node, status.consensus.as_ref()?))).collect();
        let term = |consensus: &Consensus| consensus.leader.as_ref().map_or(0, |leader| leader.term);
        let leads = |node: u32, consensus: &Consensus| {
            consensus.leader.as_ref().is_some_and(|leader| leader.node == node && consensus.age_ms == 0)
        };
        let best = said.iter().max_by_key(|(node, consensus)| {
            (leads(*node, consensus), term(consensus), std::cmp::Reverse(consensus.age_ms))
        });
        let Some((node, best)) = best else { return Quorum::default() };
        let led = leads(*node, best);
        let last = said.iter().map(|(_, consensus)| consensus.log_last).max().unwrap_or(0);
        let lag =
            said.iter().map(|(node, consensus)| (*node, last.saturating_sub(consensus.log_last))).collect();
        Quorum {
            leader: led.then_some(*node),
            term: term(best),
            voters: best.voters.clone(),
            learners: best.learners.clone(),
            answers: said.iter().map(|(node, _)| *node).collect(),
            lag,
            log_bytes: best.log_bytes,
            age_ms: (!led).then_some(best.age_ms),
        }
    }

    fn up(&self) -> usize {
        self.voters.iter().filter(|voter| self.answers.contains(voter)).count()
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// How many more voters may be lost. None: no majority answers.
    fn bears(&self) -> Option<usize> {
        self.up().checked_sub(self.majority())
    }

    /// The failure, if no majority answers.
    pub(super) fn failure(&self) -> Option<String> {
        if self.voters.is_empty() || self.bears().is_some() {
            return None;
        }
        Some(format!(
            "{} of the {} nodes that vote on the namespace answer, {} are needed: files can be read as they were {} ago, \
             nothing can be changed until one more answers",
            self.up(),
            self.voters.len(),
            self.majority(),
            output::duration(std::time::Duration::from_millis(self.age_ms.unwrap_or(0)))
        ))
    }

    /// The warning that one more loss stops all changes, if some voters are lost already.
    pub(super) fn warning(&self) -> Option<String> {
        let lost = self.up() < self.voters.len();
        (lost && self.bears() == Some(0))
            .then(|| "one more loss of a node that votes stops all changes".to_owned())
    }

    pub(super) fn as_json(&self) -> Value {
        let member = |node: &u32| {
            let lag = self.lag.get(node);
            json!({"node": node, "answers": self.answers.contains(node), "lag": lag})
        };
        json!({
            "leader": self.leader, "term": self.term, "bears": self.bears(), "age_ms": self.age_ms,
            "voters": self.voters.iter().map(member).collect::<Vec<_>>(),
            "learners": self.learners.iter().map(member).collect::<Vec<_>>(),
            "log_bytes": self.log_bytes,
        })
    }

    pub(super) fn lines(&self, nodes: usize) -> Vec<String> {
        let member = |node: &u32| match self.lag.get(node) {
            None => format!("{node} (does not answer)"),
            Some(lag) if *lag > 1000 => format!("{node} ({lag} entries behind)"),
            Some(_) => node.to_string(),
        };
        let list = |nodes: &[u32]| nodes.iter().map(member).collect::<Vec<_>>().join(", ");
        let led = match self.leader {
            Some(leader) => format!("led by node {leader}"),
            None => "without a leader".to_owned(),
        };
        let mut lines = vec![format!("namespace {led}, term {}; voters: {}", self.term, list(&self.voters))];
        if !self.learners.is_empty() {
            lines[0] += &format!("; followers without a vote: {}", list(&self.learners));
        }
        lines.push(match (self.bears(), self.voters.len()) {
            (None, _) => "no majority answers: nothing can be changed".into(),
            (Some(0), 1) => "only one node has the namespace: its loss stops everything; add nodes (rain node add)".into(),
            (Some(0), 2) => {
                "the loss of either voter stops all changes: add a witness (storaged --witness ..., then rain node add)"
                    .into()
            }
            (Some(0), _) => "one more loss of a voter stops all changes".into(),
            (Some(some), _) if nodes > 3 && self.voters.len() == 3 => {
                format!("changes go on with {some} voter lost")
            }
            (Some(some), _) => format!("changes go on with up to {some} more voters lost"),
        });
        lines
    }
}

/// How many lost nodes the namespace survives, in a cluster of this many nodes that can vote, whose volumes
/// survive up to `losses`. The metadata service makes 2m+1 of the nodes voters for the largest m of any
/// volume, at least 3; of fewer nodes the largest odd number, or both of two. Changes need a majority of the
/// voters.
fn names_survive(nodes: usize, losses: usize) -> usize {
    let voters = nodes.min((2 * losses + 1).max(3));
    voters.saturating_sub(1) / 2
}

/// The warning about a volume whose data survives more lost nodes than its names do; None where the names
/// survive as many. `nodes` is the number of nodes that can vote: all that stay in the cluster, with the
/// witnesses.
pub(super) fn names_warning(volume: &str, code: CodeSpec, nodes: usize) -> Option<String> {
    let losses = usize::from(code.m);
    let names = names_survive(nodes, losses);
    if names >= losses {
        return None;
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let through = if names == 0 { "none".to_owned() } else { names.to_string() };
    let needed = 2 * losses + 1;
    let lacking = needed - nodes;
    let add = match lacking {
        1 => "1 node or a witness".to_owned(),
        some => format!("{some} nodes or witnesses"),
    };
    Some(format!(
        "volume {volume} keeps its data through {losses} lost node{}, but its names only through {through}: {}+{} \
         needs {needed} voting nodes and this cluster has {nodes}; add {add}",
        plural(losses),
        code.k,
        code.m
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_proto::v1::Leader;
    use rain_types::Codec;

    fn warned(k: u8, m: u8, nodes: usize) -> Option<String> {
        names_warning("films", CodeSpec { codec: Codec::Cauchy, k, m }, nodes)
    }

    #[test]
    fn a_volume_whose_names_survive_less_than_its_data_is_warned_about() {
        assert_eq!(
            warned(2, 2, 4).as_deref(),
            Some(
                "volume films keeps its data through 2 lost nodes, but its names only through 1: 2+2 needs 5 \
                 voting nodes and this cluster has 4; add 1 node or a witness"
            )
        );
        let text = warned(1, 2, 3).expect("three nodes have three voters");
        assert!(
            text.contains("only through 1: 1+2 needs 5") && text.ends_with("add 2 nodes or witnesses"),
            "{text}"
        );
        let text = warned(2, 4, 6).expect("six nodes have five voters");
        assert!(
            text.contains("only through 2: 2+4 needs 9") && text.ends_with("add 3 nodes or witnesses"),
            "{text}"
        );
        let text = warned(1, 1, 2).expect("both of two nodes vote");
        assert!(text.contains("1 lost node, but its names only through none"), "{text}");
    }

    #[test]
    fn a_volume_whose_names_survive_as_much_as_its_data_is_not() {
        for (k, m, nodes) in [(4, 2, 6), (2, 2, 5), (2, 1, 3), (1, 1, 3), (1, 2, 5), (2, 1, 20)] {
            assert_eq!(warned(k, m, nodes), None, "{k}+{m} on {nodes} nodes");
        }
    }

    #[test]
    fn the_namespace_survives_the_minority_of_its_voters() {
        assert_eq!([1, 2, 3, 4, 5, 6, 20].map(|nodes| names_survive(nodes, 1)), [0, 0, 1, 1, 1, 1, 1]);
        assert_eq!([1, 2, 3, 4, 5, 6, 20].map(|nodes| names_survive(nodes, 2)), [0, 0, 1, 1, 2, 2, 2]);
        assert_eq!(names_survive(20, 3), 3);
    }

    fn node(node: u32, leader: u32, age_ms: u64, voters: &[u32]) -> NodeStatusResponse {
        let leader = Some(Leader { term: 7, node: leader, ..Leader::default() });
        let consensus =
            Consensus { leader, voters: voters.to_vec(), log_last: 100, age_ms, ..Consensus::default() };
        NodeStatusResponse { node, consensus: Some(consensus), ..NodeStatusResponse::default() }
    }

    #[test]
    fn what_one_more_loss_does_is_said() {
        let five = [1, 2, 3, 4, 5];
        let of = |up: &[u32]| {
            let all: Vec<_> =
                up.iter().map(|id| node(*id, 2, if *id == 2 { 0 } else { 30 }, &five)).collect();
            Quorum::of(all.iter())
        };
        let all = of(&five);
        assert_eq!((all.leader, all.bears(), all.warning(), all.failure()), (Some(2), Some(2), None, None));
        let three = of(&[1, 2, 5]);
        assert!(three.warning().is_some_and(|text| text.contains("one more loss")));
        let two = of(&[1, 5]);
        assert!(
            two.failure().is_some_and(|text| text.contains("2 of the 5") && text.contains("3 are needed"))
        );
        assert_eq!(two.as_json()["leader"], Value::Null);
        let pair: Vec<_> =
            [1, 2].iter().map(|id| node(*id, 1, if *id == 1 { 0 } else { 9 }, &[1, 2])).collect();
        assert!(Quorum::of(pair.iter()).lines(2)[1].contains("witness"));
    }
}
