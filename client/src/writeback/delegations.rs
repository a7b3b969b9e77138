//! Delegations: requests directories, returns them when another client recalls them or when nothing was done
//! in them for a while, and keeps contact with the leader.

use super::changes::{TICK, UnstoredFiles, Writeback};
use super::queue::{LAST_CONTACT_MAX, Queue, State};
use crate::error::Error;
use crate::stats::count;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::delegation::acls_of;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Attr, FileKind};
use rain_types::{Ino, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A directory with more entries is not requested, because a request reads all of them.
const ENTRIES_MAX: u64 = 20_000;

/// All delegations are returned after this time without a change.
const IDLE: Duration = Duration::from_secs(10);

/// Longest wait of one query for recalled directories. Each answer is a contact with the leader, so it is
/// well below [`LAST_CONTACT_MAX`].
const RECALLED_WAIT: Duration = Duration::from_millis(500);

/// Pause before the next such query while a recalled directory is being returned: the answer would be the
/// same at once.
const RECALLED_PAUSE: Duration = Duration::from_millis(10);

/// Pause after such a query has failed.
const CONTACT_RETRY: Duration = Duration::from_millis(LAST_CONTACT_MAX.as_millis() as u64 / 20);

/// Inode numbers reserved at a time.
const INOS_RESERVED: u32 = 8192;

/// Entries read by one query while a directory is requested.
const PAGE: u32 = 4096;

/// Marks a directory as being requested until it is dropped.
struct Requesting<'a> {
    queue: &'a Queue,
    dir: Ino,
}

impl Drop for Requesting<'_> {
    fn drop(&mut self) {
        self.queue.state().interest(self.dir).being_requested = false;
        self.queue.notify_changed();
    }
}

/// Marks directories as being returned until it is dropped.
struct Returning {
    queue: Arc<Queue>,
    dirs: Vec<Ino>,
}

impl Drop for Returning {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        for dir in &self.dirs {
            state.returning.remove(dir);
        }
        drop(state);
        self.queue.notify_changed();
    }
}

impl Writeback {
    /// Requests the delegation of a directory. Where that fails, commands go to the leader as before, and the
    /// directory backs off.
    pub(super) async fn request(&self, dir: Ino) {
        {
            let mut state = self.queue.state();
            // While the return is under way the leader would grant the directory again, and then take in the
            // return.
            if state.is_being_requested(dir) || state.returning.contains(&dir) {
                return;
            }
            state.interest(dir).being_requested = true;
        }
        let requesting = Requesting { queue: &self.queue, dir };
        if let Err(error) = self.try_request(dir).await {
            tracing::debug!(%error, %dir, "the delegation of a directory is not granted");
            let first = self.session.options().delegation_backoff;
            self.queue.state().interest(dir).back_off(Instant::now(), first);
        }
        drop(requesting);
    }

    async fn try_request(&self, dir: Ino) -> Result<(), Error> {
        let begun = Instant::now();
        // Other commands of this client that are under way in the directory change it.
        let mut changed = self.queue.subscribe();
        while self.queue.state().interest(dir).busy > 0 {
            self.wait_for_change(&mut changed, begun).await?;
        }
        let session = self.session.id();
        let asked = Instant::now();
        let give_up = || {
            self.queue.state().returning.insert(dir);
            self.send_return(Returning { queue: self.queue.clone(), dirs: vec![dir] });
        };
        let granted = self.session.propose_once(Some(session), &Command::Delegate { dir }).await;
        // Without an answer the directory may have been delegated all the same.
        let applied = granted.inspect_err(|_| give_up())?;
        let Outcome::Attr(attr) = applied.map_err(Error::Refused)? else {
            return Err(Error::unexpected("an inode"));
        };
        let read = async { Ok((self.read_entries(dir, &attr).await?, self.read_acls(&attr).await?)) };
        let failure = match read.await {
            Ok((entries, acls)) if entries.len() as u64 == attr.size => {
                if self.add_delegation(session, asked, &attr, entries, acls) {
                    self.queue.delegated.notify_one();
                    return Ok(());
                }
                Error::Protocol("it has changed meanwhile".into())
            }
            Ok(_) => Error::Protocol("it has changed meanwhile".into()),
            Err(error) => error,
        };
        give_up();
        Err(failure)
    }

    /// Reads all entries of a directory that was just delegated.
    async fn read_entries(&self, dir: Ino, attr: &Attr) -> Result<Vec<(Vec<u8>, Ino, FileKind)>, Error> {
        if attr.size > ENTRIES_MAX {
            return Err(Error::Protocol(format!("{} names", attr.size)));
        }
        let mut read = Vec::new();
        let mut after = None;
        while read.len() < attr.size as usize {
            let query = Query::ReadDirectory { dir, after, limit: PAGE };
            let Answer::Directory { entries, more } = self.session.query(&query).await? else {
                return Err(Error::unexpected("a directory"));
            };
            after = entries.last().map(|entry| entry.name.clone());
            read.extend(entries.into_iter().map(|entry| (entry.name, entry.attr.ino, entry.attr.kind)));
            if !more {
                break;
            }
        }
        Ok(read)
    }

    /// Reads the ACLs of a directory that was just delegated.
    async fn read_acls(&self, attr: &Attr) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let mut read = Vec::new();
        for name in acls_of(attr) {
            let query = Query::GetXattr { ino: attr.ino, name: name.clone() };
            let Answer::Bytes(acl) = self.session.query(&query).await? else {
                return Err(Error::unexpected("an ACL"));
            };
            read.push((name, acl));
        }
        Ok(read)
    }

    /// Takes in a delegated directory with all its entries. False: the session has ended meanwhile.
    fn add_delegation(
        &self,
        session: SessionId,
        asked: Instant,
        attr: &Attr,
        entries: Vec<(Vec<u8>, Ino, FileKind)>,
        acls: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> bool {
        let mut state = self.queue.state();
        state.enter_session(self.session.id());
        if state.session != session {
            return false;
        }
        if state.delegations.is_empty() {
            state.last_contact = asked;
        }
        state.delegations.add_directory(self.placement.groups().record(), attr, entries, acls);
        state.interest(attr.ino).granted = Some(Instant::now());
        count(&self.session.counters().delegations_taken);
        true
    }

    /// Reserves inode numbers for new files.
    pub(super) async fn reserve_inos(&self) -> Result<(), Error> {
        let session = self.session.id();
        let outcome = self.session.propose_internal(Command::ReserveInos { count: INOS_RESERVED }).await?;
        let Outcome::Reserved { first, count } = outcome else {
            return Err(Error::unexpected("inode numbers"));
        };
        let mut state = self.queue.state();
        if state.session == session && state.inos.is_empty() {
            state.inos = first.0..first.0 + u64::from(count);
        }
        Ok(())
    }

    /// Returns directories: stores the closed files in them, waits until the queued changes are applied, and
    /// tells the leader.
    pub(super) async fn return_directories(&self, dirs: Vec<Ino>) {
        let (mine, below) = self.begin_return(&dirs);
        if mine.is_empty() {
            // Another caller is returning them.
            let mut changed = self.queue.subscribe();
            if dirs.iter().any(|dir| self.queue.state().returning.contains(dir)) {
                let _ = self.wait_for_change(&mut changed, Instant::now()).await;
            }
            return;
        }
        self.session.counters().delegations_returned.fetch_add(mine.len() as u64, Relaxed);
        let returning = Returning { queue: self.queue.clone(), dirs: mine };
        let _hurry = self.queue.hurry();
        let files = self.files.upgrade();
        self.store_closed(&files, &below).await;
        let due = {
            let mut state = self.queue.state();
            for dir in &returning.dirs {
                state.delegations.return_directory(*dir);
            }
            state.pushed
        };
        // What was written while the first were stored. From here on a close stores its file itself.
        if let Some(files) = &files {
            files.publish(&below, &returning.dirs).await;
        }
        let begun = Instant::now();
        while let Err(error) = self.wait_until_answered(due, begun).await {
            if begun.elapsed() > self.session.options().slow_after {
                tracing::warn!(%error, "directories are returned though changes in them are not applied");
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        self.send_return(returning);
    }

    /// Marks those of the directories that are delegated and not yet being returned. Returns them, and all
    /// unpublished inodes below them.
    fn begin_return(&self, dirs: &[Ino]) -> (Vec<Ino>, Vec<Ino>) {
        let mut state = self.queue.state();
        let (mut mine, mut below) = (Vec::new(), Vec::new());
        for dir in dirs.iter().copied() {
            let is_delegated = state.delegations.delegated().any(|held| held == dir);
            if is_delegated && state.returning.insert(dir) {
                below.extend(state.delegations.published_by_return(dir));
                mine.push(dir);
            }
        }
        (mine, below)
    }

    async fn store_closed(&self, files: &Option<Arc<dyn UnstoredFiles>>, inos: &[Ino]) {
        if let Some(files) = files {
            files.store_closed(inos).await;
        }
    }

    /// Starts a task that tells the leader of a return until the leader has answered or the session is over.
    ///
    /// The directories are not requested again before that. Otherwise a late message would end the new
    /// delegation at the leader, and only this client would still believe in it.
    ///
    /// No caller waits for the task: the leader takes this session's commands in these directories before the
    /// return as well as after it.
    fn send_return(&self, returning: Returning) {
        let session = self.session.clone();
        let sending = async move {
            let numbered =
                session.number([Command::ReturnDelegations { dirs: returning.dirs.clone() }.into()]);
            while let Err(error) = session.send_numbered(&numbered).await {
                tracing::debug!(%error, "returning directories; it is tried again");
                if session.lease_is_over() {
                    break;
                }
                tokio::time::sleep(TICK).await;
            }
            drop(returning);
        };
        self.session.spawn_owned(sending);
    }

    /// Drops all delegations after an acknowledged change was refused: the state here is wrong.
    pub(super) fn forget_delegations(self: &Arc<Self>) {
        let dirs: Vec<Ino> = {
            let mut state = self.queue.state();
            let held: Vec<Ino> = state.delegations.delegated().collect();
            state.delegations.clear();
            // The directories that are being returned already are told to the leader by that return.
            held.into_iter().filter(|dir| state.returning.insert(*dir)).collect()
        };
        if dirs.is_empty() {
            return;
        }
        let (writeback, files) = (self.clone(), self.files.upgrade());
        self.session.runtime().spawn(async move {
            let returning = Returning { queue: writeback.queue.clone(), dirs };
            let pushed = writeback.queue.state().pushed;
            let _ = writeback.wait_until_answered(pushed, Instant::now()).await;
            if let Some(files) = &files {
                files.publish_all().await;
            }
            writeback.send_return(returning);
        });
    }

    /// Takes in the leader's list of this session's delegations, each with whether it is recalled, as of the
    /// moment `asked`.
    fn take_in_contact(self: &Arc<Self>, asked: Instant, listed: Vec<(Ino, bool)>) {
        let mut any_lost = false;
        let recalled: Vec<Ino> = {
            let mut state = self.queue.state();
            state.last_contact = state.last_contact.max(asked);
            let held: Vec<Ino> = state.delegations.delegated().collect();
            let now = Instant::now();
            for dir in &held {
                let is_listed = listed.iter().any(|(there, _)| there == dir);
                // A directory that was granted after the question is not in the answer.
                let is_older = state.interest(*dir).granted.is_some_and(|granted| granted < asked);
                if !is_listed && is_older && !state.returning.contains(dir) {
                    tracing::warn!(%dir, "the delegation of a directory was revoked");
                    state.delegations.return_directory(*dir);
                    any_lost = true;
                }
            }
            let is_wanted = |(dir, recalled): &&(Ino, bool)| {
                *recalled && held.contains(dir) && !state.returning.contains(dir)
            };
            let recalled: Vec<Ino> = listed.iter().filter(is_wanted).map(|(dir, _)| *dir).collect();
            let first = self.session.options().delegation_backoff;
            for dir in &recalled {
                state.interest(*dir).back_off(now, first);
            }
            recalled
        };
        self.queue.notify_changed();
        if any_lost && let Some(files) = self.files.upgrade() {
            self.session.runtime().spawn(async move { files.publish_all().await });
        }
        if !recalled.is_empty() {
            self.begin_returning(recalled);
        }
    }

    /// Returns directories in a task of its own, so that contact with the leader goes on meanwhile: the commits of
    /// the files that are stored first wait for it.
    fn begin_returning(self: &Arc<Self>, dirs: Vec<Ino>) {
        let (writeback, files) = (self.clone(), self.files.upgrade());
        self.session.runtime().spawn(async move {
            writeback.return_directories(dirs).await;
            drop(files);
        });
    }
}

impl State {
    /// The directories to return unasked: all of them when they are idle or too many.
    fn to_return(&self) -> Vec<Ino> {
        let is_idle = self.queue.is_empty() && self.last_used.elapsed() > IDLE;
        if self.has_too_many_delegations() || is_idle {
            self.delegations.delegated().filter(|dir| !self.returning.contains(dir)).collect()
        } else {
            Vec::new()
        }
    }
}

/// Keeps contact with the leader while directories are delegated: asks which of them are recalled, and
/// returns those. Ends with the session, or at the next delegation after the volume is gone.
pub(super) async fn watch_forever(queue: Arc<Queue>, writeback: Weak<Writeback>) {
    loop {
        if queue.state().delegations.is_empty() {
            queue.delegated.notified().await;
        }
        let Some(writeback) = writeback.upgrade() else { return };
        let (session, asked) = (queue.state().session, Instant::now());
        let query = Query::Delegations { session };
        match writeback.session.query_waiting(&query, RECALLED_WAIT).await {
            Ok(Answer::Delegations(listed)) => {
                let any_recalled = listed.iter().any(|(_, recalled)| *recalled);
                writeback.take_in_contact(asked, listed);
                if any_recalled {
                    tokio::time::sleep(RECALLED_PAUSE).await;
                }
            }
            Err(Error::Refused(NsError::SessionEnded(_))) => {
                queue.state().enter_session(writeback.session.id());
                if let Err(error) = writeback.session.reopen(session).await {
                    tracing::debug!(%error, "opening a session; it is tried again");
                }
            }
            other => {
                tracing::debug!(?other, "asking for recalled directories; it is tried again");
                tokio::time::sleep(CONTACT_RETRY).await;
            }
        }
        let dirs = queue.state().to_return();
        if !dirs.is_empty() {
            writeback.begin_returning(dirs);
        }
    }
}
