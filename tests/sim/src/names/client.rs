//! The simulated clients, and how they reach the leader.

use super::network::Network;
use crate::history::Event;
use crate::model::{ClientState, Files, Name, Op, Reply};
use fastrand::Rng;
use rain_namespace::command::{Applied, AttrChange, Command, Outcome, RenameMode, Request};
use rain_namespace::error::NsError;
use rain_namespace::lock::{Lock, LockKind, LockState};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::FileKind;
use rain_types::{Ino, RequestId, SessionId};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storaged::metadata::MetadataService;
use tokio::time::{Instant, sleep, timeout};

/// Names in the directory: few, so that the clients meet at each of them.
const NAMES: u8 = 4;

/// A client gives up an operation after this time. It is longer than any fault lasts, so an operation without
/// a reply is rare.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// A client with a session.
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) rng: Rng,
    pub(super) network: Network,
    pub(super) start: Instant,
    pub(super) session: SessionId,
    pub(super) seq: u64,
    pub(super) dir: Ino,
    pub(super) value: Ino,
    pub(super) lock: Ino,
    pub(super) known: BTreeMap<Name, u64>,
    pub(super) holds: bool,
}

impl Client {
    /// Proposes a command under the next request number, again and again until a leader answers.
    /// Returns none after [`GIVE_UP_AFTER`].
    async fn propose(&mut self, command: Command) -> Option<Applied> {
        self.seq += 1;
        let id = Some(RequestId { session: self.session, seq: self.seq });
        send(&self.network, &mut self.rng, Request { id, done_below: self.seq, time: None, command }).await
    }

    async fn ask(&mut self, query: Query) -> Option<Answered> {
        let begun = Instant::now();
        while begun.elapsed() < GIVE_UP_AFTER {
            for metadata in in_any_order(&self.network, &mut self.rng) {
                if let Ok(Ok(answered)) = timeout(Duration::from_secs(2), metadata.ask(&query)).await {
                    return Some(answered);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    fn choose(&mut self) -> Op {
        let known = ClientState { names: NAMES, files: &self.known, holds: self.holds, has: Files::None };
        Op::choose(known, |below| self.rng.u64(..below))
    }

    async fn perform(&mut self, op: &Op) -> Option<Reply> {
        let name = |name: Name| vec![b'a' + name];
        let dir = self.dir;
        let lock = Lock {
            kind: LockKind::Flock,
            owner: u64::from(self.number),
            exclusive: true,
            first: 0,
            last: u64::MAX,
            pid: self.number,
        };
        let applied = match op.clone() {
            Op::Lookup(at) => {
                let answered = self.ask(Query::Lookup { parent: dir, name: name(at) }).await?;
                return Some(match answered {
                    Ok(Answer::Attr(attr)) => {
                        self.known.insert(at, attr.ino.0);
                        Reply::File(attr.ino.0)
                    }
                    _ => Reply::NotFound,
                });
            }
            Op::List => {
                let answered = self.ask(Query::ReadDirectory { dir, after: None, limit: 100 }).await?;
                let Ok(Answer::Directory { entries, .. }) = answered else { return Some(Reply::NotFound) };
                let names = entries.iter().map(|entry| (entry.name[0] - b'a', entry.attr.ino.0));
                return Some(Reply::Names(names.collect()));
            }
            Op::Get => {
                return match self.ask(Query::GetAttr { ino: self.value }).await? {
                    Ok(Answer::Attr(attr)) => Some(Reply::Value(attr.size)),
                    _ => Some(Reply::NotFound),
                };
            }
            Op::Create(at) => self.propose(make(dir, name(at), FileKind::File)).await?,
            Op::Unlink(at) => self.propose(Command::Unlink { parent: dir, name: name(at) }).await?,
            Op::Rename(from, to) => {
                let (name, new_name) = (name(from), name(to));
                let mode = RenameMode::Replace;
                self.propose(Command::Rename {
                    parent: dir,
                    name,
                    new_parent: dir,
                    new_name,
                    mode,
                    whiteout: None,
                })
                .await?
            }
            Op::Link(file, at) => {
                self.propose(Command::Link { ino: Ino(file), parent: dir, name: name(at) }).await?
            }
            Op::Put(number) => {
                let change = AttrChange { size: Some(number), ..AttrChange::default() };
                self.propose(Command::SetAttr { ino: self.value, change }).await?
            }
            Op::TryLock => self.propose(Command::Lock { ino: self.lock, lock, ticket: None }).await?,
            Op::Unlock => self.propose(Command::Unlock { ino: self.lock, lock }).await?,
            op => unreachable!("{op}: there are no such files here"),
        };
        Some(match (op, applied) {
            (Op::Create(at), Ok(Outcome::Attr(attr))) => {
                self.known.insert(*at, attr.ino.0);
                Reply::File(attr.ino.0)
            }
            (Op::Link(..), Ok(Outcome::Attr(attr))) => Reply::File(attr.ino.0),
            (Op::TryLock, Ok(Outcome::Lock { state, .. })) => {
                self.holds = state == LockState::Granted;
                if self.holds { Reply::Done } else { Reply::Held }
            }
            (Op::Unlock, Ok(_)) => {
                self.holds = false;
                Reply::Done
            }
            (_, Ok(_)) => Reply::Done,
            (_, Err(NsError::Exists)) => Reply::Exists,
            (_, Err(_)) => Reply::NotFound,
        })
    }

    pub(super) async fn work(mut self, stop: Rc<Cell<bool>>) -> Vec<Event<Op, Reply>> {
        let mut history = Vec::new();
        while !stop.get() {
            let op = self.choose();
            let begun = self.start.elapsed().as_nanos() as u64;
            let reply = self.perform(&op).await;
            let ended = self.start.elapsed().as_nanos() as u64;
            if reply.is_some() || !op.only_looks() {
                history.push(Event { client: self.number, op, reply, begun, ended });
            }
            sleep(Duration::from_millis(self.rng.u64(1..30))).await;
        }
        history
    }
}

pub(super) fn make(parent: Ino, name: Vec<u8>, kind: FileKind) -> Command {
    let (mode, umask, uid, gid, rdev, target) = (0o644, 0, 0, 0, 0, Vec::new());
    Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing: false, ino: None }
}

fn in_any_order(network: &Network, rng: &mut Rng) -> Vec<Arc<MetadataService>> {
    let mut all = network.all();
    rng.shuffle(&mut all);
    all
}

pub(super) async fn send(network: &Network, rng: &mut Rng, request: Request) -> Option<Applied> {
    let begun = Instant::now();
    while begun.elapsed() < GIVE_UP_AFTER {
        for metadata in in_any_order(network, rng) {
            if !metadata.leadership().borrow().mine {
                continue;
            }
            if let Ok(Ok(applied)) = timeout(Duration::from_secs(3), metadata.propose(request.clone())).await
            {
                return Some(applied);
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}
