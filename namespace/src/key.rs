//! The keys: one letter for the kind, then big-endian numbers and names, so that a lookup is one get, a
//! directory one scan, a file's extents one scan. `docs/formats.md` has the table.

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

/// The first key after this one.
pub fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The first key after all that begin with `prefix`.
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

/// Attributes of an inode: `Attr`.
pub fn inode(ino: Ino) -> Vec<u8> {
    key(b'I', &[&ino.0.to_be_bytes()])
}

/// A name in a directory: `(Ino, FileKind)`.
pub fn entry(parent: Ino, name: &[u8]) -> Vec<u8> {
    key(b'D', &[&parent.0.to_be_bytes(), name])
}

/// An extent by its offset: `Extent`.
pub fn extent(ino: Ino, offset: u64) -> Vec<u8> {
    key(b'B', &[&ino.0.to_be_bytes(), &offset.to_be_bytes()])
}

/// Inline data: bytes.
pub fn inline(ino: Ino) -> Vec<u8> {
    key(b'T', &[&ino.0.to_be_bytes()])
}

/// A symlink's target: bytes.
pub fn target(ino: Ino) -> Vec<u8> {
    key(b'L', &[&ino.0.to_be_bytes()])
}

/// An extended attribute: bytes.
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    key(b'X', &[&ino.0.to_be_bytes(), name])
}

/// A file without a name, which may be open somewhere: whether it is sealed.
pub fn orphan(ino: Ino) -> Vec<u8> {
    key(b'O', &[&ino.0.to_be_bytes()])
}

/// The locks of an inode: `LockRecord`.
pub fn locks(ino: Ino) -> Vec<u8> {
    key(b'M', &[&ino.0.to_be_bytes()])
}

/// An inode of which a session holds a lock or waits for one: nothing.
pub fn locked_by(session: SessionId, ino: Ino) -> Vec<u8> {
    key(b'Y', &[&session.0.to_be_bytes(), &ino.0.to_be_bytes()])
}

/// All inodes of which a session holds a lock or waits for one.
pub fn all_locked_by(session: SessionId) -> Vec<u8> {
    key(b'Y', &[&session.0.to_be_bytes()])
}

/// Whose a directory's names are: `DelegationRecord`.
pub fn delegation(dir: Ino) -> Vec<u8> {
    key(b'P', &[&dir.0.to_be_bytes()])
}

/// A directory that a session has: nothing.
pub fn delegated_to(session: SessionId, dir: Ino) -> Vec<u8> {
    key(b'Q', &[&session.0.to_be_bytes(), &dir.0.to_be_bytes()])
}

/// All directories that a session has.
pub fn all_delegated_to(session: SessionId) -> Vec<u8> {
    key(b'Q', &[&session.0.to_be_bytes()])
}

/// A block in use: `BlockRecord`.
pub fn block(id: BlockId) -> Vec<u8> {
    pair(b'K', id.session, id.seq)
}

/// A block by its placement group: nothing.
pub fn in_group(volume: VolumeId, group: GroupId, id: BlockId) -> Vec<u8> {
    let (session, seq) = (id.session.0.to_be_bytes(), id.seq.to_be_bytes());
    key(b'H', &[&volume.0.to_be_bytes(), &group.0.to_be_bytes(), &session, &seq])
}

/// All blocks of a placement group.
pub fn all_in_group(volume: VolumeId, group: GroupId) -> Vec<u8> {
    key(b'H', &[&volume.0.to_be_bytes(), &group.0.to_be_bytes()])
}

/// A block with missing shares, least margin first: nothing. `margin` is the shares there less k, plus 128.
pub fn missing(margin: u8, id: BlockId) -> Vec<u8> {
    key(b'S', &[&[margin], &id.session.0.to_be_bytes(), &id.seq.to_be_bytes()])
}

/// A block that awaits deletion: `GarbageRecord`.
pub fn garbage(id: BlockId) -> Vec<u8> {
    pair(b'G', id.session, id.seq)
}

/// A volume: `VolumeRecord` with its counts as 0.
pub fn volume(id: VolumeId) -> Vec<u8> {
    key(b'V', &[&id.0.to_be_bytes()])
}

/// A volume's counts: `(inodes, held)`.
pub fn volume_counts(id: VolumeId) -> Vec<u8> {
    key(b'U', &[&id.0.to_be_bytes()])
}

/// A volume by name: `VolumeId`.
pub fn volume_name(name: &str) -> Vec<u8> {
    key(b'W', &[name.as_bytes()])
}

/// A node: `NodeRecord`.
pub fn node(id: NodeId) -> Vec<u8> {
    key(b'N', &[&id.0.to_be_bytes()])
}

/// An open session: `SessionRecord`.
pub fn session(id: SessionId) -> Vec<u8> {
    key(b'Z', &[&id.0.to_be_bytes()])
}

/// The result of a request: `Applied`.
pub fn result(id: RequestId) -> Vec<u8> {
    pair(b'R', id.session, id.seq)
}

/// All results of a session.
pub fn results(session: SessionId) -> Vec<u8> {
    key(b'R', &[&session.0.to_be_bytes()])
}

/// A counter: `u64`.
pub fn counter(name: &str) -> Vec<u8> {
    key(b'C', &[name.as_bytes()])
}

/// The inode number, or other number, in the last 8 bytes of a key.
pub fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The block's id in the last 16 bytes of a key.
pub fn last_block(key: &[u8]) -> Option<BlockId> {
    let seq = last_number(key)?;
    let session = last_number(&key[..key.len() - 8])?;
    Some(BlockId { session: SessionId(session), seq })
}
