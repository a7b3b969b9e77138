//! Snapshots: the durable base at one moment, to be read or sent; and a base on its way from another node.

use super::base::{BaseTable, DATA, write_meta};
use super::{AppliedPosition, StoreError};
use rain_namespace::kv::KvRead;
use redb::{Database, Durability};
use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The durable base at one moment.
pub struct StoreSnapshot {
    pub(super) table: BaseTable,
    pub(super) applied: AppliedPosition,
    pub(super) membership: Arc<[u8]>,
}

impl std::fmt::Debug for StoreSnapshot {
    // Not its contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSnapshot").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl StoreSnapshot {
    /// Returns the last entry in the snapshot.
    pub fn applied(&self) -> AppliedPosition {
        self.applied
    }

    /// Returns the membership in the snapshot; empty: none.
    pub fn membership(&self) -> &[u8] {
        &self.membership
    }

    /// Returns pairs behind a key, in order, until they have `bytes_max`; at least one, if there is one.
    pub fn page(&self, after: Option<&[u8]>, bytes_max: usize) -> Result<Vec<Pair>, StoreError> {
        let failure = |error| StoreError::base("reading", error);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.table.range::<&[u8]>((from, Bound::Unbounded)).map_err(failure)?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        for pair in range {
            let (key, value) = pair.map_err(failure)?;
            let (key, value) = (key.value().to_vec(), value.value().to_vec());
            bytes += key.len() + value.len();
            page.push((key, value));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(page)
    }
}

/// A snapshot as the namespace's functions read it. Keeps the first failure; then no answer counts.
struct SnapshotView<'a> {
    table: &'a BaseTable,
    failure: RefCell<Option<StoreError>>,
}

impl SnapshotView<'_> {
    fn note<T>(&self, result: Result<T, redb::StorageError>) -> Option<T> {
        result.map_err(|error| *self.failure.borrow_mut() = Some(StoreError::base("reading", error))).ok()
    }
}

impl KvRead for SnapshotView<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.note(self.table.get(key)).flatten().map(|value| value.value().to_vec())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) {
        if from >= to {
            return;
        }
        let Some(range) = self.note(self.table.range::<&[u8]>(from..to)) else { return };
        for pair in range {
            let Some((key, value)) = self.note(pair) else { return };
            if visit(key.value(), value.value()).is_break() {
                return;
            }
        }
    }
}

impl StoreSnapshot {
    /// Reads the snapshot; writers do not wait.
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        let view = SnapshotView { table: &self.table, failure: RefCell::new(None) };
        let result = read(&view);
        view.failure.into_inner().map_or(Ok(result), Err)
    }
}

/// A base on its way from another node.
pub struct Incoming {
    pub(super) path: PathBuf,
    pub(super) database: Database,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Adds pairs. They are not durable yet.
    pub fn put(&mut self, pairs: &[Pair]) -> Result<(), StoreError> {
        let put = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut data = transaction.open_table(DATA)?;
                for (key, value) in pairs {
                    data.insert(key.as_slice(), value.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        put().map_err(|error| StoreError::base("receiving", error))
    }

    /// Completes the base and makes all of it durable.
    pub fn finish(&mut self, applied: AppliedPosition, membership: &[u8]) -> Result<(), StoreError> {
        let finish = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            write_meta(&transaction, applied, Some(membership))?;
            Ok(transaction.commit()?)
        };
        finish().map_err(|error| StoreError::base("receiving", error))
    }
}
