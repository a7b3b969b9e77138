//! The records behind the keys, read and written as values; and the counters, which only this module changes.

use crate::error::NsError;
use crate::key;
use crate::kv::KvTxn;
use crate::record::{Attr, BlockRecord, FileKind, Time, VolumeRecord};
use crate::wire;
use rain_types::{CodeSpec, Ino, SessionId, VolumeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The store during one command.
pub(super) struct Table<'a> {
    pub(super) kv: &'a mut dyn KvTxn,
    /// Time of the entry, or of the request if it has one.
    pub(super) time: Time,
    /// Session of the request.
    pub(super) asker: Option<SessionId>,
    tally: Tally,
}

/// The changes of counters by one command, written once at its end; and the codes of volumes that it has
/// read.
#[derive(Default)]
struct Tally {
    counters: BTreeMap<&'static str, i64>,
    /// Changes of inodes and of stored bytes.
    volumes: BTreeMap<VolumeId, (i64, i64)>,
    codes: BTreeMap<VolumeId, CodeSpec>,
}

/// The names of the counters of the whole namespace.
pub(crate) mod counters {
    pub(crate) const NEXT_INO: &str = "next-ino";
    pub(crate) const NEXT_SESSION: &str = "next-session";
    pub(crate) const NEXT_NODE: &str = "next-node";
    pub(crate) const NEXT_VOLUME: &str = "next-volume";
    pub(crate) const BLOCKS: &str = "blocks";
    pub(crate) const BLOCKS_MISSING: &str = "blocks-missing";
    pub(crate) const SHARES_MISSING: &str = "shares-missing";
    pub(crate) const BLOCKS_WITHOUT_MARGIN: &str = "blocks-without-margin";
    pub(crate) const GARBAGE: &str = "garbage";
    /// Version of the layout; grows with every change of nodes and placement groups.
    pub(crate) const PLACES: &str = "places";
}

impl<'a> Table<'a> {
    pub(super) fn new(kv: &'a mut dyn KvTxn, time: Time, asker: Option<SessionId>) -> Table<'a> {
        Table { kv, time, asker, tally: Tally::default() }
    }

    /// Writes the counters. Every command does this last.
    pub(super) fn write_counts(&mut self) {
        let Tally { counters, volumes, .. } = std::mem::take(&mut self.tally);
        for (name, change) in counters.into_iter().filter(|(_, change)| *change != 0) {
            let now = self.read::<u64>(&key::counter(name)).unwrap_or(0);
            self.write(&key::counter(name), &now.saturating_add_signed(change));
        }
        for (volume, (inodes, stored_bytes)) in volumes.into_iter().filter(|(_, change)| *change != (0, 0)) {
            let key = key::volume_counts(volume);
            let (inodes_before, bytes_before) = self.read::<(u64, u64)>(&key).unwrap_or_default();
            self.write(
                &key,
                &(
                    inodes_before.saturating_add_signed(inodes),
                    bytes_before.saturating_add_signed(stored_bytes),
                ),
            );
        }
    }

    pub(super) fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Option<T> {
        let bytes = self.kv.get(key)?;
        Some(
            wire::decode(&bytes)
                .expect("a record of the namespace is readable: checksums below found no damage"),
        )
    }

    pub(super) fn write<T: Serialize>(&mut self, key: &[u8], value: &T) {
        self.kv.put(key, &wire::encode(value));
    }

    /// Returns the attributes of an inode, with or without a name. Fails with `NotFound`.
    pub(super) fn attr(&self, ino: Ino) -> Result<Attr, NsError> {
        self.read(&key::inode(ino)).ok_or(NsError::NotFound)
    }

    pub(super) fn put_attr(&mut self, attr: &Attr) {
        self.write(&key::inode(attr.ino), attr);
    }

    /// Returns the attributes of a directory. Fails with `NotFound` or `NotDirectory`.
    pub(super) fn directory(&self, ino: Ino) -> Result<Attr, NsError> {
        let attr = self.attr(ino)?;
        if attr.kind == FileKind::Directory { Ok(attr) } else { Err(NsError::NotDirectory) }
    }

    pub(super) fn file(&self, ino: Ino) -> Result<Attr, NsError> {
        let attr = self.attr(ino)?;
        match attr.kind {
            FileKind::File => Ok(attr),
            FileKind::Directory => Err(NsError::IsDirectory),
            _ => Err(NsError::Invalid("only files have data".into())),
        }
    }

    pub(super) fn entry(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        self.read::<(Ino, FileKind)>(&key::entry(parent, name)).map(|(ino, _)| ino)
    }

    pub(super) fn put_entry(&mut self, parent: Ino, name: &[u8], attr: &Attr) {
        self.write(&key::entry(parent, name), &(attr.ino, attr.kind));
    }

    /// Returns the next number of a counter, and increments the counter.
    pub(super) fn next(&mut self, name: &str) -> u64 {
        let next = self.read::<u64>(&key::counter(name)).unwrap_or(1);
        self.write(&key::counter(name), &(next + 1));
        next
    }

    /// Adds `change` to a counter.
    pub(super) fn count(&mut self, name: &'static str, change: i64) {
        *self.tally.counters.entry(name).or_default() += change;
    }

    /// Adds to a volume's counts of inodes and of stored bytes.
    pub(super) fn count_volume(&mut self, volume: VolumeId, inodes: i64, stored_bytes: i64) {
        let counts = self.tally.volumes.entry(volume).or_default();
        *counts = (counts.0 + inodes, counts.1 + stored_bytes);
    }

    pub(super) fn volume(&self, id: VolumeId) -> VolumeRecord {
        self.read(&key::volume(id)).expect("an inode's volume is there")
    }

    /// Returns a volume's code.
    pub(super) fn code(&mut self, id: VolumeId) -> CodeSpec {
        if let Some(code) = self.tally.codes.get(&id) {
            return *code;
        }
        let code = self.volume(id).code;
        self.tally.codes.insert(id, code);
        code
    }

    pub(super) fn block(&self, id: rain_types::BlockId) -> Option<BlockRecord> {
        self.read(&key::block(id))
    }

    /// Returns the keys with a prefix, at most `limit`.
    pub(super) fn keys(&self, prefix: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        self.kv.scan(prefix, &key::after_prefix(prefix), &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        keys
    }

    /// Deletes the results of a session's requests with the numbers `from..below`.
    pub(super) fn forget_results(&mut self, session: SessionId, from: u64, below: u64) {
        let from = key::result(rain_types::RequestId { session, seq: from });
        let to = key::result(rain_types::RequestId { session, seq: below });
        let mut old = Vec::new();
        self.kv.scan(&from, &to, &mut |key, _| {
            old.push(key.to_vec());
            ControlFlow::Continue(())
        });
        for key in old {
            self.kv.delete(&key);
        }
    }
}
