//! Leases on inodes: what a session may keep of an inode without asking, and what has to be given up before
//! another session's change applies.
//!
//! A session with a *read lease* on an inode may answer from what it has cached of it: its attributes, its
//! data, and for a directory its names. A session with a *write lease* may also keep written data back. Any
//! number of sessions read, or one session writes. They are relatives of the tokens of distributed lock
//! managers, of CephFS's capabilities and of NFS's delegations.
//!
//! The leader keeps one [`LeaseTable`] for its term, in memory:
//!
//! ```text
//!   question -> readable? --no--> the writer stores its data --> grant_read -> answer
//!   change   -> begin_change -> is_clear? --no--> holders drop what they have --> apply -> end_change
//! ```
//!
//! Invariants (`no_session_relies_on_what_another_has_changed`):
//! 1. While a change is under way, no other session gets a lease on what it touches, and none has one when the
//!    change applies. So nobody can answer with the state before the change once the change is acknowledged.
//! 2. A write lease excludes every other session's lease.
//! 3. A lease ends when its session has given it up, when its time is over, or when the session has been
//!    silent for [`SILENCE`]. The session counts from before it asked, and with less ([`CONTACT_MAX`]), so that
//!    it stops relying on a lease before the table stops respecting it.
//! 4. The table of a new leader knows no leases of the term before. It treats each session that may have some
//!    as the holder of all, until that session has registered or has been silent for [`SILENCE`].
//!
//! Left out: clocks (times are given, as durations since the table's beginning), waiting, messages.

use crate::command::{Command, Name};
use crate::key;
use crate::kv::KvRead;
use crate::query::{Answer, Query};
use crate::record::FileKind;
use crate::wire;
use rain_types::{Ino, SessionId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// The lifetime of a read lease that was granted with an answer about attributes or a name: how long a kernel
/// may use it.
pub const READ_FOR: Duration = Duration::from_secs(1);

/// The longest time since its last contact with the leader for which a session relies on its leases.
pub const CONTACT_MAX: Duration = Duration::from_secs(2);

/// The silence of a session after which its leases end.
pub const SILENCE: Duration = Duration::from_secs(3);

/// A holder that is in contact and does not give a read lease up for this long is overruled.
pub const READ_OVERDUE: Duration = Duration::from_secs(3);

/// As [`READ_OVERDUE`] for a write lease, whose data has to be stored first.
pub const WRITE_OVERDUE: Duration = Duration::from_secs(10);

/// Leases in a table. With more, no read lease is granted, and answers are not cached.
const LEASES_MAX: usize = 1 << 19;

/// Names of one directory that are told one by one to a holder; with more, it drops all names.
const NAMES_MAX: usize = 64;

/// What a lease allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Answer from what is cached.
    Read,
    /// Also keep written data back.
    Write,
}

/// What a change touches of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touch {
    /// Its attributes, extended attributes or data.
    Inode(Ino),
    /// A name in this directory, and the directory's attributes.
    Name(Ino, Name),
    /// All names in this directory.
    Names(Ino),
}

impl Touch {
    /// Returns the inode.
    pub fn ino(&self) -> Ino {
        match self {
            Touch::Inode(ino) | Touch::Name(ino, _) | Touch::Names(ino) => *ino,
        }
    }
}

/// Names of a directory that a holder is to drop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Names {
    /// No name.
    #[default]
    None,
    /// These.
    These(BTreeSet<Name>),
    /// All.
    All,
}

impl Names {
    /// Adds names; returns whether there are more now.
    fn add(&mut self, touch: &Touch) -> bool {
        match (touch, &mut *self) {
            (Touch::Inode(_), _) | (_, Names::All) => return false,
            (Touch::Names(_), _) => *self = Names::All,
            (Touch::Name(_, name), Names::None) => *self = Names::These(BTreeSet::from([name.clone()])),
            (Touch::Name(_, name), Names::These(names)) => {
                if !names.insert(name.clone()) {
                    return false;
                }
                if names.len() > NAMES_MAX {
                    *self = Names::All;
                }
            }
        }
        true
    }
}

/// A lease that the leader wants back from its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Inode.
    pub ino: Ino,
    /// The session is to give up what it was granted up to this number.
    pub up_to: u64,
    /// The session may keep a read lease: only its written data is wanted.
    pub keep_read: bool,
    /// Of a directory: the names to drop.
    pub names: Names,
}

/// A lease of one session on one inode.
#[derive(Debug)]
struct Held {
    session: SessionId,
    mode: Mode,
    /// The number of the last grant.
    grant: u64,
    /// When the lease ends by itself; `MAX`: not.
    until: Duration,
    wanted: Option<Demand>,
}

#[derive(Debug)]
struct Demand {
    /// Grows with every demand and every addition to one.
    number: u64,
    since: Duration,
    keep_read: bool,
    names: Names,
}

impl Held {
    fn is_live(&self, sessions: &HashMap<SessionId, Duration>, now: Duration) -> bool {
        let overdue = match self.mode {
            Mode::Read => READ_OVERDUE,
            Mode::Write => WRITE_OVERDUE,
        };
        now < self.until
            && sessions.get(&self.session).is_some_and(|heard| now < *heard + SILENCE)
            && self.wanted.as_ref().is_none_or(|demand| now < demand.since + overdue)
    }

    /// Demands the lease. `next`: the number of the last demand.
    fn demand(&mut self, keep_read: bool, touch: Option<&Touch>, now: Duration, next: &mut u64) {
        let is_new = self.wanted.is_none();
        let demand = self.wanted.get_or_insert_with(|| Demand {
            number: 0,
            since: now,
            keep_read,
            names: Names::default(),
        });
        let more_names = touch.is_some_and(|touch| demand.names.add(touch));
        if is_new || more_names || demand.keep_read && !keep_read {
            *next += 1;
            demand.number = *next;
            demand.keep_read &= keep_read;
        }
    }
}

/// The leases of one leader's term.
#[derive(Debug, Default)]
pub struct LeaseTable {
    grants: u64,
    demands: u64,
    inodes: HashMap<Ino, Vec<Held>>,
    leases: usize,
    /// The registered sessions, and when each was last heard of.
    sessions: HashMap<SessionId, Duration>,
    /// Sessions of the term before that have not registered, and may have any lease until `unheard_until`.
    unheard: BTreeSet<SessionId>,
    unheard_until: Duration,
    /// The inodes that changes under way touch, with the session of each change.
    changes: HashMap<Ino, Vec<SessionId>>,
    /// Changes under way whose touches are not known, by session.
    blind: HashMap<SessionId, usize>,
    /// The sessions that wait for a write lease, in the order in which they came.
    writers: HashMap<Ino, VecDeque<SessionId>>,
    /// The inodes on which a lease of a session is wanted.
    wanted: HashMap<SessionId, BTreeSet<Ino>>,
}

impl LeaseTable {
    /// Returns the table of a new leader. `may_hold`: the open sessions that may have leases of the term before.
    pub fn new(may_hold: BTreeSet<SessionId>, now: Duration) -> LeaseTable {
        LeaseTable { unheard: may_hold, unheard_until: now + SILENCE, ..LeaseTable::default() }
    }

    /// Returns the number of leases.
    pub fn len(&self) -> usize {
        self.leases
    }

    /// Returns the number of the last grant.
    pub fn last_grant(&self) -> u64 {
        self.grants
    }

    /// Returns whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases == 0
    }

    /// Notes that a session was heard of. Returns whether it is registered: otherwise it has to register before
    /// it gets leases.
    pub fn contact(&mut self, session: SessionId, now: Duration) -> bool {
        match self.sessions.get_mut(&session) {
            Some(heard) => {
                *heard = now;
                true
            }
            None => false,
        }
    }

    /// Registers a session that has dropped everything but its written data. Returns those of its write leases
    /// that it keeps.
    pub fn register(&mut self, session: SessionId, writes: &[Ino], now: Duration) -> Vec<(Ino, u64)> {
        // So that grants which are still on their way to the session are told from later ones.
        self.grants += 1;
        let was_unheard = self.unheard.remove(&session) && now < self.unheard_until;
        let mut before = HashMap::new();
        self.inodes.retain(|ino, held| {
            held.retain(|lease| {
                let goes = lease.session == session;
                if goes && lease.mode == Mode::Write && lease.is_live(&self.sessions, now) {
                    before.insert(*ino, ());
                }
                self.leases -= usize::from(goes);
                !goes
            });
            !held.is_empty()
        });
        self.wanted.remove(&session);
        self.sessions.insert(session, now);
        let mut kept = Vec::new();
        for ino in writes {
            let others = self.inodes.get(ino).is_some_and(|held| !held.is_empty());
            if (was_unheard || before.contains_key(ino)) && !others {
                kept.push((*ino, self.grant(session, *ino, Mode::Write, Duration::MAX)));
            }
        }
        kept
    }

    /// Forgets a session that has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.unheard.remove(&session);
        self.sessions.remove(&session);
        self.wanted.remove(&session);
    }

    /// Forgets what has ended by itself. To be called every second or so.
    pub fn sweep(&mut self, now: Duration) {
        let Self { inodes, sessions, wanted, leases, .. } = self;
        inodes.retain(|ino, held| {
            let before = held.len();
            held.retain(|lease| {
                let live = lease.is_live(sessions, now);
                if !live && let Some(inos) = wanted.get_mut(&lease.session) {
                    inos.remove(ino);
                }
                live
            });
            *leases -= before - held.len();
            !held.is_empty()
        });
        sessions.retain(|_, heard| now < *heard + SILENCE);
        wanted.retain(|session, _| sessions.contains_key(session));
        if now >= self.unheard_until {
            self.unheard.clear();
        }
    }

    fn awaits_others(&self, asker: SessionId, now: Duration) -> bool {
        now < self.unheard_until && self.unheard.iter().any(|session| *session != asker)
    }

    /// Returns whether the state of an inode may be read for a session: no other session keeps written data
    /// back. The writer is asked for its data.
    pub fn readable(&mut self, asker: SessionId, ino: Ino, now: Duration) -> bool {
        if self.awaits_others(asker, now) {
            return false;
        }
        self.others_are_gone(asker, ino, now, |held, next| {
            let writes = held.mode == Mode::Write;
            if writes {
                held.demand(true, None, now, next);
            }
            writes
        })
    }

    /// As [`LeaseTable::readable`], but asks nobody for anything.
    pub fn readable_now(&self, asker: SessionId, ino: Ino, now: Duration) -> bool {
        let held = self.inodes.get(&ino).into_iter().flatten();
        !self.awaits_others(asker, now)
            && held
                .filter(|lease| lease.session != asker && lease.mode == Mode::Write)
                .all(|lease| !lease.is_live(&self.sessions, now))
    }

    /// Returns whether no live lease of another session is in the way. `blocks` decides, and demands the lease.
    fn others_are_gone(
        &mut self,
        asker: SessionId,
        ino: Ino,
        now: Duration,
        mut blocks: impl FnMut(&mut Held, &mut u64) -> bool,
    ) -> bool {
        let Self { inodes, sessions, wanted, leases, demands, .. } = self;
        let Some(held) = inodes.get_mut(&ino) else { return true };
        let before = held.len();
        held.retain(|lease| lease.is_live(sessions, now));
        *leases -= before - held.len();
        let mut clear = true;
        for lease in held.iter_mut().filter(|lease| lease.session != asker) {
            if blocks(lease, demands) {
                if lease.wanted.is_some() {
                    wanted.entry(lease.session).or_default().insert(ino);
                }
                clear = false;
            }
        }
        if held.is_empty() {
            inodes.remove(&ino);
        }
        clear
    }

    fn is_changed_by_others(&self, session: SessionId, ino: Ino) -> bool {
        self.blind.keys().any(|changing| *changing != session)
            || self.changes.get(&ino).is_some_and(|by| by.iter().any(|changing| *changing != session))
    }

    /// Grants a read lease on an inode whose state is about to be read ([`LeaseTable::readable`]). Returns the
    /// grant's number; 0: no lease, the answer must not be cached. `for_good`: until it is given up, else for
    /// [`READ_FOR`].
    pub fn grant_read(&mut self, session: SessionId, ino: Ino, for_good: bool, now: Duration) -> u64 {
        if !self.sessions.contains_key(&session)
            || self.is_changed_by_others(session, ino)
            || self.writers.get(&ino).is_some_and(|waiting| waiting.iter().any(|by| *by != session))
            || self.is_wanted(session, ino)
            || self.leases >= LEASES_MAX
        {
            return 0;
        }
        let until = if for_good { Duration::MAX } else { now + READ_FOR };
        self.grant(session, ino, Mode::Read, until)
    }

    fn is_wanted(&self, session: SessionId, ino: Ino) -> bool {
        let held = self.inodes.get(&ino).into_iter().flatten();
        held.into_iter().any(|lease| lease.session == session && lease.wanted.is_some())
    }

    /// A session begins to wait for a write lease. Until the wait ends, other sessions get no read lease, and
    /// those that wait are served in their order.
    pub fn begin_wait(&mut self, session: SessionId, ino: Ino) {
        self.writers.entry(ino).or_default().push_back(session);
    }

    /// Ends a wait for a write lease.
    pub fn end_wait(&mut self, session: SessionId, ino: Ino) {
        if let Some(waiting) = self.writers.get_mut(&ino) {
            if let Some(at) = waiting.iter().position(|by| *by == session) {
                waiting.remove(at);
            }
            if waiting.is_empty() {
                self.writers.remove(&ino);
            }
        }
    }

    /// Grants a write lease on an inode. Returns the grant's number; 0: others are in the way, or were first. A
    /// session that waits ([`LeaseTable::begin_wait`]) and is first has the others asked for their leases.
    pub fn grant_write(&mut self, session: SessionId, ino: Ino, now: Duration) -> u64 {
        if !self.sessions.contains_key(&session) || self.awaits_others(session, now) {
            return 0;
        }
        let first = self.writers.get(&ino).and_then(VecDeque::front).copied();
        if first.is_some_and(|first| first != session) || self.is_wanted(session, ino) {
            return 0;
        }
        let clear = self.others_are_gone(session, ino, now, |held, next| {
            if first.is_some() {
                held.demand(false, None, now, next);
            }
            true
        });
        if !clear || self.is_changed_by_others(session, ino) {
            return 0;
        }
        self.grant(session, ino, Mode::Write, Duration::MAX)
    }

    fn grant(&mut self, session: SessionId, ino: Ino, mode: Mode, until: Duration) -> u64 {
        self.grants += 1;
        let held = self.inodes.entry(ino).or_default();
        match held.iter_mut().find(|lease| lease.session == session) {
            Some(lease) => {
                lease.mode = lease.mode.max(mode);
                lease.until = lease.until.max(until);
                lease.grant = self.grants;
            }
            None => {
                held.push(Held { session, mode, grant: self.grants, until, wanted: None });
                self.leases += 1;
            }
        }
        self.grants
    }

    /// Begins a change without knowing what it touches, if no other session can have a lease. Until it ends, no
    /// other session gets any. Returns whether it has begun.
    pub fn begin_blind_change(&mut self, by: SessionId, now: Duration) -> bool {
        let alone = !self.awaits_others(by, now) && self.sessions.keys().all(|session| *session == by);
        if alone {
            *self.blind.entry(by).or_default() += 1;
        }
        alone
    }

    /// Ends such a change.
    pub fn end_blind_change(&mut self, by: SessionId) {
        if let Some(count) = self.blind.get_mut(&by) {
            *count -= 1;
            if *count == 0 {
                self.blind.remove(&by);
            }
        }
    }

    /// Begins a change: until it ends, no other session gets a lease on what it touches.
    pub fn begin_change(&mut self, by: SessionId, touches: &[Touch]) {
        for touch in touches {
            self.changes.entry(touch.ino()).or_default().push(by);
        }
    }

    /// Ends a change that was begun with the same arguments.
    pub fn end_change(&mut self, by: SessionId, touches: &[Touch]) {
        for touch in touches {
            if let Some(changing) = self.changes.get_mut(&touch.ino()) {
                if let Some(at) = changing.iter().position(|session| *session == by) {
                    changing.swap_remove(at);
                }
                if changing.is_empty() {
                    self.changes.remove(&touch.ino());
                }
            }
        }
    }

    /// Returns whether a change may apply: no other session has a lease on what it touches. The holders are
    /// asked to give theirs up.
    pub fn is_clear(&mut self, by: SessionId, touches: &[Touch], now: Duration) -> bool {
        if !touches.is_empty() && self.awaits_others(by, now) {
            return false;
        }
        let mut clear = true;
        for touch in touches {
            clear &= self.others_are_gone(by, touch.ino(), now, |held, next| {
                held.demand(false, Some(touch), now, next);
                true
            });
        }
        clear
    }

    /// Returns the leases that are wanted back from a session: the demands after a number. And the number of the
    /// last demand of all.
    pub fn wanted(&self, session: SessionId, after: u64) -> (Vec<Wanted>, u64) {
        let inos = self.wanted.get(&session).into_iter().flatten();
        let wanted = inos.filter_map(|ino| {
            let held = self.inodes.get(ino)?.iter().find(|held| held.session == session)?;
            let demand = held.wanted.as_ref().filter(|demand| demand.number > after)?;
            let (keep_read, names) = (demand.keep_read, demand.names.clone());
            Some(Wanted { ino: *ino, up_to: held.grant, keep_read, names })
        });
        (wanted.collect(), self.demands)
    }

    /// A session gives up what it was granted on an inode up to a number. With `keep_read` it keeps a read
    /// lease.
    pub fn release(&mut self, session: SessionId, ino: Ino, up_to: u64, keep_read: bool) {
        let Some(held) = self.inodes.get_mut(&ino) else { return };
        let Some(at) = held.iter().position(|lease| lease.session == session) else { return };
        let lease = &mut held[at];
        if lease.grant > up_to {
            return;
        }
        let keeps = keep_read && lease.wanted.as_ref().is_none_or(|demand| demand.keep_read);
        if keeps {
            lease.mode = Mode::Read;
            lease.wanted = None;
        } else if keep_read {
            // More is wanted by now than when the session was asked.
            lease.mode = Mode::Read;
            return;
        } else {
            held.swap_remove(at);
            self.leases -= 1;
            if held.is_empty() {
                self.inodes.remove(&ino);
            }
        }
        if let Some(inos) = self.wanted.get_mut(&session) {
            inos.remove(&ino);
        }
    }
}

/// Returns what a command touches, as far as other sessions may have it cached. Names are looked up in the
/// state before the command.
pub fn touched_by(kv: &dyn KvRead, command: &Command, touches: &mut Vec<Touch>) {
    let child = |parent: &Ino, name: &Name| -> Option<Ino> {
        let bytes = kv.get(&key::entry(*parent, name))?;
        wire::decode::<(Ino, FileKind)>(&bytes).ok().map(|(ino, _)| ino)
    };
    match command {
        Command::Make { parent, name, .. } => touches.push(Touch::Name(*parent, name.clone())),
        Command::Link { ino, parent, name } => {
            touches.extend([Touch::Inode(*ino), Touch::Name(*parent, name.clone())]);
        }
        Command::Unlink { parent, name } | Command::RemoveDirectory { parent, name } => {
            touches.extend(child(parent, name).map(Touch::Inode));
            touches.push(Touch::Name(*parent, name.clone()));
        }
        Command::Rename { parent, name, new_parent, new_name, .. } => {
            touches.extend(child(parent, name).map(Touch::Inode));
            touches.extend(child(new_parent, new_name).map(Touch::Inode));
            touches.push(Touch::Name(*parent, name.clone()));
            touches.push(Touch::Name(*new_parent, new_name.clone()));
        }
        Command::SetAttr { ino, .. }
        | Command::SetXattr { ino, .. }
        | Command::RemoveXattr { ino, .. }
        | Command::Commit { ino, .. }
        | Command::Punch { ino, .. } => touches.push(Touch::Inode(*ino)),
        Command::Delegate { dir } => touches.push(Touch::Names(*dir)),
        _ => {}
    }
}

/// Returns the inodes that a query is about, as far as the query says.
pub fn asked_about(query: &Query) -> Option<Ino> {
    match query {
        Query::Lookup { parent: ino, .. }
        | Query::ReadDirectory { dir: ino, .. }
        | Query::GetAttr { ino }
        | Query::Open { ino }
        | Query::Layout { ino, .. }
        | Query::GetXattr { ino, .. }
        | Query::ListXattr { ino }
        | Query::Ticket { ino, .. } => Some(*ino),
        Query::As { query, .. } => asked_about(query),
        _ => None,
    }
}

/// Returns the inodes whose attributes an answer has.
pub fn told_about(answer: &Answer) -> Vec<Ino> {
    match answer {
        Answer::Attr(attr) | Answer::Layout { attr, .. } => vec![attr.ino],
        Answer::Directory { entries, .. } => entries.iter().map(|entry| entry.attr.ino).collect(),
        _ => Vec::new(),
    }
}
