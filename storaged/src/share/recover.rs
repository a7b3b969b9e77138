//! What is done at the start: trust the index as far as its last checkpoint, re-read the segments written since;
//! or, when it is lost, damaged or older than the store remembers, make it anew from all segments.
//!
//! The state file holds the number of the last checkpoint and the segments written to since. A segment is named
//! there, durably, before the first write to it after a checkpoint.

use super::StoreError;
use super::index::{Index, IndexFailed, Located};
use super::layout::{self, HEADER_BYTES, Place, UNIT_BYTES};
use super::media::{Media, MediaFile};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a rebuild of the index did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// Why it was needed.
    pub why: String,
    /// Shares found.
    pub shares: u64,
    /// How long it took.
    pub took: Duration,
}

/// The state file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) checkpoint: u64,
    pub(super) dirty: BTreeSet<u32>,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { doing, path, source }
}

impl State {
    pub(super) fn read(path: &Path) -> Result<Option<State>, StoreError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading", path)(error)),
        };
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        let mut state = State::default();
        match words.next() {
            Some(Ok(checkpoint)) => state.checkpoint = checkpoint,
            // Whatever it was, everything is read anew.
            _ => return Ok(None),
        }
        for word in words {
            let Some(segment) = word.ok().and_then(|word| u32::try_from(word).ok()) else { return Ok(None) };
            state.dirty.insert(segment);
        }
        Ok(Some(state))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), StoreError> {
        let mut text = self.checkpoint.to_string();
        for segment in &self.dirty {
            text.push_str(&format!(" {segment}"));
        }
        text.push('\n');
        write_durably(path, text.as_bytes()).map_err(io_error("writing", path))
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The store's own random id, made at its beginning: the key of every seal.
pub(super) fn store_key(path: &Path) -> Result<[u8; 32], StoreError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| StoreError::Damaged {
            path: path.display().to_string(),
            why: format!("{} bytes, not 32; without it no share can be read", bytes.len()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut key))
                .map_err(io_error("reading", Path::new("/dev/urandom")))?;
            write_durably(path, &key).map_err(io_error("writing", path))?;
            Ok(key)
        }
        Err(error) => Err(io_error("reading", path)(error)),
    }
}

/// The whole shares of a segment. Where two overlap, the later one was written over the other.
pub(super) fn scan_segment(file: &dyn MediaFile, key: &[u8; 32], segment: u32) -> io::Result<Vec<Located>> {
    let len = file.len()?;
    let mut found: BTreeMap<u32, Located> = BTreeMap::new();
    let mut unit = 0u32;
    let mut page = vec![0; UNIT_BYTES as usize];
    while u64::from(unit) * UNIT_BYTES < len {
        let offset = u64::from(unit) * UNIT_BYTES;
        file.read_at(&mut page, offset)?;
        let head = layout::peek_share_len(&page).map(|share_len| {
            let bytes = layout::head_bytes(share_len);
            let mut head = page[..HEADER_BYTES].to_vec();
            head.resize(bytes, 0);
            file.read_at(&mut head, offset).map(|()| layout::decode(key, &head, segment, unit))
        });
        match head.transpose()?.flatten() {
            Some(head) => {
                let located = Located { meta: head.meta, place: head.place, sequence: head.sequence };
                keep_later(&mut found, located);
                // On by one unit, not by the share: a newer share may have been written over its tail.
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
        .filter(|other| other.place.unit + other.place.units > located.place.unit)
        .map(|other| other.place.unit)
        .collect();
    if overlapping.iter().all(|unit| found[unit].sequence < located.sequence) {
        for unit in overlapping {
            found.remove(&unit);
        }
        found.insert(located.place.unit, located);
    }
}

pub(super) fn segment_name(segment: u32) -> String {
    format!("seg-{segment:06}")
}

/// The numbers of the segments there are.
pub(super) fn segments(media: &dyn Media) -> Result<Vec<u32>, StoreError> {
    let names = media.list().map_err(io_error("listing", Path::new("segments")))?;
    let mut found: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix("seg-")?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// The index, right again.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) rebuilt: Option<RebuildReport>,
}

pub(super) fn recover(
    folder: &Path,
    cache_bytes: u64,
    media: &dyn Media,
    key: &[u8; 32],
    state: Option<&State>,
) -> Result<Recovered, StoreError> {
    let all = segments(media)?;
    let why = match (state, trusted(folder, cache_bytes, state)) {
        (Some(state), Ok(index)) => match catch_up(&index, media, key, &state.dirty) {
            Ok(()) => return Ok(Recovered { index, rebuilt: None }),
            Err(CatchUp::Index(IndexFailed(why))) => why,
            Err(CatchUp::Store(error)) => return Err(error),
        },
        (_, Err(IndexFailed(why))) => why,
        (None, Ok(_)) => "the state file is lost".into(),
    };
    rebuild(folder, cache_bytes, media, key, &all, why)
}

/// The index, if it has at least the last checkpoint.
fn trusted(folder: &Path, cache_bytes: u64, state: Option<&State>) -> Result<Index, IndexFailed> {
    let index = Index::open(folder, cache_bytes)?;
    let has = index.checkpoint()?;
    match state {
        Some(state) if has < state.checkpoint => Err(IndexFailed(format!(
            "it is of checkpoint {has}, the store of checkpoint {}",
            state.checkpoint
        ))),
        _ => Ok(index),
    }
}

enum CatchUp {
    Index(IndexFailed),
    Store(StoreError),
}

/// Makes the index agree with the segments written since the checkpoint.
fn catch_up(index: &Index, media: &dyn Media, key: &[u8; 32], dirty: &BTreeSet<u32>) -> Result<(), CatchUp> {
    if dirty.is_empty() {
        return Ok(());
    }
    let mut there: BTreeMap<(u32, u32), Located> = BTreeMap::new();
    for segment in dirty {
        let found = scan(media, key, *segment).map_err(CatchUp::Store)?;
        there.extend(found.into_iter().map(|located| ((*segment, located.place.unit), located)));
    }
    let mut after = None;
    loop {
        let page = index.list(after, 1024).map_err(CatchUp::Index)?;
        let Some(last) = page.last() else { break };
        after = Some(last.meta.key);
        for named in page.iter().filter(|named| dirty.contains(&named.place.segment)) {
            if there.get(&(named.place.segment, named.place.unit)) != Some(named) {
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

fn scan(media: &dyn Media, key: &[u8; 32], segment: u32) -> Result<Vec<Located>, StoreError> {
    let name = segment_name(segment);
    let read = || scan_segment(media.open(&name)?.as_ref(), key, segment);
    read().map_err(io_error("scanning", Path::new(&name)))
}

fn rebuild(
    folder: &Path,
    cache_bytes: u64,
    media: &dyn Media,
    key: &[u8; 32],
    all: &[u32],
    why: String,
) -> Result<Recovered, StoreError> {
    let begun = Instant::now();
    if !all.is_empty() {
        tracing::warn!(why, segments = all.len(), "making the index of shares anew");
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("removing", folder)(error));
        }
        _ => {}
    }
    let failed = |IndexFailed(why)| StoreError::Index(why);
    let index = Index::open(folder, cache_bytes).map_err(failed)?;
    let mut shares = 0;
    for segment in all {
        let found = scan(media, key, *segment)?;
        shares += found.len() as u64;
        insert_newest(&index, &found).map_err(failed)?;
    }
    let rebuilt = (!all.is_empty()).then(|| RebuildReport { why, shares, took: begun.elapsed() });
    if let Some(report) = &rebuilt {
        tracing::warn!(shares, took = ?report.took, "the index of shares is made anew");
    }
    Ok(Recovered { index, rebuilt })
}

/// Every place in use, of an index that is right; entries that make no sense count as a failed index.
pub(super) fn places(index: &Index) -> Result<Vec<(Place, u32)>, IndexFailed> {
    let mut places = Vec::new();
    let mut after = None;
    loop {
        let page = index.list(after, 4096)?;
        let Some(last) = page.last() else { return Ok(places) };
        after = Some(last.meta.key);
        places.extend(page.iter().map(|located| (located.place, located.meta.share_len)));
    }
}
