//! The answers that this client keeps, each under its lease. Without a lock and without a clock.
//!
//! A name is kept with the inode that it names, or with the fact that it names none. An inode is kept with its
//! attributes and a few other answers: extended attributes, a symlink's target, a small file's layout.
//!
//! Invariants:
//! 1. An answer is given only under leases on everything that it tells, which have not ended since it came.
//! 2. A lease that does not end by time is given back: some time after the last close of its file, or after it
//!    came, if no open has used it.
//! 3. At most [`SUBJECTS_MAX`] subjects are kept besides the files in use and [`UNUSED_MAX`] others, and at most
//!    [`OTHERS_MAX`] other answers of at most [`OTHER_BYTES_MAX`] each of an inode.

use rain_namespace::error::NsError;
use rain_namespace::lease::{Claim, READ_FOR, Subject};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
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

/// Most subjects with leases for good that are passed over in search of one to drop.
const PASSED_MAX: usize = 8;

/// Leases of files that are open no more that are kept for the next open. The oldest are given back before their
/// time.
pub(super) const UNUSED_MAX: usize = 1 << 14;

/// A lease that is used this long before its end is asked for anew. So what is in use needs no leader at the moment
/// at which its lease ends.
const RENEW_BEFORE: Duration = Duration::from_secs(10);

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
#[derive(Debug, Default)]
struct Leased {
    /// When the lease ends, if it is not for good.
    until: Option<Instant>,
    /// When the lease is asked for anew at its next use, if it ends by time and that has not been done.
    renew_at: Option<Instant>,
    /// Of a lease that does not end by time: the number of its last grant.
    for_good: Option<u64>,
    /// When a lease for good is given back.
    due: Option<Instant>,
    /// The file is open.
    in_use: bool,
    value: Value,
}

impl Leased {
    fn is_live(&self, now: Instant) -> bool {
        self.for_good.is_some() || self.until.is_some_and(|until| now < until)
    }

    /// Notes that the lease is to be given back, unless the file is opened before. Returns when.
    fn give_back_later(&mut self, now: Instant) -> Instant {
        *self.due.insert(now + READ_FOR)
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
    /// The inode that the answer tells of, with the number of the last grant of a lease for good.
    pub(super) inode: Option<(Ino, Option<u64>)>,
    /// When the answer was asked for.
    pub(super) asked: Instant,
}

/// Leases to give back: the inodes with the numbers of the last grants.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unused {
    /// Those whose time is over.
    pub(super) due: Vec<(Ino, u64)>,
    /// Those that are too many. They are still here.
    pub(super) early: Vec<(Ino, u64)>,
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    entries: HashMap<Subject, Leased>,
    /// The subjects in the order in which they came, and when each is to be looked at.
    order: VecDeque<(Instant, Subject)>,
    /// Inodes with leases for good that are not in use, and when these are given back.
    unused: VecDeque<(Instant, Ino)>,
}

impl Kept {
    /// Notes a lease. `until`: when it ends; none: when it is given up.
    pub(super) fn lease(&mut self, subject: &Subject, until: Option<Instant>, grant: u64, now: Instant) {
        let is_new = !self.entries.contains_key(subject);
        let leased = self.entries.entry(subject.clone()).or_default();
        if !leased.is_live(now) {
            // What was known under an ended lease may have changed since.
            *leased = Leased { in_use: leased.in_use, ..Leased::default() };
        }
        match until {
            Some(end) => {
                leased.until = leased.until.max(until);
                let renew_at = end.checked_sub(RENEW_BEFORE);
                leased.renew_at = renew_at.filter(|at| *at > now && leased.for_good.is_none());
            }
            None => {
                (leased.for_good, leased.renew_at) = (leased.for_good.max(Some(grant)), None);
                if !leased.in_use
                    && let Subject::Inode(ino) = subject
                {
                    self.unused.push_back((leased.give_back_later(now), *ino));
                }
            }
        }
        if is_new {
            self.order.push_back((until.unwrap_or(now + LOOK_EVERY), subject.clone()));
            self.make_room(now);
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.entries.len() > SUBJECTS_MAX {
            for _ in 0..PASSED_MAX {
                let Some((_, oldest)) = self.order.pop_front() else { break };
                match self.entries.get(&oldest) {
                    Some(leased) if leased.for_good.is_some() => {
                        self.order.push_back((now + LOOK_EVERY, oldest));
                    }
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
                    let look = if leased.for_good.is_some() { None } else { leased.until };
                    self.order.push_back((look.unwrap_or(now + LOOK_EVERY), subject));
                }
                Some(_) => {
                    self.entries.remove(&subject);
                }
                None => {}
            }
        }
    }

    /// Removes a lease, and what is known under it. Returns the number of the last grant of a lease for good.
    pub(super) fn remove(&mut self, subject: &Subject) -> Option<u64> {
        self.entries.remove(subject)?.for_good
    }

    /// Forgets what is known of a subject. The lease stays.
    pub(super) fn forget(&mut self, subject: &Subject) {
        if let Some(leased) = self.entries.get_mut(subject) {
            leased.value = Value::Nothing;
        }
    }

    /// Forgets what is known of all subjects.
    pub(super) fn forget_all(&mut self) {
        self.entries.values_mut().for_each(|leased| leased.value = Value::Nothing);
    }

    /// The end of the lease on a subject, if there is one; none: when it is given up. A lease for good that is not in use
    /// ends when it is given back.
    pub(super) fn lease_on(&self, subject: &Subject) -> Option<Option<Instant>> {
        let leased = self.entries.get(subject)?;
        Some(if leased.for_good.is_some() { leased.due } else { leased.until })
    }

    /// Whether the leases under which a question is answered are to be asked for anew. Returns true once for each
    /// lease.
    pub(super) fn is_due(&mut self, query: &Query, inode: Option<Ino>, now: Instant) -> bool {
        let name = match query {
            Query::Lookup { parent, name } => Some(Subject::Name(*parent, name.clone())),
            _ => None,
        };
        let mut is_due = false;
        for subject in inode.map(Subject::Inode).into_iter().chain(name) {
            let leased = self.entries.get_mut(&subject);
            let due = leased.filter(|leased| leased.renew_at.is_some_and(|at| at <= now));
            is_due |= due.is_some_and(|leased| leased.renew_at.take().is_some());
        }
        is_due
    }

    /// Uses a lease for good for an open file. Returns whether there is one.
    pub(super) fn begin_use(&mut self, ino: Ino) -> bool {
        let leased = self.entries.get_mut(&Subject::Inode(ino)).filter(|leased| leased.for_good.is_some());
        leased.is_some_and(|leased| {
            (leased.in_use, leased.due) = (true, None);
            true
        })
    }

    /// Ends the use of a lease: it is to be given back after a while.
    pub(super) fn end_use(&mut self, ino: Ino, now: Instant) {
        if let Some(leased) = self.entries.get_mut(&Subject::Inode(ino)) {
            leased.in_use = false;
            if leased.for_good.is_some() {
                self.unused.push_back((leased.give_back_later(now), ino));
            }
        }
    }

    /// Removes the leases that are to be given back.
    pub(super) fn take_unused(&mut self, now: Instant) -> Unused {
        let mut taken = Unused::default();
        while let Some((at, ino)) = self.unused.front().copied()
            && (at <= now || self.unused.len() > UNUSED_MAX)
        {
            self.unused.pop_front();
            let subject = Subject::Inode(ino);
            // It may be in use again, or have been used and closed since.
            let leased = self.entries.get(&subject).filter(|leased| !leased.in_use && leased.due == Some(at));
            if let Some(grant) = leased.and_then(|leased| leased.for_good) {
                if at <= now {
                    self.entries.remove(&subject);
                    taken.due.push((ino, grant));
                } else {
                    taken.early.push((ino, grant));
                }
            }
        }
        taken
    }

    /// Keeps at most `most` leases: those of files in use, and the newest. Returns them.
    pub(super) fn claim(&mut self, most: usize, now: Instant) -> Vec<Claim> {
        let in_use = self.entries.iter().filter(|(_, leased)| leased.in_use).map(|(subject, _)| subject);
        let newest = self.order.iter().rev().map(|(_, subject)| subject);
        let mut claimed = HashSet::new();
        for subject in in_use.chain(newest) {
            if claimed.len() == most {
                break;
            }
            if self.entries.get(subject).is_some_and(|leased| leased.is_live(now)) {
                claimed.insert(subject.clone());
            }
        }
        self.entries.retain(|subject, _| claimed.contains(subject));
        let entries = self.entries.iter();
        entries
            .map(|(subject, leased)| Claim { subject: subject.clone(), for_good: leased.for_good.is_some() })
            .collect()
    }

    /// A new leader has granted all leases anew. `grant`: the number of the last of these grants.
    pub(super) fn granted_anew(&mut self, grant: u64) {
        for leased in self.entries.values_mut() {
            leased.for_good = leased.for_good.map(|_| grant);
        }
    }

    /// What a name names, if that is known.
    pub(super) fn name(&self, name: &Subject, now: Instant) -> Option<Option<Ino>> {
        match self.entries.get(name).filter(|leased| leased.is_live(now))?.value {
            Value::Name(ino) => Some(ino),
            _ => None,
        }
    }

    fn answers(&self, ino: Ino, now: Instant) -> Option<(&InodeAnswers, Option<u64>)> {
        let leased = self.entries.get(&Subject::Inode(ino)).filter(|leased| leased.is_live(now))?;
        match &leased.value {
            Value::Inode(answers) => Some((answers, leased.for_good)),
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
            let (answers, for_good) = self.answers(ino, now).filter(|_| may_answer(&Subject::Inode(ino)))?;
            let (attr, asked) = answers.attr.as_ref()?;
            let answered = Ok(Answer::Attr(attr.clone()));
            Some((attr, Found { answered, inode: Some((ino, for_good)), asked: *asked }))
        };
        match query {
            Query::Lookup { parent, name } => {
                let name = Subject::Name(*parent, name.clone());
                match self.name(&name, now).filter(|_| may_answer(&name))? {
                    Some(ino) => attr(ino).map(|(_, found)| found),
                    None => Some(Found { answered: Err(NsError::NotFound), inode: None, asked: now }),
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
                let (answers, for_good) =
                    self.answers(*ino, now).filter(|_| may_answer(&Subject::Inode(*ino)))?;
                let (_, answered, asked) = answers.others.iter().find(|(asked, answered, _)| {
                    asked == query || is_layout_from_before(asked, answered, query)
                })?;
                Some(Found { answered: answered.clone(), inode: Some((*ino, for_good)), asked: *asked })
            }
            _ => None,
        }
    }

    fn keepable(&mut self, subject: Subject, may_keep: &impl Fn(&Subject) -> bool) -> Option<&mut Leased> {
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
                if let Some(leased) = self.keepable(Subject::Name(*parent, name.clone()), &may_keep) {
                    leased.value = Value::Name(ino);
                }
            }
            (Query::ReadDirectory { dir, .. }, Ok(Answer::Directory { entries, .. })) => {
                for entry in entries {
                    if let Some(leased) = self.keepable(Subject::Name(*dir, entry.name.clone()), &may_keep) {
                        leased.value = Value::Name(Some(entry.attr.ino));
                    }
                    if let Some(leased) = self.keepable(Subject::Inode(entry.attr.ino), &may_keep) {
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
                if let Some(leased) = self.keepable(Subject::Inode(*ino), &may_keep) {
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
            && let Some(leased) = self.keepable(Subject::Inode(attr.ino), &may_keep)
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
