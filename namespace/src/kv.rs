//! The ordered transactional store that the namespace's functions run over.
//!
//! The namespace never sees what is below: a tree in memory in its own tests and in simulation, an
//! embedded store with a memtable in `storaged`, a distributed engine one day.

use std::ops::ControlFlow;

/// Told each pair of a scan in order; breaks when it has enough.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reading. Keys and values are bytes; order is by bytes.
pub trait KvRead {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Visits the pairs with `from <= key < to` in order until `visit` breaks.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>);

    /// Whether any pair lies in `from <= key < to`.
    fn any(&self, from: &[u8], to: &[u8]) -> bool {
        let mut found = false;
        self.scan(from, to, &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        });
        found
    }
}

/// Reading and writing within one command. The caller makes a whole entry's writes durable together;
/// a refused command writes nothing (checks come before writes in every command).
pub trait KvTxn: KvRead {
    /// Sets a key.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes a key; a key that is not there is no error.
    fn delete(&mut self, key: &[u8]);
}

/// A store in memory: the reference, for tests and simulation.
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
