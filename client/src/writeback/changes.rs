//! Changes and queries of one volume: applied and answered here where the delegations allow it, else by the
//! leader.

use super::decide::{ChangeOptions, NextStep};
use super::queue::{Hurry, Queue};
use crate::error::Error;
use crate::placement::Placement;
use crate::session::Session;
use crate::session::leases::Grant;
use crate::stats::count;
use futures::future::BoxFuture;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::delegation::{DelegationSet, Listed, LocalAnswer};
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_namespace::query::{Answer, DirectoryEntry, Query};
use rain_namespace::record::VolumeRecord;
use rain_proto::v1::LeaseKind;
use rain_types::Ino;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit, oneshot, watch};

/// Names in one answer of a listing; the namespace's own limit.
const LISTED_MAX: u32 = 4096;

/// Up to this many unknown inodes of a listing are asked for one by one; more are asked for by one listing.
const ASKED_SINGLY_MAX: usize = 8;

/// A waiting caller looks at its deadline this often.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// What the write-back queue asks of the files above it.
pub(crate) trait UnstoredFiles: Debug + Send + Sync {
    /// Stores those of these files that programs have closed. A file that cannot be stored is logged and
    /// stays in memory.
    fn store_closed<'a>(&'a self, inos: &'a [Ino]) -> BoxFuture<'a, ()>;

    /// Other clients are about to know of these inodes, and of the names in these directories. Files are stored,
    /// and caches dropped.
    fn publish<'a>(&'a self, inos: &'a [Ino], directories: &'a [Ino]) -> BoxFuture<'a, ()>;

    /// As `publish`, for everything: the delegations are lost.
    fn publish_all(&self) -> BoxFuture<'_, ()>;

    /// The last name of a file is gone.
    fn unlinked(&self, ino: Ino);
}

/// The write-back of one volume.
#[derive(Debug)]
pub(crate) struct Writeback {
    pub(super) session: Arc<Session>,
    pub(super) placement: Arc<Placement>,
    pub(super) files: Weak<dyn UnstoredFiles>,
    pub(super) queue: Arc<Queue>,
}

impl Writeback {
    /// Whether this client writes back. Otherwise every command goes to the leader.
    pub(super) fn is_enabled(&self) -> bool {
        let options = self.session.options();
        options.write_back && !options.observe
    }

    /// Takes in the volume's new placement groups.
    pub(crate) fn volume_changed(&self, volume: &VolumeRecord) {
        self.queue.state().delegations.update_volume(volume);
    }

    /// Whether no other client can know of an inode, so that nothing about it has to be asked or stored at
    /// once.
    pub(crate) fn is_unpublished(&self, ino: Ino) -> bool {
        self.queue.state().delegations.is_unpublished(ino)
    }

    /// The unpublished file that a rename from one name would move over another name. None where the target
    /// name is free.
    pub(crate) fn unpublished_over(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Option<Ino> {
        let lookup = |(parent, name): (Ino, &[u8])| Query::Lookup { parent, name: name.to_vec() };
        let state = self.queue.state();
        if let LocalAnswer::Complete(Err(NsError::NotFound)) = state.delegations.answer(&lookup(to)) {
            return None;
        }
        match state.delegations.answer(&lookup(from)) {
            LocalAnswer::Complete(Ok(Answer::Attr(attr))) if state.delegations.is_unpublished(attr.ino) => {
                Some(attr.ino)
            }
            _ => None,
        }
    }

    /// A file is open nowhere in this client any more.
    pub(crate) fn closed(&self, ino: Ino) {
        self.queue.state().delegations.last_close(ino);
    }

    /// Sends queued commands at once, as long as the result is kept.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        self.queue.hurry()
    }

    /// A turn to store the blocks of a closed file in the background.
    pub(crate) async fn turn_to_store(&self) -> Option<SemaphorePermit<'_>> {
        self.queue.turn_to_store().await
    }

    /// A slot for a closed file that is stored in the background. None: too many are, and the caller stores
    /// its file itself.
    pub(crate) fn slot_to_close(&self) -> Option<OwnedSemaphorePermit> {
        self.queue.slot_to_close()
    }

    /// Applies a command. Returns once it is applied here, where that is allowed; else once the leader has
    /// applied it.
    pub(crate) async fn change(&self, command: Command) -> Result<Outcome, Error> {
        self.change_as(command, ChangeOptions::default()).await
    }

    /// As [`Writeback::change`], with options.
    pub(crate) async fn change_as(
        &self,
        mut command: Command,
        options: ChangeOptions,
    ) -> Result<Outcome, Error> {
        if !self.is_enabled() {
            return self.session.propose_fenced(options.fence, command).await;
        }
        let begun = Instant::now();
        let (mut drained, mut may_request) = (false, true);
        loop {
            let mut changed = self.queue.subscribe();
            let session = self.session.id();
            self.session.check_writable("changing the namespace")?;
            let step = {
                let mut state = self.queue.state();
                state.enter_session(session);
                state.decide(&mut command, &options, drained, may_request)
            };
            match step {
                NextStep::Acknowledge(outcome) => {
                    count(&self.session.counters().acknowledged_early);
                    self.queue.work.notify_one();
                    return Ok(outcome);
                }
                NextStep::AwaitReply(reply) => {
                    let _hurry = (!options.in_background).then(|| self.queue.hurry());
                    self.queue.work.notify_one();
                    return self.wait_for_reply(reply, begun).await;
                }
                NextStep::Refuse(refused) => return Err(Error::Refused(refused)),
                NextStep::Fail(error) => return Err(error),
                NextStep::Wait => self.wait_for_change(&mut changed, begun).await?,
                NextStep::WaitForQueue(position) => {
                    self.wait_until_answered(position, begun).await?;
                    drained = true;
                }
                NextStep::Return(dirs) => self.return_directories(dirs).await,
                NextStep::ReserveInos => self.reserve_inos().await?,
                NextStep::Request(dir) => {
                    may_request = false;
                    self.request(dir).await;
                }
                NextStep::AskLeader(suspects) => {
                    let named = self.delegated_among(suspects).await;
                    if !named.is_empty() {
                        self.return_directories(named).await;
                        continue;
                    }
                    let Some(busy) = self.queue.enter(&command) else { continue };
                    let outcome = self.session.propose_fenced(options.fence, command).await;
                    busy.done(outcome.as_ref().ok());
                    return outcome;
                }
            }
        }
    }

    /// Which delegated directories these lookups name.
    async fn delegated_among(&self, lookups: Vec<Query>) -> Vec<Ino> {
        let mut named = Vec::new();
        for lookup in lookups {
            if let Ok(Answer::Attr(attr)) = self.session.query(&lookup).await
                && self.queue.state().delegations.delegated().any(|dir| dir == attr.ino)
            {
                named.push(attr.ino);
            }
        }
        named
    }

    /// Answers a query from a state that contains every change that this client has acknowledged.
    pub(crate) async fn ask(&self, query: &Query) -> Result<Answer, Error> {
        self.ask_for(query, LeaseKind::LeaseRead).await.map(|(answer, _)| answer)
    }

    /// As [`Writeback::ask`], with a lease of this kind where the leader gives the answer.
    pub(crate) async fn ask_for(&self, query: &Query, kind: LeaseKind) -> Result<(Answer, Grant), Error> {
        if !self.is_enabled() {
            return self.session.query_for(query, kind).await;
        }
        let begun = Instant::now();
        let mut query = query.clone();
        loop {
            let mut changed = self.queue.subscribe();
            let session = self.session.id();
            // The queue position to wait for before the leader is asked; outer None: wait for contact with
            // the leader.
            let (due, answered) = {
                let mut state = self.queue.state();
                state.enter_session(session);
                let due = match state.delegations.answer(&query) {
                    // Without a leader the last known state is the answer, as for every other query.
                    LocalAnswer::Complete(answered)
                        if state.is_fresh() || self.session.without_leader().is_some() =>
                    {
                        let answer = answered.map_err(Error::Refused)?;
                        return Ok((answer, Grant::default()));
                    }
                    LocalAnswer::Complete(_) => None,
                    LocalAnswer::Partial(rest) => {
                        query = rest;
                        Some(state.due(&Vec::from_iter(DelegationSet::queried_inode(&query))))
                    }
                    LocalAnswer::Unknown => {
                        Some(state.due(&Vec::from_iter(DelegationSet::queried_inode(&query))))
                    }
                };
                (due, state.answered)
            };
            match due {
                None => self.wait_for_change(&mut changed, begun).await?,
                Some(due) => {
                    if let Some(due) = due {
                        match self.wait_until_answered(due, begun).await {
                            // Then any node's own state is the answer, as far as it goes.
                            Ok(()) | Err(Error::NoMajority { .. } | Error::NoSpace { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    let (answer, grant) = self.session.query_for(&query, kind).await?;
                    match (&query, &answer) {
                        // A name that the leader knows, of an inode that this client knows better.
                        (Query::Lookup { .. }, Answer::Attr(attr))
                            if self.knows_newer(attr.ino, answered) =>
                        {
                            query = Query::GetAttr { ino: attr.ino };
                        }
                        _ => return Ok((answer, grant)),
                    }
                }
            }
        }
    }

    /// Whether this client has acknowledged changes of an inode that an answer of the leader may lack. The
    /// question was asked when the queue was answered up to `answered`.
    fn knows_newer(&self, ino: Ino, answered: u64) -> bool {
        let state = self.queue.state();
        state.delegations.is_fully_known(ino) || state.is_changed_after(ino, answered)
    }

    /// Whether the names of a directory are decided here at this moment, or nothing tells of others' changes.
    pub(crate) fn decides_names(&self, dir: Ino) -> bool {
        !self.session.caches() || self.queue.state().delegations.is_fully_known(dir)
    }

    /// For how long from now what is known of an inode, or of a name, may be used without asking. None: without
    /// leases, as long as the caller likes.
    pub(crate) fn read_for(&self, subject: &Subject) -> Option<Duration> {
        if !self.session.caches() {
            return None;
        }
        let own = {
            let state = self.queue.state();
            let is_own = match subject {
                Subject::Inode(ino) => state.delegations.is_fully_known(*ino),
                Subject::Name(parent, _) => state.delegations.is_fully_known(*parent),
            };
            is_own.then(|| state.usable_for())
        };
        Some(own.unwrap_or_else(|| self.session.leases().read_for(subject)))
    }

    /// The entries of a directory in byte order, after a name, and whether there are more. The names of a
    /// delegated directory come from here, whatever part of them the leader has applied.
    pub(crate) async fn list(
        &self,
        dir: Ino,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<(Vec<DirectoryEntry>, bool), Error> {
        let query = Query::ReadDirectory { dir, after: after.map(<[u8]>::to_vec), limit };
        let (known, answered) = {
            let state = self.queue.state();
            let usable = state.is_fresh() || self.session.without_leader().is_some();
            let limit = limit.clamp(1, LISTED_MAX) as usize;
            (if usable { state.delegations.list(dir, after, limit) } else { None }, state.answered)
        };
        let Some((listed, more)) = known else {
            return match self.ask(&query).await? {
                Answer::Directory { entries, more } => Ok((self.newest(entries, answered).await?, more)),
                _ => Err(Error::unexpected("a directory")),
            };
        };
        let unknown = listed.iter().filter(|listed| listed.attr.is_none()).count();
        let mut attrs = HashMap::new();
        if unknown > ASKED_SINGLY_MAX {
            // Inodes that are older than the delegation are in the leader's listing, under whatever name.
            if let Answer::Directory { entries, .. } = self.session.query(&query).await? {
                let known = entries.into_iter().map(|entry| (entry.attr.ino, entry.attr));
                attrs.extend(known.filter(|(ino, _)| !self.knows_newer(*ino, answered)));
            }
        }
        let mut entries = Vec::with_capacity(listed.len());
        for Listed { name, ino, attr } in listed {
            let attr = match attr.or_else(|| attrs.get(&ino).cloned()) {
                Some(attr) => attr,
                None => match self.ask(&Query::GetAttr { ino }).await {
                    Ok(Answer::Attr(attr)) => attr,
                    // The inode was removed since the names were listed.
                    Ok(_) | Err(Error::Refused(NsError::NotFound)) => continue,
                    Err(error) => return Err(error),
                },
            };
            entries.push(DirectoryEntry { name, attr });
        }
        Ok((entries, more))
    }

    /// The entries of the leader's listing, with the attributes that this client knows better. The listing was
    /// asked for when the queue was answered up to `answered`.
    async fn newest(
        &self,
        entries: Vec<DirectoryEntry>,
        answered: u64,
    ) -> Result<Vec<DirectoryEntry>, Error> {
        let mut newest = Vec::with_capacity(entries.len());
        for entry in entries {
            if !self.knows_newer(entry.attr.ino, answered) {
                newest.push(entry);
                continue;
            }
            match self.ask(&Query::GetAttr { ino: entry.attr.ino }).await {
                Ok(Answer::Attr(attr)) => newest.push(DirectoryEntry { attr, ..entry }),
                // The inode was removed since the names were listed.
                Ok(_) | Err(Error::Refused(NsError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }

    /// Returns when every change acknowledged before the call is applied at the leader. Fails with the error
    /// of a change that was acknowledged and then refused.
    pub(crate) async fn drain(&self) -> Result<(), Error> {
        let pushed = self.queue.state().pushed;
        self.wait_until_answered(pushed, Instant::now()).await?;
        self.queue.state().lost.take().map_or(Ok(()), Err)
    }

    /// Waits until the leader has applied every change of an inode that was acknowledged before the call.
    pub(crate) async fn wait_until_known(&self, ino: Ino) -> Result<(), Error> {
        let due = self.queue.state().due(&[ino]);
        match due {
            Some(due) => self.wait_until_answered(due, Instant::now()).await,
            None => Ok(()),
        }
    }

    /// Waits until the queue is answered up to a position.
    pub(super) async fn wait_until_answered(&self, position: u64, begun: Instant) -> Result<(), Error> {
        let mut changed = self.queue.subscribe();
        let _hurry = self.queue.hurry();
        loop {
            {
                let state = self.queue.state();
                match &state.full {
                    _ if state.answered >= position => break,
                    Some(full) => return Err(full.clone()),
                    None => {}
                }
            }
            self.wait_for_change(&mut changed, begun).await?;
        }
        Ok(())
    }

    async fn wait_for_reply(
        &self,
        mut reply: oneshot::Receiver<Result<Outcome, Error>>,
        begun: Instant,
    ) -> Result<Outcome, Error> {
        loop {
            match tokio::time::timeout(TICK, &mut reply).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(Error::Protocol("the client is being closed".into())),
                // The command stays in the queue, whatever its caller is told.
                Err(_) => self.check_deadline(begun).map_err(|error| match error {
                    Error::NoMajority { what, .. } => Error::NoMajority { what, may_be_done: true },
                    error => error,
                })?,
            }
        }
    }

    /// Waits for a change of the queue's state, at most a [`TICK`]. Fails when the deadline has passed.
    pub(super) async fn wait_for_change(
        &self,
        changed: &mut watch::Receiver<u64>,
        begun: Instant,
    ) -> Result<(), Error> {
        let _ = tokio::time::timeout(TICK, changed.changed()).await;
        self.check_deadline(begun)
    }

    /// Fails when no leader answers, or `slow_after` has passed.
    fn check_deadline(&self, begun: Instant) -> Result<(), Error> {
        self.session.check_writable("changing the namespace")?;
        let after = self.session.options().slow_after;
        if begun.elapsed() > after {
            return Err(Error::TimedOut { what: "changing the namespace".into(), after });
        }
        Ok(())
    }
}
