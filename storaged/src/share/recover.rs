//! The start of a store. An index that has the last checkpoint is trusted, and the segments written since are
//! read again. An index that is lost, damaged or older than the state file says is made again from all
//! segments. The new index has a folder of its own, so that files that sled still holds are not in its way.
//! Where the disk has no room for it, it is made in memory.

use super::index::{Index, IndexFailed, Located};
use super::layout::{self, HEADER_BYTES, SharePosition, UNIT_BYTES};
use super::segments::Segments;
use super::state::State;
use super::{StoreError, io_error};
use crate::disk::MediaFile;
use crate::disk::replace::replace_file;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The report of a rebuild of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// The reason.
    pub why: String,
    /// Number of shares found.
    pub shares: u64,
    /// Its duration.
    pub took: Duration,
}

/// Returns the store's random id, the key of every seal; makes it with a new store.
pub(super) fn store_key(path: &Path) -> Result<[u8; 32], StoreError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| StoreError::Damaged {
            path: path.display().to_string(),
            why: format!("{} bytes, not 32; without it no share can be read", bytes.len()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key)
                .map_err(io::Error::from)
                .map_err(io_error("asking the system for random bytes for", path))?;
            replace_file(path, &key).map_err(io_error("writing", path))?;
            Ok(key)
        }
        Err(error) => Err(io_error("reading", path)(error)),
    }
}

/// Returns the whole shares of a segment. Of two that overlap the later one counts: it was written over the
/// other.
pub(super) fn scan_segment(file: &dyn MediaFile, key: &[u8; 32], segment: u32) -> io::Result<Vec<Located>> {
    let len = file.len()?;
    let mut found: BTreeMap<u32, Located> = BTreeMap::new();
    let mut unit = 0u32;
    let mut page = vec![0; UNIT_BYTES as usize];
    while u64::from(unit) * UNIT_BYTES < len {
        let offset = u64::from(unit) * UNIT_BYTES;
        file.read_padded_at(offset, &mut page)?;
        let head = layout::peek_share_len(&page).map(|share_len| {
            let bytes = layout::head_bytes(share_len);
            let mut head = page[..HEADER_BYTES].to_vec();
            head.resize(bytes, 0);
            file.read_padded_at(offset, &mut head).map(|()| layout::decode(key, &head, segment, unit))
        });
        match head.transpose()?.flatten() {
            Some(head) => {
                let located = Located { meta: head.meta, position: head.position, sequence: head.sequence };
                keep_later(&mut found, located);
                // By one unit, not by the whole share: a newer share may have been written over the tail.
                unit += 1;
            }
            None => unit += 1,
        }
    }
    Ok(found.into_values().collect())
}

fn keep_later(found: &mut BTreeMap<u32, Located>, located: Located) {
    let overlapping: Vec<u32> = found
        .values()
        .filter(|other| other.position.unit + other.position.units > located.position.unit)
        .map(|other| other.position.unit)
        .collect();
    if overlapping.iter().all(|unit| found[unit].sequence < located.sequence) {
        for unit in overlapping {
            found.remove(&unit);
        }
        found.insert(located.position.unit, located);
    }
}

/// An index that is right.
pub(super) struct Recovered {
    pub(super) index: Index,
    /// Number of its folder.
    pub(super) number: u64,
    pub(super) rebuilt: Option<RebuildReport>,
}

const INDEX: &str = "index-";

fn index_folder(store: &Path, number: u64) -> PathBuf {
    store.join(format!("{INDEX}{number}"))
}

pub(super) fn recover(
    store: &Path,
    cache_bytes: u64,
    segments: &Segments,
    key: &[u8; 32],
    state: &State,
) -> Result<Recovered, StoreError> {
    let why = match trusted(store, cache_bytes, state) {
        Ok(index) => match catch_up(&index, segments, key, &state.dirty) {
            Ok(()) => return Ok(Recovered { index, number: state.index, rebuilt: None }),
            Err(CatchUp::Index(IndexFailed(why))) => why,
            Err(CatchUp::Store(error)) => return Err(error),
        },
        Err(IndexFailed(why)) => why,
    };
    rebuild(store, cache_bytes, segments, key, state.index + 1, why)
}

/// Opens the index. Fails unless it has the last checkpoint.
fn trusted(store: &Path, cache_bytes: u64, state: &State) -> Result<Index, IndexFailed> {
    if !state.trusted {
        return Err(IndexFailed("the state file trusts no index".into()));
    }
    let (folder, checkpoint) = (index_folder(store, state.index), state.checkpoint);
    if !folder.is_dir() {
        return Err(IndexFailed(format!("{} is gone", folder.display())));
    }
    let index = Index::open(&folder, cache_bytes)?;
    let has = index.checkpoint()?;
    if has < checkpoint {
        return Err(IndexFailed(format!("it is of checkpoint {has}, the store of checkpoint {checkpoint}")));
    }
    Ok(index)
}

enum CatchUp {
    Index(IndexFailed),
    Store(StoreError),
}

/// Reads the segments written since the checkpoint again and makes the index agree with them.
fn catch_up(
    index: &Index,
    segments: &Segments,
    key: &[u8; 32],
    dirty: &BTreeSet<u32>,
) -> Result<(), CatchUp> {
    if dirty.is_empty() {
        return Ok(());
    }
    let mut there: BTreeMap<(u32, u32), Located> = BTreeMap::new();
    for segment in dirty {
        let found = scan(segments, key, *segment).map_err(CatchUp::Store)?;
        there.extend(found.into_iter().map(|located| ((*segment, located.position.unit), located)));
    }
    let mut after = None;
    loop {
        let page = index.list(after, 1024).map_err(CatchUp::Index)?;
        let Some(last) = page.last() else { break };
        after = Some(last.meta.key);
        for named in page.iter().filter(|named| dirty.contains(&named.position.segment)) {
            if there.get(&(named.position.segment, named.position.unit)) != Some(named) {
                index.remove(named.meta.key).map_err(CatchUp::Index)?;
            }
        }
    }
    let found: Vec<Located> = there.into_values().collect();
    insert_newest(index, &found).map_err(CatchUp::Index)
}

fn insert_newest(index: &Index, found: &[Located]) -> Result<(), IndexFailed> {
    for some in found.chunks(1024) {
        let mut fresh: BTreeMap<_, Located> = BTreeMap::new();
        for located in some {
            let known = index.get(located.meta.key)?;
            if known.is_none_or(|known| known.sequence < located.sequence) {
                let newest = fresh.entry(located.meta.key).or_insert(*located);
                if newest.sequence < located.sequence {
                    *newest = *located;
                }
            }
        }
        index.insert_all(&fresh.into_values().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn scan(segments: &Segments, key: &[u8; 32], segment: u32) -> Result<Vec<Located>, StoreError> {
    let read = || scan_segment(segments.open_once(segment)?.as_ref(), key, segment);
    read().map_err(io_error("scanning", &segments.path(segment)))
}

/// Makes a new index from all segments, in a folder with this number or, if that fails, in memory.
fn rebuild(
    store: &Path,
    cache_bytes: u64,
    segments: &Segments,
    key: &[u8; 32],
    number: u64,
    why: String,
) -> Result<Recovered, StoreError> {
    let begun = Instant::now();
    let all = segments.list()?;
    if !all.is_empty() {
        tracing::warn!(why, segments = all.len(), "making a new index of shares from all segments");
    }
    remove_indexes(store);
    let fill = |index: &Index| -> Result<u64, CatchUp> {
        let mut shares = 0;
        for segment in &all {
            let found = scan(segments, key, *segment).map_err(CatchUp::Store)?;
            shares += found.len() as u64;
            insert_newest(index, &found).map_err(CatchUp::Index)?;
        }
        Ok(shares)
    };
    let on_disk = Index::open(&index_folder(store, number), cache_bytes)
        .map_err(CatchUp::Index)
        .and_then(|index| fill(&index).map(|shares| (index, shares)));
    let in_memory = |IndexFailed(why)| {
        tracing::error!(
            why,
            "no index of shares can be made on the disk; it is in memory until there is room"
        );
        let index = Index::in_memory();
        fill(&index).map(|shares| (index, shares))
    };
    let made = on_disk.or_else(|failed| match failed {
        CatchUp::Index(failed) => in_memory(failed),
        store => Err(store),
    });
    let (index, shares) = made.map_err(|failed| match failed {
        CatchUp::Index(IndexFailed(why)) => StoreError::Index(why),
        CatchUp::Store(error) => error,
    })?;
    let rebuilt = (!all.is_empty()).then(|| RebuildReport { why, shares, took: begun.elapsed() });
    if let Some(report) = &rebuilt {
        tracing::warn!(shares, took = ?report.took, "the new index of shares is complete");
    }
    Ok(Recovered { index, number, rebuilt })
}

/// Copies an index in memory to the disk. `None`: that is not possible yet.
pub(super) fn to_disk(store: &Path, cache_bytes: u64, memory: &Index, number: u64) -> Option<Index> {
    remove_indexes(store);
    let copy = || -> Result<Index, IndexFailed> {
        let index = Index::open(&index_folder(store, number), cache_bytes)?;
        let mut after = None;
        loop {
            let page = memory.list(after, 1024)?;
            let Some(last) = page.last() else { return Ok(index) };
            after = Some(last.meta.key);
            index.insert_all(&page)?;
        }
    };
    copy().inspect_err(|IndexFailed(why)| tracing::debug!(why, "the index of shares stays in memory")).ok()
}

/// Removes all folders of indexes. Best effort: a folder that stays costs only room, because no later index
/// has its number.
fn remove_indexes(store: &Path) {
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(INDEX))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "removing an old index of shares");
        }
    }
}

/// Returns every position in use with the length of its share. An entry that cannot be decoded is a failed
/// index.
pub(super) fn positions(index: &Index) -> Result<Vec<(SharePosition, u32)>, IndexFailed> {
    let mut positions = Vec::new();
    let mut after = None;
    loop {
        let page = index.list(after, 4096)?;
        let Some(last) = page.last() else { return Ok(positions) };
        after = Some(last.meta.key);
        positions.extend(page.iter().map(|located| (located.position, located.meta.share_len)));
    }
}
