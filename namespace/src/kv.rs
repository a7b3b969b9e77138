//! The ordered transactional store that the namespace's functions run over.
//!
//! The namespace does not know which store it runs on: a tree in memory in tests and in simulation, or an
//! embedded store with a memtable in `storaged`.

use std::ops::ControlFlow;

/// A visitor that a scan calls with each pair in order; it breaks when it needs no more pairs.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Read access. Keys and values are bytes; the order is by bytes.
pub trait KvRead {
    /// Returns the value of a key; `None` when the key does not exist.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Visits the pairs with `from <= key < to` in order until `visit` breaks.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>);

    /// Returns whether any pair lies in `from <= key < to`.
    fn any(&self, from: &[u8], to: &[u8]) -> bool {
        let mut found = false;
        self.scan(from, to, &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        });
        found
    }
}

/// Read and write access within one command. The caller makes all writes of a log entry durable together. A
/// refused command writes nothing, because every command checks before it writes.
pub trait KvTxn: KvRead {
    /// Sets the value of a key.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes a key. Removing a key that does not exist is no error.
    fn delete(&mut self, key: &[u8]);
}

/// A store in memory: the reference implementation, for tests and simulation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryKv(pub std::collections::BTreeMap<Vec<u8>, Vec<u8>>);

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to {
            return;
        }
        for (key, value) in self.0.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}

impl KvTxn for MemoryKv {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}
