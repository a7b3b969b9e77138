//! Interest: which directories are worth requesting. A directory in which this client changes names several
//! times within a second is requested; one that other clients recall is left alone for a while.

use super::queue::{Queue, State};
use rain_namespace::command::{Command, Outcome};
use rain_namespace::delegation::{Decision, DelegationSet};
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::time::{Duration, Instant};

/// A directory is requested after this many changes, each within [`WARM_FOR`] of the one before. Two, so that
/// a single create costs no delegation.
const HOT_CHANGES: u8 = 2;

/// Changes further apart than this do not count together.
const WARM_FOR: Duration = Duration::from_secs(1);

/// Maximum back-off before a contended delegation is requested again, as a multiple of `delegation_backoff`.
const BACKOFF_FACTOR_MAX: u32 = 150;

/// The back-off is reset when no other client has recalled the directory for this long after its end.
const BACKOFF_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Delegated directories of one volume. A client with more requests none.
pub(super) const DELEGATED_MAX: usize = 1024;

/// Records of the namespace kept for delegated directories: bounds their memory (some hundred bytes each).
pub(super) const RECORDS_MAX: usize = 100_000;

/// Directories whose changes are counted. With more, those without a delegation or a call under way are
/// forgotten.
const DIRECTORIES_MAX: usize = 8192;

/// The record of one directory: its recent changes, and its back-off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interest {
    /// Changes counted, see [`HOT_CHANGES`].
    changes: u8,
    last_change: Instant,
    /// Commands about the directory that the leader is being asked for.
    pub(super) busy: u32,
    pub(super) being_requested: bool,
    /// When the delegation was granted last.
    pub(super) granted: Option<Instant>,
    /// End of the current back-off.
    backoff_until: Option<Instant>,
    /// Length of the next back-off.
    next_backoff: Duration,
}

impl Interest {
    fn new(now: Instant) -> Interest {
        Interest {
            changes: 0,
            last_change: now,
            busy: 0,
            being_requested: false,
            granted: None,
            backoff_until: None,
            next_backoff: Duration::ZERO,
        }
    }

    /// Begins a back-off: another client wants the directory. Each is twice as long as the one before.
    pub(super) fn back_off(&mut self, now: Instant, first: Duration) {
        if self.backoff_until.is_some_and(|until| now > until + BACKOFF_FORGOTTEN_AFTER) {
            self.next_backoff = Duration::ZERO;
        }
        let backoff = self.next_backoff.max(first);
        self.backoff_until = Some(now + backoff);
        self.next_backoff = (backoff * 2).min(first * BACKOFF_FACTOR_MAX);
        self.changes = 0;
    }
}

impl State {
    pub(super) fn is_being_requested(&self, dir: Ino) -> bool {
        self.interest.get(&dir).is_some_and(|interest| interest.being_requested)
    }

    /// The record of a directory; a new one where there is none.
    pub(super) fn interest(&mut self, dir: Ino) -> &mut Interest {
        let now = Instant::now();
        if self.interest.len() >= DIRECTORIES_MAX && !self.interest.contains_key(&dir) {
            // A forgotten directory only has to become hot once more.
            let delegations = &self.delegations;
            self.interest.retain(|dir, interest| {
                interest.busy > 0 || interest.being_requested || delegations.is_fully_known(*dir)
            });
        }
        self.interest.entry(dir).or_insert_with(|| Interest::new(now))
    }

    /// Counts a command that the leader is about to be asked for. Returns a directory of it that is worth
    /// requesting first.
    pub(super) fn worth_requesting(&mut self, command: &Command) -> Option<Ino> {
        let plain = match command {
            Command::Guarded { command, .. } | Command::IfNamed { command, .. } => command,
            command => command,
        };
        let parents = match plain {
            Command::Make { parent, .. }
            | Command::Unlink { parent, .. }
            | Command::RemoveDirectory { parent, .. }
            | Command::Link { parent, .. } => vec![*parent],
            Command::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
            _ => return None,
        };
        if self.has_too_many_delegations() {
            return None;
        }
        let now = Instant::now();
        for parent in parents {
            let is_known = self.delegations.is_fully_known(parent);
            let interest = self.interest(parent);
            if now.duration_since(interest.last_change) > WARM_FOR {
                interest.changes = 0;
            }
            interest.last_change = now;
            let is_hot =
                interest.changes >= HOT_CHANGES && interest.backoff_until.is_none_or(|until| now > until);
            interest.changes = interest.changes.saturating_add(1);
            if is_hot && !is_known && !self.returning.contains(&parent) {
                return Some(parent);
            }
        }
        None
    }

    /// Whether the limits of delegated directories and their records are reached.
    pub(super) fn has_too_many_delegations(&self) -> bool {
        self.delegations.delegated().len() >= DELEGATED_MAX || self.delegations.records() > RECORDS_MAX
    }
}

/// A command that the leader is being asked for. Its directories are not requested meanwhile.
pub(super) struct Busy<'a> {
    queue: &'a Queue,
    inos: Vec<Ino>,
}

impl Busy<'_> {
    /// Takes in the outcome: a directory that was just made here is likely to be filled from here, so it
    /// counts as hot.
    pub(super) fn done(self, outcome: Option<&Outcome>) {
        if let Some(Outcome::Attr(Attr { ino, kind: FileKind::Directory, size: 0, .. })) = outcome {
            let mut state = self.queue.state();
            let interest = state.interest(*ino);
            (interest.changes, interest.last_change) = (HOT_CHANGES, Instant::now());
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        for ino in &self.inos {
            let interest = state.interest(*ino);
            interest.busy = interest.busy.saturating_sub(1);
        }
        drop(state);
        self.queue.notify_changed();
    }
}

impl Queue {
    /// Marks a command's directories as busy before the leader is asked. None: the decision to ask the leader
    /// no longer holds.
    pub(super) fn enter(&self, command: &Command) -> Option<Busy<'_>> {
        let inos = DelegationSet::affected_inodes(command);
        let mut state = self.state();
        let is_requested = inos.iter().any(|ino| state.is_being_requested(*ino));
        if is_requested || state.delegations.decide(command) != Decision::Remote {
            return None;
        }
        for ino in &inos {
            state.interest(*ino).busy += 1;
        }
        Some(Busy { queue: self, inos })
    }
}
