//! The check of each record by itself: a known key, a readable value, and an existing inode.

use super::{Found, ino_in};
use crate::acl::{ACCESS, Acl, DEFAULT};
use crate::command::Applied;
use crate::key;
use crate::kv::KvRead;
use crate::lock::LockRecord;
use crate::record::{
    Attr, BlockRecord, DelegationRecord, Extent, FileKind, GarbageRecord, NodeRecord, SessionRecord,
    UnlinkedRecord, VolumeRecord,
};
use crate::wire;
use rain_types::{Ino, SessionId, VolumeId};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

fn is<T: DeserializeOwned>(value: &[u8]) -> bool {
    wire::decode::<T>(value).is_ok()
}

/// Returns whether the value is readable as the type of the key's table; `None` when there is no such table.
fn is_readable(key: &[u8], value: &[u8]) -> Option<bool> {
    Some(match key.first()? {
        b'I' => is::<Attr>(value),
        b'D' => is::<(Ino, FileKind)>(value),
        b'B' => is::<Extent>(value),
        b'K' => is::<BlockRecord>(value),
        b'G' => is::<GarbageRecord>(value),
        b'V' => is::<VolumeRecord>(value),
        b'U' => is::<(u64, u64)>(value),
        b'W' => is::<VolumeId>(value),
        b'N' => is::<NodeRecord>(value),
        b'Z' => is::<SessionRecord>(value),
        b'R' => is::<Applied>(value),
        b'C' => is::<u64>(value),
        b'M' => is::<LockRecord>(value),
        b'O' => is::<UnlinkedRecord>(value),
        b'P' => is::<DelegationRecord>(value),
        b'S' | b'H' | b'Y' | b'Q' => value.is_empty(),
        b'T' | b'L' | b'X' => true,
        _ => return None,
    })
}

pub(super) fn check_records(kv: &dyn KvRead, found: &mut Found) {
    let mut sessions = BTreeSet::new();
    kv.scan(b"Z", b"[", &mut |key, _| {
        sessions.extend(session_in(key));
        ControlFlow::Continue(())
    });
    kv.scan(&[], &[u8::MAX], &mut |key, value| {
        let about = |what: &str| format!("{what} at key {}", key.escape_ascii());
        found.expect(|| about("readable record"), Some(true), is_readable(key, value));
        let ino = ino_in(key);
        let kind = found.inodes.get(&ino).map(|attr| attr.kind);
        match key.first() {
            Some(b'T') => {
                found.expect(|| about("kind of the inode with inline data"), Some(FileKind::File), kind);
            }
            Some(b'L') => {
                found.expect(|| about("kind of the inode with a target"), Some(FileKind::Symlink), kind);
                let size = found.inodes.get(&ino).map(|attr| attr.size);
                found.expect(|| about("length of the target"), size, Some(value.len() as u64));
            }
            Some(b'I') if kind == Some(FileKind::Symlink) => {
                let there = kv.get(&key::target(ino)).is_some();
                found.expect(|| about("target of the symlink"), true, there);
            }
            Some(b'V') => check_volume(kv, key, value, found),
            Some(b'U') => {
                let there = kv.get(&[b"V", &key[1..]].concat()).is_some();
                found.expect(|| about("volume with counts"), true, there);
            }
            Some(b'X') => {
                found.expect(|| about("inode with an attribute"), true, kind.is_some());
                check_acl(ino, &key[9..], value, found);
            }
            Some(b'M') => check_locks(kv, ino, value, found),
            Some(b'Y') => {
                let session = session_in(key).unwrap_or_default();
                let locked = key::last_number(key).map_or(Ino(0), Ino);
                let record = kv.get(&key::locks(locked)).and_then(|bytes| wire::decode(&bytes).ok());
                let has = record.is_some_and(|record: LockRecord| record.has(session));
                found.expect(|| about("lock of the session"), true, has);
            }
            Some(b'P') => {
                let held: Option<DelegationRecord> = wire::decode(value).ok();
                let session = held.map(|held| held.session).unwrap_or_default();
                let dir = key::last_number(key).map_or(Ino(0), Ino);
                let kind = found.inodes.get(&dir).map(|attr| attr.kind);
                found.expect(|| about("kind of what is delegated"), Some(FileKind::Directory), kind);
                let noted = kv.get(&key::delegated_to(session, dir)).is_some();
                let open = sessions.contains(&session);
                found.expect(|| about("note and session of a delegation"), (true, true), (noted, open));
            }
            Some(b'Q') => {
                let session = session_in(key).unwrap_or_default();
                let dir = key::last_number(key).map_or(Ino(0), Ino);
                let held = kv.get(&key::delegation(dir)).and_then(|bytes| wire::decode(&bytes).ok());
                let has = held.is_some_and(|held: DelegationRecord| held.session == session);
                found.expect(|| about("delegation to the session"), true, has);
            }
            Some(b'R') => {
                let open = session_in(key).is_some_and(|session| sessions.contains(&session));
                found.expect(|| about("open session"), true, open);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
}

/// Checks that an ACL is well formed, says more than the mode, agrees with it, and is noted in the inode.
fn check_acl(ino: Ino, name: &[u8], value: &[u8], found: &mut Found) {
    let Some(attr) = found.inodes.get(&ino).cloned() else { return };
    let about = |what: &str| format!("{what} of inode {ino}");
    let acl = || Acl::parse(value).ok().flatten();
    if name == ACCESS {
        let mode = acl().filter(|acl| !acl.is_a_mode()).map(|acl| acl.mode());
        found.expect(|| about("mode by the access ACL"), Some(attr.mode & 0o777), mode);
        found.expect(|| about("note of an access ACL"), attr.acl, true);
    } else if name == DEFAULT {
        let is_right = attr.kind == FileKind::Directory && acl().is_some();
        found.expect(|| about("default ACL"), true, is_right);
        found.expect(|| about("note of a default ACL"), attr.default_acl, true);
    }
}

/// Checks an inode's locks, and that each is in the index of its session, which is open.
fn check_locks(kv: &dyn KvRead, ino: Ino, value: &[u8], found: &mut Found) {
    let Ok(locks) = wire::decode::<LockRecord>(value) else { return };
    let about = |what: &str| format!("{what} of inode {ino}");
    found.expect(|| about("locks"), Vec::new(), locks.faults());
    found.expect(|| about("inode with locks"), true, found.inodes.contains_key(&ino));
    let waiting = locks.waiting.iter().map(|one| one.wanted.session);
    for session in locks.held.iter().map(|held| held.session).chain(waiting) {
        let noted = kv.get(&key::locked_by(session, ino)).is_some();
        let open = kv.get(&key::session(session)).is_some();
        found.expect(|| about("note and session of a lock"), (true, true), (noted, open));
    }
}

/// Checks that a volume has counts, a root and a name that leads back to it.
fn check_volume(kv: &dyn KvRead, at: &[u8], value: &[u8], found: &mut Found) {
    let Ok(volume) = wire::decode::<VolumeRecord>(value) else { return };
    let about = |what: &str| format!("{what} of volume {}", volume.id);
    found.expect(|| about("number"), key::volume(volume.id) == at, true);
    let counts = kv.get(&key::volume_counts(volume.id)).is_some();
    found.expect(|| about("counts"), true, counts);
    let named: Option<VolumeId> =
        kv.get(&key::volume_name(&volume.name)).and_then(|bytes| wire::decode(&bytes).ok());
    found.expect(|| about("name"), Some(volume.id), named);
    let root = found.inodes.get(&volume.root).map(|attr| (attr.volume, attr.parent));
    found.expect(|| about("root"), Some((volume.id, volume.root)), root);
}

fn session_in(key: &[u8]) -> Option<SessionId> {
    Some(SessionId(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
}
