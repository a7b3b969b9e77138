//! Opens under way, so that a name removed at that moment takes no data from who is about to have the file open.
//!
//! Invariants:
//! 1. A removal that is not told to keep the inode ([`Opens::removal`]) is over before an open that began later
//!    asks for the inode.
//! 2. An inode orphaned while it is being opened is released by that open's end, or by the file's.

use crate::volume::Volume;
use rain_types::Ino;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{RwLock, RwLockReadGuard};

#[derive(Debug, Default, Clone, Copy)]
struct UnderWay {
    opens: u32,
    /// Its last name went meanwhile.
    orphaned: bool,
}

/// Of a volume.
#[derive(Debug, Default)]
pub(crate) struct Opens {
    under_way: Mutex<HashMap<Ino, UnderWay>>,
    /// Read by removals that keep nothing; an open waits for those before it.
    unkept: RwLock<()>,
}

impl Opens {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Ino, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the removed inode must be kept; if not, to be held until the removal is done.
    pub(crate) async fn removal(&self, is_open: impl FnOnce() -> bool) -> Option<RwLockReadGuard<'_, ()>> {
        let unkept = self.unkept.read().await;
        (!is_open() && self.under_way().is_empty()).then_some(unkept)
    }

    /// An inode was orphaned by this client. Whether an open under way takes care of it.
    pub(crate) fn orphaned(&self, ino: Ino) -> bool {
        self.under_way().get_mut(&ino).map(|open| open.orphaned = true).is_some()
    }
}

/// An open under way.
#[derive(Debug)]
pub(crate) struct Opening {
    volume: Arc<Volume>,
    ino: Ino,
}

impl Opening {
    /// From here on a removal keeps the inode; those that do not are over.
    pub(crate) async fn begin(volume: &Arc<Volume>, ino: Ino) -> Opening {
        volume.opens.under_way().entry(ino).or_default().opens += 1;
        let opening = Opening { volume: volume.clone(), ino };
        drop(volume.opens.unkept.write().await);
        opening
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let files = self.volume.files();
        let mut under_way = self.volume.opens.under_way();
        let Some(open) = under_way.get_mut(&self.ino) else { return };
        open.opens -= 1;
        if open.opens > 0 {
            return;
        }
        let orphaned = open.orphaned;
        under_way.remove(&self.ino);
        if orphaned && !files.get(&self.ino).is_some_and(|file| file.orphan()) {
            self.volume.release(self.ino);
        }
    }
}
