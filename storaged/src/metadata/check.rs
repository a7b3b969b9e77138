//! The namespace's invariants, checked on this node.

use super::store::{MetaStore, StoreError};
use std::ops::ControlFlow;

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Position of the last entry in the checked state.
    pub position: u64,
    /// blake3 over all pairs. Nodes at one position must have the same digest.
    pub digest: [u8; 32],
    /// The violations; empty for a sound namespace.
    pub violations: Vec<String>,
}

/// Checks a durable snapshot of the store. Blocks and reads all of it; nobody waits meanwhile.
pub(super) fn check(store: &MetaStore) -> Result<Checked, StoreError> {
    store.flush()?;
    let snapshot = store.snapshot()?;
    let violations = snapshot.read(rain_namespace::check::check)?;
    let mut hasher = blake3::Hasher::new();
    snapshot.read(|kv| {
        kv.scan(&[], &[0xff; 64], &mut |key, value| {
            for part in [key, value] {
                hasher.update(&(part.len() as u32).to_le_bytes()).update(part);
            }
            ControlFlow::Continue(())
        });
    })?;
    Ok(Checked {
        position: snapshot.applied().index,
        digest: *hasher.finalize().as_bytes(),
        violations: violations.iter().map(|violation| format!("{violation:?}")).collect(),
    })
}
