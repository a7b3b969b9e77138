use super::*;
use crate::session::kept::UNUSED_MAX;
use rain_namespace::query::Answer;
use rain_namespace::record::{Attr, FileKind, Time};
use rain_types::{NodeId, VolumeId};
use std::slice;

const SESSION: SessionId = SessionId(1);

fn attr(ino: u64, size: u64) -> Attr {
    Attr {
        ino: Ino(ino),
        volume: VolumeId(1),
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        stored_bytes: 0,
        rdev: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        crtime: Time::default(),
        version: 1,
        parent: Ino(0),
        extents: 0,
        acl: false,
        default_acl: false,
    }
}

fn grant(number: u64, unleased: &[u64]) -> v1::LeaseGrant {
    let unleased = unleased.iter().map(|ino| wire::encode(&Subject::Inode(Ino(*ino))).into());
    let term = Some(v1::LeaseTerm { term: 3, leader: 1 });
    v1::LeaseGrant { term, number, write: false, unleased: unleased.collect(), read_ms: 60_000 }
}

fn term(term: u64, node: u32) -> LeaderTerm {
    LeaderTerm { term, node: NodeId(node) }
}

const OPEN: LeaseKind = LeaseKind::LeaseReadOpen;
const READ: LeaseKind = LeaseKind::LeaseRead;

impl Leases {
    fn take_in(&self, grant: &v1::LeaseGrant, kind: LeaseKind, ino: u64) -> Grant {
        let query = Query::GetAttr { ino: Ino(ino) };
        self.granted(&self.ask(), Some(grant), kind, &query, &Ok(Answer::Attr(attr(ino, 1))))
    }

    fn is_leased(&self, ino: u64) -> bool {
        self.read_for(&Subject::Inode(Ino(ino))) > Duration::ZERO
    }

    /// Registers without claims.
    fn register(&self, asked: Instant, term: LeaderTerm, granted: u64) {
        let claims = self.begin_registration(None);
        let registration = Registration { session: SESSION, asked: asked.into(), term, granted, claimed: 0 };
        assert!(self.registered(registration, &claims, &HashMap::new()));
    }

    fn mode_of(&self, grant: &Grant, ino: u64) -> Option<Mode> {
        self.take(grant, Ino(ino))
    }

    fn size_of(&self, ino: u64) -> Option<u64> {
        match self.answer(&Query::GetAttr { ino: Ino(ino) }, READ)?.0 {
            Ok(Answer::Attr(attr)) => Some(attr.size),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_answer_from_before_a_release_grants_nothing() {
    let leases = Leases::default();
    let asked = Instant::now();
    leases.take_in(&grant(5, &[]), READ, 7);
    assert!(!leases.is_leased(7), "this client is not registered");
    leases.register(asked, term(3, 1), 4);
    leases.take_in(&grant(4, &[]), READ, 7);
    assert!(!leases.is_leased(7), "granted before the registration");
    leases.take_in(&grant(5, &[8]), READ, 8);
    leases.take_in(&grant(5, &[]), READ, 7);
    assert!(leases.is_leased(7) && !leases.is_leased(8));
    let wanted = Wanted { subject: Subject::Inode(Ino(7)), up_to: 6, keep_read: false };
    leases.begin_release(slice::from_ref(&wanted));
    assert!(!leases.is_leased(7));
    let late = leases.take_in(&grant(6, &[]), OPEN, 7);
    assert!(!leases.is_leased(7) && leases.mode_of(&late, 7).is_none());
    let new = leases.take_in(&grant(9, &[]), OPEN, 7);
    assert_eq!((leases.is_leased(7), leases.mode_of(&new, 7)), (true, Some(Mode::Read)));
    let write = leases.take_in(&v1::LeaseGrant { write: true, ..grant(10, &[]) }, OPEN, 7);
    assert_eq!(leases.mode_of(&write, 7), Some(Mode::Write));
    leases.begin_release(&[Wanted { subject: Subject::Inode(Ino(7)), up_to: 10, keep_read: true }]);
    assert_eq!(leases.mode_of(&write, 7), Some(Mode::Read), "the data is wanted, though it has not come");
    leases.register(asked, term(4, 2), 0);
    assert!(!leases.is_leased(7) && leases.mode_of(&new, 7).is_none(), "another leader");
    leases.register(asked - CONTACT_MAX, term(3, 1), 0);
    leases.take_in(&grant(10, &[]), READ, 7);
    assert!(!leases.is_leased(7) && !leases.are_valid(), "no contact for too long");
    assert_eq!(leases.size_of(7), None, "nothing is answered then");
    leases.contact(asked.into(), term(4, 2));
    assert!(!leases.are_valid(), "a contact with another leader");
    leases.contact(asked.into(), term(3, 1));
    assert!(leases.is_leased(7) && leases.are_valid());
    assert_eq!(leases.size_of(7), Some(1));
}

#[test]
fn what_is_kept_answers_until_it_is_changed() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    assert_eq!(leases.size_of(7), Some(1));
    // A question from before an own change, and the change.
    let early = leases.ask();
    let cut = Command::Punch { ino: Ino(7), offset: 0, len: 1 };
    let touched = leases.begin_own([(&cut, None)].into_iter());
    assert_eq!(leases.size_of(7), None, "the change may have applied");
    leases.end_own(SessionId(1), 1, &touched, &[Ok(rain_namespace::command::Outcome::Done)]);
    let query = Query::GetAttr { ino: Ino(7) };
    leases.granted(&early, Some(&grant(2, &[])), READ, &query, &Ok(Answer::Attr(attr(7, 1))));
    assert_eq!(leases.size_of(7), None, "the answer is from before the change");
    leases.take_in(&grant(3, &[]), READ, 7);
    assert_eq!(leases.size_of(7), Some(1));
    // A change of a name that is not known here may change any inode.
    let unlink = Command::Unlink { parent: Ino(1), name: b"a".to_vec() };
    let touched = leases.begin_own([(&unlink, None)].into_iter());
    assert_eq!(leases.size_of(7), None);
    let removed = rain_namespace::command::Outcome::Removed { ino: Ino(8), last_name_gone: false };
    leases.end_own(SessionId(1), 2, &touched, &[Ok(removed)]);
    assert_eq!(leases.size_of(7), Some(1), "it was another");
    // A change without an outcome.
    let touched = leases.begin_own([(&unlink, None)].into_iter());
    leases.leave_own_uncertain(SessionId(1), 3, touched);
    leases.end_own(SessionId(1), 3, &Touched::default(), &[]);
    assert_eq!(leases.size_of(7), None, "it may still apply");
    leases.end_own(SessionId(1), 4, &Touched::default(), &[]);
    assert_eq!(leases.size_of(7), None, "it may have applied");
    leases.take_in(&grant(4, &[]), READ, 7);
    assert_eq!(leases.size_of(7), Some(1));
}

#[test]
fn a_name_is_kept_with_its_inode_or_with_its_absence() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    let lookup = |name: &[u8]| Query::Lookup { parent: Ino(1), name: name.to_vec() };
    let there = Ok(Answer::Attr(attr(7, 1)));
    leases.granted(&leases.ask(), Some(&grant(1, &[])), READ, &lookup(b"a"), &there);
    let absent = Err(rain_namespace::error::NsError::NotFound);
    leases.granted(&leases.ask(), Some(&grant(2, &[])), READ, &lookup(b"b"), &absent);
    let answer = |name: &[u8]| leases.answer(&lookup(name), READ).map(|(answered, _)| answered);
    assert_eq!((answer(b"a"), answer(b"b"), answer(b"c")), (Some(there), Some(absent), None));
    let make = Command::RemoveXattr { ino: Ino(7), name: b"user.x".to_vec() };
    leases.begin_own([(&make, None)].into_iter());
    assert_eq!(answer(b"a"), None, "the inode may have changed");
    let wanted = Wanted { subject: Subject::Name(Ino(1), b"b".to_vec()), up_to: 2, keep_read: false };
    leases.begin_release(slice::from_ref(&wanted));
    assert_eq!(answer(b"b"), None, "another client may have made it");
}

#[test]
fn the_lease_of_a_closed_file_serves_the_next_open_and_is_given_back_if_none_comes() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    let open = || leases.answer(&Query::Open { ino: Ino(7) }, OPEN).map(|(_, grant)| grant);
    leases.take_in(&grant(1, &[]), READ, 7);
    assert!(open().is_none(), "a lease that ends by time is none for an open file");
    let opened = leases.take_in(&grant(2, &[]), OPEN, 7);
    assert_eq!(leases.take(&opened, Ino(7)), Some(Mode::Read));
    leases.unused(Ino(7));
    assert_eq!(leases.take_unused(), (vec![], vec![]));
    let again = open().expect("kept");
    assert_eq!(leases.take(&again, Ino(7)), Some(Mode::Read));
    let fill = |from: u64| {
        for ino in from..from + UNUSED_MAX as u64 + 1 {
            let grant = leases.take_in(&grant(ino, &[]), OPEN, ino);
            leases.take(&grant, Ino(ino));
            leases.unused(Ino(ino));
        }
        let (due, early) = leases.take_unused();
        assert!(due.is_empty());
        leases.begin_release(&early);
        early
    };
    assert!(fill(100).iter().all(|wanted| wanted.subject != Subject::Inode(Ino(7))), "the file is open");
    leases.unused(Ino(7));
    // Attributes that came since, under a lease that ends by time, change nothing.
    leases.take_in(&grant(99_999, &[]), READ, 7);
    assert!(
        fill(100_000).iter().any(|wanted| (&wanted.subject, wanted.up_to) == (&Subject::Inode(Ino(7)), 2)),
        "the oldest go when there are too many"
    );
    assert!(!leases.is_leased(7) && open().is_none());
    leases.not_given_back(term(3, 1), vec![(Ino(7), 2)]);
    assert_eq!(leases.take_unused().0, vec![(Ino(7), 2)]);
}

#[test]
fn what_was_known_under_an_ended_lease_is_not_known_under_the_next() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    let short = v1::LeaseGrant { read_ms: 20, ..grant(1, &[]) };
    leases.take_in(&short, READ, 7);
    assert_eq!(leases.size_of(7), Some(1));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(leases.size_of(7), None);
    let xattr = Query::GetXattr { ino: Ino(7), name: b"user.x".to_vec() };
    let absent = Err(rain_namespace::error::NsError::NoAttribute);
    leases.granted(&leases.ask(), Some(&grant(2, &[])), READ, &xattr, &absent);
    assert!(leases.answer(&xattr, READ).is_some());
    assert_eq!(leases.size_of(7), None, "another client may have changed it in between");
}

#[test]
fn what_is_claimed_from_a_new_leader_answers_all_along() {
    let leases = Leases::default();
    let now = Instant::now();
    leases.register(now, term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    let open = leases.take_in(&grant(2, &[]), OPEN, 8);
    assert_eq!(leases.mode_of(&open, 8), Some(Mode::Read));
    leases.take_in(&grant(3, &[]), READ, 9);
    leases.begin_release(&[Wanted { subject: Subject::Inode(Ino(9)), up_to: 3, keep_read: false }]);
    let claims = leases.begin_registration(Some(SESSION));
    let mut claimed: Vec<_> =
        claims.claims.iter().map(|claim| (claim.subject.clone(), claim.for_good)).collect();
    claimed.sort();
    let inode = |ino: u64| Subject::Inode(Ino(ino));
    assert_eq!(claimed, [(inode(7), false), (inode(8), true)], "what is being given up is not claimed");
    let opened = |ino: u64| leases.answer(&Query::Open { ino: Ino(ino) }, OPEN).map(|(_, grant)| grant);
    assert!(
        leases.size_of(7).is_some() && opened(8).is_some_and(|open| leases.take(&open, Ino(8)).is_some())
    );
    leases.take_in(&grant(4, &[]), READ, 10);
    assert!(!leases.is_leased(10), "the new leader does not hear of it");
    assert!(leases.are_claimed());
    let registration =
        Registration { session: SESSION, asked: now.into(), term: term(4, 2), granted: 1, claimed: 3 };
    assert!(leases.registered(registration, &claims, &HashMap::new()));
    assert!(leases.size_of(7).is_some() && !leases.are_claimed());
    let open = opened(8).expect("claimed");
    assert_eq!(leases.mode_of(&open, 8), Some(Mode::Read));
    leases.begin_release(&[Wanted { subject: inode(8), up_to: 3, keep_read: false }]);
    assert!(!leases.is_leased(8), "the grant of the new leader is given up");
}

#[test]
fn claims_that_were_heard_too_late_are_void() {
    let leases = Leases::default();
    let registration =
        Registration { session: SESSION, asked: Moment::now(), term: term(4, 2), granted: 1, claimed: 3 };
    // Without contact for too long there is nothing to claim.
    leases.register(Instant::now() - CONTACT_MAX, term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    assert!(leases.begin_registration(Some(SESSION)).claims.is_empty());
    // The contact ends before the answer comes.
    leases.register(Instant::now() - CONTACT_MAX + Duration::from_millis(30), term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    let claims = leases.begin_registration(Some(SESSION));
    assert_eq!(claims.claims.len(), 1);
    std::thread::sleep(Duration::from_millis(40));
    assert!(!leases.registered(registration, &claims, &HashMap::new()));
    // All was dropped meanwhile.
    leases.register(Instant::now(), term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    let claims = leases.begin_registration(Some(SESSION));
    leases.begin_registration(None);
    assert!(!leases.registered(registration, &claims, &HashMap::new()));
    // A later registration has claimed anew.
    leases.register(Instant::now(), term(3, 1), 0);
    let (first, _) = (leases.begin_registration(Some(SESSION)), leases.begin_registration(Some(SESSION)));
    assert!(!leases.registered(registration, &first, &HashMap::new()));
}

#[test]
fn what_is_in_use_is_asked_anew_before_its_lease_ends() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    let ends_soon = |number: u64| v1::LeaseGrant { read_ms: 10_040, ..grant(number, &[]) };
    leases.take_in(&ends_soon(1), READ, 7);
    assert!(leases.size_of(7).is_some() && leases.take_due().is_empty());
    std::thread::sleep(Duration::from_millis(50));
    assert!(leases.take_due().is_empty(), "it is not in use");
    assert!(leases.size_of(7).is_some() && leases.size_of(7).is_some());
    assert_eq!(leases.take_due(), [Query::GetAttr { ino: Ino(7) }], "once");
    leases.take_in(&ends_soon(2), READ, 7);
    std::thread::sleep(Duration::from_millis(50));
    assert!(leases.size_of(7).is_some() && leases.take_due().len() == 1, "the next lease ends soon, too");
    leases.take_in(&v1::LeaseGrant { read_ms: 1000, ..grant(3, &[]) }, READ, 8);
    assert!(leases.size_of(8).is_some() && leases.take_due().is_empty(), "short leases are not renewed");
}

#[test]
fn a_write_lease_that_the_new_leader_was_not_told_of_is_not_taken() {
    let leases = Leases::default();
    leases.register(Instant::now(), term(3, 1), 0);
    let write = leases.take_in(&v1::LeaseGrant { write: true, ..grant(1, &[]) }, OPEN, 7);
    leases.begin_registration(Some(SESSION));
    assert!(leases.mode_of(&write, 7).is_none());
    // And an ended session's leases are not claimed by the next.
    leases.register(Instant::now(), term(3, 1), 0);
    leases.take_in(&grant(1, &[]), READ, 7);
    assert!(leases.begin_registration(Some(SessionId(2))).claims.is_empty());
}

#[test]
fn after_a_suspension_nothing_is_relied_on() {
    let leases = Leases::default();
    let registered = |asked: Moment| {
        let claims = leases.begin_registration(None);
        let registration = Registration { session: SESSION, asked, term: term(3, 1), granted: 0, claimed: 0 };
        assert!(leases.registered(registration, &claims, &HashMap::new()));
        leases.take_in(&grant(1, &[]), READ, 7);
        (leases.are_valid(), leases.begin_registration(Some(SESSION)).claims.len())
    };
    assert_eq!(registered(Moment::now()), (true, 1));
    let before = Moment::now().before_a_suspension(Duration::from_secs(5));
    assert_eq!(registered(before), (false, 0), "no time has passed by the clock that stands still");
}
