//! The answers that this client keeps, each under its lease. Without a lock and without a clock.
//!
//! A name is kept with the inode that it names, or with the fact that it names none. An inode is kept with its
//! attributes and a few other answers: extended attributes, a symlink's target, a small file's layout.
//!
//! Invariants:
//! 1. An answer is given only under leases on everything that it tells, none of which has ended.
//! 2. At most [`SUBJECTS_MAX`] subjects are kept besides the files in use, and at most [`OTHERS_MAX`] other answers
//!    of at most [`OTHER_BYTES_MAX`] each of an inode.

use rain_namespace::error::NsError;
use rain_namespace::lease::{READ_FOR, Subject};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Subjects that are kept. The oldest go first.
const SUBJECTS_MAX: usize = 1 << 16;

/// Other answers of one inode.
const OTHERS_MAX: usize = 6;

/// The estimated length of another answer, bytes.
const OTHER_BYTES_MAX: usize = 4096;

/// The estimated length of an extent, bytes.
const EXTENT_BYTES: usize = 64;

/// Most subjects in use that are passed over in search of one to drop.
const PASSED_MAX: usize = 8;

/// An entry whose lease has no end is looked at again after this time.
const LOOK_EVERY: Duration = READ_FOR;

/// What is known of a subject.
#[derive(Debug, Default)]
enum Value {
    #[default]
    Nothing,
    Name(Option<Ino>),
    Inode(Box<InodeAnswers>),
}

#[derive(Debug, Default)]
struct InodeAnswers {
    attr: Option<(Attr, Instant)>,
    /// Each with the time at which it was asked for.
    others: Vec<(Query, Answered, Instant)>,
}

/// A lease, and what is known under it.
#[derive(Debug)]
struct Leased {
    /// When the lease ends; none: when it is given up.
    until: Option<Instant>,
    /// The lease at the leader has no end. `until` is when it is to be given back.
    for_good: bool,
    /// The number of the last grant.
    grant: u64,
    /// The file is open.
    in_use: bool,
    value: Value,
}

impl Leased {
    fn is_live(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn inode(&mut self) -> &mut InodeAnswers {
        if !matches!(self.value, Value::Inode(_)) {
            self.value = Value::Inode(Box::default());
        }
        match &mut self.value {
            Value::Inode(answers) => answers,
            _ => unreachable!("just set"),
        }
    }
}

/// An answer that was kept.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) answered: Answered,
    /// The number of the grant on the inode that the answer tells of; 0: it tells of none.
    pub(super) grant: u64,
    /// When the answer was asked for.
    pub(super) asked: Instant,
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    entries: HashMap<Subject, Leased>,
    /// The subjects in the order in which they came, and when each is to be looked at.
    order: VecDeque<(Instant, Subject)>,
}

impl Kept {
    /// Notes a lease. `until`: when it ends; none: when it is given up.
    pub(super) fn lease(&mut self, subject: &Subject, until: Option<Instant>, grant: u64, now: Instant) {
        match self.entries.entry(subject.clone()) {
            Entry::Occupied(entry) => {
                let leased = entry.into_mut();
                leased.for_good |= until.is_none();
                leased.grant = leased.grant.max(grant);
                leased.until = leased.until.zip(until).map(|(old, new)| old.max(new));
            }
            Entry::Vacant(entry) => {
                let for_good = until.is_none();
                entry.insert(Leased { until, for_good, grant, in_use: false, value: Value::Nothing });
                self.order.push_back((until.unwrap_or(now + LOOK_EVERY), subject.clone()));
                self.make_room(now);
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.entries.len() > SUBJECTS_MAX {
            for _ in 0..PASSED_MAX {
                let Some((_, oldest)) = self.order.pop_front() else { break };
                match self.entries.get(&oldest) {
                    Some(leased) if leased.in_use => self.order.push_back((now + LOOK_EVERY, oldest)),
                    Some(_) => {
                        self.entries.remove(&oldest);
                        break;
                    }
                    None => {}
                }
            }
        }
        if self.order.len() > 2 * self.entries.len().max(SUBJECTS_MAX) {
            // Most were removed, and some have come again.
            let mut seen = HashSet::new();
            self.order
                .retain(|(_, subject)| self.entries.contains_key(subject) && seen.insert(subject.clone()));
        }
    }

    /// Drops leases that have ended.
    pub(super) fn drop_ended(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, subject)) = self.order.pop_front() else { return };
            match self.entries.get(&subject) {
                Some(leased) if leased.is_live(now) => {
                    self.order.push_back((leased.until.unwrap_or(now + LOOK_EVERY), subject));
                }
                Some(_) => {
                    self.entries.remove(&subject);
                }
                None => {}
            }
        }
    }

    /// Removes a lease, and what is known under it.
    pub(super) fn remove(&mut self, subject: &Subject) {
        self.entries.remove(subject);
    }

    /// Forgets what is known of a subject. The lease stays.
    pub(super) fn forget(&mut self, subject: &Subject) {
        if let Some(leased) = self.entries.get_mut(subject) {
            leased.value = Value::Nothing;
        }
    }

    /// Forgets what is known of all inodes.
    pub(super) fn forget_inodes(&mut self) {
        for (_, leased) in self.entries.iter_mut().filter(|(subject, _)| matches!(subject, Subject::Inode(_)))
        {
            leased.value = Value::Nothing;
        }
    }

    /// The end of the lease on a subject, if there is one.
    pub(super) fn lease_on(&self, subject: &Subject) -> Option<Option<Instant>> {
        self.entries.get(subject).map(|leased| leased.until)
    }

    /// Uses a lease for an open file. Returns its end; none: there is no lease.
    pub(super) fn begin_use(&mut self, subject: &Subject) -> Option<Option<Instant>> {
        let leased = self.entries.get_mut(subject)?;
        leased.in_use = true;
        if leased.for_good {
            leased.until = None;
        }
        Some(leased.until)
    }

    /// Ends the use of a lease. Returns whether the lease is to be given back at `due`: others end by time.
    pub(super) fn end_use(&mut self, subject: &Subject, due: Instant) -> bool {
        let Some(leased) = self.entries.get_mut(subject) else { return false };
        leased.in_use = false;
        if leased.for_good {
            leased.until = Some(due);
        }
        leased.for_good
    }

    /// Whether a lease that was to be given back at `due` has not been used since.
    pub(super) fn is_unused_since(&self, subject: &Subject, due: Instant) -> bool {
        self.entries.get(subject).is_none_or(|leased| !leased.in_use && leased.until == Some(due))
    }

    /// What a name names, if that is known.
    pub(super) fn name(&self, name: &Subject, now: Instant) -> Option<Option<Ino>> {
        match self.entries.get(name).filter(|leased| leased.is_live(now))?.value {
            Value::Name(ino) => Some(ino),
            _ => None,
        }
    }

    fn answers(&self, ino: Ino, now: Instant) -> Option<(&InodeAnswers, u64)> {
        let leased = self.entries.get(&Subject::Inode(ino)).filter(|leased| leased.is_live(now))?;
        match &leased.value {
            Value::Inode(answers) => Some((answers, leased.grant)),
            _ => None,
        }
    }

    /// Answers a question. `may_answer`: whether what is known of a subject is right.
    pub(super) fn answer(
        &self,
        query: &Query,
        now: Instant,
        may_answer: impl Fn(&Subject) -> bool,
    ) -> Option<Found> {
        let attr = |ino: Ino| {
            let (answers, grant) = self.answers(ino, now).filter(|_| may_answer(&Subject::Inode(ino)))?;
            let (attr, asked) = answers.attr.as_ref()?;
            Some((attr, Found { answered: Ok(Answer::Attr(attr.clone())), grant, asked: *asked }))
        };
        match query {
            Query::Lookup { parent, name } => {
                let name = Subject::Name(*parent, name.clone());
                match self.name(&name, now).filter(|_| may_answer(&name))? {
                    Some(ino) => attr(ino).map(|(_, found)| found),
                    None => Some(Found { answered: Err(NsError::NotFound), grant: 0, asked: now }),
                }
            }
            Query::GetAttr { ino } => attr(*ino).map(|(_, found)| found),
            Query::Open { ino } => {
                let is_openable = |attr: &Attr| attr.kind == FileKind::File && attr.nlink > 0;
                attr(*ino).filter(|(attr, _)| is_openable(attr)).map(|(_, found)| found)
            }
            Query::ReadLink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Layout { ino, .. } => {
                let (answers, grant) =
                    self.answers(*ino, now).filter(|_| may_answer(&Subject::Inode(*ino)))?;
                let (_, answered, asked) = answers.others.iter().find(|(asked, answered, _)| {
                    asked == query || is_layout_from_before(asked, answered, query)
                })?;
                Some(Found { answered: answered.clone(), grant, asked: *asked })
            }
            _ => None,
        }
    }

    fn to_keep(&mut self, subject: Subject, may_keep: &impl Fn(&Subject) -> bool) -> Option<&mut Leased> {
        self.entries.get_mut(&subject).filter(|_| may_keep(&subject))
    }

    /// Keeps an answer, as far as it tells of subjects that are leased and that `may_keep` names.
    pub(super) fn keep(
        &mut self,
        query: &Query,
        answered: &Answered,
        asked: Instant,
        may_keep: impl Fn(&Subject) -> bool,
    ) {
        match (query, answered) {
            (Query::Lookup { parent, name }, answered) => {
                let ino = match answered {
                    Ok(Answer::Attr(attr)) => Some(attr.ino),
                    _ => None,
                };
                if let Some(leased) = self.to_keep(Subject::Name(*parent, name.clone()), &may_keep) {
                    leased.value = Value::Name(ino);
                }
            }
            (Query::ReadDirectory { dir, .. }, Ok(Answer::Directory { entries, .. })) => {
                for entry in entries {
                    if let Some(leased) = self.to_keep(Subject::Name(*dir, entry.name.clone()), &may_keep) {
                        leased.value = Value::Name(Some(entry.attr.ino));
                    }
                    if let Some(leased) = self.to_keep(Subject::Inode(entry.attr.ino), &may_keep) {
                        leased.inode().attr = Some((entry.attr.clone(), asked));
                    }
                }
            }
            (
                Query::ReadLink { ino }
                | Query::GetXattr { ino, .. }
                | Query::ListXattr { ino }
                | Query::Layout { ino, .. },
                _,
            ) if other_bytes(answered) <= OTHER_BYTES_MAX => {
                if let Some(leased) = self.to_keep(Subject::Inode(*ino), &may_keep) {
                    let others = &mut leased.inode().others;
                    others.retain(|(known, ..)| known != query);
                    if others.len() >= OTHERS_MAX {
                        drop(others.remove(0));
                    }
                    others.push((query.clone(), answered.clone(), asked));
                }
            }
            _ => {}
        }
        if let Ok(Answer::Attr(attr) | Answer::Layout { attr, .. }) = answered
            && let Some(leased) = self.to_keep(Subject::Inode(attr.ino), &may_keep)
        {
            leased.inode().attr = Some((attr.clone(), asked));
        }
    }
}

/// Whether an answer is the whole layout of a file from an offset on, and a query asks for a part of it.
fn is_layout_from_before(asked: &Query, answered: &Answered, query: &Query) -> bool {
    match (asked, answered, query) {
        (
            Query::Layout { ino: of, from: known, .. },
            Ok(Answer::Layout { more: false, .. }),
            Query::Layout { ino, from, .. },
        ) => of == ino && known <= from,
        _ => false,
    }
}

/// The estimated length of another answer of an inode, bytes.
fn other_bytes(answered: &Answered) -> usize {
    match answered {
        Ok(Answer::Layout { inline, extents, .. }) => inline.len() + EXTENT_BYTES * extents.len(),
        Ok(Answer::Bytes(bytes)) => bytes.len(),
        Ok(Answer::Names(names)) => names.iter().map(Vec::len).sum(),
        _ => 0,
    }
}
