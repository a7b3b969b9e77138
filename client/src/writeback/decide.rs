//! One step of a command: apply it here and queue it, or say what has to happen first.

use super::queue::{Queued, State, bytes_of};
use crate::error::Error;
use rain_namespace::command::{Applied, Command, Outcome};
use rain_namespace::delegation::{Decision, DelegationSet};
use rain_namespace::error::NsError;
use rain_namespace::query::Query;
use rain_namespace::record::Time;
use rain_types::{Ino, SessionId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// How a command is to be applied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ChangeOptions {
    /// Session fence: apply the command in this session or not at all.
    pub(crate) fence: Option<SessionId>,
    /// The time of the change, where it is decided here; none: now.
    pub(crate) time: Option<Time>,
    /// Return only an outcome that the leader has confirmed.
    pub(crate) durable: bool,
    /// Nobody waits for the outcome, so the queue may gather before it is sent.
    pub(crate) in_background: bool,
}

/// The next step of a command.
pub(super) enum NextStep {
    /// The command is applied and queued: acknowledge this outcome.
    Acknowledge(Outcome),
    /// The command is applied and queued; its outcome comes from the leader.
    AwaitReply(oneshot::Receiver<Result<Outcome, Error>>),
    /// The namespace's rules refuse the command.
    Refuse(NsError),
    /// The command cannot be queued at this moment.
    Fail(Error),
    /// Try again after the next change of the state.
    Wait,
    /// Wait until the queue is answered up to this position, then try again.
    WaitForQueue(u64),
    /// Return these directories, then try again.
    Return(Vec<Ino>),
    /// Request the delegation of this directory, then try again.
    Request(Ino),
    /// Reserve inode numbers, then try again.
    ReserveInos,
    /// Ask the leader for the command, unless one of these lookups names a delegated directory.
    AskLeader(Vec<Query>),
}

impl State {
    /// Takes the next step of a command. `drained`: the queued changes of the same inodes have been waited
    /// for. `may_request`: the command has not requested a directory yet.
    pub(super) fn decide(
        &mut self,
        command: &mut Command,
        options: &ChangeOptions,
        drained: bool,
        may_request: bool,
    ) -> NextStep {
        let about = DelegationSet::affected_inodes(command);
        if let Some(ended) = options.fence.filter(|fence| *fence != self.session) {
            return NextStep::Refuse(NsError::SessionEnded(ended));
        }
        if about.iter().any(|ino| self.is_being_requested(*ino)) {
            return NextStep::Wait;
        }
        let decision = self.delegations.decide(command);
        match decision {
            Decision::Return(dirs) => {
                // A rename out of a delegated directory may make the other directory worth requesting.
                let other = if may_request { self.worth_requesting(command) } else { None };
                return other.map_or(NextStep::Return(dirs), NextStep::Request);
            }
            Decision::Remote => {
                if let Some(due) = self.due(&about).filter(|_| !drained) {
                    return NextStep::WaitForQueue(due);
                }
                let dir = if may_request { self.worth_requesting(command) } else { None };
                return dir.map_or_else(
                    || NextStep::AskLeader(self.delegations.lookups_before(command)),
                    NextStep::Request,
                );
            }
            Decision::Local | Decision::Confirm => {}
        }
        if let Some(step) = self.obstacle(command, &about) {
            return step;
        }
        self.apply_and_queue(command, options, &about, decision)
    }

    /// What keeps a command from being applied here at this moment.
    fn obstacle(&mut self, command: &mut Command, about: &[Ino]) -> Option<NextStep> {
        // The names of a directory that is being returned belong to its next holder. Data written before the
        // return goes with it.
        let changes_names =
            !matches!(command, Command::Commit { .. } | Command::Punch { .. } | Command::SetAttr { .. });
        if let (Some(full), true) = (&self.full, changes_names) {
            return Some(NextStep::Fail(full.clone()));
        }
        let is_returning = |ino: &Ino| {
            self.delegations.delegated_ancestor(*ino).is_some_and(|home| self.returning.contains(&home))
        };
        if !self.is_fresh() || changes_names && about.iter().any(is_returning) || self.is_full() {
            return Some(NextStep::Wait);
        }
        if let Some(ino @ None) = command.new_ino() {
            let Some(number) = self.inos.next() else { return Some(NextStep::ReserveInos) };
            *ino = Some(Ino(number));
        }
        None
    }

    fn apply_and_queue(
        &mut self,
        command: &Command,
        options: &ChangeOptions,
        about: &[Ino],
        decision: Decision,
    ) -> NextStep {
        let time = options.time.unwrap_or_else(now);
        // An inode's times never go back, even if the clock does.
        let last = about.first().and_then(|ino| self.delegations.ctime(*ino));
        let time = last.map_or(time, |last| time.max(last));
        let mut changes = about.to_vec();
        changes.extend(self.delegations.named_inodes(command));
        let applied: Applied = self.delegations.apply_locally(time, command);
        let outcome = match applied {
            Ok(outcome) => outcome,
            Err(refused) => return NextStep::Refuse(refused),
        };
        changes.extend(command.reserved_ino());
        match &outcome {
            Outcome::Attr(attr) => changes.push(attr.ino),
            // Nothing is known here of what is removed, and the leader knows it until then as it was.
            Outcome::Removed { ino, .. } | Outcome::Renamed { other: Some(ino), .. } => changes.push(*ino),
            _ => {}
        }
        let acknowledged = decision == Decision::Local && !options.durable;
        let (reply, answer) = if acknowledged { (None, None) } else { Some(oneshot::channel()).unzip() };
        let (command, bytes) = (command.clone(), bytes_of(command));
        self.push(Queued {
            command,
            time,
            fence: options.fence,
            reply,
            acknowledged,
            changes,
            bytes,
            tries: 0,
        });
        match answer {
            Some(answer) => NextStep::AwaitReply(answer),
            None => NextStep::Acknowledge(outcome),
        }
    }
}

/// The time of day, for changes that are decided here.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
