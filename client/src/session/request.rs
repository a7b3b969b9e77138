//! Numbered commands.
//!
//! Invariant: the namespace keeps the result of each request until the client says that all requests below a
//! number are answered. [`Numbered`] holds its requests' numbers back until it is dropped.

use super::own_changes::Touched;
use super::state::Session;
use parking_lot::Mutex;
use rain_namespace::command::{Applied, Command, Request};
use rain_namespace::record::Time;
use rain_namespace::wire;
use rain_types::{Ino, RequestId, SessionId};

/// Commands with their request numbers, encoded. However often they are sent, each applies once.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    /// The session of all of them.
    pub(crate) session: SessionId,
    pub(super) requests: Vec<bytes::Bytes>,
    /// The number below which no result is wanted any more.
    done_below: u64,
    /// What the commands may touch, until they are answered.
    touched: Mutex<Option<Touched>>,
    under_way: Vec<UnderWay<'a>>,
}

/// A command that is to be sent.
#[derive(Debug)]
pub(crate) struct ToSend {
    pub(crate) command: Command,
    /// The time that the command is applied with; none: the leader's.
    pub(crate) time: Option<Time>,
    /// The inodes of the names that the command changes; none: the caller does not know.
    pub(crate) children: Option<Vec<Ino>>,
}

impl From<Command> for ToSend {
    fn from(command: Command) -> ToSend {
        ToSend { command, time: None, children: None }
    }
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

impl Numbered<'_> {
    /// Takes in the outcomes, before anyone can know of them.
    pub(super) fn answered(&self, session: &Session, applied: &[Applied]) {
        if let Some(touched) = self.touched.lock().take() {
            session.leases.end_own(self.session, self.done_below, &touched, applied);
        }
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        if let (Some(touched), Some(last)) = (self.touched.get_mut().take(), self.under_way.last()) {
            last.session.leases.leave_own_uncertain(self.session, last.id.seq, touched);
        }
    }
}

impl Session {
    /// Numbers commands in the session that is open at this moment.
    pub(crate) fn number(&self, commands: impl IntoIterator<Item = ToSend>) -> Numbered<'_> {
        let commands: Vec<ToSend> = commands.into_iter().collect();
        // Before the numbers: whoever is told that all lower numbers are answered knows of these changes.
        let touched = self.caches().then(|| {
            self.leases
                .begin_own(commands.iter().map(|to_send| (&to_send.command, to_send.children.as_deref())))
        });
        let mut numbers = self.numbers.lock();
        let session = numbers.session();
        let (mut requests, mut under_way, mut done_below) = (Vec::new(), Vec::new(), 0);
        for ToSend { command, time, .. } in commands {
            let (seq, answered_below) = numbers.begin_request();
            done_below = answered_below;
            let id = RequestId { session, seq };
            let request = Request { id: Some(id), done_below, time, command };
            requests.push(wire::encode(&request).into());
            under_way.push(UnderWay { session: self, id });
        }
        Numbered { session, requests, done_below, touched: Mutex::new(touched), under_way }
    }
}
