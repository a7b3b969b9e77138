//! Hedged requests (late binding): the decision when an answer is late. Pure: times go in, decisions come
//! out.
//!
//! Any k of a block's n shares give the block back (the paper's store and retrieve), so no read depends on
//! one node. A node is *late* when its answer takes longer than its latency estimate by a margin. The client
//! then asks for one more share, and the first k shares that arrive win.
//!
//! Invariant: hedges stay rare while nodes keep to their usual latency. The margin is several times the
//! deviation, as in TCP's retransmission timer (RFC 6298).

use std::time::Duration;

/// The latency estimate of one node: a smoothed mean and deviation in seconds, with the gains 1/8 and 1/4 of
/// RFC 6298, section 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LatencyEstimate {
    mean: f64,
    deviation: f64,
    seen: u32,
}

impl Default for LatencyEstimate {
    fn default() -> LatencyEstimate {
        LatencyEstimate { mean: 0.010, deviation: 0.010, seen: 0 }
    }
}

/// Bounds of the wait before an answer counts as late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Lower bound: scheduling noise is no lateness.
    pub(crate) soonest: Duration,
    /// Upper bound.
    pub(crate) latest: Duration,
}

/// For reads. 15 ms, so that a read from nodes that are usually fast stalls for less than 50 ms.
pub(crate) const READ: Bounds =
    Bounds { soonest: Duration::from_millis(15), latest: Duration::from_millis(250) };

/// For writes. The share of a late node is made by repair afterwards, which costs more than waiting 250 ms.
pub(crate) const WRITE: Bounds =
    Bounds { soonest: Duration::from_millis(250), latest: Duration::from_secs(2) };

impl LatencyEstimate {
    /// Takes in the latency of one answer.
    pub(crate) fn record(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        if self.seen == 0 {
            (self.mean, self.deviation) = (took, took / 2.0);
        } else {
            self.deviation += ((self.mean - took).abs() - self.deviation) / 4.0;
            self.mean += (took - self.mean) / 8.0;
        }
        self.seen = self.seen.saturating_add(1);
    }

    /// The smoothed mean.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean.max(0.0))
    }

    /// The wait after which an answer counts as late: mean plus six deviations, within the bounds.
    pub(crate) fn late_after(&self, bounds: Bounds) -> Duration {
        Duration::from_secs_f64((self.mean + 6.0 * self.deviation).max(0.0))
            .clamp(bounds.soonest, bounds.latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_node_is_late_only_when_far_from_its_usual() {
        let mut latency = LatencyEstimate::default();
        for step in 0..200 {
            latency.record(Duration::from_micros(40_000 + (step % 5) * 500));
        }
        let late = latency.late_after(READ);
        assert!(late > Duration::from_millis(42) && late < Duration::from_millis(60), "{late:?}");
    }

    #[test]
    fn the_wait_stays_within_its_bounds() {
        let mut latency = LatencyEstimate::default();
        for _ in 0..50 {
            latency.record(Duration::from_micros(50));
        }
        assert_eq!(latency.late_after(READ), READ.soonest);
        for _ in 0..50 {
            latency.record(Duration::from_secs(9));
        }
        assert_eq!(latency.late_after(READ), READ.latest);
    }
}
