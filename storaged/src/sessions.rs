//! The leases of the clients' sessions, in the memory of the leader.
//!
//! A new leader gives every open session a whole lease again, so that no client loses its session because the
//! leader was away. The service `namespace` renews leases; the workers `leases` and `delegations` look at
//! them.

use parking_lot::Mutex;
use rain_types::SessionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The last contact of each session.
#[derive(Debug)]
pub(crate) struct SessionLeases {
    ttl: Duration,
    last_contact: Mutex<HashMap<SessionId, Instant>>,
}

impl SessionLeases {
    pub(crate) fn new(ttl: Duration) -> SessionLeases {
        SessionLeases { ttl, last_contact: Mutex::default() }
    }

    /// Returns the length of a lease.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Begins a new lease of a session.
    pub(crate) fn renew(&self, session: SessionId) {
        self.last_contact.lock().insert(session, Instant::now());
    }

    /// Returns the time since the last contact of a session. A session without any contact begins its lease
    /// at `now`.
    pub(crate) fn silence(&self, session: SessionId, now: Instant) -> Duration {
        now.saturating_duration_since(*self.last_contact.lock().entry(session).or_insert(now))
    }

    /// Gives every open session a whole lease again.
    pub(crate) fn forget(&self) {
        self.last_contact.lock().clear();
    }

    /// Returns the open sessions that were silent for longer than a lease. A session without any contact
    /// begins its lease at `now`. Sessions that are not open are forgotten.
    pub(crate) fn expired(&self, open: &[SessionId], now: Instant) -> Vec<SessionId> {
        let mut last_contact = self.last_contact.lock();
        last_contact.retain(|session, _| open.contains(session));
        open.iter()
            .filter(|session| now.duration_since(*last_contact.entry(**session).or_insert(now)) > self.ttl)
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_ended_after_silence_and_not_before() {
        let leases = SessionLeases::new(Duration::from_secs(10));
        let start = Instant::now();
        let open = [SessionId(1), SessionId(2)];
        assert!(leases.expired(&open, start).is_empty(), "a lease begins when it is first looked for");
        let later = start + Duration::from_secs(9);
        assert!(leases.expired(&open, later).is_empty());
        let end = start + Duration::from_secs(11);
        assert_eq!(leases.expired(&open, end), open);
        leases.renew(SessionId(2));
        assert_eq!(leases.expired(&open, Instant::now() + Duration::from_secs(5)), []);
        assert_eq!(leases.expired(&open[1..], end + Duration::from_secs(60)), [SessionId(2)]);
    }
}
