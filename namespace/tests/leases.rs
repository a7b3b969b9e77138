//! The lease table against sessions that believe what they were told, with answers and releases that come late,
//! sessions that fall silent, and new leaders.

// The helpers fail the test by panicking, which the lint allows only in the tests themselves.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rain_namespace::lease::{CONTACT_MAX, Claim, LeaseTable, Mode, READ_FOR, SILENCE, Subject, Touch};
use rain_types::{Ino, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SESSIONS: u64 = 3;

/// What a session was granted with an answer.
#[derive(Debug, Clone, Copy)]
struct Granted {
    term: u64,
    number: u64,
    mode: Mode,
    asked: Duration,
    /// The lifetime; none: until it is given up.
    lasts: Option<Duration>,
}

/// A session, with what it believes.
#[derive(Debug, Default)]
struct Believer {
    /// The term in which it is registered, and its last contact.
    registered: Option<(u64, Duration)>,
    held: BTreeMap<Subject, Granted>,
    /// It has claimed leases and has had no answer. It takes no new ones.
    registering: bool,
    /// Answers on their way to it.
    coming: Vec<(Subject, Granted)>,
    /// Grants up to these numbers were given up.
    released: BTreeMap<Subject, u64>,
    /// Write leases up to these numbers were given up.
    written: BTreeMap<Subject, u64>,
    released_below: u64,
    after: u64,
    /// Releases on their way to the leader.
    going: Vec<(u64, Subject, u64, bool)>,
}

impl Believer {
    fn relies_on(&self, subject: &Subject, now: Duration) -> Option<Mode> {
        let (term, contact) = self.registered?;
        let granted = self.held.get(subject).filter(|granted| granted.term == term)?;
        let until = granted.lasts.map_or(Duration::MAX, |lasts| granted.asked + lasts);
        (now < contact + CONTACT_MAX && now < until).then_some(granted.mode)
    }

    fn take(&mut self, subject: Subject, granted: Granted) {
        let released = self.released.get(&subject).copied().unwrap_or(self.released_below);
        let is_of_term = self.registered.is_some_and(|(term, _)| term == granted.term);
        if granted.number <= released || !is_of_term || self.registering {
            return;
        }
        let written = self.written.get(&subject).copied().unwrap_or(self.released_below);
        let mode = if granted.number <= written { Mode::Read } else { granted.mode };
        let granted = Granted { mode, ..granted };
        let held = self.held.entry(subject).or_insert(granted);
        held.mode = held.mode.max(granted.mode);
        let end = |granted: &Granted| granted.lasts.map_or(Duration::MAX, |lasts| granted.asked + lasts);
        if end(&granted) > end(held) {
            (held.asked, held.lasts) = (granted.asked, granted.lasts);
        }
        held.number = held.number.max(granted.number);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A session asks; the answer comes at once or later.
    Ask {
        session: u64,
        subject: usize,
        lasts_ms: Option<u64>,
        late: bool,
    },
    /// A session wants a write lease: begins to wait, or tries once more.
    Write {
        session: u64,
        ino: u64,
        late: bool,
    },
    /// A session begins a change, or tries to apply it.
    Change {
        session: u64,
        touch: usize,
    },
    /// A contact of a session, which gives up what is wanted, or registers. It claims what it still relies on; the
    /// answer to a registration may be lost.
    Contact {
        session: u64,
        claims: bool,
        lost: bool,
    },
    /// A session gives up what it does not need any more.
    Unused {
        session: u64,
        subject: usize,
    },
    /// What is on its way to and from a session arrives.
    Deliver {
        session: u64,
    },
    Pass {
        millis: u64,
    },
    NewLeader,
}

fn subjects() -> Vec<Subject> {
    vec![
        Subject::Inode(Ino(1)),
        Subject::Inode(Ino(2)),
        Subject::Name(Ino(1), b"a".to_vec()),
        Subject::Name(Ino(1), b"b".to_vec()),
    ]
}

fn touches() -> Vec<Vec<Touch>> {
    let one = |at: usize| Touch::One(subjects()[at].clone());
    vec![
        vec![one(0)],
        vec![one(1)],
        vec![one(2), one(0)],
        vec![one(2), one(3), one(1), one(0)],
        vec![Touch::Names(Ino(1)), one(0)],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let session = 1..=SESSIONS;
    prop_oneof![
        5 => (session.clone(), 0usize..4, proptest::option::of(200u64..3000), any::<bool>())
            .prop_map(|(session, subject, lasts_ms, late)| Step::Ask { session, subject, lasts_ms, late }),
        3 => (session.clone(), 1u64..=2, any::<bool>()).prop_map(|(session, ino, late)| Step::Write { session, ino, late }),
        5 => (session.clone(), 0usize..5).prop_map(|(session, touch)| Step::Change { session, touch }),
        6 => (session.clone(), any::<bool>(), proptest::bool::weighted(0.2))
            .prop_map(|(session, claims, lost)| Step::Contact { session, claims, lost }),
        2 => (session.clone(), 0usize..4).prop_map(|(session, subject)| Step::Unused { session, subject }),
        4 => session.prop_map(|session| Step::Deliver { session }),
        3 => (1u64..400).prop_map(|millis| Step::Pass { millis }),
        1 => (1000u64..3000).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::NewLeader),
    ]
}

#[derive(Debug)]
struct World {
    now: Duration,
    term: u64,
    table: LeaseTable,
    sessions: BTreeMap<u64, Believer>,
    writing: BTreeSet<(u64, u64)>,
    changing: BTreeMap<u64, usize>,
    /// Changes that may apply, and have not.
    cleared: BTreeSet<u64>,
}

impl World {
    fn new() -> World {
        World {
            now: Duration::from_secs(10),
            term: 1,
            table: LeaseTable::new(BTreeSet::new(), Duration::from_secs(10)),
            sessions: (1..=SESSIONS).map(|session| (session, Believer::default())).collect(),
            writing: BTreeSet::new(),
            changing: BTreeMap::new(),
            cleared: BTreeSet::new(),
        }
    }

    fn nobody_else_relies_on(&self, session: u64, subject: &Subject, why: &str) {
        for (other, believer) in self.sessions.iter().filter(|(other, _)| **other != session) {
            let relies = believer.relies_on(subject, self.now);
            assert!(relies.is_none(), "{why} by {session}: {other} relies on {subject:?} ({relies:?})");
        }
    }

    fn touched(touch: usize) -> Vec<Subject> {
        let all = subjects();
        let mut touched = Vec::new();
        for touch in &touches()[touch] {
            match touch {
                Touch::One(subject) => touched.push(subject.clone()),
                Touch::Names(dir) => {
                    let named = |subject: &&Subject| matches!(subject, Subject::Name(of, _) if of == dir);
                    touched.extend(all.iter().filter(named).cloned());
                }
            }
        }
        touched
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Ask { session, subject, lasts_ms, late } => {
                let lasts = lasts_ms.map(Duration::from_millis);
                let subject = subjects()[subject].clone();
                let id = SessionId(session);
                if let Subject::Inode(ino) = subject {
                    // Others are asked to store what they keep back. What was found readable before may be so no more.
                    self.table.readable(id, ino, now);
                }
                let number = self.table.grant_read(id, &subject, lasts, now);
                if number > 0 {
                    // The state is read here: no other session keeps data back.
                    for (other, believer) in self.sessions.iter().filter(|(other, _)| **other != session) {
                        assert_ne!(believer.relies_on(&subject, now), Some(Mode::Write), "{other} writes");
                    }
                    let granted = Granted { term: self.term, number, mode: Mode::Read, asked: now, lasts };
                    let believer = self.sessions.get_mut(&session).unwrap();
                    if late {
                        believer.coming.push((subject, granted));
                    } else {
                        believer.take(subject, granted);
                    }
                }
            }
            Step::Write { session, ino, late } => {
                let (id, ino_of) = (SessionId(session), Ino(ino));
                if self.writing.insert((session, ino)) {
                    self.table.begin_wait(id, ino_of);
                }
                let number = self.table.grant_write(id, ino_of, now);
                if number > 0 {
                    self.writing.remove(&(session, ino));
                    self.table.end_wait(id, ino_of);
                    let subject = Subject::Inode(ino_of);
                    self.nobody_else_relies_on(session, &subject, "a write lease");
                    let (term, mode) = (self.term, Mode::Write);
                    let granted = Granted { term, number, mode, asked: now, lasts: None };
                    let believer = self.sessions.get_mut(&session).unwrap();
                    if late {
                        believer.coming.push((subject, granted));
                    } else {
                        believer.take(subject, granted);
                    }
                }
            }
            Step::Change { session, touch } => {
                let id = SessionId(session);
                let touch = *self.changing.entry(session).or_insert_with(|| {
                    self.table.begin_change(id, &touches()[touch]);
                    touch
                });
                if !self.cleared.contains(&session) {
                    // It applies in a later step.
                    if self.table.is_clear(id, &touches()[touch], now) {
                        self.cleared.insert(session);
                    }
                } else {
                    for subject in World::touched(touch) {
                        self.nobody_else_relies_on(session, &subject, "a change");
                    }
                    self.changing.remove(&session);
                    self.cleared.remove(&session);
                    self.table.end_change(id, &touches()[touch]);
                }
            }
            Step::Contact { session, claims, lost } => self.contact(session, claims, lost),
            Step::Unused { session, subject } => {
                let subject = subjects()[subject].clone();
                let believer = self.sessions.get_mut(&session).unwrap();
                if let Some(held) = believer.held.remove(&subject) {
                    let released = believer.released.entry(subject.clone()).or_default();
                    *released = held.number.max(*released);
                    believer.going.push((held.term, subject, held.number, false));
                }
            }
            Step::Deliver { session } => {
                let believer = self.sessions.get_mut(&session).unwrap();
                for (subject, granted) in std::mem::take(&mut believer.coming) {
                    believer.take(subject, granted);
                }
                for (term, subject, up_to, keep_read) in std::mem::take(&mut believer.going) {
                    if term == self.term {
                        self.table.release(SessionId(session), &subject, up_to, keep_read);
                    }
                }
            }
            Step::Pass { millis } => {
                self.now += Duration::from_millis(millis);
                if millis % 3 == 0 {
                    self.table.sweep(self.now);
                }
            }
            Step::NewLeader => {
                self.term += 1;
                let may_hold = (1..=SESSIONS).map(SessionId).collect();
                self.table = LeaseTable::new(may_hold, now);
                (self.writing, self.changing, self.cleared) = Default::default();
            }
        }
    }

    fn contact(&mut self, session: u64, claims: bool, lost: bool) {
        let (now, id) = (self.now, SessionId(session));
        let believer = self.sessions.get_mut(&session).unwrap();
        let registered = self.table.contact(id, now);
        let is_of_term = believer.registered.is_some_and(|(term, _)| term == self.term);
        if !registered || !is_of_term || believer.registering {
            let writes: Vec<Ino> = (1..=2)
                .map(Ino)
                .filter(|ino| {
                    let held = believer.held.get(&Subject::Inode(*ino));
                    held.is_some_and(|granted| granted.mode == Mode::Write)
                })
                .collect();
            let (term, asked) = (self.term, now);
            let mut claimed: Vec<Claim> = Vec::new();
            if claims {
                let relied =
                    believer.held.keys().filter(|subject| believer.relies_on(subject, now).is_some());
                claimed.extend(relied.map(|subject| Claim {
                    subject: subject.clone(),
                    for_good: believer.held[subject].lasts.is_none(),
                }));
            }
            believer.held.retain(|subject, held| {
                held.mode == Mode::Write || claimed.iter().any(|claim| claim.subject == *subject)
            });
            // No lease is added before the session is registered.
            believer.coming.clear();
            let granted = self.table.last_grant() + 1;
            let Ok(kept) = self.table.register(id, &writes, &claimed, now) else {
                assert!(!claimed.is_empty());
                *believer = Believer::default();
                return;
            };
            if lost {
                believer.registering = true;
                if claimed.is_empty() {
                    believer.registered = None;
                }
                return;
            }
            let held = std::mem::take(&mut believer.held);
            let fresh = Believer { registered: Some((term, now)), ..Believer::default() };
            *believer = Believer { released_below: granted, ..fresh };
            for Claim { subject, for_good } in claimed {
                let lasts = (!for_good).then_some(READ_FOR);
                let lasts = held[&subject].lasts.and(lasts);
                let number = self.table.last_grant();
                believer.held.insert(subject, Granted { term, number, mode: Mode::Read, asked, lasts });
            }
            for (ino, number) in kept {
                let granted = Granted { term, number, mode: Mode::Write, asked, lasts: None };
                believer.held.insert(Subject::Inode(ino), granted);
            }
            believer.after = self.table.wanted(id, u64::MAX).1;
            return;
        }
        believer.registered = Some((self.term, now));
        let (wanted, last) = self.table.wanted(id, believer.after);
        believer.after = last;
        for wanted in wanted {
            if wanted.keep_read {
                if let Some(held) = believer.held.get_mut(&wanted.subject) {
                    held.mode = Mode::Read;
                }
                let written = believer.written.entry(wanted.subject.clone()).or_default();
                *written = wanted.up_to.max(*written);
            } else {
                believer.held.remove(&wanted.subject);
                let released = believer.released.entry(wanted.subject.clone()).or_default();
                *released = wanted.up_to.max(*released);
            }
            believer.going.push((self.term, wanted.subject, wanted.up_to, wanted.keep_read));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_session_relies_on_what_another_has_changed(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        // Whoever is in the way gives way, or falls silent: every change applies in the end.
        for _ in 0..200 {
            for session in 1..=SESSIONS {
                world.take(Step::Contact { session, claims: false, lost: false });
                world.take(Step::Deliver { session });
                if let Some(touch) = world.changing.get(&session).copied() {
                    world.take(Step::Change { session, touch });
                }
                for ino in 1..=2 {
                    if world.writing.contains(&(session, ino)) {
                        world.take(Step::Write { session, ino, late: false });
                    }
                }
            }
        }
        prop_assert!(world.changing.is_empty(), "{:?}", world.changing);
        prop_assert!(world.writing.is_empty(), "{:?}", world.writing);
    }
}

#[test]
fn the_times_leave_a_margin_for_what_is_on_its_way() {
    assert!(CONTACT_MAX < SILENCE);
}

#[test]
fn leases_that_have_ended_by_time_or_with_their_session_take_no_memory() {
    let mut table = LeaseTable::new(BTreeSet::new(), Duration::ZERO);
    let session = SessionId(1);
    assert_eq!(table.register(session, &[], &[], Duration::ZERO), Ok(vec![]));
    let second = Duration::from_secs(1);
    let name = Subject::Name(Ino(1), b"a".to_vec());
    table.grant_read(session, &Subject::Inode(Ino(1)), Some(second), Duration::ZERO);
    table.grant_read(session, &name, Some(second), Duration::ZERO);
    // A lease that was granted again ends later.
    table.grant_read(session, &name, Some(3 * second), second / 2);
    table.grant_read(session, &Subject::Inode(Ino(2)), None, Duration::ZERO);
    table.contact(session, 2 * second);
    table.sweep(2 * second);
    assert_eq!(table.len(), 2);
    table.contact(session, 4 * second);
    table.sweep(5 * second);
    assert_eq!(table.len(), 1);
    // A lease that was kept is given back; what came later ends by time.
    let kept = table.grant_read(session, &Subject::Inode(Ino(2)), None, 5 * second);
    table.grant_read(session, &Subject::Inode(Ino(2)), Some(second), 5 * second);
    table.release(session, &Subject::Inode(Ino(2)), kept, false);
    assert_eq!(table.len(), 1);
    table.contact(session, 7 * second);
    table.sweep(8 * second);
    assert!(table.is_empty());
    table.grant_read(session, &Subject::Inode(Ino(2)), None, 8 * second);
    table.forget(session);
    table.sweep(8 * second);
    assert!(table.is_empty());
}

#[test]
fn a_session_registers_though_the_table_is_full_of_write_leases() {
    let mut table = LeaseTable::new(BTreeSet::new(), Duration::ZERO);
    let (writer, other) = (SessionId(1), SessionId(2));
    assert_eq!(table.register(writer, &[], &[], Duration::ZERO), Ok(vec![]));
    let mut ino = 0;
    while table.len() <= 1 << 19 {
        ino += 1;
        assert!(table.grant_write(writer, Ino(ino), Duration::ZERO) > 0);
    }
    assert_eq!(table.grant_read(writer, &Subject::Inode(Ino(ino + 1)), None, Duration::ZERO), 0, "full");
    assert_eq!(table.register(other, &[], &[], Duration::ZERO), Ok(vec![]));
}
