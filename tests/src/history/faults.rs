//! The faults of nodes and their links.

use crate::real::TestCluster;
use fastrand::Rng;
use std::time::Duration;

/// Makes one fault in a cluster of `nodes` voters, ends it, and returns its name.
pub(super) fn strike(cluster: &mut TestCluster, nodes: u32, rng: &mut Rng) -> anyhow::Result<String> {
    let leads = rng.u64(..2) == 0;
    // While there is no leader, any node will do.
    let leader = cluster.leader().unwrap_or(1);
    let others: Vec<u32> = (1..=nodes).filter(|node| *node != leader).collect();
    let other = others[rng.u64(..others.len() as u64) as usize];
    let victim = if leads { leader } else { other };
    let who = if leads { "the leader" } else { "a follower" };
    let long = Duration::from_millis(200 + rng.u64(..1300));
    let kind = rng.u64(..6);
    match kind {
        0 | 1 => {
            cluster.kill(victim)?;
            std::thread::sleep(long / 2);
            cluster.restart(victim)?;
        }
        2 => {
            (0..2).try_for_each(|cable| cluster.lan()?.pull(victim, cable, true))?;
            std::thread::sleep(long);
            (0..2).try_for_each(|cable| cluster.lan()?.pull(victim, cable, false))?;
        }
        3 => {
            let mut apart = vec![victim];
            apart.extend(others.iter().filter(|node| **node != victim).take(nodes as usize / 2 - 1));
            cluster.lan()?.split(&apart)?;
            std::thread::sleep(long);
            cluster.lan()?.split(&[])?;
        }
        4 => {
            cluster.pause(victim, true)?;
            std::thread::sleep(long);
            cluster.pause(victim, false)?;
        }
        _ => {
            cluster.lan()?.pull(victim, 0, true)?;
            std::thread::sleep(long);
            cluster.lan()?.pull(victim, 0, false)?;
        }
    }
    let what = ["killed", "killed", "cut off", "in a minority", "paused", "without one of two links"];
    Ok(format!("{who} {}", what[kind as usize]))
}
