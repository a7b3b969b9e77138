//! The keys: one letter for the table, then big-endian numbers and names. So a lookup is one get, and a
//! directory or a file's extents are one scan. `docs/formats-namespace.md` lists the tables;
//! `tests/golden.rs` holds the bytes.

use rain_types::{BlockId, GroupId, Ino, NodeId, RequestId, SessionId, VolumeId};

fn key(letter: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(letter);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn pair(letter: u8, session: SessionId, seq: u64) -> Vec<u8> {
    key(letter, &[&session.0.to_be_bytes(), &seq.to_be_bytes()])
}

/// Returns the first key after this one.
pub fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Returns the first key after all keys that begin with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; prefix.len() + 1]
}

/// Table I: the attributes of an inode. Value: `Attr`.
pub fn inode(ino: Ino) -> Vec<u8> {
    key(b'I', &[&ino.0.to_be_bytes()])
}

/// Table D: a name in a directory. Value: `(Ino, FileKind)`.
pub fn entry(parent: Ino, name: &[u8]) -> Vec<u8> {
    key(b'D', &[&parent.0.to_be_bytes(), name])
}

/// Table B: an extent by its offset. Value: `Extent`.
pub fn extent(ino: Ino, offset: u64) -> Vec<u8> {
    key(b'B', &[&ino.0.to_be_bytes(), &offset.to_be_bytes()])
}

/// Table T: the inline data of a file. Value: bytes.
pub fn inline(ino: Ino) -> Vec<u8> {
    key(b'T', &[&ino.0.to_be_bytes()])
}

/// Table L: the target of a symlink. Value: bytes.
pub fn target(ino: Ino) -> Vec<u8> {
    key(b'L', &[&ino.0.to_be_bytes()])
}

/// Table X: an extended attribute. Value: bytes.
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    key(b'X', &[&ino.0.to_be_bytes(), name])
}

/// Table O: a file without a name, which may still be open. Value: `UnlinkedRecord`.
pub fn unlinked(ino: Ino) -> Vec<u8> {
    key(b'O', &[&ino.0.to_be_bytes()])
}

/// Table M: the locks of an inode. Value: `LockRecord`.
pub fn locks(ino: Ino) -> Vec<u8> {
    key(b'M', &[&ino.0.to_be_bytes()])
}

/// Table Y: an inode on which a session holds or waits for a lock. Value: empty.
pub fn locked_by(session: SessionId, ino: Ino) -> Vec<u8> {
    key(b'Y', &[&session.0.to_be_bytes(), &ino.0.to_be_bytes()])
}

/// Prefix of table Y: all inodes on which a session holds or waits for a lock.
pub fn all_locked_by(session: SessionId) -> Vec<u8> {
    key(b'Y', &[&session.0.to_be_bytes()])
}

/// Table P: the delegation of a directory. Value: `DelegationRecord`.
pub fn delegation(dir: Ino) -> Vec<u8> {
    key(b'P', &[&dir.0.to_be_bytes()])
}

/// Table Q: a directory that is delegated to a session. Value: empty.
pub fn delegated_to(session: SessionId, dir: Ino) -> Vec<u8> {
    key(b'Q', &[&session.0.to_be_bytes(), &dir.0.to_be_bytes()])
}

/// Prefix of table Q: all directories that are delegated to a session.
pub fn all_delegated_to(session: SessionId) -> Vec<u8> {
    key(b'Q', &[&session.0.to_be_bytes()])
}

/// Table K: a block in use. Value: `BlockRecord`.
pub fn block(id: BlockId) -> Vec<u8> {
    pair(b'K', id.session, id.seq)
}

/// Table H: a block by its placement group. Value: empty.
pub fn in_group(volume: VolumeId, group: GroupId, id: BlockId) -> Vec<u8> {
    let (session, seq) = (id.session.0.to_be_bytes(), id.seq.to_be_bytes());
    key(b'H', &[&volume.0.to_be_bytes(), &group.0.to_be_bytes(), &session, &seq])
}

/// Prefix of table H: all blocks of a placement group.
pub fn all_in_group(volume: VolumeId, group: GroupId) -> Vec<u8> {
    key(b'H', &[&volume.0.to_be_bytes(), &group.0.to_be_bytes()])
}

/// Table S: a block with missing shares, least margin first. Value: empty. `margin` is the number of
/// available shares minus k, plus 128.
pub fn missing(margin: u8, id: BlockId) -> Vec<u8> {
    key(b'S', &[&[margin], &id.session.0.to_be_bytes(), &id.seq.to_be_bytes()])
}

/// Table G: a block that awaits deletion. Value: `GarbageRecord`.
pub fn garbage(id: BlockId) -> Vec<u8> {
    pair(b'G', id.session, id.seq)
}

/// Table V: a volume. Value: `VolumeRecord`, with its counts as 0.
pub fn volume(id: VolumeId) -> Vec<u8> {
    key(b'V', &[&id.0.to_be_bytes()])
}

/// Table U: the counts of a volume. Value: `(inodes, stored bytes)`.
pub fn volume_counts(id: VolumeId) -> Vec<u8> {
    key(b'U', &[&id.0.to_be_bytes()])
}

/// Table W: a volume by name. Value: `VolumeId`.
pub fn volume_name(name: &str) -> Vec<u8> {
    key(b'W', &[name.as_bytes()])
}

/// Table N: a node. Value: `NodeRecord`.
pub fn node(id: NodeId) -> Vec<u8> {
    key(b'N', &[&id.0.to_be_bytes()])
}

/// Table Z: an open session. Value: `SessionRecord`.
pub fn session(id: SessionId) -> Vec<u8> {
    key(b'Z', &[&id.0.to_be_bytes()])
}

/// Table R: the result of a request. Value: `Applied`.
pub fn result(id: RequestId) -> Vec<u8> {
    pair(b'R', id.session, id.seq)
}

/// Prefix of table R: all results of a session.
pub fn results(session: SessionId) -> Vec<u8> {
    key(b'R', &[&session.0.to_be_bytes()])
}

/// Table C: a counter. Value: `u64`.
pub fn counter(name: &str) -> Vec<u8> {
    key(b'C', &[name.as_bytes()])
}

/// Returns the number in the last 8 bytes of a key, usually an inode number.
pub fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Returns the block id in the last 16 bytes of a key.
pub fn last_block(key: &[u8]) -> Option<BlockId> {
    let seq = last_number(key)?;
    let session = last_number(&key[..key.len() - 8])?;
    Some(BlockId { session: SessionId(session), seq })
}
