//! The invariants over the nodes of a cluster, written once for the model checker and the simulator.

use crate::node::{Node, Phase};
use rain_types::NodeId;

/// Returns whether at most one node of each epoch is EATING.
pub fn one_eater_of_an_epoch(nodes: &[&Node]) -> bool {
    let eating: Vec<_> = eaters(nodes).map(|node| node.stamp().epoch).collect();
    eating.iter().enumerate().all(|(at, epoch)| !eating[at + 1..].contains(epoch))
}

/// Returns whether at most one token of a primary ring is *live*. A token is live if it is held and a
/// majority of the eligible nodes would still take it (`eligible`: as the test knows them). An older holder
/// may act for the rest of its turn; its fence is older.
pub fn one_live_primary_token(nodes: &[&Node], eligible: &[NodeId]) -> bool {
    let takes = |node: &&&Node, epoch| eligible.contains(&node.me().node) && node.promised() <= epoch;
    let live = eaters(nodes).filter(|node| node.view().is_some_and(|view| view.primary)).filter(|holder| {
        let epoch = holder.stamp().epoch;
        nodes.iter().filter(|node| takes(node, epoch)).count() * 2 > eligible.len()
    });
    live.count() <= 1
}

/// Returns whether the views of one epoch are equal.
pub fn views_agree(nodes: &[&Node]) -> bool {
    let views: Vec<_> = nodes.iter().filter_map(|node| node.view()).collect();
    views.iter().enumerate().all(|(at, view)| {
        views[at + 1..].iter().all(|other| other.epoch != view.epoch || other.members == view.members)
    })
}

/// Returns whether mirrors of the shared data at the same log position are equal.
pub fn mirrors_agree(nodes: &[&Node]) -> bool {
    let synced: Vec<_> = nodes.iter().filter(|node| node.is_synced()).map(|node| node.shared()).collect();
    synced.iter().enumerate().all(|(at, mirror)| {
        let same = |other: &&&crate::shared::SharedData| other.position() == mirror.position();
        synced[at + 1..].iter().filter(same).all(|other| other == mirror)
    })
}

/// Returns whether all nodes have one view that contains all of them, which is the goal of a healed
/// component.
pub fn agreed(nodes: &[&Node]) -> bool {
    let Some(first) = nodes.first().and_then(|node| node.view()) else { return nodes.is_empty() };
    first.members.len() == nodes.len()
        && nodes.iter().all(|node| {
            node.phase() != Phase::Starving
                && node.view() == Some(first)
                && first.members.contains(&node.me())
        })
}

fn eaters<'a>(nodes: &'a [&'a Node]) -> impl Iterator<Item = &'a &'a Node> {
    nodes.iter().filter(|node| node.phase() == Phase::Eating)
}
