//! The names that replies have given to the kernel and that it may still use.
//!
//! Invariant: a name that was given with a lifetime is here until the lifetime is over
//! (`a_name_is_here_for_as_long_as_the_kernel_may_use_it`). It may be here longer: names are forgotten by
//! generations.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A name that the kernel may use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GivenName {
    pub(super) parent: Ino,
    pub(super) name: Box<[u8]>,
}

/// Names by directory.
#[derive(Debug, Default)]
struct Generation(HashMap<Ino, HashSet<Box<[u8]>>>);

#[derive(Debug)]
struct Generations {
    now: Generation,
    before: Generation,
    /// When `now` began.
    began: Instant,
}

/// The names that the kernel may still use.
#[derive(Debug)]
pub(super) struct GivenNames {
    lifetime: Duration,
    generations: Mutex<Generations>,
}

impl GivenNames {
    /// No names. No name is given for longer than `lifetime`.
    pub(super) fn new(lifetime: Duration) -> GivenNames {
        let (now, before) = Default::default();
        GivenNames { lifetime, generations: Mutex::new(Generations { now, before, began: Instant::now() }) }
    }

    /// A reply is about to give a name.
    pub(super) fn given(&self, parent: Ino, name: &[u8]) {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        generations.now.0.entry(parent).or_default().insert(name.into());
    }

    fn turn(&self, generations: &mut Generations, now: Instant) {
        let age = now.duration_since(generations.began);
        if age > self.lifetime {
            let last = std::mem::take(&mut generations.now);
            generations.before = if age > self.lifetime * 2 { Generation::default() } else { last };
            generations.began = now;
        }
    }

    /// A name, if the kernel may use it.
    pub(super) fn get(&self, parent: Ino, name: &[u8]) -> Option<GivenName> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let in_one =
            |generation: &Generation| generation.0.get(&parent).is_some_and(|names| names.contains(name));
        let given = in_one(&generations.now) || in_one(&generations.before);
        given.then(|| GivenName { parent, name: name.into() })
    }

    /// The names in a directory that the kernel may use.
    pub(super) fn in_directory(&self, parent: Ino) -> HashSet<GivenName> {
        self.all_of(|generation| generation.0.get_key_value(&parent).into_iter().collect())
    }

    /// All names that the kernel may use.
    pub(super) fn all(&self) -> HashSet<GivenName> {
        self.all_of(|generation| generation.0.iter().collect())
    }

    fn all_of(
        &self,
        of: impl for<'b> Fn(&'b Generation) -> Vec<(&'b Ino, &'b HashSet<Box<[u8]>>)>,
    ) -> HashSet<GivenName> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let mut all = HashSet::new();
        for generation in [&generations.now, &generations.before] {
            for (parent, names) in of(generation) {
                all.extend(names.iter().map(|name| GivenName { parent: *parent, name: name.clone() }));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_here_for_as_long_as_the_kernel_may_use_it() {
        let names = GivenNames::new(Duration::from_millis(80));
        names.given(Ino(1), b"a");
        assert!(names.get(Ino(1), b"a").is_some());
        assert!(names.get(Ino(1), b"b").is_none() && names.get(Ino(2), b"a").is_none());
        std::thread::sleep(Duration::from_millis(50));
        names.given(Ino(1), b"b");
        names.given(Ino(2), b"c");
        assert_eq!(names.in_directory(Ino(1)).len(), 2);
        assert_eq!(names.all().len(), 3);
        std::thread::sleep(Duration::from_millis(250));
        assert!(names.all().is_empty() && names.in_directory(Ino(1)).is_empty());
    }
}
