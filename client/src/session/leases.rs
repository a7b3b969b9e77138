//! What this client may rely on of what it has cached: its leases, as the leader has granted them
//! ([`rain_namespace::lease`]).
//!
//! Invariants:
//! 1. Nothing is relied on later than [`CONTACT_MAX`] after the last contact with the leader that has granted
//!    it. A contact counts from when it was asked for.
//! 2. An answer that was asked for before its lease was given up grants nothing, however late it comes
//!    ([`Leases::is_current`], `an_answer_from_before_a_release_grants_nothing`).
//! 3. A lease is given up only after everything that relies on it has been dropped: first here, so that nothing
//!    new relies on it, then by the [`LeaseHolder`]s, then at the leader.
//!
//! Left out: what is cached. The rungs above know it, as [`LeaseHolder`]s.

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rain_namespace::lease::{CONTACT_MAX, Mode, READ_FOR, Subject, Wanted};
use rain_namespace::wire;
use rain_proto::v1;
use rain_types::{Ino, LeaderTerm};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Weak;
use std::time::{Duration, Instant};

/// Releases that are remembered one by one. Of older ones only the newest grant's number is.
const RELEASES_MAX: usize = 1 << 16;

/// Something that has cached what leases allow.
pub(crate) trait LeaseHolder: Debug + Send + Sync {
    /// Stores and drops what relies on these leases.
    fn give_up<'a>(&'a self, wanted: &'a [Wanted]) -> BoxFuture<'a, ()>;

    /// Drops everything that relies on leases, except written data and the leases for it.
    fn give_up_all(&self) -> BoxFuture<'_, ()>;

    /// The files with a write lease.
    fn writes(&self) -> Vec<Ino>;

    /// The write leases that are kept, with their grants' numbers. Others are lost.
    fn writes_kept(&self, kept: &HashMap<Ino, u64>);
}

/// What came with an answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Grant {
    term: LeaderTerm,
    /// The number of the grant; 0: nothing was granted.
    pub(crate) number: u64,
    /// It is a write lease.
    write: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The term of the leader with which this client is registered; none: with none.
    term: Option<LeaderTerm>,
    contact: Option<Instant>,
    /// Read leases that came with answers, and when each ends.
    reads: HashMap<Subject, Instant>,
    /// The numbers up to which grants were given up.
    released: HashMap<Subject, u64>,
    /// The numbers up to which write leases were given up and read leases kept.
    written: HashMap<Ino, u64>,
    /// The subjects of `released`, oldest first.
    order: VecDeque<Subject>,
    /// As `released`, for every subject that is not there.
    released_below: u64,
    /// Leases of files that are open no more, and when they are to be given back.
    unused: VecDeque<(Instant, Ino, u64)>,
}

impl State {
    fn valid_until(&self) -> Option<Instant> {
        self.term?;
        Some(self.contact? + CONTACT_MAX)
    }

    /// Nothing may rely on what was granted on a subject up to a number.
    fn release(&mut self, subject: &Subject, up_to: u64) {
        self.reads.remove(subject);
        let released = self.released.entry(subject.clone());
        if let Entry::Vacant(_) = released {
            self.order.push_back(subject.clone());
        }
        let released = released.or_default();
        *released = up_to.max(*released);
        if self.order.len() > RELEASES_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(up_to) = self.released.remove(&oldest)
        {
            self.released_below = self.released_below.max(up_to);
        }
    }

    fn is_current(&self, grant: &Grant, subject: &Subject) -> bool {
        let released = self.released.get(subject).copied().unwrap_or(self.released_below);
        grant.number > released && self.term == Some(grant.term)
    }
}

/// The leases of a session.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    state: Mutex<State>,
    holders: Mutex<Vec<Weak<dyn LeaseHolder>>>,
}

impl Leases {
    /// Adds a holder.
    pub(crate) fn add_holder(&self, holder: Weak<dyn LeaseHolder>) {
        let mut holders = self.holders.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    pub(super) fn holders(&self) -> Vec<std::sync::Arc<dyn LeaseHolder>> {
        self.holders.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether leases may be relied on at this moment.
    pub(crate) fn are_valid(&self) -> bool {
        self.state.lock().valid_until().is_some_and(|until| Instant::now() < until)
    }

    /// For how long from now what is known of a subject may be used without asking.
    pub(crate) fn read_for(&self, subject: &Subject) -> Duration {
        let state = self.state.lock();
        let (Some(valid), Some(until)) = (state.valid_until(), state.reads.get(subject)) else {
            return Duration::ZERO;
        };
        valid.min(*until).saturating_duration_since(Instant::now())
    }

    /// The time of the last contact that leases rest on; none without leases.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.term.and(state.contact)
    }

    /// What still stands of a grant on an inode.
    pub(crate) fn mode_of(&self, grant: &Grant, ino: Ino) -> Option<Mode> {
        let state = self.state.lock();
        if !state.is_current(grant, &Subject::Inode(ino)) {
            return None;
        }
        let written = state.written.get(&ino).copied().unwrap_or(state.released_below);
        Some(if grant.write && grant.number > written { Mode::Write } else { Mode::Read })
    }

    /// Takes in what came with an answer to a question that was asked at `asked`. `told`: what the answer tells.
    pub(super) fn granted(
        &self,
        asked: Instant,
        grant: Option<&v1::LeaseGrant>,
        told: Vec<Subject>,
    ) -> Grant {
        let Some(v1::LeaseGrant { term: Some(term), number, write, unleased }) = grant else {
            return Grant::default();
        };
        let grant = Grant { term: (*term).into(), number: *number, write: *write };
        if *number > 0 {
            let unleased: HashSet<Subject> =
                unleased.iter().filter_map(|subject| wire::decode(subject).ok()).collect();
            let mut state = self.state.lock();
            for subject in told {
                if !unleased.contains(&subject) && state.is_current(&grant, &subject) {
                    state.reads.insert(subject, asked + READ_FOR);
                }
            }
        }
        grant
    }

    /// Nothing may rely on these leases from here on.
    pub(super) fn begin_release(&self, wanted: &[Wanted]) {
        let mut state = self.state.lock();
        for Wanted { subject, up_to, keep_read } in wanted {
            match subject {
                _ if !keep_read => state.release(subject, *up_to),
                Subject::Inode(ino) => {
                    let written = state.written.entry(*ino).or_default();
                    *written = (*written).max(*up_to);
                    if state.written.len() > RELEASES_MAX {
                        // Rather a lease too few.
                        let given_up = state.written.drain().map(|(_, up_to)| up_to).max();
                        state.released_below = state.released_below.max(given_up.unwrap_or(0));
                    }
                }
                Subject::Name(..) => {}
            }
        }
    }

    /// A file is open no more: its lease is given back, once what the kernel may have been told by it has expired.
    pub(crate) fn unused(&self, ino: Ino, up_to: u64) {
        self.state.lock().unused.push_back((Instant::now() + READ_FOR, ino, up_to));
    }

    /// The leases to give back: nothing relies on them from here on.
    pub(super) fn take_unused(&self) -> Vec<(Ino, u64)> {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.reads.retain(|_, until| now < *until);
        let mut due = Vec::new();
        while let Some((_, ino, up_to)) = state.unused.front().copied().filter(|(at, ..)| *at <= now) {
            state.unused.pop_front();
            state.release(&Subject::Inode(ino), up_to);
            due.push((ino, up_to));
        }
        due
    }

    /// A contact with the leader was asked for at `asked`, and has come.
    pub(super) fn contact(&self, asked: Instant, term: LeaderTerm) {
        let mut state = self.state.lock();
        if state.term == Some(term) {
            state.contact = state.contact.max(Some(asked));
        }
    }

    /// The term of the leader with which this client is registered.
    pub(super) fn term(&self) -> Option<LeaderTerm> {
        self.state.lock().term
    }

    /// Nothing may rely on any lease from here on.
    pub(super) fn begin_registration(&self) {
        *self.state.lock() = State::default();
    }

    /// This client is registered with a leader. Its grants up to a number are void.
    pub(super) fn registered(&self, asked: Instant, term: LeaderTerm, released_below: u64) {
        let (term, contact) = (Some(term), Some(asked));
        *self.state.lock() = State { term, contact, released_below, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_types::NodeId;
    use std::slice;

    #[test]
    fn an_answer_from_before_a_release_grants_nothing() {
        let leases = Leases::default();
        let asked = Instant::now();
        let term = |term, node| LeaderTerm { term, node: NodeId(node) };
        let inodes = |inos: &[u64]| inos.iter().map(|ino| Subject::Inode(Ino(*ino))).collect::<Vec<_>>();
        let grant = |number, unleased: &[u64]| v1::LeaseGrant {
            term: Some(v1::LeaseTerm { term: 3, leader: 1 }),
            number,
            write: false,
            unleased: inodes(unleased).iter().map(|subject| wire::encode(subject).into()).collect(),
        };
        let read = |ino| leases.read_for(&Subject::Inode(Ino(ino))) > Duration::ZERO;
        leases.granted(asked, Some(&grant(5, &[])), inodes(&[7]));
        assert!(!read(7), "this client is not registered");
        leases.registered(asked, term(3, 1), 4);
        leases.granted(asked, Some(&grant(4, &[])), inodes(&[7]));
        assert!(!read(7), "granted before the registration");
        leases.granted(asked, Some(&grant(5, &[8])), inodes(&[7, 8]));
        assert!(read(7) && !read(8));
        let wanted = Wanted { subject: Subject::Inode(Ino(7)), up_to: 6, keep_read: false };
        leases.begin_release(slice::from_ref(&wanted));
        assert!(!read(7));
        let late = leases.granted(asked, Some(&grant(6, &[])), inodes(&[7, 8]));
        assert!(!read(7) && read(8) && leases.mode_of(&late, Ino(7)).is_none());
        let new = leases.granted(asked, Some(&grant(9, &[])), inodes(&[7]));
        assert_eq!((read(7), leases.mode_of(&new, Ino(7))), (true, Some(Mode::Read)));
        let write = v1::LeaseGrant { write: true, ..grant(10, &[]) };
        let write = leases.granted(asked, Some(&write), inodes(&[7]));
        assert_eq!(leases.mode_of(&write, Ino(7)), Some(Mode::Write));
        leases.begin_release(&[Wanted { subject: Subject::Inode(Ino(7)), up_to: 10, keep_read: true }]);
        assert_eq!(
            leases.mode_of(&write, Ino(7)),
            Some(Mode::Read),
            "the data is wanted, though it has not come"
        );
        leases.registered(asked, term(4, 2), 0);
        assert!(!read(7) && leases.mode_of(&new, Ino(7)).is_none(), "another leader");
        leases.registered(asked - CONTACT_MAX, term(3, 1), 0);
        leases.granted(asked, Some(&grant(10, &[])), inodes(&[7]));
        assert!(!read(7) && !leases.are_valid(), "no contact for too long");
        leases.contact(asked, term(4, 2));
        assert!(!leases.are_valid(), "a contact with another leader");
        leases.contact(asked, term(3, 1));
        assert!(read(7) && leases.are_valid());
    }
}
