//! Runs of the token ring by seed: random faults, then a repair that must lead to one view of all nodes.
//! Each run also measures detection, rejoin and merge.

use crate::world::{Failure, World, WorldOptions};
use rain_ring::{Bytes, Change, Detection};
use std::collections::BTreeSet;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// Figures of the run of one seed.
#[derive(Debug, Clone, Default)]
pub struct RingRun {
    /// Nodes.
    pub nodes: u32,
    /// From the end of all faults to one view of all.
    pub agreed_in: Duration,
    /// From a kill to the last view without the node.
    pub killed_out: Duration,
    /// From a silent cut to the last view without the node.
    pub cut_out: Duration,
    /// From a start to one view of all.
    pub rejoined_in: Duration,
    /// From a mended partition to one view of all.
    pub merged_in: Duration,
    /// Length of the run in virtual time.
    pub time: Duration,
    /// Tokens taken.
    pub tokens: u64,
    /// Tokens made again after a loss.
    pub regenerated: u64,
    /// Multicasts delivered, over all nodes.
    pub delivered: u64,
}

/// Runs one seed: overlapping faults of all kinds, then measured single faults.
///
/// Fails when an invariant does not hold, and when the nodes do not agree within [`agreement_bound`].
pub fn run(seed: u64, trace: bool) -> Result<RingRun, Failure> {
    let mut chance = fastrand::Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15);
    let nodes = if chance.u32(0..10) == 0 { chance.u32(11..=50) } else { chance.u32(3..=10) };
    let mut options = WorldOptions::quiet(nodes);
    options.refuses = chance.bool();
    options.grows = chance.u32(0..4) == 0;
    options.drift = chance.u32(0..=50);
    if chance.bool() {
        options.settings.detection = Detection::Conservative;
    }
    // With small reserves, promises have to wait for the disk at times.
    options.settings.epoch_reserve = *chance.choice(&[2, 8, 1024]).unwrap_or(&8);
    let mut world = World::new(seed, options);
    world.trace = trace;
    let mut seen = RingRun { nodes, ..RingRun::default() };
    let bound = agreement_bound(nodes);
    let formed = settle(&mut world, bound, "after the start")?;
    seen.agreed_in = formed;
    for _ in 0..chance.u32(2..=4) {
        chaos(&mut world, &mut chance)?;
        world.options.lost = 0;
        world.options.doubled = 0;
        world.options.late = 0;
        seen.regenerated += world.regenerated();
        world.heal();
        let took = settle(&mut world, bound, "after everything was mended")?;
        seen.agreed_in = seen.agreed_in.max(took);
    }
    measure(&mut world, &mut chance, &mut seen)?;
    seen.time = world.now;
    seen.tokens = world.seen.tokens;
    seen.delivered = world.seen.committed;
    Ok(seen)
}

/// Returns the longest time from the end of all faults to one view of all nodes; a slower run has failed.
pub fn agreement_bound(nodes: u32) -> Duration {
    Duration::from_secs(3).max(MS * 200 * nodes)
}

fn settle(world: &mut World, bound: Duration, when: &str) -> Result<Duration, Failure> {
    match world.run_until(world.now + bound, World::is_agreed)? {
        Some(took) => Ok(took),
        None => Err(Failure { what: format!("no view of all {bound:?} {when}"), at: world.now }),
    }
}

fn chaos(world: &mut World, chance: &mut fastrand::Rng) -> Result<(), Failure> {
    let count = world.len();
    for _ in 0..chance.u32(3..=12) {
        let at = chance.usize(0..count);
        let other = (at + chance.usize(1..count)) % count;
        match chance.u32(0..11) {
            0 | 1 => world.kill(at),
            2 | 3 => world.start(at),
            4 => world.stall(at, MS * chance.u32(5..2000)),
            5 => world.cut(at, other, true),
            6 => {
                world.cut(at, other, true);
                world.cut(other, at, true);
            }
            7 => {
                let side = (0..count).filter(|_| chance.bool()).collect();
                world.partition(&side);
            }
            8 => {
                world.options.lost = chance.u32(0..200);
                world.options.doubled = chance.u32(0..100);
                world.options.late = chance.u32(0..100);
            }
            9 => {
                for from in 0..count {
                    world.cut(from, at, chance.bool());
                }
            }
            _ => {
                let all: Vec<usize> = (0..count).collect();
                for from in &all {
                    for to in &all {
                        world.cut(*from, *to, false);
                    }
                }
            }
        }
        for _ in 0..chance.u32(0..4) {
            let by = chance.usize(0..count);
            world.submit(by, Change::Message(Bytes(vec![by as u8; 10])));
        }
        world.run_for(MS * chance.u32(1..800))?;
    }
    Ok(())
}

/// Measures single faults; the ring is quiet before each.
fn measure(world: &mut World, chance: &mut fastrand::Rng, seen: &mut RingRun) -> Result<(), Failure> {
    let bound = agreement_bound(world.len() as u32);
    let rotation = world.options.settings.rotation;
    let rest = |world: &mut World, chance: &mut fastrand::Rng| {
        world.run_for((MS * 1000).max(rotation * 10) + MS * chance.u32(0..200))
    };
    rest(world, chance)?;
    let victim = chance.usize(0..world.len());
    world.options.refuses = true;
    world.kill(victim);
    seen.killed_out = out_of_every_view(world, victim, "killed")?;
    rest(world, chance)?;
    world.start(victim);
    seen.rejoined_in = settle(world, bound, "after a node started again")?;
    rest(world, chance)?;
    let victim = chance.usize(0..world.len());
    world.partition(&BTreeSet::from([victim]));
    seen.cut_out = out_of_every_view(world, victim, "cut off")?;
    rest(world, chance)?;
    let side: BTreeSet<usize> = (0..world.len() / 2).collect();
    world.heal();
    settle(world, bound, "after a cut was mended")?;
    rest(world, chance)?;
    world.partition(&side);
    rest(world, chance)?;
    world.heal();
    seen.merged_in = settle(world, bound, "after a partition was mended")?;
    Ok(())
}

fn out_of_every_view(world: &mut World, victim: usize, how: &str) -> Result<Duration, Failure> {
    let bound = agreement_bound(world.len() as u32);
    match world.run_until(world.now + bound, |world| world.is_out(victim))? {
        Some(took) => Ok(took),
        None => {
            let what = format!("node {} was {how} and is still in a view {bound:?} later", victim + 1);
            Err(Failure { what, at: world.now })
        }
    }
}

/// Measures a ring of `nodes` nodes on a quiet LAN, and returns the longest times of `tries` runs.
pub fn table_row(nodes: u32, tries: u32) -> Result<Row, Failure> {
    let mut row = Row { nodes, ..Row::default() };
    for seed in 0..tries {
        let mut chance = fastrand::Rng::with_seed(u64::from(seed));
        let mut world = World::new(u64::from(seed), WorldOptions::quiet(nodes));
        let mut seen = RingRun::default();
        row.formed = row.formed.max(settle(&mut world, agreement_bound(nodes), "after the start")?);
        world.run_for(Duration::from_secs(2))?;
        let round = world.endpoint(0).and_then(rain_ring::Endpoint::round).unwrap_or_default();
        row.round = row.round.max(round);
        measure(&mut world, &mut chance, &mut seen)?;
        row.killed_out = row.killed_out.max(seen.killed_out);
        row.cut_out = row.cut_out.max(seen.cut_out);
        row.rejoined_in = row.rejoined_in.max(seen.rejoined_in);
        row.merged_in = row.merged_in.max(seen.merged_in);
    }
    Ok(row)
}

/// Times of a ring of one size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// Nodes.
    pub nodes: u32,
    /// From nothing to one view.
    pub formed: Duration,
    /// Duration of one round of the token.
    pub round: Duration,
    /// From a kill to the last view without the node.
    pub killed_out: Duration,
    /// From a silent cut to the last view without it.
    pub cut_out: Duration,
    /// From the start of a node to one view of all.
    pub rejoined_in: Duration,
    /// From a mended partition to one view of all.
    pub merged_in: Duration,
}
