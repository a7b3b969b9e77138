//! Which directories are held: asked for where this client makes and removes much, given back when somebody else wants them, and when
//! nothing was done in them for a while.

use super::{HEARD_WITHIN, State, Writeback};
use crate::cluster::unexpected;
use crate::error::Error;
use crate::stats::count;
use crate::volume::Volume;
use rain_namespace::command::{Command, Outcome};
use rain_namespace::delegation::DelegationSet;
use rain_namespace::error::NsError;
use rain_namespace::query::{Answer, Query};
use rain_namespace::record::{Attr, FileKind};
use rain_types::{Ino, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A directory in which so many changes were made within [`WARM_FOR`] is asked for.
const HOT: u8 = 2;
const WARM_FOR: Duration = Duration::from_secs(1);

/// How much longer a directory that others want all the time is not asked for than one that they wanted once. That is forgotten after a
/// while in which nobody did.
const COOL_TIMES_MAX: u32 = 150;
const COOLED: Duration = Duration::from_secs(60);

/// A directory with more names is not asked for: they are all read.
const NAMES_MAX: u64 = 20_000;

/// Held directories, and records known of what is in them: with more, all are given back.
const HELD_MAX: usize = 1024;
const RECORDS_MAX: usize = 100_000;

/// Directories whose changes are counted.
const DIRS_MAX: usize = 8192;

/// Nothing was done for so long: all is given back.
const IDLE: Duration = Duration::from_secs(10);

/// How long one question for recalled directories waits.
const RECALLED_WAIT: Duration = Duration::from_millis(500);

/// Between two questions while one is being given back.
const RECALLED_PAUSE: Duration = Duration::from_millis(10);

/// Numbers reserved at a time.
const NUMBERS: u32 = 8192;

const PAGE: u32 = 4096;

/// Closed files stored at a time when a directory is given back.
const STORED_AT_ONCE: usize = 16;

/// What is remembered of a directory that may be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dir {
    changes: u8,
    last: Instant,
    /// Commands about it that the leader was asked for.
    busy: u32,
    being_taken: bool,
    taken: Option<Instant>,
    cool_until: Option<Instant>,
    /// How long it is not asked for the next time.
    cooling: Duration,
}

impl Dir {
    fn new(now: Instant) -> Dir {
        Dir {
            changes: 0,
            last: now,
            busy: 0,
            being_taken: false,
            taken: None,
            cool_until: None,
            cooling: Duration::ZERO,
        }
    }

    /// Others want it.
    fn cool(&mut self, now: Instant, first: Duration) {
        if self.cool_until.is_some_and(|until| now > until + COOLED) {
            self.cooling = Duration::ZERO;
        }
        let cooling = self.cooling.max(first);
        self.cool_until = Some(now + cooling);
        self.cooling = (cooling * 2).min(first * COOL_TIMES_MAX);
        self.changes = 0;
    }
}

impl State {
    pub(super) fn is_being_taken(&self, ino: Ino) -> bool {
        self.dirs.get(&ino).is_some_and(|dir| dir.being_taken)
    }

    fn dir(&mut self, ino: Ino) -> &mut Dir {
        let now = Instant::now();
        if self.dirs.len() >= DIRS_MAX && !self.dirs.contains_key(&ino) {
            // What is not remembered is asked for once more.
            let delegations = &self.delegations;
            self.dirs.retain(|ino, dir| dir.busy > 0 || dir.being_taken || delegations.is_fully_known(*ino));
        }
        self.dirs.entry(ino).or_insert_with(|| Dir::new(now))
    }

    /// A directory that it is worth asking for, before a command that the leader would be asked for.
    pub(super) fn worth_taking(&mut self, command: &Command) -> Option<Ino> {
        let parents = match command {
            Command::Make { parent, .. }
            | Command::Unlink { parent, .. }
            | Command::RemoveDirectory { parent, .. }
            | Command::Link { parent, .. } => vec![*parent],
            Command::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
            _ => return None,
        };
        if self.delegations.delegated().len() >= HELD_MAX || self.delegations.records() > RECORDS_MAX {
            return None;
        }
        let now = Instant::now();
        for parent in parents {
            let mine = self.delegations.is_fully_known(parent);
            let dir = self.dir(parent);
            if now.duration_since(dir.last) > WARM_FOR {
                dir.changes = 0;
            }
            dir.last = now;
            let is_hot = dir.changes >= HOT && dir.cool_until.is_none_or(|until| now > until);
            dir.changes = dir.changes.saturating_add(1);
            if is_hot && !mine && !self.returning.contains(&parent) {
                return Some(parent);
            }
        }
        None
    }
}

/// A command that the leader is asked for, in directories that are not to be taken meanwhile.
pub(super) struct Busy<'a> {
    writeback: &'a Writeback,
    inos: Vec<Ino>,
}

impl Busy<'_> {
    /// A directory that was just made here is likely to be filled from here.
    pub(super) fn done(self, outcome: Option<&Outcome>) {
        if let Some(Outcome::Attr(Attr { ino, kind: FileKind::Directory, size: 0, .. })) = outcome {
            let mut state = self.writeback.state();
            let dir = state.dir(*ino);
            (dir.changes, dir.last) = (HOT, Instant::now());
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.writeback.state();
        for ino in &self.inos {
            let dir = state.dir(*ino);
            dir.busy = dir.busy.saturating_sub(1);
        }
        drop(state);
        self.writeback.has_changed();
    }
}

impl Writeback {
    /// The leader is about to be asked for a command; none: something has changed since that was decided.
    pub(super) fn enter(&self, command: &Command) -> Option<Busy<'_>> {
        let inos = DelegationSet::affected_inodes(command);
        let mut state = self.state();
        let decided = rain_namespace::delegation::Decision::Remote;
        if inos.iter().any(|ino| state.is_being_taken(*ino)) || state.delegations.decide(command) != decided {
            return None;
        }
        for ino in &inos {
            state.dir(*ino).busy += 1;
        }
        Some(Busy { writeback: self, inos })
    }
}

/// Marks a directory as being taken.
struct Taking<'a> {
    writeback: &'a Writeback,
    dir: Ino,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.writeback.state().dir(self.dir).being_taken = false;
        self.writeback.has_changed();
    }
}

impl Volume {
    /// Asks for a directory; where that does not work, things go on as before.
    pub(super) async fn take(&self, dir: Ino) {
        {
            let mut state = self.writeback.state();
            // Before it was given back the leader would say that it is this session's already, and then take it.
            if state.is_being_taken(dir) || state.returning.contains(&dir) {
                return;
            }
            state.dir(dir).being_taken = true;
        }
        let taking = Taking { writeback: &self.writeback, dir };
        if let Err(error) = self.try_take(dir).await {
            tracing::debug!(%error, %dir, "a directory is not taken");
            let first = self.cluster.options().delegation_backoff;
            self.writeback.state().dir(dir).cool(Instant::now(), first);
        }
        drop(taking);
    }

    async fn try_take(&self, dir: Ino) -> Result<(), Error> {
        let begun = Instant::now();
        // Whatever others of this client have under way in it changes it.
        let mut changed = self.writeback.changed.subscribe();
        while self.writeback.state().dir(dir).busy > 0 {
            self.wait_a_little(&mut changed, begun).await?;
        }
        let session = self.cluster.session();
        let asked = Instant::now();
        let give_back = || {
            self.writeback.state().returning.insert(dir);
            self.tell_given_back(Returning { writeback: self.writeback.clone(), dirs: vec![dir] });
        };
        let delegate = Command::Delegate { dir };
        let asked_for = self.cluster.propose_once(Some(session), &delegate).await;
        // Without an answer it may have been given all the same.
        let applied = asked_for.inspect_err(|_| give_back())?;
        let Outcome::Attr(attr) = applied.map_err(Error::Refused)? else {
            return Err(unexpected("an inode"));
        };
        let mut names = Vec::new();
        let known = async {
            if attr.size > NAMES_MAX {
                return Err(Error::Protocol(format!("{} names", attr.size)));
            }
            let mut after = None;
            while names.len() < attr.size as usize {
                let query = Query::ReadDirectory { dir, after, limit: PAGE };
                let Answer::Directory { entries, more } = self.cluster.query(&query).await? else {
                    return Err(unexpected("a directory"));
                };
                after = entries.last().map(|entry| entry.name.clone());
                names.extend(entries.into_iter().map(|entry| (entry.name, entry.attr.ino, entry.attr.kind)));
                if !more {
                    break;
                }
            }
            Ok(())
        };
        let known = known.await;
        let whole = known.is_ok() && names.len() as u64 == attr.size;
        if whole && self.holds_now(session, asked, &attr, names) {
            self.writeback.holds.notify_one();
            return Ok(());
        }
        give_back();
        known.and(Err(Error::Protocol("it has changed meanwhile".into())))
    }

    /// A directory that was delegated, with all its names. False: the session has ended meanwhile.
    fn holds_now(
        &self,
        session: SessionId,
        asked: Instant,
        attr: &Attr,
        names: Vec<(Vec<u8>, Ino, FileKind)>,
    ) -> bool {
        let mut state = self.writeback.state();
        state.of_session(self.cluster.session());
        if state.session != session {
            return false;
        }
        if state.delegations.is_empty() {
            state.heard = asked;
        }
        state.delegations.add_directory(self.places().record(), attr, names);
        state.dir(attr.ino).taken = Some(Instant::now());
        count(&self.cluster.counters.delegations_taken);
        true
    }

    pub(super) async fn reserve_numbers(&self) -> Result<(), Error> {
        let session = self.cluster.session();
        let outcome = self.cluster.propose_internal(Command::ReserveInos { count: NUMBERS }).await?;
        let Outcome::Reserved { first, count } = outcome else { return Err(unexpected("inode numbers")) };
        let mut state = self.writeback.state();
        if state.session == session && state.numbers.is_empty() {
            state.numbers = first.0..first.0 + u64::from(count);
        }
        Ok(())
    }

    /// Gives directories back: what was closed in them is stored, and what was decided is applied, before others have them.
    pub(super) async fn give_back(&self, dirs: Vec<Ino>) {
        let mut mine = Vec::new();
        let below = {
            let mut state = self.writeback.state();
            let mut below = Vec::new();
            for dir in dirs.iter().copied() {
                let held = state.delegations.delegated().any(|held| held == dir);
                if held && state.returning.insert(dir) {
                    below.extend(state.delegations.published_by_return(dir));
                    mine.push(dir);
                }
            }
            below
        };
        if mine.is_empty() {
            // Somebody else sees to it.
            let mut changed = self.writeback.changed.subscribe();
            if dirs.iter().any(|dir| self.writeback.state().returning.contains(dir)) {
                let _ = self.wait_a_little(&mut changed, Instant::now()).await;
            }
            return;
        }
        self.cluster.counters.delegations_returned.fetch_add(mine.len() as u64, Relaxed);
        let returning = Returning { writeback: self.writeback.clone(), dirs: mine };
        let _hurry = self.writeback.hurry();
        self.store_files(&below).await;
        let due = {
            let mut state = self.writeback.state();
            for dir in &returning.dirs {
                state.delegations.return_directory(*dir);
            }
            state.pushed
        };
        // What was closed while the first were stored. From now on a close waits for its own.
        self.store_files(&below).await;
        let begun = Instant::now();
        while let Err(error) = self.answered(due, begun).await {
            if begun.elapsed() > self.cluster.options().slow_after {
                tracing::warn!(%error, "directories are given back though not everything in them is told");
                break;
            }
            tokio::time::sleep(super::TICK).await;
        }
        self.tell_given_back(returning);
    }

    /// Tells the leader, until it has heard or the session is over; so long they are not asked for again. Should the word come after that,
    /// they would be held here alone. Nobody waits for it: this session's commands are taken there before as well as after.
    fn tell_given_back(&self, returning: Returning) {
        let cluster = self.cluster.clone();
        let telling = self.runtime.spawn(async move {
            let numbered =
                cluster.number([(Command::ReturnDelegations { dirs: returning.dirs.clone() }, None)]);
            while let Err(error) = cluster.send_numbered(&numbered).await {
                tracing::debug!(%error, "giving directories back; it is tried again");
                if cluster.lease_is_over() {
                    break;
                }
                tokio::time::sleep(super::TICK).await;
            }
            drop(returning);
        });
        self.cluster.own(telling.abort_handle());
    }

    async fn store_files(&self, inos: &[Ino]) {
        use futures::StreamExt;
        let dirty: Vec<_> = {
            let files = self.files();
            let of = inos.iter().filter_map(|ino| files.get(ino));
            of.filter(|file| file.is_put_away()).cloned().collect()
        };
        let stores = dirty.into_iter().map(|file| async move {
            if let Err(error) = file.flush(self).await {
                tracing::warn!(%error, ino = %file.ino(), "storing a file whose directory is given back; it stays in memory");
            }
            self.close_if_idle(&file);
        });
        futures::stream::iter(stores).buffer_unordered(STORED_AT_ONCE).for_each(|()| async {}).await;
    }

    /// What is believed here is wrong: nothing is held any more.
    pub(super) fn forget_all(self: &Arc<Self>) {
        let dirs: Vec<Ino> = {
            let mut state = self.writeback.state();
            let held: Vec<Ino> = state.delegations.delegated().collect();
            state.delegations.clear();
            // Those that are being given back already are somebody else's to tell.
            held.into_iter().filter(|dir| state.returning.insert(*dir)).collect()
        };
        if dirs.is_empty() {
            return;
        }
        let volume = self.clone();
        self.runtime.spawn(async move {
            let returning = Returning { writeback: volume.writeback.clone(), dirs };
            let pushed = volume.writeback.state().pushed;
            let _ = volume.answered(pushed, Instant::now()).await;
            volume.tell_given_back(returning);
        });
    }

    /// What the leader says of the directories held here, asked at a moment.
    fn heard(self: &Arc<Self>, asked: Instant, told: Vec<(Ino, bool)>) {
        let recalled: Vec<Ino> = {
            let mut state = self.writeback.state();
            state.heard = state.heard.max(asked);
            let held: Vec<Ino> = state.delegations.delegated().collect();
            let now = Instant::now();
            for dir in &held {
                let is_told = told.iter().any(|(there, _)| there == dir);
                // Those that came or are going since it was asked are not meant.
                let meant = state.dir(*dir).taken.is_some_and(|taken| taken < asked);
                if !is_told && meant && !state.returning.contains(dir) {
                    tracing::warn!(%dir, "a directory was taken back");
                    state.delegations.return_directory(*dir);
                }
            }
            let wanted = |(dir, recalled): &&(Ino, bool)| {
                *recalled && held.contains(dir) && !state.returning.contains(dir)
            };
            let recalled: Vec<Ino> = told.iter().filter(wanted).map(|(dir, _)| *dir).collect();
            let first = self.cluster.options().delegation_backoff;
            for dir in &recalled {
                state.dir(*dir).cool(now, first);
            }
            recalled
        };
        self.writeback.has_changed();
        if !recalled.is_empty() {
            // The leader is to be heard of meanwhile.
            let volume = self.clone();
            self.runtime.spawn(async move { volume.give_back(recalled).await });
        }
    }

    fn idle(&self) -> Vec<Ino> {
        let state = self.writeback.state();
        let full =
            state.delegations.delegated().len() >= HELD_MAX || state.delegations.records() > RECORDS_MAX;
        if full || state.queue.is_empty() && state.used.elapsed() > IDLE {
            state.delegations.delegated().collect()
        } else {
            Vec::new()
        }
    }
}

/// Directories that are being given back.
struct Returning {
    writeback: Arc<Writeback>,
    dirs: Vec<Ino>,
}

impl Drop for Returning {
    fn drop(&mut self) {
        let mut state = self.writeback.state();
        for dir in &self.dirs {
            state.returning.remove(dir);
        }
        drop(state);
        self.writeback.has_changed();
    }
}

/// Asks which of the held directories others want, as long as the volume is there.
pub(super) async fn watch_for_ever(writeback: Arc<Writeback>, volume: Weak<Volume>) {
    loop {
        if writeback.state().delegations.is_empty() {
            writeback.holds.notified().await;
        }
        let Some(volume) = volume.upgrade() else { return };
        let (session, asked) = (writeback.state().session, Instant::now());
        let query = Query::Delegations { session };
        match volume.cluster.query_waiting(&query, RECALLED_WAIT).await {
            Ok(Answer::Delegations(told)) => {
                let wanted = told.iter().any(|(_, recalled)| *recalled);
                volume.heard(asked, told);
                if wanted {
                    // The answer will be the same until they are given back.
                    tokio::time::sleep(RECALLED_PAUSE).await;
                }
            }
            Err(Error::Refused(NsError::SessionEnded(_))) => {
                writeback.state().of_session(volume.cluster.session());
                if let Err(error) = volume.cluster.reopen_session(session).await {
                    tracing::debug!(%error, "opening a session; it is tried again");
                }
            }
            other => {
                tracing::debug!(?other, "asking for recalled directories; it is tried again");
                tokio::time::sleep(HEARD_WITHIN / 20).await;
            }
        }
        let idle = volume.idle();
        if !idle.is_empty() {
            volume.give_back(idle).await;
        }
    }
}
