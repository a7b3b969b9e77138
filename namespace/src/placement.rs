//! Placement: the nodes of a volume's placement groups, by weighted rendezvous hashing over nodes and failure
//! domains.
//!
//! For every group each node draws a number from blake3(volume, group, node). The n nodes with the best draws
//! form the group; the first of each failure domain come first. A weight scales the draw (Schindelhauer,
//! Schomaker: Weighted Distributed Hash Tables, SPAA 2005): score = -ln(u) / weight, smallest first.
//!
//! Invariants:
//! 1. Every machine computes the same groups: the logarithm uses integers only (`the_logarithm_is_right`).
//! 2. A new node wins its fair part of the groups, and nothing else moves
//!    (`a_new_node_takes_its_part_and_nothing_else_moves`).
//! 3. A group uses every failure domain before it uses one twice
//!    (`failure_domains_are_used_before_any_is_used_twice`).
//! 4. A node that stays in a slot keeps its share index
//!    (`who_stays_keeps_its_place_and_who_leaves_is_in_no_group`).
//!
//! Left out: moving the blocks, which rebalance in `storaged` does.

use crate::record::{Group, NodeRecord, VolumeRecord};
use rain_types::{NodeId, VolumeId};
use std::collections::BTreeMap;

/// Returns the groups of a new volume, each as the ordered nodes of shares 0 to n.
///
/// # Panics
/// When there are fewer than n nodes.
pub fn plan_groups(volume: VolumeId, n: usize, nodes: &[NodeRecord], count: u32) -> Vec<Vec<NodeId>> {
    assert!(nodes.len() >= n, "{} nodes for groups of {n}", nodes.len());
    (0..count).map(|group| plan_group(volume, group, n, nodes)).collect()
}

/// Returns the groups to open so that the volume's shares are placed by the current nodes; empty when the
/// groups are right. Returns `None` when too few nodes take shares.
pub fn plan_following(volume: &VolumeRecord, nodes: &[NodeRecord]) -> Option<Vec<Group>> {
    let nodes: Vec<NodeRecord> = nodes.iter().filter(|node| node.takes_shares()).cloned().collect();
    let n = volume.code.n();
    if nodes.len() < n {
        return None;
    }
    let following = |group: &Group| {
        let wanted = plan_group(volume.id, group.slot, n, &nodes);
        let nodes = keeping_places(&group.nodes, &wanted);
        (nodes != group.nodes).then_some(Group { slot: group.slot, nodes })
    };
    let open = volume.open_groups();
    Some(open.iter().filter_map(|id| following(&volume.groups[id.0 as usize])).collect())
}

/// Returns the nodes `wanted` in an order in which nodes of `before` keep their share index, so that only the
/// shares of removed nodes move.
fn keeping_places(before: &[NodeId], wanted: &[NodeId]) -> Vec<NodeId> {
    let mut new = wanted.iter().filter(|node| !before.contains(node));
    let place =
        |node: &NodeId| if wanted.contains(node) { *node } else { *new.next().expect("as many come as go") };
    before.iter().map(place).collect()
}

/// Returns the shares whose nodes differ between two groups: bit i for share i.
pub fn moving(from: &[NodeId], to: &[NodeId]) -> u64 {
    let differ = from.iter().zip(to).enumerate().filter(|(_, (from, to))| from != to);
    differ.fold(0, |bits, (index, _)| bits | 1 << index)
}

fn plan_group(volume: VolumeId, group: u32, n: usize, nodes: &[NodeRecord]) -> Vec<NodeId> {
    let mut scored: Vec<(u64, &NodeRecord)> =
        nodes.iter().map(|node| (score(volume, group, node), node)).collect();
    scored.sort_by_key(|(score, node)| (*score, node.id));
    // Round r takes the r-th node of each domain, so that domains are used evenly.
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, u64, NodeId)> = Vec::with_capacity(scored.len());
    for (score, node) in scored {
        let round = if node.domain.is_empty() {
            0
        } else {
            let used = used.entry(&node.domain).or_default();
            *used += 1;
            *used - 1
        };
        ranked.push((round, score, node.id));
    }
    ranked.sort_unstable();
    let mut chosen: Vec<(u64, NodeId)> =
        ranked.into_iter().take(n).map(|(_, score, id)| (score, id)).collect();
    // The order decides which nodes store data and which parity. The draw decides it, so that the roles
    // spread evenly, too.
    chosen.sort_unstable();
    chosen.into_iter().map(|(_, id)| id).collect()
}

/// Returns -ln(u) / weight in fixed point, for u uniform in (0, 1].
fn score(volume: VolumeId, group: u32, node: &NodeRecord) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [volume.0, group, node.id.0] {
        hasher.update(&part.to_le_bytes());
    }
    let hash = hasher.finalize();
    let draw = u64::from_le_bytes(*hash.as_bytes().first_chunk::<8>().expect("a hash has 32 bytes"));
    minus_log2(draw.max(1)) / u64::from(node.weight.max(1))
}

/// Returns -log2(x / 2^64) with 48 bits after the point, by repeated squaring in integers.
fn minus_log2(x: u64) -> u64 {
    const FRACTION_BITS: u32 = 48;
    let zeros = x.leading_zeros();
    // The mantissa in 1.63 fixed point.
    let mut mantissa = x << zeros;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        fraction <<= 1;
        if square >> 127 != 0 {
            fraction |= 1;
            mantissa = (square >> 64) as u64;
        } else {
            mantissa = (square >> 63) as u64;
        }
    }
    // log2(x) = 63 - zeros + fraction; the result is 64 minus that.
    ((u64::from(zeros) + 1) << FRACTION_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Time;
    use rain_types::{CodeSpec, Codec, Ino};

    fn nodes(count: u32) -> Vec<NodeRecord> {
        (1..=count)
            .map(|id| NodeRecord {
                id: NodeId(id),
                address: format!("h{id}:1"),
                domain: String::new(),
                weight: 1,
                joined: Time::default(),
                witness: false,
                folder: String::new(),
                draining: false,
                others: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn the_logarithm_is_right() {
        for x in [1u64, 2, 3, 1000, 1 << 40, u64::MAX / 3, u64::MAX] {
            let exact = 64.0 - (x as f64).log2();
            let ours = minus_log2(x) as f64 / 2f64.powi(48);
            assert!((exact - ours).abs() < 1e-6, "{x}: {exact} {ours}");
        }
    }

    #[test]
    fn every_node_holds_its_part_and_every_role() {
        let groups = plan_groups(VolumeId(1), 6, &nodes(9), 3000);
        let mut held: BTreeMap<NodeId, [u32; 6]> = BTreeMap::new();
        for group in &groups {
            for (role, node) in group.iter().enumerate() {
                held.entry(*node).or_default()[role] += 1;
            }
        }
        for (node, roles) in held {
            let total: u32 = roles.iter().sum();
            assert!((1800..2200).contains(&total), "node {node} is in {total} of 3000 groups");
            assert!(roles.iter().all(|role| (240..430).contains(role)), "node {node}: {roles:?}");
        }
    }

    #[test]
    fn a_new_node_takes_its_part_and_nothing_else_moves() {
        let before = plan_groups(VolumeId(1), 6, &nodes(9), 500);
        let after = plan_groups(VolumeId(1), 6, &nodes(10), 500);
        for (old, new) in before.iter().zip(&after) {
            let came: Vec<_> = new.iter().filter(|node| !old.contains(node)).collect();
            assert!(came.is_empty() || came == [&NodeId(10)], "{old:?} {new:?}");
        }
    }

    #[test]
    fn who_stays_keeps_its_place_and_who_leaves_is_in_no_group() {
        let mut nodes = nodes(8);
        let code = CodeSpec { codec: Codec::Rdp, k: 4, m: 2 };
        let groups = plan_groups(VolumeId(3), code.n(), &nodes, 200);
        let groups = groups.into_iter().zip(0..).map(|(nodes, slot)| Group { slot, nodes }).collect();
        let mut volume = VolumeRecord {
            id: VolumeId(3),
            name: "v".into(),
            code,
            root: Ino(1),
            groups,
            inodes: 0,
            stored_bytes: 0,
            created: Time::default(),
        };
        assert_eq!(plan_following(&volume, &nodes), Some(Vec::new()));
        nodes[2].draining = true;
        let following = plan_following(&volume, &nodes).expect("seven are enough for six");
        let had_it = volume.groups.iter().filter(|group| group.nodes.contains(&NodeId(3))).count();
        assert_eq!(following.len(), had_it);
        for group in &following {
            let before = &volume.groups[group.slot as usize].nodes;
            assert_eq!(moving(before, &group.nodes).count_ones(), 1, "{before:?} {group:?}");
            assert!(!group.nodes.contains(&NodeId(3)));
        }
        volume.groups.extend(following);
        assert_eq!(plan_following(&volume, &nodes), Some(Vec::new()));
        assert_eq!(volume.open_groups().len(), 200);
        assert_eq!(volume.closed_groups().len(), had_it);
        nodes[2].draining = false;
        let back = plan_following(&volume, &nodes).expect("eight are enough for six");
        assert_eq!(back.len(), had_it, "it wins the same groups again");
        nodes.truncate(5);
        assert_eq!(plan_following(&volume, &nodes), None);
    }

    #[test]
    fn a_weight_of_two_holds_about_twice_as_much() {
        let mut nodes = nodes(20);
        nodes[0].weight = 2;
        let groups = plan_groups(VolumeId(1), 3, &nodes, 4000);
        let count = |id| groups.iter().filter(|group| group.contains(&NodeId(id))).count() as f64;
        let ratio = count(1) / ((2..=20).map(count).sum::<f64>() / 19.0);
        assert!((1.6..2.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn failure_domains_are_used_before_any_is_used_twice() {
        let mut nodes = nodes(9);
        for (at, node) in nodes.iter_mut().enumerate() {
            node.domain = format!("rack{}", at / 3);
        }
        for group in plan_groups(VolumeId(1), 3, &nodes, 200) {
            let mut racks: Vec<u32> = group.iter().map(|node| (node.0 - 1) / 3).collect();
            racks.sort_unstable();
            assert_eq!(racks, [0, 1, 2]);
        }
    }
}
