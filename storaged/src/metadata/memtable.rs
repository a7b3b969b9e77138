//! Reading through the layers of the store: what an entry has written so far, the active and the frozen layer, the
//! base. The newest layer that knows a key decides; "removed" is something a layer can know.
//!
//! A failed read of the base cannot be told through `KvRead`, whose callers expect a store that answers. It is kept in
//! the view, which answers "nothing" from then on, and whoever made the view throws the result away.

use super::store::{Mark, State, StoreError};
use rain_namespace::kv::{KvRead, KvTxn};
use redb::{AccessGuard, ReadOnlyTable};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

pub(super) type BaseTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// What a map's node, two vectors and the allocator add to a pair: an estimate, for the limit.
const PAIR_OVERHEAD: usize = 112;

/// Writes that are not in the base yet. None: removed.
#[derive(Debug, Default)]
pub(super) struct Layer {
    map: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    mark: Mark,
    /// Set in this layer.
    membership: Option<Arc<[u8]>>,
}

fn value_len(value: &Option<Vec<u8>>) -> usize {
    value.as_ref().map_or(0, Vec::len)
}

impl Layer {
    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match self.map.entry(key) {
            btree_map::Entry::Occupied(mut place) => {
                self.bytes += value_len(&value);
                self.bytes -= value_len(place.get());
                place.insert(value);
            }
            btree_map::Entry::Vacant(place) => {
                self.bytes += place.key().len() + value_len(&value) + PAIR_OVERHEAD;
                place.insert(value);
            }
        }
    }

    /// Takes a newer layer's writes.
    pub(super) fn absorb(&mut self, newer: Layer) {
        for (key, value) in newer.map {
            self.set(key, value);
        }
    }

    /// Notes the last entry whose writes are in it.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    pub(super) fn last(&self) -> Mark {
        self.mark
    }

    pub(super) fn set_membership(&mut self, membership: Arc<[u8]>) {
        self.membership = Some(membership);
    }

    pub(super) fn membership(&self) -> Option<&[u8]> {
        self.membership.as_deref()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        self.map.iter()
    }

    fn range(&self, from: &[u8], to: &[u8]) -> LayerRange<'_> {
        self.map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable()
    }
}

/// Told each pair of a scan, as `KvRead` has it.
type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;
type LayerRange<'a> = Peekable<btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>>;
type BasePair<'a> = (AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>);

/// A consistent state, read.
pub(super) struct View<'a> {
    state: &'a State,
    trouble: RefCell<Option<StoreError>>,
}

impl<'a> View<'a> {
    pub(super) fn new(state: &'a State) -> View<'a> {
        View { state, trouble: RefCell::new(None) }
    }

    /// The failed read, if there was one: then nothing that the view answered counts.
    pub(super) fn into_trouble(self) -> Option<StoreError> {
        self.trouble.into_inner()
    }

    fn note<T>(&self, result: Result<T, redb::StorageError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(%error, "reading the namespace store");
                self.trouble.borrow_mut().get_or_insert_with(|| StoreError::base("reading", error));
                None
            }
        }
    }

    fn layers(&self) -> impl Iterator<Item = &'a Layer> {
        let state = self.state;
        std::iter::once(&state.active).chain(state.frozen.as_deref())
    }

    fn get_below(&self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.layers().find_map(|layer| layer.map.get(key)) {
            return known.clone();
        }
        if self.trouble.borrow().is_some() {
            return None;
        }
        self.note(self.state.base.get(key)).flatten().map(|value| value.value().to_vec())
    }

    /// Merges `above` (newer than all), the layers and the base.
    fn scan_all(&self, above: Option<&Layer>, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to || self.trouble.borrow().is_some() {
            return;
        }
        let mut ranges: Vec<LayerRange<'_>> =
            above.into_iter().chain(self.layers()).map(|layer| layer.range(from, to)).collect();
        ranges.retain_mut(|range| range.peek().is_some());
        let Some(mut base) = self.note(self.state.base.range::<&[u8]>(from..to)) else { return };
        let mut base_head = match self.next_of_base(&mut base) {
            Ok(head) => head,
            Err(Stop) => return,
        };
        loop {
            let in_layers = newest_least(&mut ranges);
            let base_first = match (&in_layers, &base_head) {
                (None, None) => return,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some((key, _)), Some((base_key, _))) => base_key.value() < key.as_slice(),
            };
            let flow = if base_first {
                let (key, value) = base_head.take().expect("a base that goes first has a pair");
                visit(key.value(), value.value())
            } else {
                let (key, value) = in_layers.expect("a layer that goes first has a pair");
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

/// A scan cannot go on: the trouble is noted.
struct Stop;

/// The least key at the head of the ranges, with the newest layer's value: earlier ranges are newer.
fn newest_least<'a>(ranges: &mut [LayerRange<'a>]) -> Option<(&'a Vec<u8>, &'a Option<Vec<u8>>)> {
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

/// A consistent state with an entry's writes on top, which nobody else sees.
pub(super) struct Staged<'a> {
    view: View<'a>,
    writes: Layer,
}

impl<'a> Staged<'a> {
    pub(super) fn new(state: &'a State) -> Staged<'a> {
        Staged { view: View::new(state), writes: Layer::default() }
    }

    /// The writes, if every read went well.
    pub(super) fn finish(self) -> Result<Layer, StoreError> {
        self.view.into_trouble().map_or(Ok(self.writes), Err)
    }
}

impl KvRead for Staged<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.writes.map.get(key) {
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
