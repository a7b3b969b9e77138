//! The choice among a node's addresses. As in Raincore's Transport Manager, all addresses are tried before a
//! send has failed, in sequence or in parallel (`every_address_is_tried_those_that_work_first`).

use serde::{Deserialize, Serialize};

/// The use of several addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One address for each attempt, those with a working link first.
    #[default]
    Sequence,
    /// All addresses at once: more traffic, but no wait for a broken one.
    Parallel,
}

/// Returns the addresses, by number, for the attempt with this number. `up` tells for each address whether
/// its link is up. An answer goes first to the address by whose link its question `arrived`: the first link
/// may just have been cut, and not be known to be down.
pub fn choose(strategy: Strategy, attempt: u32, arrived: Option<usize>, up: &[bool]) -> Vec<usize> {
    match strategy {
        Strategy::Parallel => (0..up.len()).collect(),
        Strategy::Sequence => {
            let (working, broken): (Vec<usize>, Vec<usize>) = (0..up.len()).partition(|at| up[*at]);
            let order: Vec<usize> = arrived.into_iter().chain(working).chain(broken).collect();
            order.get(attempt as usize % order.len().max(1)).copied().into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_tried_those_that_work_first() {
        let up = [false, true, true];
        let tried: Vec<_> =
            (0..4).flat_map(|attempt| choose(Strategy::Sequence, attempt, None, &up)).collect();
        assert_eq!(tried, [1, 2, 0, 1]);
        assert_eq!(choose(Strategy::Sequence, 0, Some(2), &up), [2]);
        assert_eq!(choose(Strategy::Parallel, 2, None, &up), [0, 1, 2]);
        assert!(choose(Strategy::Sequence, 0, None, &[]).is_empty());
    }
}
