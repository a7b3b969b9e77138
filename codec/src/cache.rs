//! A bounded map for values that are expensive to compute and always come out the same: schedules and
//! matrices by erasure pattern.
//!
//! The first [`FIRST`] values stay for good and are found without a lock: a machine that reads around a lost
//! node needs the same few patterns again and again. Later values live behind a lock; a full map drops its
//! oldest value (`a_full_cache_drops_the_oldest_keeps_the_first_and_goes_on_answering`).
//!
//! Left out: file data. This is not a block cache.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock};

struct Entries<K, V> {
    map: BTreeMap<K, V>,
    oldest_first: VecDeque<K>,
}

/// Number of values that are never dropped: enough for the few patterns of a lost node, and quick to search.
const FIRST: usize = 8;

/// A map of at most `capacity` values, plus the first [`FIRST`] values.
pub(crate) struct Cache<K, V> {
    capacity: usize,
    first: [OnceLock<(K, V)>; FIRST],
    entries: RwLock<Entries<K, V>>,
}

impl<K: Copy + Ord, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        let entries = Entries { map: BTreeMap::new(), oldest_first: VecDeque::new() };
        Cache { capacity, first: std::array::from_fn(|_| OnceLock::new()), entries: RwLock::new(entries) }
    }

    /// Returns the result of `then` on the value for `key`; `make` makes the value if the cache does not have
    /// it. Fails when `make` fails. No lock is held during `make`, so one slow pattern delays no other. Two
    /// threads may then make the same value, which does no harm.
    pub(crate) fn with<R, E>(
        &self,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
        then: impl FnOnce(&V) -> R,
    ) -> Result<R, E> {
        for (known, value) in self.first.iter().map_while(OnceLock::get) {
            if *known == key {
                return Ok(then(value));
            }
        }
        // A panic cannot leave the entries in a harmful state, so a poisoned lock is still usable.
        let known = self.entries.read().unwrap_or_else(PoisonError::into_inner).map.get(&key).cloned();
        let value = match known {
            Some(value) => value,
            None => {
                let value = make()?;
                self.keep(key, value.clone());
                value
            }
        };
        Ok(then(&value))
    }

    /// Returns the value for `key`; `make` makes it if the cache does not have it. Fails when `make` fails.
    pub(crate) fn get_or_make<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        self.with(key, make, V::clone)
    }

    fn keep(&self, key: K, value: V) {
        let mut rest = Some((key, value));
        for place in &self.first {
            let Some(entry) = rest.take() else { return };
            rest = place.set(entry).err();
        }
        let Some((key, value)) = rest else { return };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.map.insert(key, value).is_none() {
            entries.oldest_first.push_back(key);
            if entries.oldest_first.len() > self.capacity
                && let Some(oldest) = entries.oldest_first.pop_front()
            {
                entries.map.remove(&oldest);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).map.len()
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_drops_the_oldest_keeps_the_first_and_goes_on_answering() {
        let cache = Cache::new(3);
        let mut made = 0;
        let first = 101..101 + FIRST as i32;
        for key in first.clone().chain([1, 2, 3, 1, 4, 2, 3, 4, 1]).chain(first) {
            let value: Result<i32, ()> = cache.get_or_make(key, || {
                made += 1;
                Ok(key * 10)
            });
            assert_eq!(value, Ok(key * 10));
            assert!(cache.len() <= 3);
        }
        assert_eq!(made, FIRST + 5, "1, 2, 3, 4, and 1 again after 4 pushed it out; the first stay");
        assert_eq!(cache.get_or_make(9, || Err("no")), Err("no"));
    }
}
