//! Numbering: the counters of a session for requests, blocks and lock tickets. Pure.
//!
//! Invariant: a number is used once in a session.

use rain_types::{BlockId, SessionId};
use std::collections::BTreeSet;

/// The counters of one session.
#[derive(Debug)]
pub(super) struct Numbers {
    session: SessionId,
    next_request: u64,
    next_block: u64,
    next_ticket: u64,
    /// Requests sent and not answered. Every request below the first of them is answered.
    under_way: BTreeSet<u64>,
}

impl Numbers {
    /// The counters of a session that was just opened.
    pub(super) fn new(session: SessionId) -> Numbers {
        Numbers { session, next_request: 1, next_block: 1, next_ticket: 1, under_way: BTreeSet::new() }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Begins a request. Returns its number, and the number below which all requests are answered.
    pub(super) fn begin_request(&mut self) -> (u64, u64) {
        let seq = self.next_request;
        self.next_request += 1;
        self.under_way.insert(seq);
        (seq, self.under_way.first().copied().unwrap_or(seq))
    }

    /// Ends a request of a session: its result is not wanted any more.
    pub(super) fn end_request(&mut self, session: SessionId, seq: u64) {
        if self.session == session {
            self.under_way.remove(&seq);
        }
    }

    pub(super) fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket - 1
    }

    pub(super) fn new_block(&mut self) -> BlockId {
        self.next_block += 1;
        BlockId { session: self.session, seq: self.next_block - 1 }
    }
}
