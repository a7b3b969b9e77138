//! Reads through the levels of the store: the writes of the entry that is being applied, the memtable, the
//! immutable memtable, the base. The newest level that knows a key decides; a tombstone is knowledge, too.
//!
//! `KvRead` has no errors, because its callers expect a store that answers. So a view keeps its first failed
//! read and answers "nothing" from then on, and the caller that made the view discards the result.

use super::StoreError;
use super::core::VisibleState;
use super::memtable::{Memtable, MemtableRange};
use rain_namespace::kv::{KvRead, KvTxn};
use redb::AccessGuard;
use std::cell::RefCell;
use std::ops::ControlFlow;

/// The callback of a scan, as in `KvRead`.
type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;
type BasePair<'a> = (AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>);

/// A reader of one consistent state.
pub(super) struct View<'a> {
    state: &'a VisibleState,
    failure: RefCell<Option<StoreError>>,
}

impl<'a> View<'a> {
    pub(super) fn new(state: &'a VisibleState) -> View<'a> {
        View { state, failure: RefCell::new(None) }
    }

    /// Returns the first failed read, if there was one: then no answer of the view counts.
    pub(super) fn into_failure(self) -> Option<StoreError> {
        self.failure.into_inner()
    }

    /// Keeps the error of a failed read.
    fn note<T>(&self, result: Result<T, redb::StorageError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(%error, "reading the namespace store");
                self.failure.borrow_mut().get_or_insert_with(|| StoreError::base("reading", error));
                None
            }
        }
    }

    fn memtables(&self) -> impl Iterator<Item = &'a Memtable> {
        let state = self.state;
        std::iter::once(&state.memtable).chain(state.immutable.as_deref())
    }

    fn get_below(&self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.memtables().find_map(|memtable| memtable.get(key)) {
            return known.clone();
        }
        if self.failure.borrow().is_some() {
            return None;
        }
        self.note(self.state.base.get(key)).flatten().map(|value| value.value().to_vec())
    }

    /// Scans a merge of `above` (newer than all), the memtables and the base.
    fn scan_all(&self, above: Option<&Memtable>, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to || self.failure.borrow().is_some() {
            return;
        }
        let mut ranges: Vec<MemtableRange<'_>> =
            above.into_iter().chain(self.memtables()).map(|memtable| memtable.range(from, to)).collect();
        ranges.retain_mut(|range| range.peek().is_some());
        let Some(mut base) = self.note(self.state.base.range::<&[u8]>(from..to)) else { return };
        let mut base_head = match self.next_of_base(&mut base) {
            Ok(head) => head,
            Err(Stop) => return,
        };
        loop {
            let in_memory = newest_least(&mut ranges);
            let base_first = match (&in_memory, &base_head) {
                (None, None) => return,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some((key, _)), Some((base_key, _))) => base_key.value() < key.as_slice(),
            };
            let flow = if base_first {
                let (key, value) = base_head.take().expect("a base that goes first has a pair");
                visit(key.value(), value.value())
            } else {
                let (key, value) = in_memory.expect("a memtable that goes first has a pair");
                for range in &mut ranges {
                    range.next_if(|(other, _)| *other == key);
                }
                if base_head.as_ref().is_some_and(|(base_key, _)| base_key.value() == key.as_slice()) {
                    base_head = None;
                }
                value.as_ref().map_or(ControlFlow::Continue(()), |value| visit(key, value))
            };
            if flow.is_break() {
                return;
            }
            if base_head.is_none() {
                base_head = match self.next_of_base(&mut base) {
                    Ok(head) => head,
                    Err(Stop) => return,
                };
            }
        }
    }

    fn next_of_base<'b>(
        &self,
        base: &mut redb::Range<'b, &'static [u8], &'static [u8]>,
    ) -> Result<Option<BasePair<'b>>, Stop> {
        self.note(base.next().transpose()).ok_or(Stop)
    }
}

/// A scan cannot go on: the view has the failure.
struct Stop;

/// Returns the least key at the heads of the ranges with its newest value. Earlier ranges are newer.
fn newest_least<'a>(ranges: &mut [MemtableRange<'a>]) -> Option<(&'a Vec<u8>, &'a Option<Vec<u8>>)> {
    let mut best: Option<(&'a Vec<u8>, &'a Option<Vec<u8>>)> = None;
    for range in ranges {
        if let Some((key, value)) = range.peek()
            && best.is_none_or(|(least, _)| *key < least)
        {
            best = Some((key, value));
        }
    }
    best
}

impl KvRead for View<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get_below(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        self.scan_all(None, from, to, visit);
    }
}

/// A reader of one consistent state with the writes of an entry on top. Nobody else sees these writes.
pub(super) struct Staged<'a> {
    view: View<'a>,
    writes: Memtable,
}

impl<'a> Staged<'a> {
    pub(super) fn new(state: &'a VisibleState) -> Staged<'a> {
        Staged { view: View::new(state), writes: Memtable::default() }
    }

    /// Returns the writes. Fails when a read has failed.
    pub(super) fn finish(self) -> Result<Memtable, StoreError> {
        self.view.into_failure().map_or(Ok(self.writes), Err)
    }
}

impl KvRead for Staged<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.writes.get(key) {
            Some(known) => known.clone(),
            None => self.view.get_below(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        self.view.scan_all(Some(&self.writes), from, to, visit);
    }
}

impl KvTxn for Staged<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.writes.set(key.to_vec(), Some(value.to_vec()));
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.set(key.to_vec(), None);
    }
}
