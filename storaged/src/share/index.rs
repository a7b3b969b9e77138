//! The index: the position of each share, in sled. It holds only facts that the shares themselves have, too.
//! sled may fail or panic on damaged files or a full disk. So every call catches both, and the caller makes a
//! new index. Where the disk has no room for an index, it is in memory: about 100 bytes per share.

use super::layout::SharePosition;
use super::{ShareKey, ShareMeta};
use parking_lot::Mutex;
use rain_types::{BlockId, CodeSpec, Codec, SessionId, ShareIndex};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const CHECKPOINT: &[u8] = b"checkpoint";
const KEY_BYTES: usize = 17;
const VALUE_BYTES: usize = 31;

/// An entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) meta: ShareMeta,
    pub(super) position: SharePosition,
    pub(super) sequence: u64,
}

/// The index failed, and a new one must be made: the reason.
#[derive(Debug, Clone)]
pub(super) struct IndexFailed(pub(super) String);

/// The index.
pub(super) struct Index(Storage);

enum Storage {
    Sled { database: sled::Db, shares: sled::Tree, folder: PathBuf },
    Memory(Mutex<BTreeMap<KeyBytes, ValueBytes>>),
}

type KeyBytes = [u8; KEY_BYTES];
type ValueBytes = [u8; VALUE_BYTES];

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("in_memory", &self.is_in_memory()).finish_non_exhaustive()
    }
}

/// Calls sled; a panic becomes an error.
fn fenced<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexFailed> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(IndexFailed(error.to_string())),
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(IndexFailed(format!("panicked: {}", why.unwrap_or("without a message"))))
        }
    }
}

fn key_bytes(key: ShareKey) -> KeyBytes {
    let mut bytes = [0; KEY_BYTES];
    bytes[..8].copy_from_slice(&key.block.session.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&key.block.seq.to_be_bytes());
    bytes[16] = key.index.0;
    bytes
}

fn value_bytes(located: &Located) -> ValueBytes {
    let mut bytes = [0; VALUE_BYTES];
    let code = located.meta.code;
    bytes[..4].copy_from_slice(&located.position.segment.to_le_bytes());
    bytes[4..8].copy_from_slice(&located.position.unit.to_le_bytes());
    bytes[8..12].copy_from_slice(&located.position.units.to_le_bytes());
    bytes[12..16].copy_from_slice(&located.meta.block_len.to_le_bytes());
    bytes[16..20].copy_from_slice(&located.meta.share_len.to_le_bytes());
    bytes[20..28].copy_from_slice(&located.sequence.to_le_bytes());
    bytes[28..].copy_from_slice(&[code.codec as u8, code.k, code.m]);
    bytes
}

fn decode(key: &[u8], value: &[u8]) -> Result<Located, IndexFailed> {
    let damaged = || IndexFailed("an entry has a wrong length or an unknown code".into());
    if key.len() != KEY_BYTES || value.len() != VALUE_BYTES {
        return Err(damaged());
    }
    let u32_at = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let u64_of = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged());
    let block = BlockId { session: SessionId(u64_of(&key[..8])?), seq: u64_of(&key[8..16])? };
    let code =
        CodeSpec { codec: Codec::from_number(value[28]).ok_or_else(damaged)?, k: value[29], m: value[30] };
    let key = ShareKey { block, index: ShareIndex(key[16]) };
    Ok(Located {
        meta: ShareMeta { key, code, block_len: u32_at(12), share_len: u32_at(16) },
        position: SharePosition { segment: u32_at(0), unit: u32_at(4), units: u32_at(8) },
        sequence: u64_of(&value[20..28])?.swap_bytes(),
    })
}

impl Index {
    pub(super) fn open(folder: &Path, cache_bytes: u64) -> Result<Index, IndexFailed> {
        let folder = folder.to_owned();
        let config = sled::Config::new()
            .path(&folder)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let database = fenced(|| config.open())?;
        let shares = fenced(|| database.open_tree("shares"))?;
        Ok(Index(Storage::Sled { database, shares, folder }))
    }

    pub(super) fn in_memory() -> Index {
        Index(Storage::Memory(Mutex::default()))
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.0, Storage::Memory(_))
    }

    pub(super) fn get(&self, key: ShareKey) -> Result<Option<Located>, IndexFailed> {
        let key = key_bytes(key);
        match &self.0 {
            Storage::Sled { shares, .. } => {
                fenced(|| shares.get(key))?.map(|value| decode(&key, &value)).transpose()
            }
            Storage::Memory(map) => map.lock().get(&key).map(|value| decode(&key, value)).transpose(),
        }
    }

    /// Inserts shares. Returns what each has replaced. Of an insert and a [`Index::remove`] at the same time one
    /// alone gets the old entry, and with it the duty to free its space.
    pub(super) fn insert_all(&self, located: &[Located]) -> Result<Vec<Option<Located>>, IndexFailed> {
        let pairs = located.iter().map(|located| (key_bytes(located.meta.key), value_bytes(located)));
        match &self.0 {
            Storage::Sled { shares, .. } => {
                // Not as a batch: sled ends each batch with a write to its file, and these entries need no
                // atomicity.
                let insert = |(key, value): (KeyBytes, _)| {
                    let old = fenced(|| shares.insert(key, AsRef::<[u8]>::as_ref(&value)))?;
                    old.map(|old| decode(&key, &old)).transpose()
                };
                pairs.map(insert).collect()
            }
            Storage::Memory(map) => {
                let mut map = map.lock();
                let insert = |(key, value): (KeyBytes, _)| {
                    map.insert(key, value).map(|old| decode(&key, &old)).transpose()
                };
                pairs.map(insert).collect()
            }
        }
    }

    pub(super) fn remove(&self, key: ShareKey) -> Result<Option<Located>, IndexFailed> {
        let key = key_bytes(key);
        match &self.0 {
            Storage::Sled { shares, .. } => {
                fenced(|| shares.remove(key))?.map(|value| decode(&key, &value)).transpose()
            }
            Storage::Memory(map) => map.lock().remove(&key).map(|value| decode(&key, &value)).transpose(),
        }
    }

    /// Returns up to `limit` entries in the order of their keys, from behind `after`.
    pub(super) fn list(&self, after: Option<ShareKey>, limit: usize) -> Result<Vec<Located>, IndexFailed> {
        let after = after.map(key_bytes);
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut found = Vec::new();
        match &self.0 {
            Storage::Sled { shares, .. } => {
                let mut entries = fenced(|| Ok(shares.range::<KeyBytes, _>(range)))?;
                while found.len() < limit {
                    let Some(entry) = fenced(|| entries.next().transpose())? else { break };
                    found.push(decode(&entry.0, &entry.1)?);
                }
            }
            Storage::Memory(map) => {
                for (key, value) in map.lock().range::<KeyBytes, _>(range).take(limit) {
                    found.push(decode(key, value)?);
                }
            }
        }
        Ok(found)
    }

    /// Returns the number of the last checkpoint in the index; 0: none.
    pub(super) fn checkpoint(&self) -> Result<u64, IndexFailed> {
        let Storage::Sled { database, .. } = &self.0 else { return Ok(0) };
        let value = fenced(|| database.get(CHECKPOINT))?;
        Ok(value.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Makes the index durable as a numbered checkpoint. sled's own flush does not reach the device, so its
    /// files are synced, too.
    pub(super) fn make_durable(&self, checkpoint: u64) -> Result<(), IndexFailed> {
        let Storage::Sled { database, folder, .. } = &self.0 else {
            return Err(IndexFailed("it is in memory".into()));
        };
        fenced(|| database.insert(CHECKPOINT, &checkpoint.to_le_bytes()))?;
        fenced(|| database.flush())?;
        sync_files(folder).map_err(|error| IndexFailed(format!("syncing {}: {error}", folder.display())))
    }
}

fn sync_files(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_files(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(folder)?.sync_all()
}
