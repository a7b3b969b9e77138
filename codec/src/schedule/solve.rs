//! [`solve`]: from the equations of a code to a schedule that makes what is wanted from what is known.
//!
//! Two methods take turns. *Peeling* takes an equation with one unknown packet, which is then the XOR of the
//! others; what it makes is used by later steps, and this is how the papers' zig-zag decoders run (RDP needs
//! nothing else: Corbett et al. 2004, section 4). Where every equation has two unknowns or more (EVENODD's
//! adjuster, X-Code beyond its chains), *elimination* over GF(2) finds a sum of equations with one unknown,
//! and peeling goes on from it. Among equations the one with the fewest packets goes first. Steps that
//! nothing wanted depends on are dropped at the end.
//!
//! Left out: the search for the shortest program (NP-hard); sharing sums between steps.

use super::{Bits, Schedule, Step};
use crate::geometry::Geometry;

/// A schedule that makes the packets `wanted`, all of them among `unknown`, from the packets that are not
/// `unknown`. `None` when the equations do not determine them.
pub(crate) fn solve(geometry: &Geometry, unknown: &Bits, wanted: &Bits) -> Option<Schedule> {
    let mut unknown = unknown.clone();
    let mut equations = geometry.equation_bits();
    let mut steps = Vec::new();
    while unknown.intersects(wanted) {
        match peel(&equations, &unknown) {
            Some(step) => {
                unknown.remove(step.target);
                steps.push(step);
            }
            None => equations.push(eliminate(&equations, &unknown)?),
        }
    }
    Some(Schedule::from_steps(geometry, &needed(steps, wanted), wanted))
}

/// The lightest equation with one unknown, solved for it.
fn peel(equations: &[Bits], unknown: &Bits) -> Option<Step> {
    let solvable = equations.iter().filter_map(|equation| Some((equation.only_common(unknown)?, equation)));
    let (target, equation) = solvable.min_by_key(|(_, equation)| equation.len())?;
    let mut sources = equation.clone();
    sources.remove(target);
    Some(Step { target, sources })
}

/// The lightest sum of equations with one unknown that Gauss-Jordan elimination comes by.
fn eliminate(equations: &[Bits], unknown: &Bits) -> Option<Bits> {
    let mut rows: Vec<Bits> = equations.iter().filter(|row| row.intersects(unknown)).cloned().collect();
    let mut done = 0;
    for column in unknown.iter() {
        let Some(pivot) = (done..rows.len()).find(|&row| rows[row].contains(column)) else { continue };
        rows.swap(done, pivot);
        let pivot = rows[done].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != done && row.contains(column) {
                row.add(&pivot);
            }
        }
        done += 1;
    }
    rows.into_iter().filter(|row| row.only_common(unknown).is_some()).min_by_key(Bits::len)
}

/// The steps that `wanted` depends on.
fn needed(steps: Vec<Step>, wanted: &Bits) -> Vec<Step> {
    let mut used = wanted.clone();
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
