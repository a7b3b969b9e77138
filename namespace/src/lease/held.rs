//! A lease that a session has, and the demand for it.

use super::{Mode, READ_OVERDUE, SILENCE, WRITE_OVERDUE};
use rain_types::SessionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// A lease of one session.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) mode: Mode,
    /// The number of the last grant.
    pub(super) grant: u64,
    /// Of a lease that does not end by time: the number of its last grant.
    pub(super) for_good: Option<u64>,
    /// When the lease ends by itself, if it is not for good.
    pub(super) until: Duration,
    pub(super) wanted: Option<Demand>,
}

#[derive(Debug)]
pub(super) struct Demand {
    /// Grows with every demand and every addition to one.
    pub(super) number: u64,
    pub(super) since: Duration,
    pub(super) keep_read: bool,
}

impl Held {
    pub(super) fn is_live(&self, sessions: &BTreeMap<SessionId, Duration>, now: Duration) -> bool {
        let overdue = match self.mode {
            Mode::Read => READ_OVERDUE,
            Mode::Write => WRITE_OVERDUE,
        };
        (self.for_good.is_some() || now < self.until)
            && sessions.get(&self.session).is_some_and(|heard| now < *heard + SILENCE)
            && self.wanted.as_ref().is_none_or(|demand| now < demand.since + overdue)
    }

    /// Demands the lease. `last`: the number of the last demand.
    pub(super) fn demand(&mut self, keep_read: bool, now: Duration, last: &mut u64) {
        let is_new = self.wanted.is_none();
        let demand = self.wanted.get_or_insert(Demand { number: 0, since: now, keep_read });
        if is_new || demand.keep_read && !keep_read {
            *last += 1;
            (demand.number, demand.since) = (*last, now);
            demand.keep_read &= keep_read;
        }
    }
}
