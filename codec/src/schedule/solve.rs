//! [`solve`]: from the equations of a code to a schedule that makes what is wanted from what is known.
//!
//! Gaussian elimination over GF(2) with the lightest pivots (Markowitz: The elimination form of the inverse, 1957). An equation with
//! one unknown packet gives it at once, and what it gives is used by later steps: this is how the papers' zig-zag decoders run
//! (RDP needs nothing else: Corbett et al. 2004, section 4). Where every equation has two unknowns or more (dense codes, EVENODD's
//! adjuster, X-Code beyond its chains) the pivot's other unknowns wait: first the *syndromes*, sums of what is known in
//! an equation and of syndromes before it, then, from the last to the first, the packets. So a decoder has the sparse
//! equations of the code and a small dense part, not a dense inverse, and each packet can take the place of
//! its syndrome. Steps that nothing wanted depends on are dropped at the end.
//!
//! Left out: the search for the shortest program (NP-hard); sharing sums between steps ([`Schedule::shared`]).

use super::{Bits, Schedule, Step};
use crate::geometry::Geometry;

/// An equation of what is still unknown.
struct Row {
    unknown: Bits,
    /// What is known in it, and the syndromes that were added to it.
    sources: Bits,
}

/// A packet that an equation was chosen for.
struct Pivot {
    packet: usize,
    /// What its equation holds, by packet number; syndromes have the numbers above the packets'.
    sources: Bits,
    /// Unknown packets that must be added, all chosen later.
    others: Bits,
}

/// A schedule that makes the packets `wanted`, all of them among `unknown`, from the packets that are not
/// `unknown`. `None` when the equations do not determine them.
pub(crate) fn solve(geometry: &Geometry, unknown: &Bits, wanted: &Bits) -> Option<Schedule> {
    let packets = geometry.packets();
    // Number `packets + i`: the syndrome of the i-th pivot, which is the packet itself where there is nothing to add.
    let numbers = packets + unknown.len();
    let row = |equation: Bits| Row {
        unknown: Bits::of(packets, equation.common(unknown)),
        sources: Bits::of(numbers, equation.iter().filter(|packet| !unknown.contains(*packet))),
    };
    let mut rows: Vec<Row> = geometry.equation_bits().into_iter().map(row).collect();
    let mut pivots: Vec<Pivot> = Vec::new();
    loop {
        rows.retain(|row| row.unknown.len() > 0);
        let Some((at, packet)) = lightest(&rows, wanted, packets) else { break };
        let mut chosen = rows.swap_remove(at);
        let alone = chosen.unknown.len() == 1;
        let syndrome = if alone { packet } else { packets + pivots.len() };
        for row in rows.iter_mut().filter(|row| row.unknown.contains(packet)) {
            row.unknown.add(&chosen.unknown);
            row.sources.insert(syndrome);
        }
        chosen.unknown.remove(packet);
        pivots.push(Pivot { packet, sources: chosen.sources, others: chosen.unknown });
    }
    let determined = determined(&pivots, packets);
    if wanted.iter().any(|packet| !determined.contains(packet)) {
        return None;
    }
    let (mut syndromes, mut made) = (Vec::new(), Vec::new());
    for (number, pivot) in pivots.into_iter().enumerate() {
        if pivot.others.len() == 0 {
            syndromes.push(Step { target: pivot.packet, sources: pivot.sources });
            continue;
        }
        let sources = Bits::of(numbers, pivot.others.iter().chain([packets + number]));
        made.push(Step { target: pivot.packet, sources });
        syndromes.push(Step { target: packets + number, sources: pivot.sources });
    }
    let steps = syndromes.into_iter().chain(made.into_iter().rev()).collect();
    Some(Schedule::from_steps(geometry, &needed(steps, wanted, numbers), wanted))
}

/// Where to go on: an equation with the fewest unknowns, and of those the one in the fewest equations; what is not wanted
/// first, so that it has to be made for nothing else; the lighter equation.
fn lightest(rows: &[Row], wanted: &Bits, packets: usize) -> Option<(usize, usize)> {
    let fewest = rows.iter().map(|row| row.unknown.len()).min()?;
    let mut uses = vec![0usize; packets];
    rows.iter().flat_map(|row| row.unknown.iter()).for_each(|packet| uses[packet] += 1);
    let light = rows.iter().enumerate().filter(|(_, row)| row.unknown.len() == fewest);
    let all =
        light.flat_map(|(at, row)| row.unknown.iter().map(move |packet| (at, packet, row.sources.len())));
    let (at, packet, _) =
        all.min_by_key(|(at, packet, weight)| (uses[*packet], wanted.contains(*packet), *weight, *at))?;
    Some((at, packet))
}

/// The packets that can be made: those whose others can.
fn determined(pivots: &[Pivot], packets: usize) -> Bits {
    let mut determined = Bits::new(packets);
    for pivot in pivots.iter().rev() {
        if pivot.others.iter().all(|packet| determined.contains(packet)) {
            determined.insert(pivot.packet);
        }
    }
    determined
}

/// The steps that `wanted` depends on.
fn needed(steps: Vec<Step>, wanted: &Bits, numbers: usize) -> Vec<Step> {
    let mut used = Bits::of(numbers, wanted.iter());
    let mut kept: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps.into_iter().rev() {
        if used.contains(step.target) {
            used.unite(&step.sources);
            kept.push(step);
        }
    }
    kept.reverse();
    kept
}
