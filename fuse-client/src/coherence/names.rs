//! The names that replies have given to the kernel and that it may still use.
//!
//! Invariants:
//! 1. A name that was given with a lifetime is here until the lifetime is over
//!    (`a_name_is_here_for_as_long_as_the_kernel_may_use_it`). It may be here longer: names are forgotten by
//!    generations.
//! 2. [`GivenName::may_be`] is true of every inode by which the kernel may know the name
//!    (`a_name_may_be_known_by_each_inode_that_it_was_given_for`).

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names are kept for at least this long, however short their lifetime: a call of the kernel uses a name that it has
/// looked up for as long as the call takes.
const KEPT_MIN: Duration = Duration::from_secs(1);

/// A name that the kernel may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GivenName {
    pub(super) parent: Ino,
    pub(super) name: Box<[u8]>,
    given: Given,
}

impl GivenName {
    /// The inode for which the name was given last.
    pub(super) fn last(&self) -> Ino {
        self.given.ino
    }

    /// Whether the kernel may know the name by this inode.
    pub(super) fn may_be(&self, ino: Ino) -> bool {
        self.given.for_several || self.given.ino == ino
    }
}

/// What a name was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    /// The inode of the last reply.
    ino: Ino,
    /// The kernel may also know the name by another inode.
    for_several: bool,
}

/// Names by directory.
#[derive(Debug, Default)]
struct Generation(HashMap<Ino, HashMap<Box<[u8]>, Given>>);

impl Generation {
    fn get(&self, parent: Ino, name: &[u8]) -> Option<Given> {
        self.0.get(&parent)?.get(name).copied()
    }
}

#[derive(Debug)]
struct Generations {
    now: Generation,
    before: Generation,
    /// When `now` began.
    began: Instant,
}

impl Generations {
    fn get(&self, parent: Ino, name: &[u8]) -> Option<Given> {
        self.now.get(parent, name).or_else(|| self.before.get(parent, name))
    }

    fn put(&mut self, parent: Ino, name: &[u8], given: Given) {
        self.now.0.entry(parent).or_default().insert(name.into(), given);
    }
}

/// The names that the kernel may still use.
#[derive(Debug)]
pub(super) struct GivenNames {
    kept_for: Duration,
    generations: Mutex<Generations>,
}

impl GivenNames {
    /// No names. No name is given for longer than `lifetime`.
    pub(super) fn new(lifetime: Duration) -> GivenNames {
        let (now, before) = Default::default();
        let generations = Mutex::new(Generations { now, before, began: Instant::now() });
        GivenNames { kept_for: lifetime.max(KEPT_MIN), generations }
    }

    /// A reply is about to give a name of an inode. The kernel may have had the name for another inode.
    pub(super) fn given(&self, parent: Ino, name: &[u8], ino: Ino) {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let older = generations.get(parent, name);
        let for_several = older.is_some_and(|older| older.for_several || older.ino != ino);
        generations.put(parent, name, Given { ino, for_several });
    }

    /// This mount has put a name there, in an operation that has the directory locked: what the kernel had there is
    /// replaced.
    pub(super) fn made(&self, parent: Ino, name: &[u8], ino: Ino) {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        generations.put(parent, name, Given { ino, for_several: false });
    }

    fn turn(&self, generations: &mut Generations, now: Instant) {
        let age = now.duration_since(generations.began);
        if age > self.kept_for {
            let last = std::mem::take(&mut generations.now);
            generations.before = if age > self.kept_for * 2 { Generation::default() } else { last };
            generations.began = now;
        }
    }

    /// A name, if the kernel may use it.
    pub(super) fn get(&self, parent: Ino, name: &[u8]) -> Option<GivenName> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let given = generations.get(parent, name)?;
        Some(GivenName { parent, name: name.into(), given })
    }

    /// The names in a directory that the kernel may use.
    pub(super) fn in_directory(&self, parent: Ino) -> Vec<GivenName> {
        self.all_of(|generation| generation.0.get_key_value(&parent).into_iter().collect())
    }

    /// All names that the kernel may use.
    pub(super) fn all(&self) -> Vec<GivenName> {
        self.all_of(|generation| generation.0.iter().collect())
    }

    fn all_of(
        &self,
        of: impl for<'b> Fn(&'b Generation) -> Vec<(&'b Ino, &'b HashMap<Box<[u8]>, Given>)>,
    ) -> Vec<GivenName> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let mut all = Vec::new();
        for generation in [&generations.now, &generations.before] {
            let is_older = std::ptr::eq(generation, &generations.before);
            for (parent, names) in of(generation) {
                for (name, given) in names {
                    if !is_older || generations.now.get(*parent, name).is_none() {
                        all.push(GivenName { parent: *parent, name: name.clone(), given: *given });
                    }
                }
            }
        }
        all
    }
}

#[cfg(test)]
pub(super) fn test_name(parent: Ino, name: &[u8], ino: Ino) -> GivenName {
    GivenName { parent, name: name.into(), given: Given { ino, for_several: false } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_here_for_as_long_as_the_kernel_may_use_it() {
        let names = GivenNames { kept_for: Duration::from_millis(80), ..GivenNames::new(Duration::ZERO) };
        names.given(Ino(1), b"a", Ino(7));
        assert!(names.get(Ino(1), b"a").is_some());
        assert!(names.get(Ino(1), b"b").is_none() && names.get(Ino(2), b"a").is_none());
        std::thread::sleep(Duration::from_millis(50));
        names.given(Ino(1), b"b", Ino(8));
        names.given(Ino(2), b"c", Ino(9));
        assert_eq!(names.in_directory(Ino(1)).len(), 2);
        assert_eq!(names.all().len(), 3);
        std::thread::sleep(Duration::from_millis(250));
        assert!(names.all().is_empty() && names.in_directory(Ino(1)).is_empty());
    }

    #[test]
    fn a_name_may_be_known_by_each_inode_that_it_was_given_for() {
        let names = GivenNames { kept_for: Duration::from_millis(200), ..GivenNames::new(Duration::ZERO) };
        let may_be = |ino| names.get(Ino(1), b"a").is_some_and(|given| given.may_be(Ino(ino)));
        names.given(Ino(1), b"a", Ino(7));
        names.given(Ino(1), b"a", Ino(7));
        assert!(may_be(7) && !may_be(8));
        std::thread::sleep(Duration::from_millis(220));
        names.given(Ino(1), b"a", Ino(8));
        assert!(may_be(7) && may_be(8), "the kernel may have the one of the last generation");
        assert_eq!(names.get(Ino(1), b"a").unwrap().last(), Ino(8));
        assert_eq!(names.in_directory(Ino(1)).len(), 1, "one name, though in two generations");
        names.made(Ino(1), b"a", Ino(9));
        assert!(may_be(9) && !may_be(7));
    }
}
