//! A small bounded map behind a lock, for what is costly to work out and always comes out the same: schedules
//! and matrices by erasure pattern. The oldest entry goes when it is full. Not a cache of data.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{PoisonError, RwLock};

struct Entries<K, V> {
    map: BTreeMap<K, V>,
    oldest_first: VecDeque<K>,
}

/// At most `capacity` values by key.
pub(crate) struct Cache<K, V> {
    capacity: usize,
    entries: RwLock<Entries<K, V>>,
}

impl<K: Copy + Ord, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        let entries = Entries { map: BTreeMap::new(), oldest_first: VecDeque::new() };
        Cache { capacity, entries: RwLock::new(entries) }
    }

    /// The value for `key`, made by `make` when it is not there. The lock is not held while making, so that
    /// one slow pattern holds up no other; two threads may then make the same, which does no harm.
    pub(crate) fn get_or_make<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        // A panic cannot leave the entries half-written in a way that matters, so a poisoned lock is still
        // good.
        if let Some(value) = self.entries.read().unwrap_or_else(PoisonError::into_inner).map.get(&key) {
            return Ok(value.clone());
        }
        let value = make()?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.map.insert(key, value.clone()).is_none() {
            entries.oldest_first.push_back(key);
            if entries.oldest_first.len() > self.capacity
                && let Some(oldest) = entries.oldest_first.pop_front()
            {
                entries.map.remove(&oldest);
            }
        }
        Ok(value)
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
    fn a_full_cache_drops_the_oldest_and_keeps_answering() {
        let cache = Cache::new(3);
        let mut made = 0;
        for key in [1, 2, 3, 1, 4, 2, 3, 4, 1] {
            let value: Result<i32, ()> = cache.get_or_make(key, || {
                made += 1;
                Ok(key * 10)
            });
            assert_eq!(value, Ok(key * 10));
            assert!(cache.len() <= 3);
        }
        assert_eq!(made, 5, "1, 2, 3, 4, and 1 again after 4 pushed it out");
        assert_eq!(cache.get_or_make(9, || Err("no")), Err("no"));
    }
}
