//! The sender: empties the queue, as many commands at a time as one log entry takes, one batch after the
//! other.

use super::changes::Writeback;
use super::queue::{Queue, Queued, State};
use crate::error::Error;
use crate::session::{Numbered, ToSend};
use rain_namespace::command::{Applied, Command, Outcome};
use rain_namespace::error::NsError;
use rain_types::{Ino, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Commands of one batch.
const BATCH_COMMANDS_MAX: usize = 256;

/// Estimated bytes of one batch. One command may be larger and then goes alone.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The sender gathers commands for this long while no caller waits: a batch of a hundred costs the nodes
/// little more than one command.
const GATHER_FOR: Duration = Duration::from_millis(40);

/// Pause between two attempts to send a batch.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Attempts at a command that is refused for a reason that may pass, because its directory is delegated to
/// another client.
const TRIES_MAX: u8 = 5;

/// Entries of the map of pending inodes above which the answered ones are removed.
const PENDING_MAX: usize = 16_384;

/// Sends batches. Ends with the session, or at the first command after the volume is gone.
pub(super) async fn send_forever(queue: Arc<Queue>, writeback: Weak<Writeback>) {
    loop {
        queue.work.notified().await;
        let Some(writeback) = writeback.upgrade() else { return };
        // Until the queue is empty the files stay, with data that is stored later under names from this queue.
        let Some(_files) = writeback.files.upgrade() else { return };
        loop {
            queue.gather().await;
            if !writeback.send_batch().await {
                break;
            }
        }
    }
}

impl Queue {
    /// Returns when it is time to send: the batch is full, the queue is empty, a caller waits, or the time
    /// for gathering is over.
    async fn gather(&self) {
        let until = tokio::time::Instant::now() + GATHER_FOR;
        loop {
            {
                let state = self.state();
                let is_much = state.queue.len() >= BATCH_COMMANDS_MAX || state.queue_bytes >= BATCH_BYTES_MAX;
                if is_much || state.queue.is_empty() || self.hurried.load(Relaxed) > 0 {
                    return;
                }
            }
            if tokio::time::timeout_at(until, self.work.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// What remains to be done after a batch was answered.
#[derive(Default)]
struct Aftermath {
    /// Files whose last name is gone.
    unlinked: Vec<Ino>,
    session_ended: bool,
    /// A directory to recall, because it is delegated to another client.
    recall: Option<Ino>,
    /// An acknowledged change was refused, so the delegations here are wrong.
    spoiled: bool,
}

impl Writeback {
    /// Sends one batch and takes in its outcomes. False: the queue was empty.
    async fn send_batch(self: &Arc<Self>) -> bool {
        let (numbered, count) = {
            let mut state = self.queue.state();
            let session = self.session.id();
            while let Some(Queued { fence: Some(fence), .. }) = state.queue.front()
                && *fence != session
            {
                let ended = *fence;
                state.answer_first(Err(Error::Refused(NsError::SessionEnded(ended))));
            }
            let batch = state.batch(session);
            if batch.is_empty() {
                drop(state);
                self.queue.notify_changed();
                return false;
            }
            let count = batch.len();
            (self.session.number(batch), count)
        };
        let sent = self.send_until_answered(&numbered).await;
        let aftermath = {
            let mut state = self.queue.state();
            match sent {
                Ok(applied) => state.answer_batch(applied),
                Err(error) => {
                    tracing::error!(%error, count, "acknowledged changes could not be sent");
                    for _ in 0..count {
                        state.lost = Some(error.clone());
                        state.answer_first(Err(error.clone()));
                    }
                    Aftermath { spoiled: true, ..Aftermath::default() }
                }
            }
        };
        drop(numbered);
        self.queue.notify_changed();
        self.clear_up(aftermath).await;
        true
    }

    /// Sends a batch until the leader has answered it. Fails only where no leader can ever take it.
    async fn send_until_answered(&self, numbered: &Numbered<'_>) -> Result<Vec<Applied>, Error> {
        loop {
            match self.session.send_numbered(numbered).await {
                Err(error @ Error::Protocol(_)) => return Err(error),
                Ok(applied) => {
                    self.queue.state().full = None;
                    return Ok(applied);
                }
                Err(error) => {
                    if let full @ Error::NoSpace { .. } = &error {
                        self.queue.state().full = Some(full.clone());
                        self.queue.notify_changed();
                    }
                    tracing::debug!(%error, "sending queued changes; it is tried again");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    async fn clear_up(self: &Arc<Self>, aftermath: Aftermath) {
        if let Some(files) = self.files.upgrade() {
            aftermath.unlinked.iter().for_each(|ino| files.unlinked(*ino));
        }
        if aftermath.session_ended {
            let ended = self.queue.state().session;
            if let Err(error) = self.session.reopen(ended).await {
                tracing::debug!(%error, "opening a session; it is tried again");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            self.queue.state().enter_session(self.session.id());
        }
        if let Some(dir) = aftermath.recall
            && let Err(error) = self.session.recall(dir, Instant::now()).await
        {
            tracing::debug!(%error, %dir, "recalling a directory");
        }
        if aftermath.spoiled {
            self.forget_delegations();
        }
    }
}

impl State {
    /// The commands at the front of the queue that fit into one batch and may apply in the session.
    fn batch(&self, session: SessionId) -> Vec<ToSend> {
        let mut bytes = 0;
        let fits = |queued: &&Queued| {
            let fits = bytes == 0 || bytes + queued.bytes <= BATCH_BYTES_MAX;
            bytes += queued.bytes;
            fits && queued.fence.is_none_or(|fence| fence == session)
        };
        let waiting = self.queue.iter().take(BATCH_COMMANDS_MAX).take_while(fits);
        let to_send = |queued: &Queued| ToSend {
            command: queued.command.clone(),
            time: Some(queued.time),
            children: Some(queued.changes.clone()),
        };
        waiting.map(to_send).collect()
    }

    fn take_first(&mut self) -> Option<Queued> {
        let first = self.queue.pop_front()?;
        self.answered += 1;
        self.queue_bytes -= first.bytes;
        Some(first)
    }

    /// Removes the first command and gives its caller the outcome.
    fn answer_first(&mut self, outcome: Result<Outcome, Error>) {
        let Some(queued) = self.take_first() else { return };
        if let Some(reply) = queued.reply {
            // The caller may have given up.
            let _ = reply.send(outcome);
        }
    }

    /// Takes in the outcomes of the commands at the front of the queue. A command that was refused for a
    /// reason that may pass goes back to the front, with all later ones that need it.
    fn answer_batch(&mut self, applied: Vec<Applied>) -> Aftermath {
        let mut aftermath = Aftermath::default();
        let mut again: Vec<Queued> = Vec::new();
        for applied in applied {
            match applied {
                Ok(outcome) => {
                    if let Outcome::Removed { ino, last_name_gone: true }
                    | Outcome::Renamed { other: Some(ino), last_name_gone: true, .. } = outcome
                    {
                        aftermath.unlinked.push(ino);
                    }
                    if let Some(first) = self.queue.front().filter(|first| !first.acknowledged) {
                        self.delegations.confirm(&first.command, &outcome);
                    }
                    self.answer_first(Ok(outcome));
                }
                Err(refused) => {
                    let Some(mut first) = self.take_first() else { break };
                    first.tries += 1;
                    match &refused {
                        NsError::SessionEnded(_) => aftermath.session_ended = true,
                        NsError::Delegated { dir, .. } => aftermath.recall = Some(*dir),
                        _ => {}
                    }
                    // Blocks belong to their session. Only the flush, which has their data, can store them
                    // again.
                    let has_blocks =
                        matches!(&first.command, Command::Commit { blocks, .. } if !blocks.is_empty());
                    let may_pass = match &refused {
                        NsError::SessionEnded(_) => !has_blocks && first.fence.is_none(),
                        NsError::Delegated { .. } => true,
                        // The command may need an earlier one that is sent again.
                        _ => !again.is_empty(),
                    };
                    if may_pass && first.tries < TRIES_MAX {
                        again.push(first);
                        continue;
                    }
                    self.refuse(first, refused, &mut aftermath);
                }
            }
        }
        self.put_back(again);
        if self.pending.len() > PENDING_MAX {
            let answered = self.answered;
            self.pending.retain(|_, due| *due > answered);
        }
        aftermath
    }

    /// Takes in the final refusal of a command.
    fn refuse(&mut self, queued: Queued, refused: NsError, aftermath: &mut Aftermath) {
        // A flush whose blocks went with their session stores them again, so nothing here is wrong.
        aftermath.spoiled |= !matches!(refused, NsError::SessionEnded(_));
        if queued.acknowledged {
            let what = format!("{:?}", queued.command);
            let what = what.chars().take(200).collect::<String>();
            tracing::error!(
                %refused,
                what,
                "an acknowledged change was refused: another client changed the directory while this one was away"
            );
            self.lost = Some(Error::Refused(NsError::Stale));
        }
        if let Some(reply) = queued.reply {
            // The caller may have given up.
            let _ = reply.send(Err(Error::Refused(refused)));
        }
    }

    /// Puts commands back to the front of the queue, in their order.
    fn put_back(&mut self, again: Vec<Queued>) {
        self.answered -= again.len() as u64;
        for (at, queued) in again.iter().enumerate() {
            let position = self.answered + 1 + at as u64;
            self.note_pending(queued.changes.iter().copied(), position);
        }
        for queued in again.into_iter().rev() {
            self.queue_bytes += queued.bytes;
            self.queue.push_front(queued);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_namespace::delegation::DelegationSet;
    use rain_namespace::record::FileKind;
    use tokio::sync::oneshot;

    fn make(name: &str, ino: u64) -> Command {
        let (mode, umask, uid, gid, rdev, target, or_existing) = (0o644, 0, 0, 0, 0, Vec::new(), false);
        let (parent, name, kind, ino) = (Ino(1), name.as_bytes().to_vec(), FileKind::File, Some(Ino(ino)));
        Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino }
    }

    fn punch(ino: u64) -> Command {
        Command::Punch { ino: Ino(ino), offset: 0, len: 1 }
    }

    fn push(
        state: &mut State,
        command: Command,
        fence: Option<SessionId>,
    ) -> oneshot::Receiver<Result<Outcome, Error>> {
        let (reply, answer) = oneshot::channel();
        let (time, acknowledged, bytes, tries) = (rain_namespace::record::Time::default(), true, 10, 0);
        let mut changes = DelegationSet::affected_inodes(&command);
        changes.extend(command.reserved_ino());
        state.push(Queued { command, time, fence, reply: Some(reply), acknowledged, changes, bytes, tries });
        answer
    }

    fn names_waiting(state: &State) -> Vec<Command> {
        state.queue.iter().map(|queued| queued.command.clone()).collect()
    }

    const DONE: Applied = Ok(Outcome::Done);

    #[test]
    fn what_comes_too_early_is_sent_again_in_its_order_with_all_that_needs_it() {
        let queue = Queue::new();
        let mut state = queue.state();
        let commands = [make("a", 7), punch(8), punch(7), make("b", 9)];
        let mut answers: Vec<_> =
            commands.iter().map(|command| push(&mut state, command.clone(), None)).collect();
        let elsewhere = NsError::Delegated { dir: Ino(1), session: SessionId(5) };
        // The first meets a directory that is another's, the third its file that is not there yet; the last
        // was not sent.
        let aftermath = state.answer_batch(vec![Err(elsewhere), DONE, Err(NsError::NotFound)]);
        assert_eq!(aftermath.recall, Some(Ino(1)));
        assert!(!aftermath.spoiled, "nothing is lost yet");
        assert_eq!(names_waiting(&state), [make("a", 7), punch(7), make("b", 9)]);
        assert_eq!((state.pushed, state.answered), (4, 1));
        assert!(matches!(answers[1].try_recv(), Ok(Ok(Outcome::Done))));
        assert!(answers[0].try_recv().is_err(), "it has no outcome yet");
        assert_eq!(state.due(&[Ino(7)]), Some(3), "who asks about the file waits for both");
        let aftermath = state.answer_batch(vec![DONE, DONE, DONE]);
        assert!(!aftermath.spoiled && aftermath.recall.is_none());
        assert_eq!((state.pushed, state.answered, state.queue_bytes), (4, 4, 0));
        assert_eq!(state.due(&[Ino(7)]), None);
    }

    #[test]
    fn what_is_refused_for_good_is_told_to_the_next_who_asks_for_durability() {
        let queue = Queue::new();
        let mut state = queue.state();
        let mut answer = push(&mut state, make("a", 7), None);
        let aftermath = state.answer_batch(vec![Err(NsError::Exists)]);
        assert!(aftermath.spoiled, "what is believed here is wrong");
        assert!(state.lost.is_some());
        assert!(matches!(answer.try_recv(), Ok(Err(Error::Refused(NsError::Exists)))));
        // Delegated for ever: it is not tried for ever.
        drop(push(&mut state, make("b", 8), None));
        let elsewhere = || Err(NsError::Delegated { dir: Ino(1), session: SessionId(5) });
        for _ in 1..TRIES_MAX {
            assert!(!state.answer_batch(vec![elsewhere()]).spoiled);
        }
        assert!(state.answer_batch(vec![elsewhere()]).spoiled);
        assert!(state.queue.is_empty());
    }

    #[test]
    fn after_a_session_only_what_needs_it_fails() {
        let queue = Queue::new();
        let mut state = queue.state();
        let ended = SessionId(4);
        let block = rain_types::BlockId { session: ended, seq: 1 };
        let commit = Command::Commit {
            ino: Ino(7),
            blocks: vec![rain_namespace::command::NewBlock {
                id: block,
                group: rain_types::GroupId(0),
                len: 1,
                missing: 0,
            }],
            extents: Vec::new(),
            inline: Vec::new(),
            size_at_least: 0,
            mtime: None,
        };
        let mut of_blocks = push(&mut state, commit, None);
        let mut fenced = push(&mut state, punch(8), Some(ended));
        drop(push(&mut state, make("a", 9), None));
        let over = || Err(NsError::SessionEnded(ended));
        let aftermath = state.answer_batch(vec![over(), over(), over()]);
        assert!(aftermath.session_ended && !aftermath.spoiled);
        for answer in [&mut of_blocks, &mut fenced] {
            assert!(matches!(answer.try_recv(), Ok(Err(Error::Refused(NsError::SessionEnded(_))))));
        }
        assert_eq!(names_waiting(&state), [make("a", 9)], "a name goes on in the next session");
    }

    #[test]
    fn a_batch_keeps_to_its_limits_and_to_one_session() {
        let queue = Queue::new();
        let mut state = queue.state();
        for number in 0..BATCH_COMMANDS_MAX as u64 + 5 {
            drop(push(&mut state, punch(number), None));
        }
        assert_eq!(state.batch(SessionId(1)).len(), BATCH_COMMANDS_MAX);
        let queue = Queue::new();
        let mut state = queue.state();
        for _ in 0..3 {
            drop(push(&mut state, punch(1), None));
            state.queue.back_mut().expect("pushed").bytes = BATCH_BYTES_MAX / 2;
        }
        assert_eq!(state.batch(SessionId(1)).len(), 2);
        state.queue[0].bytes = BATCH_BYTES_MAX * 2;
        assert_eq!(state.batch(SessionId(1)).len(), 1, "one that is larger goes alone");
        state.queue[0].bytes = 1;
        state.queue[1].fence = Some(SessionId(2));
        assert_eq!(state.batch(SessionId(1)).len(), 1, "another session's waits for its own answer");
    }
}
