//! Empties the queue: as much at a time as an entry of the log may have, one after the other.

use super::{Queued, State, Writeback};
use crate::cluster::Numbered;
use crate::error::Error;
use crate::volume::Volume;
use rain_namespace::command::{Applied, Command, Outcome};
use rain_namespace::delegation::DelegationSet;
use rain_namespace::error::NsError;
use rain_namespace::record::Time;
use rain_types::{Ino, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Commands of one call, and their bytes, about; one may be larger.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Where nobody waits, commands are gathered for so long: a hundred cost the nodes little more than one.
const GATHER_FOR: Duration = Duration::from_millis(40);

/// Between two tries.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// A command that is refused because its directory is another's by now is sent again so often.
const TRIES_MAX: u8 = 5;

/// Inodes noted as under way, before those that are not are looked for.
const PENDING_MAX: usize = 16_384;

/// Runs as long as the volume.
pub(super) async fn send_for_ever(writeback: Arc<Writeback>, volume: Weak<Volume>) {
    loop {
        writeback.work.notified().await;
        let Some(volume) = volume.upgrade() else { return };
        loop {
            writeback.gather().await;
            if !volume.send_some().await {
                break;
            }
        }
    }
}

impl Writeback {
    /// Returns when it is time to send.
    async fn gather(&self) {
        let until = tokio::time::Instant::now() + GATHER_FOR;
        loop {
            {
                let state = self.state();
                let is_much = state.queue.len() >= BATCH_MAX || state.queue_bytes >= BATCH_BYTES_MAX;
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

/// What became of a batch.
#[derive(Default)]
struct Fallout {
    /// Files without a name.
    orphans: Vec<Ino>,
    session_ended: bool,
    /// A directory that is another's.
    recall: Option<Ino>,
    /// What was told is not so.
    spoiled: bool,
}

impl Volume {
    /// Sends what waits, up to a batch. False: nothing waits.
    async fn send_some(self: &Arc<Self>) -> bool {
        let (numbered, count) = {
            let mut state = self.writeback.state();
            let session = self.cluster.session();
            while let Some(Queued { bound: Some(bound), .. }) = state.queue.front()
                && *bound != session
            {
                let ended = *bound;
                state.answer_first(Err(Error::Refused(NsError::SessionEnded(ended))));
            }
            let batch = state.batch(session);
            if batch.is_empty() {
                drop(state);
                self.writeback.has_changed();
                return false;
            }
            let count = batch.len();
            (self.cluster.number(batch.into_iter().map(|(command, time)| (command, Some(time)))), count)
        };
        let sent = self.send_until_answered(&numbered).await;
        let fallout = {
            let mut state = self.writeback.state();
            match sent {
                Ok(applied) => state.answered_batch(applied),
                Err(error) => {
                    tracing::error!(%error, count, "changes that were told could not be sent");
                    for _ in 0..count {
                        state.lost = Some(error.clone());
                        state.answer_first(Err(error.clone()));
                    }
                    Fallout { spoiled: true, ..Fallout::default() }
                }
            }
        };
        drop(numbered);
        self.writeback.has_changed();
        self.clear_up(fallout).await;
        true
    }

    /// Only what can never be taken is an error.
    async fn send_until_answered(&self, numbered: &Numbered<'_>) -> Result<Vec<Applied>, Error> {
        loop {
            match self.cluster.send_numbered(numbered).await {
                Err(error @ Error::Protocol(_)) => return Err(error),
                Ok(applied) => {
                    self.writeback.state().full = None;
                    return Ok(applied);
                }
                Err(error) => {
                    if let full @ Error::NoSpace { .. } = &error {
                        self.writeback.state().full = Some(full.clone());
                        self.writeback.has_changed();
                    }
                    tracing::debug!(%error, "telling the namespace what was done; it is tried again");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    async fn clear_up(self: &Arc<Self>, fallout: Fallout) {
        for ino in fallout.orphans {
            self.is_orphan(ino);
        }
        if fallout.session_ended {
            let ended = self.writeback.state().session;
            if let Err(error) = self.cluster.reopen_session(ended).await {
                tracing::debug!(%error, "opening a session; it is tried again");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            self.writeback.state().of_session(self.cluster.session());
        }
        if let Some(dir) = fallout.recall
            && let Err(error) = self.cluster.recall(dir, std::time::Instant::now()).await
        {
            tracing::debug!(%error, %dir, "recalling a directory");
        }
        if fallout.spoiled {
            self.forget_all();
        }
    }
}

impl State {
    fn batch(&self, session: SessionId) -> Vec<(Command, Time)> {
        let mut bytes = 0;
        let fits = |queued: &&Queued| {
            let fits = bytes == 0 || bytes + queued.bytes <= BATCH_BYTES_MAX;
            bytes += queued.bytes;
            fits && queued.bound.is_none_or(|bound| bound == session)
        };
        let waiting = self.queue.iter().take(BATCH_MAX).take_while(fits);
        waiting.map(|queued| (queued.command.clone(), queued.time)).collect()
    }

    fn take_first(&mut self) -> Option<Queued> {
        let first = self.queue.pop_front()?;
        self.answered += 1;
        self.queue_bytes -= first.bytes;
        Some(first)
    }

    /// The first of the queue has its outcome.
    fn answer_first(&mut self, outcome: Result<Outcome, Error>) {
        let Some(queued) = self.take_first() else { return };
        if let Some(reply) = queued.reply {
            // Who asked may be gone.
            let _ = reply.send(outcome);
        }
    }

    fn answered_batch(&mut self, applied: Vec<Applied>) -> Fallout {
        let mut fallout = Fallout::default();
        let mut again: Vec<Queued> = Vec::new();
        for applied in applied {
            match applied {
                Ok(outcome) => {
                    if let Outcome::Removed { ino, last_name_gone: true } = outcome {
                        fallout.orphans.push(ino);
                    }
                    if let Some(first) = self.queue.front().filter(|first| !first.told) {
                        self.delegations.confirm(&first.command, &outcome);
                    }
                    self.answer_first(Ok(outcome));
                }
                Err(refused) => {
                    let Some(mut first) = self.take_first() else { break };
                    first.tries += 1;
                    match &refused {
                        NsError::SessionEnded(_) => fallout.session_ended = true,
                        NsError::Delegated { dir, .. } => fallout.recall = Some(*dir),
                        _ => {}
                    }
                    // Blocks belong to their session: only the flush, which has their data, can go on.
                    let blocks =
                        matches!(&first.command, Command::Commit { blocks, .. } if !blocks.is_empty());
                    let only_late = match &refused {
                        NsError::SessionEnded(_) => !blocks && first.bound.is_none(),
                        NsError::Delegated { .. } => true,
                        // It may need one that comes again before it.
                        _ => !again.is_empty(),
                    };
                    if only_late && first.tries < TRIES_MAX {
                        again.push(first);
                        continue;
                    }
                    self.refused(first, refused, &mut fallout);
                }
            }
        }
        self.put_back(again);
        if self.queue.is_empty() {
            self.pending.clear();
        } else if self.pending.len() > PENDING_MAX {
            let answered = self.answered;
            self.pending.retain(|_, due| *due > answered);
        }
        fallout
    }

    fn refused(&mut self, queued: Queued, refused: NsError, fallout: &mut Fallout) {
        // A flush that is refused because its blocks went with their session stores them anew.
        fallout.spoiled |= !matches!(refused, NsError::SessionEnded(_));
        if queued.told {
            let what = format!("{:?}", queued.command);
            let what = what.chars().take(200).collect::<String>();
            tracing::error!(%refused, what, "a change that was told was refused: others were here while this client was away");
            self.lost = Some(Error::Refused(NsError::Stale));
        }
        if let Some(reply) = queued.reply {
            // Who asked may be gone.
            let _ = reply.send(Err(Error::Refused(refused)));
        }
    }

    /// These come first again, in their order.
    fn put_back(&mut self, again: Vec<Queued>) {
        self.answered -= again.len() as u64;
        for (at, queued) in again.iter().enumerate() {
            let position = self.answered + 1 + at as u64;
            let made = match &queued.command {
                Command::Make { ino, .. } => *ino,
                _ => None,
            };
            self.note_pending(
                DelegationSet::affected_inodes(&queued.command).into_iter().chain(made),
                position,
            );
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
    use rain_namespace::record::FileKind;
    use tokio::sync::oneshot;

    fn make(name: &str, ino: u64) -> Command {
        let (mode, uid, gid, rdev, target, or_existing) = (0o644, 0, 0, 0, Vec::new(), false);
        let (parent, name, kind, ino) = (Ino(1), name.as_bytes().to_vec(), FileKind::File, Some(Ino(ino)));
        Command::Make { parent, name, kind, mode, uid, gid, rdev, target, or_existing, ino }
    }

    fn punch(ino: u64) -> Command {
        Command::Punch { ino: Ino(ino), offset: 0, len: 1 }
    }

    fn push(
        state: &mut State,
        command: Command,
        bound: Option<SessionId>,
    ) -> oneshot::Receiver<Result<Outcome, Error>> {
        let (reply, answer) = oneshot::channel();
        let (time, told, bytes, tries) = (Time::default(), true, 10, 0);
        state.push(Queued { command, time, bound, reply: Some(reply), told, bytes, tries });
        answer
    }

    fn names_waiting(state: &State) -> Vec<Command> {
        state.queue.iter().map(|queued| queued.command.clone()).collect()
    }

    const DONE: Applied = Ok(Outcome::Done);

    #[test]
    fn what_comes_too_early_is_sent_again_in_its_order_with_all_that_needs_it() {
        let writeback = Writeback::new();
        let mut state = writeback.state();
        let commands = [make("a", 7), punch(8), punch(7), make("b", 9)];
        let mut answers: Vec<_> =
            commands.iter().map(|command| push(&mut state, command.clone(), None)).collect();
        let elsewhere = NsError::Delegated { dir: Ino(1), session: SessionId(5) };
        // The first meets a directory that is another's, the third its file that is not there yet; the last was not sent.
        let fallout = state.answered_batch(vec![Err(elsewhere), DONE, Err(NsError::NotFound)]);
        assert_eq!(fallout.recall, Some(Ino(1)));
        assert!(!fallout.spoiled, "nothing is lost yet");
        assert_eq!(names_waiting(&state), [make("a", 7), punch(7), make("b", 9)]);
        assert_eq!((state.pushed, state.answered), (4, 1));
        assert!(matches!(answers[1].try_recv(), Ok(Ok(Outcome::Done))));
        assert!(answers[0].try_recv().is_err(), "it has no outcome yet");
        assert_eq!(state.due(&[Ino(7)]), Some(3), "who asks about the file waits for both");
        let fallout = state.answered_batch(vec![DONE, DONE, DONE]);
        assert!(!fallout.spoiled && fallout.recall.is_none());
        assert_eq!((state.pushed, state.answered, state.queue_bytes), (4, 4, 0));
        assert_eq!(state.due(&[Ino(7)]), None);
    }

    #[test]
    fn what_is_refused_for_good_is_told_to_the_next_who_asks_for_durability() {
        let writeback = Writeback::new();
        let mut state = writeback.state();
        let mut answer = push(&mut state, make("a", 7), None);
        let fallout = state.answered_batch(vec![Err(NsError::Exists)]);
        assert!(fallout.spoiled, "what is believed here is wrong");
        assert!(state.lost.is_some());
        assert!(matches!(answer.try_recv(), Ok(Err(Error::Refused(NsError::Exists)))));
        // Delegated for ever: it is not tried for ever.
        drop(push(&mut state, make("b", 8), None));
        let elsewhere = || Err(NsError::Delegated { dir: Ino(1), session: SessionId(5) });
        for _ in 1..TRIES_MAX {
            assert!(!state.answered_batch(vec![elsewhere()]).spoiled);
        }
        assert!(state.answered_batch(vec![elsewhere()]).spoiled);
        assert!(state.queue.is_empty());
    }

    #[test]
    fn after_a_session_only_what_needs_it_fails() {
        let writeback = Writeback::new();
        let mut state = writeback.state();
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
        let mut bound = push(&mut state, punch(8), Some(ended));
        drop(push(&mut state, make("a", 9), None));
        let over = || Err(NsError::SessionEnded(ended));
        let fallout = state.answered_batch(vec![over(), over(), over()]);
        assert!(fallout.session_ended && !fallout.spoiled);
        for answer in [&mut of_blocks, &mut bound] {
            assert!(matches!(answer.try_recv(), Ok(Err(Error::Refused(NsError::SessionEnded(_))))));
        }
        assert_eq!(names_waiting(&state), [make("a", 9)], "a name goes on in the next session");
    }

    #[test]
    fn a_batch_keeps_to_its_limits_and_to_one_session() {
        let writeback = Writeback::new();
        let mut state = writeback.state();
        for number in 0..BATCH_MAX as u64 + 5 {
            drop(push(&mut state, punch(number), None));
        }
        assert_eq!(state.batch(SessionId(1)).len(), BATCH_MAX);
        let writeback = Writeback::new();
        let mut state = writeback.state();
        for _ in 0..3 {
            drop(push(&mut state, punch(1), None));
            state.queue.back_mut().expect("pushed").bytes = BATCH_BYTES_MAX / 2;
        }
        assert_eq!(state.batch(SessionId(1)).len(), 2);
        state.queue[0].bytes = BATCH_BYTES_MAX * 2;
        assert_eq!(state.batch(SessionId(1)).len(), 1, "one that is larger goes alone");
        state.queue[0].bytes = 1;
        state.queue[1].bound = Some(SessionId(2));
        assert_eq!(state.batch(SessionId(1)).len(), 1, "another session's waits for its own answer");
    }
}
