//! The newest state of the namespace that this client has had an answer from. It keeps a stale answer from
//! taking back what the client has seen. Pure: time comes in.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Without a majority, how long the client waits for a node whose state has everything that the client has
/// seen. Then the newest state that there is counts: the nodes that had more may be lost.
const CATCH_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Seen {
    /// A position in the namespace's log.
    position: u64,
    /// Since when no node has had the position, and no leader has answered.
    missed_since: Option<Instant>,
}

/// The position in the namespace's log up to which this client has seen changes.
#[derive(Debug, Default)]
pub(super) struct SeenPosition(Mutex<Seen>);

impl SeenPosition {
    /// Takes in the position of a leader's answer.
    pub(super) fn saw(&self, position: u64) {
        let mut seen = self.0.lock();
        seen.position = seen.position.max(position);
        seen.missed_since = None;
    }

    /// Whether a stale answer from the state at `position` may be given: the state has everything that this
    /// client has seen, or no node has had that for [`CATCH_UP`]. In the second case the position becomes the
    /// measure of later answers.
    pub(super) fn accepts(&self, position: u64, now: Instant) -> bool {
        let mut seen = self.0.lock();
        if position < seen.position {
            let since = *seen.missed_since.get_or_insert(now);
            if now.duration_since(since) < CATCH_UP {
                return false;
            }
            tracing::warn!(
                missing = seen.position - position,
                "no node that answers has the newest changes that this client has seen"
            );
            seen.position = position;
        }
        seen.missed_since = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_answer_takes_nothing_back_that_was_seen() {
        let (seen, now) = (SeenPosition::default(), Instant::now());
        assert!(seen.accepts(0, now), "this client has seen nothing yet");
        seen.saw(7);
        seen.saw(5);
        assert!(seen.accepts(7, now) && seen.accepts(8, now));
        assert!(!seen.accepts(6, now) && !seen.accepts(6, now + CATCH_UP / 2));
        seen.saw(7);
        assert!(!seen.accepts(6, now + CATCH_UP), "a leader has answered since");
        assert!(seen.accepts(6, now + CATCH_UP * 2), "the nodes that had 7 are gone");
        assert!(seen.accepts(6, now + CATCH_UP * 2), "6 is the measure from here on");
        assert!(!seen.accepts(5, now + CATCH_UP * 2));
    }
}
