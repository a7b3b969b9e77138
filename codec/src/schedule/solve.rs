//! [`solve`]: turns the equations of a code into a schedule that makes wanted packets from known ones.
//!
//! The method is Gaussian elimination over GF(2) with the lightest pivots (Markowitz: The elimination form of
//! the inverse, 1957). An equation with one unknown packet gives that packet at once, and later steps use it.
//! The zig-zag decoders of the papers run this way; RDP needs nothing else (Corbett et al. 2004, section 4).
//!
//! In dense codes, in EVENODD's adjuster and in X-Code beyond its chains, every equation has two unknowns or
//! more. There the other unknowns of a pivot wait. First come the *syndromes*: sums of the known packets of
//! an equation and of earlier syndromes. Then come the packets, from the last to the first. So a decoder has
//! the sparse equations of the code and a small dense part, not a dense inverse, and each packet can
//! overwrite its syndrome. Steps that no wanted packet depends on are dropped at the end.
//!
//! Held by `every_code_survives_every_loss_up_to_14_shares`; the number of XORs by
//! `schedules_take_as_few_xors_as_they_did`.
//!
//! Left out: the search for the shortest program (NP-hard); sharing sums between steps ([`Schedule::lean`]).

use super::{Bits, Schedule, XorStep};
use crate::geometry::Geometry;

/// An equation during elimination, split into unknown packets and the rest.
struct OpenEquation {
    unknown: Bits,
    /// The known packets of the equation, and the syndromes that were added to it.
    sources: Bits,
}

/// A packet and the equation that was chosen to make it.
struct Pivot {
    packet: usize,
    /// Sources of its equation, by packet number; syndromes have the numbers above those of the packets.
    sources: Bits,
    /// Unknown packets that must be added; each was chosen later.
    others: Bits,
}

/// Returns a schedule that makes the packets `wanted`, all of them among `unknown`, from the packets that are
/// not `unknown`. Returns `None` when the equations do not determine them.
pub(crate) fn solve(geometry: &Geometry, unknown: &Bits, wanted: &Bits) -> Option<Schedule> {
    let packets = geometry.packets();
    // Number `packets + i` is the syndrome of the i-th pivot. Without other unknowns the syndrome is the
    // packet itself.
    let numbers = packets + unknown.len();
    let row = |equation: Bits| OpenEquation {
        unknown: Bits::of(packets, equation.common(unknown)),
        sources: Bits::of(numbers, equation.iter().filter(|packet| !unknown.contains(*packet))),
    };
    let mut rows: Vec<OpenEquation> = geometry.equation_bits().into_iter().map(row).collect();
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
            syndromes.push(XorStep { target: pivot.packet, sources: pivot.sources });
            continue;
        }
        let sources = Bits::of(numbers, pivot.others.iter().chain([packets + number]));
        made.push(XorStep { target: pivot.packet, sources });
        syndromes.push(XorStep { target: packets + number, sources: pivot.sources });
    }
    let steps = syndromes.into_iter().chain(made.into_iter().rev()).collect();
    Some(Schedule::from_steps(geometry, &needed(steps, wanted, numbers), wanted))
}

/// Returns the next pivot: an equation with the fewest unknowns, and in it the packet that is in the fewest
/// equations. Of equal packets, one that is not wanted comes first, so that nothing else has to make it; then
/// the lighter equation.
fn lightest(rows: &[OpenEquation], wanted: &Bits, packets: usize) -> Option<(usize, usize)> {
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

/// Returns the packets that can be made: those whose other unknowns can be made.
fn determined(pivots: &[Pivot], packets: usize) -> Bits {
    let mut determined = Bits::new(packets);
    for pivot in pivots.iter().rev() {
        if pivot.others.iter().all(|packet| determined.contains(packet)) {
            determined.insert(pivot.packet);
        }
    }
    determined
}

/// Returns the steps that `wanted` depends on.
fn needed(steps: Vec<XorStep>, wanted: &Bits, numbers: usize) -> Vec<XorStep> {
    let mut used = Bits::of(numbers, wanted.iter());
    let mut kept: Vec<XorStep> = Vec::with_capacity(steps.len());
    for step in steps.into_iter().rev() {
        if used.contains(step.target) {
            used.unite(&step.sources);
            kept.push(step);
        }
    }
    kept.reverse();
    kept
}
