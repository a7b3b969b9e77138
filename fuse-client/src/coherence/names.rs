//! The names that replies have given to the kernel and that it may still use.
//!
//! Invariant: a name that was given with a lifetime is here until the lifetime is over
//! (`a_name_is_here_for_as_long_as_the_kernel_may_use_it`). It may be here longer: names are forgotten by
//! generations.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

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

    /// Whether the kernel may use a name.
    pub(super) fn may_have(&self, parent: Ino, name: &[u8]) -> bool {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let has = |generation: &Generation| generation.0.get(&parent).is_some_and(|names| names.contains(name));
        has(&generations.now) || has(&generations.before)
    }

    /// The names in a directory that the kernel may use.
    pub(super) fn in_directory(&self, parent: Ino) -> Vec<Box<[u8]>> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let of = |generation: &Generation| generation.0.get(&parent).cloned().unwrap_or_default();
        of(&generations.now).union(&of(&generations.before)).cloned().collect()
    }

    /// All names that the kernel may use, with their directories.
    pub(super) fn all(&self) -> Vec<(Ino, Box<[u8]>)> {
        let mut generations = self.generations.lock();
        self.turn(&mut generations, Instant::now());
        let mut all = HashSet::new();
        for generation in [&generations.now, &generations.before] {
            for (parent, names) in &generation.0 {
                all.extend(names.iter().map(|name| (*parent, name.clone())));
            }
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_here_for_as_long_as_the_kernel_may_use_it() {
        let names = GivenNames::new(Duration::from_millis(80));
        names.given(Ino(1), b"a");
        assert!(names.may_have(Ino(1), b"a") && !names.may_have(Ino(1), b"b") && !names.may_have(Ino(2), b"a"));
        std::thread::sleep(Duration::from_millis(50));
        names.given(Ino(1), b"b");
        names.given(Ino(2), b"c");
        assert_eq!(names.in_directory(Ino(1)).len(), 2);
        assert_eq!(names.all().len(), 3);
        std::thread::sleep(Duration::from_millis(250));
        assert!(names.all().is_empty() && names.in_directory(Ino(1)).is_empty());
    }
}
