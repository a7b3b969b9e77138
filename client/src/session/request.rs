//! Numbered commands.
//!
//! Invariant: the namespace keeps the result of each request until the client says that all requests below a
//! number are answered. [`Numbered`] holds its requests' numbers back until it is dropped.

use super::state::Session;
use rain_namespace::command::{Command, Request};
use rain_namespace::record::Time;
use rain_namespace::wire;
use rain_types::{RequestId, SessionId};

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
        self.session.numbers.lock().end_request(self.id.session, self.id.seq);
    }
}

impl Session {
    /// Numbers commands in the session that is open at this moment. A command may come with the time that it
    /// is applied with.
    pub(crate) fn number(&self, commands: impl IntoIterator<Item = (Command, Option<Time>)>) -> Numbered<'_> {
        let mut numbers = self.numbers.lock();
        let session = numbers.session();
        let mut numbered = Numbered { session, requests: Vec::new(), _under_way: Vec::new() };
        for (command, time) in commands {
            let (seq, done_below) = numbers.begin_request();
            let id = RequestId { session, seq };
            let request = Request { id: Some(id), done_below, time, command };
            numbered.requests.push(wire::encode(&request).into());
            numbered._under_way.push(UnderWay { session: self, id });
        }
        numbered
    }
}
