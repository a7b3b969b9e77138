//! Answers to queries, read from one consistent state.
//!
//! Left out: writes; [`crate::apply()`] makes them.

use crate::apply::{counters, extents_over, groups_with};
use crate::error::NsError;
use crate::key;
use crate::kv::KvRead;
use crate::lock::LockRecord;
use crate::query::{Answer, Answered, BlockEntry, DirectoryEntry, Query, Totals};
use crate::record::{
    Attr, BlockRecord, DelegationRecord, FileKind, GarbageRecord, NodeRecord, SessionRecord, UnlinkedRecord,
    VolumeRecord,
};
use crate::wire;
use rain_types::{BlockId, GroupId, Ino, SessionId, VolumeId};
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;

/// Largest number of rows in one answer, so that an answer fits into one message. Clients ask again for the
/// rest.
const ROWS_MAX: usize = 4096;

fn read<T: DeserializeOwned>(kv: &dyn KvRead, key: &[u8]) -> Option<T> {
    kv.get(key).map(|bytes| wire::decode(&bytes).expect("a record of the namespace is readable"))
}

fn rows(limit: u32) -> usize {
    (limit as usize).clamp(1, ROWS_MAX)
}

/// Answers a query. Fails with the error that the client gets.
pub fn answer(kv: &dyn KvRead, query: &Query) -> Answered {
    Ok(match query {
        Query::Lookup { parent, name } => Answer::Attr(lookup(kv, *parent, name)?),
        Query::GetAttr { ino } => Answer::Attr(attr(kv, *ino)?),
        Query::Layout { ino, from, limit } => layout(kv, *ino, *from, *limit)?,
        Query::ReadLink { ino } => match attr(kv, *ino)?.kind {
            FileKind::Symlink => Answer::Bytes(kv.get(&key::target(*ino)).ok_or(NsError::NotFound)?),
            _ => return Err(NsError::Invalid("not a symlink".into())),
        },
        Query::ReadDirectory { dir, after, limit } => read_directory(kv, *dir, after.as_deref(), *limit)?,
        Query::GetXattr { ino, name } => {
            attr(kv, *ino)?;
            Answer::Bytes(kv.get(&key::xattr(*ino, name)).ok_or(NsError::NoAttribute)?)
        }
        Query::ListXattr { ino } => {
            attr(kv, *ino)?;
            let prefix = key::xattr(*ino, b"");
            let mut names = Vec::new();
            kv.scan(&prefix, &key::after_prefix(&prefix), &mut |key, _| {
                names.push(key[prefix.len()..].to_vec());
                ControlFlow::Continue(())
            });
            Answer::Names(names)
        }
        Query::Volume { name } => {
            let id = read::<VolumeId>(kv, &key::volume_name(name)).ok_or(NsError::NotFound)?;
            Answer::Volumes(vec![volume(kv, id)?])
        }
        Query::VolumeById { id } => Answer::Volumes(vec![volume(kv, *id)?]),
        Query::Volumes => {
            let ids: Vec<VolumeRecord> = all(kv, b"V");
            Answer::Volumes(ids.into_iter().map(|record| volume(kv, record.id)).collect::<Result<_, _>>()?)
        }
        Query::Nodes => Answer::Nodes(all::<NodeRecord>(kv, b"N")),
        Query::Sessions => Answer::Sessions(all::<SessionRecord>(kv, b"Z")),
        Query::Session { session } => {
            Answer::Sessions(read(kv, &key::session(*session)).into_iter().collect())
        }
        Query::Missing { after, limit } => Answer::Blocks(missing(kv, *after, rows(*limit))),
        Query::Garbage { after, limit } => Answer::Garbage(garbage(kv, *after, rows(*limit))),
        Query::Blocks { ids } => {
            if ids.len() > ROWS_MAX {
                return Err(NsError::Invalid(format!(
                    "{} blocks in one query, at most {ROWS_MAX}",
                    ids.len()
                )));
            }
            Answer::Blocks(ids.iter().filter_map(|id| block(kv, *id)).collect())
        }
        Query::Open { ino } => match read(kv, &key::unlinked(*ino)) {
            Some(UnlinkedRecord { sealed: true, .. }) => return Err(NsError::Stale),
            _ => Answer::Attr(attr(kv, *ino)?),
        },
        Query::UnlinkedFiles { after, limit } => {
            Answer::UnlinkedFiles(unlinked_files(kv, *after, rows(*limit)))
        }
        Query::Ticket { ino, session, ticket } => {
            if kv.get(&key::session(*session)).is_none() {
                return Err(NsError::SessionEnded(*session));
            }
            let waiting = locks(kv, *ino).is_waiting(*session, *ticket);
            Answer::Ticket { waiting, attr: attr(kv, *ino)? }
        }
        Query::Conflict { ino, session, lock } => {
            attr(kv, *ino)?;
            let held = locks(kv, *ino).conflict(*session, lock);
            Answer::Conflict(held.map(|held| (held.session, held.lock)))
        }
        Query::As { session, query } => {
            let names_of = match &**query {
                Query::Lookup { parent, .. } => Some(*parent),
                Query::ReadDirectory { dir, .. } => Some(*dir),
                Query::As { .. } => {
                    return Err(NsError::Invalid(
                        "a query on behalf of a session contains another such query".into(),
                    ));
                }
                _ => None,
            };
            if let Some(dir) = names_of
                && let Some(held) = delegation(kv, dir).filter(|held| held.session != *session)
            {
                return Err(NsError::Delegated { dir, session: held.session });
            }
            return answer(kv, query);
        }
        Query::Delegation { dir } => Answer::Delegation(delegation(kv, *dir).map(|held| held.session)),
        Query::Delegations { session } => {
            if kv.get(&key::session(*session)).is_none() {
                return Err(NsError::SessionEnded(*session));
            }
            let mut dirs = Vec::new();
            let prefix = key::all_delegated_to(*session);
            kv.scan(&prefix, &key::after_prefix(&prefix), &mut |key, _| {
                dirs.extend(key::last_number(key).map(Ino));
                ControlFlow::Continue(())
            });
            let recalled = |dir: Ino| (dir, delegation(kv, dir).is_some_and(|held| held.recalled));
            Answer::Delegations(dirs.into_iter().map(recalled).collect())
        }
        Query::Strays { after, limit } => Answer::Blocks(strays(kv, *after, rows(*limit))),
        Query::GroupsWith { node } => {
            let volumes: Vec<VolumeRecord> = all(kv, b"V");
            Answer::Groups(volumes.iter().map(|volume| groups_with(kv, volume, *node)).sum())
        }
        Query::Recalled { limit } => Answer::Recalled(recalled(kv, rows(*limit))),
        Query::Totals => {
            let count = |name: &str| read::<u64>(kv, &key::counter(name)).unwrap_or(0);
            Answer::Totals(Totals {
                blocks: count(counters::BLOCKS),
                blocks_missing: count(counters::BLOCKS_MISSING),
                shares_missing: count(counters::SHARES_MISSING),
                blocks_without_margin: count(counters::BLOCKS_WITHOUT_MARGIN),
                garbage: count(counters::GARBAGE),
                places: count(counters::PLACES),
            })
        }
    })
}

fn attr(kv: &dyn KvRead, ino: Ino) -> Result<Attr, NsError> {
    read(kv, &key::inode(ino)).ok_or(NsError::NotFound)
}

fn directory(kv: &dyn KvRead, ino: Ino) -> Result<Attr, NsError> {
    let attr = attr(kv, ino)?;
    if attr.kind == FileKind::Directory { Ok(attr) } else { Err(NsError::NotDirectory) }
}

fn lookup(kv: &dyn KvRead, parent: Ino, name: &[u8]) -> Result<Attr, NsError> {
    let dir = directory(kv, parent)?;
    if name.len() > 255 {
        return Err(NsError::NameTooLong { bytes: name.len() as u64, limit: 255 });
    }
    match name {
        b"." => Ok(dir),
        b".." => attr(kv, dir.parent),
        _ => {
            let (ino, _): (Ino, FileKind) = read(kv, &key::entry(parent, name)).ok_or(NsError::NotFound)?;
            attr(kv, ino)
        }
    }
}

fn layout(kv: &dyn KvRead, ino: Ino, from: u64, limit: u32) -> Answered {
    let attr = attr(kv, ino)?;
    if attr.kind != FileKind::File {
        return Err(NsError::Invalid("only files have data".into()));
    }
    let limit = rows(limit);
    let inline = kv.get(&key::inline(ino)).unwrap_or_default();
    let mut extents =
        if attr.extents == 0 { Vec::new() } else { extents_over(kv, ino, from, u64::MAX, limit + 1) };
    let more = extents.len() > limit;
    extents.truncate(limit);
    let mut last: Option<(BlockId, GroupId)> = None;
    for extent in &mut extents {
        // A block has several extents only where it was cut. These extents follow each other.
        let known = last.filter(|(block, _)| *block == extent.block).map(|(_, group)| group);
        let now = known.or_else(|| block(kv, extent.block).map(|entry| entry.record.group));
        extent.group = now.unwrap_or(extent.group);
        last = Some((extent.block, extent.group));
    }
    Ok(Answer::Layout { attr, inline, extents, more })
}

fn read_directory(kv: &dyn KvRead, dir: Ino, after: Option<&[u8]>, limit: u32) -> Answered {
    directory(kv, dir)?;
    let limit = rows(limit);
    let prefix = key::entry(dir, b"");
    let from = after.map_or_else(|| prefix.clone(), |name| key::after(key::entry(dir, name)));
    let mut found: Vec<(Vec<u8>, Ino)> = Vec::new();
    kv.scan(&from, &key::after_prefix(&prefix), &mut |key, value| {
        let (ino, _): (Ino, FileKind) = wire::decode(value).expect("an entry is readable");
        found.push((key[prefix.len()..].to_vec(), ino));
        if found.len() <= limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let entries = found
        .into_iter()
        .map(|(name, ino)| Ok(DirectoryEntry { name, attr: attr(kv, ino)? }))
        .collect::<Result<_, NsError>>()?;
    Ok(Answer::Directory { entries, more })
}

fn volume(kv: &dyn KvRead, id: VolumeId) -> Result<VolumeRecord, NsError> {
    let mut record: VolumeRecord = read(kv, &key::volume(id)).ok_or(NsError::NotFound)?;
    (record.inodes, record.stored_bytes) = read(kv, &key::volume_counts(id)).unwrap_or_default();
    Ok(record)
}

fn all<T: DeserializeOwned>(kv: &dyn KvRead, prefix: &[u8]) -> Vec<T> {
    let mut found = Vec::new();
    kv.scan(prefix, &key::after_prefix(prefix), &mut |_, value| {
        found.push(wire::decode(value).expect("a record of the namespace is readable"));
        ControlFlow::Continue(())
    });
    found
}

fn block(kv: &dyn KvRead, id: BlockId) -> Option<BlockEntry> {
    read::<BlockRecord>(kv, &key::block(id)).map(|record| BlockEntry { id, record })
}

fn missing(kv: &dyn KvRead, after: Option<(u8, BlockId)>, limit: usize) -> Vec<BlockEntry> {
    let mut ids = Vec::new();
    let from = after.map_or_else(|| b"S".to_vec(), |(margin, id)| key::after(key::missing(margin, id)));
    kv.scan(&from, &key::after_prefix(b"S"), &mut |key, _| {
        ids.extend(key::last_block(key));
        if ids.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    ids.into_iter().filter_map(|id| block(kv, id)).collect()
}

fn strays(kv: &dyn KvRead, after: Option<(VolumeId, GroupId, BlockId)>, limit: usize) -> Vec<BlockEntry> {
    let mut ids = Vec::new();
    for volume in all::<VolumeRecord>(kv, b"V") {
        for (group, _) in volume.closed_groups() {
            let from = match after {
                Some((of, in_group, _)) if (volume.id, group) < (of, in_group) => continue,
                Some((of, in_group, id)) if (volume.id, group) == (of, in_group) => {
                    key::after(key::in_group(of, in_group, id))
                }
                _ => key::all_in_group(volume.id, group),
            };
            let to = key::after_prefix(&key::all_in_group(volume.id, group));
            kv.scan(&from, &to, &mut |key, _| {
                ids.extend(key::last_block(key));
                if ids.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if ids.len() >= limit {
                return ids.into_iter().filter_map(|id| block(kv, id)).collect();
            }
        }
    }
    ids.into_iter().filter_map(|id| block(kv, id)).collect()
}

fn delegation(kv: &dyn KvRead, dir: Ino) -> Option<DelegationRecord> {
    read(kv, &key::delegation(dir))
}

fn recalled(kv: &dyn KvRead, limit: usize) -> Vec<(Ino, SessionId)> {
    let mut found = Vec::new();
    kv.scan(b"P", &key::after_prefix(b"P"), &mut |key, value| {
        let held: DelegationRecord = wire::decode(value).expect("a record of the namespace is readable");
        if held.recalled {
            found.extend(key::last_number(key).map(|dir| (Ino(dir), held.session)));
        }
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found
}

fn locks(kv: &dyn KvRead, ino: Ino) -> LockRecord {
    read(kv, &key::locks(ino)).unwrap_or_default()
}

fn unlinked_files(kv: &dyn KvRead, after: Option<Ino>, limit: usize) -> Vec<(Ino, bool)> {
    let from = after.map_or_else(|| b"O".to_vec(), |ino| key::unlinked(Ino(ino.0.saturating_add(1))));
    let mut found = Vec::new();
    kv.scan(&from, &key::after_prefix(b"O"), &mut |key, value| {
        let unlinked: UnlinkedRecord = wire::decode(value).expect("a record of the namespace is readable");
        found.extend(key::last_number(key).map(|ino| (Ino(ino), unlinked.sealed)));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found
}

fn garbage(kv: &dyn KvRead, after: Option<BlockId>, limit: usize) -> Vec<(BlockId, GarbageRecord)> {
    let from = after.map_or_else(|| b"G".to_vec(), |id| key::after(key::garbage(id)));
    let mut found = Vec::new();
    kv.scan(&from, &key::after_prefix(b"G"), &mut |key, value| {
        let id = key::last_block(key).expect("a garbage key ends in a block's id");
        found.push((id, wire::decode(value).expect("a record of the namespace is readable")));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found
}
