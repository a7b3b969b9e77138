//! [`cheapest_repair`]: make lost shares again and read as little as possible.
//!
//! A packet that lies in several equations can be made from any of them, and equations that share packets
//! cost less together: half the rows of a lost RDP column from row parity and half from diagonal parity reads
//! three quarters of what row parity alone reads (Xiang, Xu, Lui, Chang: Optimal recovery of single disk
//! failure in RDP code storage systems, SIGMETRICS 2010). The choice of an equation for each lost packet is
//! searched in full, with bounds; for the arrays here this is 2^15 leaves at worst.

use super::{Bits, Schedule, Step, solve};
use crate::geometry::Geometry;

/// Visits after which the search keeps the best it has found. Twice what the largest array here can take.
const VISITS_MAX: usize = 1 << 17;

/// A schedule that makes the packets `lost` from packets that are not `unknown`, with the fewest packets read
/// that the search finds. `None` when the equations do not determine them.
pub(crate) fn cheapest_repair(geometry: &Geometry, unknown: &Bits, lost: &Bits) -> Option<Schedule> {
    let solved = solve(geometry, unknown, lost)?;
    let mut search = Search {
        choices: choices(geometry, unknown, lost),
        chosen: Vec::new(),
        best: None,
        best_reads: solved.packets_read(),
        visits: 0,
    };
    search.descend(&Bits::new(geometry.packets()));
    Some(match search.best {
        Some(steps) => Schedule::from_steps(geometry, &steps, lost),
        None => solved,
    })
}

/// For each lost packet, every equation that has no other unknown.
fn choices(geometry: &Geometry, unknown: &Bits, lost: &Bits) -> Vec<Vec<Step>> {
    let equations = geometry.equation_bits();
    let steps_for = |target| {
        let alone = equations.iter().filter(move |equation| equation.only_common(unknown) == Some(target));
        let steps = alone.map(|equation| {
            let mut sources = equation.clone();
            sources.remove(target);
            Step { target, sources }
        });
        steps.collect::<Vec<_>>()
    };
    let mut choices: Vec<Vec<Step>> = lost.iter().map(steps_for).collect();
    // What has no choice comes first, so that the bound is tight early.
    choices.sort_by_key(Vec::len);
    choices
}

struct Search {
    choices: Vec<Vec<Step>>,
    chosen: Vec<usize>,
    best: Option<Vec<Step>>,
    best_reads: usize,
    visits: usize,
}

impl Search {
    fn descend(&mut self, read: &Bits) {
        self.visits += 1;
        if read.len() >= self.best_reads || self.visits > VISITS_MAX {
            return;
        }
        let depth = self.chosen.len();
        if depth == self.choices.len() {
            self.best_reads = read.len();
            let steps = self.choices.iter().zip(&self.chosen).map(|(steps, &choice)| steps[choice].clone());
            self.best = Some(steps.collect());
            return;
        }
        for choice in 0..self.choices[depth].len() {
            let mut read = read.clone();
            read.unite(&self.choices[depth][choice].sources);
            self.chosen.push(choice);
            self.descend(&read);
            self.chosen.pop();
        }
    }
}
