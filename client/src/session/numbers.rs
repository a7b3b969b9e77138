//! Numbering: requests, blocks and lock tickets of a session.
//!
//! Invariant: a number is used once in a session. The namespace keeps the result of each request until the
//! client says that all requests below a number are answered; [`Numbered`] holds its requests' numbers back
//! until then.

use super::Session;
use rain_namespace::command::{Command, Request};
use rain_namespace::record::Time;
use rain_namespace::wire;
use rain_types::{BlockId, RequestId, SessionId};
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
    pub(super) fn new(session: SessionId) -> Numbers {
        Numbers { session, next_request: 1, next_block: 1, next_ticket: 1, under_way: BTreeSet::new() }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
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

/// Commands with their request numbers, encoded. However often they are sent, each applies once.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    /// The session of all of them.
    pub(crate) session: SessionId,
    pub(super) requests: Vec<bytes::Bytes>,
    _under_way: Vec<UnderWay<'a>>,
}

/// The number of a request whose result is still wanted.
#[derive(Debug)]
struct UnderWay<'a> {
    session: &'a Session,
    id: RequestId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut numbers = self.session.numbers.lock();
        if numbers.session == self.id.session {
            numbers.under_way.remove(&self.id.seq);
        }
    }
}

impl Session {
    /// Numbers commands in the session that is open at this moment. A command may come with the time that it
    /// is applied with.
    pub(crate) fn number(&self, commands: impl IntoIterator<Item = (Command, Option<Time>)>) -> Numbered<'_> {
        let mut numbers = self.numbers.lock();
        let session = numbers.session;
        let mut numbered = Numbered { session, requests: Vec::new(), _under_way: Vec::new() };
        for (command, time) in commands {
            let seq = numbers.next_request;
            numbers.next_request += 1;
            numbers.under_way.insert(seq);
            let done_below = numbers.under_way.first().copied().unwrap_or(seq);
            let id = RequestId { session, seq };
            let request = Request { id: Some(id), done_below, time, command };
            numbered.requests.push(wire::encode(&request).into());
            numbered._under_way.push(UnderWay { session: self, id });
        }
        numbered
    }
}
