//! Late binding: when is an answer late, and whom to ask then. Pure: times go in, decisions come out.
//!
//! From the store/retrieve of RAIN: any k of n shares give the block back, so nobody has to wait for one
//! node. A node is *late* when it has taken longer than its own usual by a margin; then one more share is
//! asked for, and the first k that arrive win.
//!
//! Invariant: with nodes that keep to their usual, the extra requests stay rare (the margin is several times
//! the deviation, as in TCP's retransmission timer, RFC 6298).

use std::time::Duration;

/// What a node's answers usually take: a smoothed mean and deviation (RFC 6298, section 2, with the same
/// gains 1/8 and 1/4).
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

/// Bounds of the wait before one more is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Never sooner: scheduling noise is not lateness.
    pub(crate) soonest: Duration,
    /// Never later.
    pub(crate) latest: Duration,
}

/// Reads: a stall of a read should stay under 50 ms.
pub(crate) const READ: Bounds =
    Bounds { soonest: Duration::from_millis(15), latest: Duration::from_millis(250) };

/// Writes: a late node's share is made by repair afterwards, which costs more than a little patience.
pub(crate) const WRITE: Bounds =
    Bounds { soonest: Duration::from_millis(250), latest: Duration::from_secs(2) };

impl LatencyEstimate {
    /// Takes in one answer's time.
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

    /// The usual time.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean.max(0.0))
    }

    /// After how long an answer counts as late.
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
