//! Moments by a clock that stands still while the machine is suspended, with the time that it has been suspended.

use rustix::time::{ClockId, clock_gettime};
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

/// The two clocks are read one after the other, by a thread that may wait for a processor.
const JITTER_MS: i64 = 200;

/// A moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Instant,
    /// How long the machine had been suspended since it was started, milliseconds.
    suspended_ms: i64,
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment { at: Instant::now(), suspended_ms: suspended_ms() }
    }

    /// Whether the machine has been suspended since: then others may have taken it for lost, though by its clock no time
    /// has passed.
    pub(super) fn was_suspended_since(&self) -> bool {
        suspended_ms() > self.suspended_ms + JITTER_MS
    }
}

#[cfg(test)]
impl From<Instant> for Moment {
    fn from(at: Instant) -> Moment {
        Moment { at, ..Moment::now() }
    }
}

#[cfg(test)]
impl Moment {
    /// The moment as if the machine had been suspended for so long since.
    pub(super) fn before_a_suspension(self, of: Duration) -> Moment {
        Moment { suspended_ms: self.suspended_ms - of.as_millis() as i64, ..self }
    }
}

fn suspended_ms() -> i64 {
    let read_ms = |clock: ClockId| {
        let time = clock_gettime(clock);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    };
    // In this order: a pause in between counts as suspension, not the other way round.
    let monotonic_ms = read_ms(ClockId::Monotonic);
    read_ms(ClockId::Boottime) - monotonic_ms
}
