//! This client's own changes that are under way, and the answers that they may overtake. Pure.
//!
//! The leader asks a client for its leases before another client's change applies, not before the client's own.
//! So what is kept under a lease is right until this client changes it.
//!
//! Invariants (`what_is_kept_is_what_the_leader_has`):
//! 1. While a change of this client is under way, nothing that it may touch is answered from memory.
//! 2. An answer is kept only if no such change was under way since its question was asked.
//! 3. A change without an outcome stays under way until it cannot apply any more: until the leader has answered
//!    a later command that was sent when the change's result was no longer wanted, or its session has ended.

use rain_namespace::lease::Subject;
use rain_types::SessionId;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Changes without an outcome that are remembered one by one. With more, nothing is answered from memory until
/// all are certain.
const UNCERTAIN_MAX: usize = 4096;

/// What commands that were sent together may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) subjects: Vec<Subject>,
    /// Names of inodes that the commands change. Another client may give them other inodes once their leases are lost;
    /// none in a delegated directory.
    pub(super) names: Vec<Subject>,
    /// They also touch an inode whose number is not known.
    pub(super) any_inode: bool,
}

#[derive(Debug)]
struct Uncertain {
    session: SessionId,
    /// The highest number of the change's requests.
    seq: u64,
    touched: Touched,
}

/// The own changes of a session.
#[derive(Debug, Default)]
pub(super) struct OwnChanges {
    /// Counts questions and ends of changes.
    clock: u64,
    /// The questions that have not been answered.
    asking: BTreeSet<u64>,
    under_way: HashMap<Subject, u32>,
    /// The names of changes under way ([`Touched::names`]).
    names: HashMap<Subject, u32>,
    /// Changes under way that touch an inode whose number is not known.
    any_inode: u32,
    /// When the last change of each subject ended, for changes since the oldest question.
    ended: HashMap<Subject, u64>,
    /// The entries of `ended` in their order. Only the last of a subject counts.
    order: VecDeque<(u64, Subject)>,
    /// When the last change of `any_inode` ended without its inode being known.
    any_inode_ended: u64,
    /// Names that changes under way touch, and that another client may have given another inode meanwhile.
    lost_names: HashSet<Subject>,
    uncertain: VecDeque<Uncertain>,
    /// Of changes without an outcome that are not remembered one by one: the newest.
    too_many: Option<(SessionId, u64)>,
}

/// What is certain from now on, and to be forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certain {
    pub(super) touched: Touched,
    pub(super) everything: bool,
}

impl OwnChanges {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Begins a question. Returns its number.
    pub(super) fn ask(&mut self) -> u64 {
        let number = self.tick();
        self.asking.insert(number);
        number
    }

    /// Ends a question.
    pub(super) fn answered(&mut self, number: u64) {
        self.asking.remove(&number);
        let oldest = self.asking.first().copied().unwrap_or(u64::MAX);
        while let Some((at, subject)) = self.order.pop_front() {
            if at > oldest {
                self.order.push_front((at, subject));
                return;
            }
            if self.ended.get(&subject) == Some(&at) {
                self.ended.remove(&subject);
            }
        }
    }

    /// Begins changes.
    pub(super) fn begin(&mut self, touched: &Touched) {
        for subject in &touched.subjects {
            *self.under_way.entry(subject.clone()).or_default() += 1;
        }
        for name in &touched.names {
            *self.names.entry(name.clone()).or_default() += 1;
        }
        self.any_inode += u32::from(touched.any_inode);
    }

    /// The lease on a name is given up: another client may give it another inode before a change that is under way
    /// applies.
    pub(super) fn name_lost(&mut self, name: &Subject) {
        if self.names.contains_key(name) {
            self.lost_names.insert(name.clone());
        }
    }

    /// As [`OwnChanges::name_lost`], for all names but those that are still leased.
    pub(super) fn names_lost_but(&mut self, leased: &HashSet<Subject>) {
        self.lost_names.extend(self.names.keys().filter(|name| !leased.contains(name)).cloned());
    }

    /// Ends changes that were begun with the same arguments. `more`: what they have touched besides; none: that is
    /// not known. Returns whether they may have touched any inode.
    pub(super) fn end(&mut self, touched: &Touched, more: Option<&[Subject]>) -> bool {
        let mut any_inode = touched.any_inode;
        for subject in &touched.subjects {
            count_down(&mut self.under_way, subject);
        }
        for name in &touched.names {
            any_inode |= self.lost_names.contains(name);
            if count_down(&mut self.names, name) {
                self.lost_names.remove(name);
            }
        }
        any_inode &= more.is_none();
        self.any_inode -= u32::from(touched.any_inode);
        let now = self.tick();
        if any_inode {
            self.any_inode_ended = now;
        }
        if !self.asking.is_empty() {
            for subject in touched.subjects.iter().chain(more.unwrap_or_default()) {
                self.ended.insert(subject.clone(), now);
                self.order.push_back((now, subject.clone()));
            }
        }
        any_inode
    }

    /// Notes that changes will get no outcome: they may apply at any time. `seq`: the highest number of their
    /// requests.
    pub(super) fn leave_uncertain(&mut self, session: SessionId, seq: u64, touched: Touched) {
        self.uncertain.push_back(Uncertain { session, seq, touched });
        if self.uncertain.len() > UNCERTAIN_MAX {
            for one in std::mem::take(&mut self.uncertain) {
                self.too_many = self.too_many.max(Some((one.session, one.seq)));
                self.end(&one.touched, None);
            }
        }
    }

    /// The leader has answered a command of a session. All of the session's requests below `done_below`, and all
    /// of earlier sessions, apply no more. Returns what was uncertain until here.
    pub(super) fn certain_below(&mut self, session: SessionId, done_below: u64) -> Certain {
        let is_certain = |of: SessionId, seq: u64| of < session || of == session && seq < done_below;
        let (ended, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.uncertain).into_iter().partition(|one| is_certain(one.session, one.seq));
        self.uncertain = left;
        let mut certain = Certain::default();
        for one in ended {
            certain.touched.any_inode |= self.end(&one.touched, None);
            certain.touched.subjects.extend(one.touched.subjects);
        }
        if self.too_many.is_some_and(|(of, seq)| is_certain(of, seq)) {
            self.too_many = None;
            certain.everything = true;
        }
        certain
    }

    /// Whether what is kept of a subject is still right.
    pub(super) fn may_answer(&self, subject: &Subject) -> bool {
        let is_inode = matches!(subject, Subject::Inode(_));
        self.too_many.is_none()
            && !(is_inode && (self.any_inode > 0 || !self.lost_names.is_empty()))
            && !self.under_way.contains_key(subject)
    }

    /// Whether the answer to a question may be kept, as far as it tells of a subject.
    pub(super) fn may_keep(&self, question: u64, subject: &Subject) -> bool {
        let is_inode = matches!(subject, Subject::Inode(_));
        self.may_answer(subject)
            && !(is_inode && self.any_inode_ended > question)
            && self.ended.get(subject).is_none_or(|at| *at < question)
    }
}

/// Counts one less. Returns whether none is left.
fn count_down(counts: &mut HashMap<Subject, u32>, subject: &Subject) -> bool {
    let Some(count) = counts.get_mut(subject) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(subject);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rain_types::Ino;

    const SESSION: SessionId = SessionId(7);

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u64),
        /// The answer to the question at this place comes.
        Answer(usize),
        /// A change is sent: of this inode, which the command names or not.
        Send(u64, bool),
        /// It applies.
        Apply(usize),
        /// Its outcome comes.
        Outcome(usize),
        /// Its outcome is not wanted any more.
        GiveUp(usize),
        /// Another command is sent and answered.
        Other,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..3).prop_map(Step::Ask),
            (0usize..4).prop_map(Step::Answer),
            (0u64..3, any::<bool>()).prop_map(|(ino, named)| Step::Send(ino, named)),
            (0usize..4).prop_map(Step::Apply),
            (0usize..4).prop_map(Step::Outcome),
            (0usize..4).prop_map(Step::GiveUp),
            Just(Step::Other),
        ]
    }

    struct Sent {
        seq: u64,
        ino: u64,
        touched: Touched,
        applied: bool,
        given_up: bool,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_is_kept_is_what_the_leader_has(steps in proptest::collection::vec(step(), 1..60)) {
            let mut own = OwnChanges::default();
            let mut versions = [0u64; 3];
            let mut kept: HashMap<u64, u64> = HashMap::new();
            // Questions with the version that the leader has answered.
            let mut asked: Vec<(u64, u64, u64)> = Vec::new();
            let mut sent: Vec<Sent> = Vec::new();
            let mut next = 1;
            let inode = |ino: u64| Subject::Inode(Ino(ino));
            for step in steps {
                match step {
                    Step::Ask(ino) => asked.push((own.ask(), ino, versions[ino as usize])),
                    Step::Answer(at) if at < asked.len() => {
                        let (question, ino, version) = asked.remove(at);
                        if own.may_keep(question, &inode(ino)) {
                            kept.insert(ino, version);
                        }
                        own.answered(question);
                    }
                    Step::Send(ino, named) => {
                        let subjects = if named { vec![inode(ino)] } else { vec![] };
                        let touched = Touched { subjects, any_inode: !named, ..Touched::default() };
                        own.begin(&touched);
                        for subject in &touched.subjects {
                            kept.retain(|ino, _| inode(*ino) != *subject);
                        }
                        sent.push(Sent { seq: next, ino, touched, applied: false, given_up: false });
                        next += 1;
                    }
                    Step::Apply(at) if at < sent.len() && !sent[at].applied => {
                        versions[sent[at].ino as usize] += 1;
                        sent[at].applied = true;
                    }
                    Step::Outcome(at) if at < sent.len() && sent[at].applied && !sent[at].given_up => {
                        let Sent { ino, touched, .. } = sent.remove(at);
                        own.end(&touched, Some(&[inode(ino)]));
                        kept.remove(&ino);
                    }
                    Step::GiveUp(at) if at < sent.len() && !sent[at].given_up => {
                        sent[at].given_up = true;
                        own.leave_uncertain(SESSION, sent[at].seq, sent[at].touched.clone());
                    }
                    Step::Other => {
                        let wanted = sent.iter().filter(|sent| !sent.given_up).map(|sent| sent.seq);
                        let done_below = wanted.min().unwrap_or(next);
                        next += 1;
                        sent.retain(|sent| sent.seq >= done_below || !sent.given_up);
                        let Certain { touched, everything } = own.certain_below(SESSION, done_below);
                        prop_assert!(!everything);
                        kept.retain(|ino, _| !touched.any_inode && !touched.subjects.contains(&inode(*ino)));
                    }
                    _ => {}
                }
                for (ino, version) in &kept {
                    if own.may_answer(&inode(*ino)) {
                        prop_assert_eq!(*version, versions[*ino as usize]);
                    }
                }
                if asked.is_empty() {
                    prop_assert!(own.ended.is_empty() && own.order.is_empty());
                }
            }
        }
    }

    #[test]
    fn very_many_changes_without_an_outcome_take_little_memory() {
        let mut own = OwnChanges::default();
        let subject = Subject::Inode(Ino(1));
        for seq in 1..=2 * UNCERTAIN_MAX as u64 {
            let subjects = vec![Subject::Inode(Ino(seq))];
            let touched = Touched { subjects, any_inode: true, ..Touched::default() };
            own.begin(&touched);
            own.leave_uncertain(SESSION, seq, touched);
        }
        assert!(own.uncertain.len() <= UNCERTAIN_MAX && own.under_way.len() <= UNCERTAIN_MAX);
        assert!(!own.may_answer(&subject));
        assert_eq!(own.certain_below(SESSION, 5), Certain::default());
        assert!(own.certain_below(SESSION, 2 * UNCERTAIN_MAX as u64 + 1).everything);
        assert!(own.may_answer(&subject));
    }

    #[test]
    fn a_change_of_a_name_that_came_to_mean_another_inode_may_touch_any() {
        let mut own = OwnChanges::default();
        let (name, known, other) =
            (Subject::Name(Ino(1), b"a".to_vec()), Subject::Inode(Ino(2)), Subject::Inode(Ino(3)));
        let subjects = vec![name.clone(), known.clone()];
        let delegated = Touched { subjects: subjects.clone(), ..Touched::default() };
        own.begin(&delegated);
        own.names_lost_but(&HashSet::new());
        assert!(own.may_answer(&other), "no other client changes the names of a delegated directory");
        own.end(&delegated, Some(&[]));
        let touched = Touched { subjects, names: vec![name.clone()], any_inode: false };
        own.begin(&touched);
        assert!(own.may_answer(&other) && !own.may_answer(&known));
        own.names_lost_but(&HashSet::from([name.clone()]));
        assert!(own.may_answer(&other), "the name is still leased");
        own.name_lost(&name);
        assert!(!own.may_answer(&other));
        own.leave_uncertain(SESSION, 1, touched);
        let certain = own.certain_below(SESSION, 2);
        assert!(certain.touched.any_inode && own.may_answer(&other));
    }
}
