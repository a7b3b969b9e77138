//! A consistency check of the whole namespace: whether the records agree with each other. Tests run it after
//! every step, and administrators on a whole namespace. It keeps all inodes and extents in memory while it
//! runs.
//!
//! Held by `every_key_that_goes_missing_is_noticed_by_the_check` and
//! `what_is_in_a_wrong_place_is_noticed_by_the_check`.

mod records;

use crate::acl;
use crate::apply::{counters, margin};
use crate::key;
use crate::kv::KvRead;
use crate::record::{Attr, BlockRecord, Extent, FileKind, VolumeRecord};
use crate::wire;
use rain_types::{BlockId, Ino, VolumeId};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;

/// A disagreement between two records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The checked property.
    pub about: String,
    /// The value in the record.
    pub recorded: String,
    /// The value that follows from the other records.
    pub counted: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: recorded {}, counted {}", self.about, self.recorded, self.counted)
    }
}

#[derive(Default)]
struct Found {
    violations: Vec<Violation>,
    inodes: BTreeMap<Ino, Attr>,
    names: BTreeMap<Ino, u64>,
    entries: BTreeMap<Ino, u64>,
    subdirectories: BTreeMap<Ino, u64>,
    /// For each directory, the directory that has its name.
    named_in: BTreeMap<Ino, Ino>,
    extents: BTreeMap<Ino, Vec<Extent>>,
    shown: BTreeMap<BlockId, u64>,
}

impl Found {
    fn expect<T: PartialEq + fmt::Debug>(&mut self, about: impl FnOnce() -> String, recorded: T, counted: T) {
        if recorded != counted {
            let (recorded, counted) = (format!("{recorded:?}"), format!("{counted:?}"));
            self.violations.push(Violation { about: about(), recorded, counted });
        }
    }
}

fn each<T: DeserializeOwned>(kv: &dyn KvRead, letter: u8, mut visit: impl FnMut(&[u8], T)) {
    kv.scan(&[letter], &[letter + 1], &mut |key, value| {
        if let Ok(value) = wire::decode(value) {
            visit(key, value);
        }
        ControlFlow::Continue(())
    });
}

fn count(kv: &dyn KvRead, letter: u8) -> u64 {
    let mut count = 0;
    kv.scan(&[letter], &[letter + 1], &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    count
}

fn ino_in(key: &[u8]) -> Ino {
    Ino(key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Checks the whole namespace and returns the violations. Reads every record.
pub fn check(kv: &dyn KvRead) -> Vec<Violation> {
    let mut found = Found::default();
    each(kv, b'I', |_, attr: Attr| {
        found.inodes.insert(attr.ino, attr);
    });
    each(kv, b'D', |key, (ino, kind): (Ino, FileKind)| {
        let parent = ino_in(key);
        *found.names.entry(ino).or_default() += 1;
        *found.entries.entry(parent).or_default() += 1;
        if kind == FileKind::Directory {
            *found.subdirectories.entry(parent).or_default() += 1;
            found.named_in.insert(ino, parent);
        }
        let volumes = [parent, ino].map(|ino| found.inodes.get(&ino).map(|attr| attr.volume));
        found.expect(|| format!("volume of inode {ino}, named in {parent}"), volumes[1], volumes[0]);
        let linked = found.inodes.get(&ino).map(|attr| attr.kind);
        found.expect(
            || format!("entry {:?} of {parent}", String::from_utf8_lossy(&key[9..])),
            Some(kind),
            linked,
        );
    });
    each(kv, b'B', |key, extent: Extent| {
        found.expect(
            || format!("offset of an extent of inode {}", ino_in(key)),
            Some(extent.offset),
            key::last_number(key),
        );
        found.extents.entry(ino_in(key)).or_default().push(extent);
        *found.shown.entry(extent.block).or_default() += u64::from(extent.len);
    });
    records::check_records(kv, &mut found);
    check_inodes(kv, &mut found);
    check_tree(&mut found);
    check_blocks(kv, &mut found);
    check_volumes(kv, &mut found);
    found.violations
}

fn check_inodes(kv: &dyn KvRead, found: &mut Found) {
    let mut unlinked: BTreeMap<Ino, u64> = BTreeMap::new();
    kv.scan(b"O", b"P", &mut |key, _| {
        if let Some(ino) = key::last_number(key) {
            *unlinked.entry(Ino(ino)).or_default() += 1;
        }
        ControlFlow::Continue(())
    });
    for (ino, attr) in found.inodes.clone() {
        let names = found.names.get(&ino).copied().unwrap_or(0);
        let about = |what: &str| format!("{what} of inode {ino}");
        let acls = [acl::ACCESS, acl::DEFAULT].map(|name| kv.get(&key::xattr(ino, name)).is_some());
        found.expect(|| about("ACLs"), [attr.acl, attr.default_acl], acls);
        if attr.kind == FileKind::Directory {
            let is_root = attr.parent == ino;
            found.expect(|| about("names"), u64::from(!is_root), names);
            let inside = found.subdirectories.get(&ino).copied().unwrap_or(0);
            found.expect(|| about("links"), u64::from(attr.nlink), 2 + inside);
            let entries = found.entries.get(&ino).copied().unwrap_or(0);
            found.expect(|| about("entries"), attr.size, entries);
            continue;
        }
        found.expect(|| about("links"), u64::from(attr.nlink), names);
        let last_name_gone = unlinked.get(&ino).copied().unwrap_or(0);
        found.expect(|| about("records of unlinked files"), u64::from(attr.nlink == 0), last_name_gone);
        let extents = found.extents.get(&ino).cloned().unwrap_or_default();
        let inline = kv.get(&key::inline(ino)).map_or(0, |inline| inline.len() as u64);
        let stored_bytes = extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>() + inline;
        found.expect(|| about("stored bytes"), attr.stored_bytes, stored_bytes);
        found.expect(|| about("extents"), attr.extents, extents.len() as u64);
        let overlap = extents.windows(2).any(|pair| pair[0].end() > pair[1].offset);
        found.expect(|| about("overlap of extents"), false, overlap);
        let end = extents.last().map_or(0, Extent::end).max(inline);
        if attr.kind == FileKind::File {
            found.expect(|| about("data past the end"), false, end > attr.size);
        }
    }
    let strays: Vec<Ino> = found
        .extents
        .keys()
        .chain(unlinked.keys())
        .filter(|ino| !found.inodes.contains_key(ino))
        .copied()
        .collect();
    for ino in strays {
        found.expect(|| format!("existence of inode {ino}"), true, false);
    }
}

/// Checks that every directory is reachable from a root. Together with the count of each file's names this
/// shows that every inode with a name is reachable.
fn check_tree(found: &mut Found) {
    let mut reached: BTreeSet<Ino> = BTreeSet::new();
    let mut children: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
    for (child, parent) in &found.named_in {
        children.entry(*parent).or_default().push(*child);
    }
    let directories: Vec<Attr> =
        found.inodes.values().filter(|attr| attr.kind == FileKind::Directory).cloned().collect();
    let mut next: Vec<Ino> =
        directories.iter().filter(|attr| attr.parent == attr.ino).map(|attr| attr.ino).collect();
    while let Some(ino) = next.pop() {
        if reached.insert(ino) {
            next.extend(children.get(&ino).into_iter().flatten());
        }
    }
    for attr in directories {
        found.expect(|| format!("way to directory {}", attr.ino), true, reached.contains(&attr.ino));
        let named_in = found.named_in.get(&attr.ino).copied();
        let is_root = attr.parent == attr.ino;
        found.expect(
            || format!("parent of directory {}", attr.ino),
            (!is_root).then_some(attr.parent),
            named_in,
        );
    }
    let homes: Vec<Ino> = found.entries.keys().copied().collect();
    for home in homes {
        let kind = found.inodes.get(&home).map(|attr| attr.kind);
        found.expect(|| format!("kind of inode {home}, which has entries"), Some(FileKind::Directory), kind);
    }
}

fn check_blocks(kv: &dyn KvRead, found: &mut Found) {
    let mut codes = BTreeMap::new();
    each(kv, b'V', |_, volume: VolumeRecord| {
        codes.insert(volume.id, volume.code);
    });
    let mut shown = std::mem::take(&mut found.shown);
    check_extents(kv, found);
    let (mut blocks, mut missing_blocks, mut missing_shares, mut without_margin) = (0u64, 0u64, 0u64, 0u64);
    each(kv, b'K', |key, block: BlockRecord| {
        let id = key::last_block(key).unwrap_or_default();
        found.expect(|| format!("bytes shown of block {id}"), block.live, shown.remove(&id).unwrap_or(0));
        blocks += 1;
        let garbage = kv.get(&key::garbage(id)).is_some();
        found.expect(|| format!("garbage of block {id}"), false, garbage);
        let by_group = kv.get(&key::in_group(block.volume, block.group, id)).is_some();
        found.expect(|| format!("listing of block {id} in group {}", block.group), true, by_group);
        let Some(code) = codes.get(&block.volume) else { return };
        let margin = margin(*code, block.missing);
        let listed = kv.get(&key::missing(margin, id)).is_some();
        found.expect(|| format!("listing of missing shares of block {id}"), block.missing != 0, listed);
        missing_blocks += u64::from(block.missing != 0);
        missing_shares += u64::from(block.missing.count_ones());
        without_margin += u64::from(block.missing != 0 && margin <= 128);
    });
    for (id, bytes) in shown {
        found.expect(|| format!("record of block {id} with bytes"), 0, bytes);
    }
    let counted = [
        (counters::BLOCKS, blocks),
        (counters::BLOCKS_MISSING, missing_blocks),
        (counters::SHARES_MISSING, missing_shares),
        (counters::BLOCKS_WITHOUT_MARGIN, without_margin),
        (counters::GARBAGE, count(kv, b'G')),
    ];
    found.expect(|| "list of missing shares".into(), count(kv, b'S'), missing_blocks);
    found.expect(|| "list of blocks by group".into(), count(kv, b'H'), blocks);
    for (name, counted) in counted {
        let recorded = kv.get(&key::counter(name)).and_then(|bytes| wire::decode(&bytes).ok()).unwrap_or(0);
        found.expect(|| format!("counter {name}"), recorded, counted);
    }
}

/// Checks that each extent agrees with the record of its block and lies within the block. The group may
/// differ, because the block may have moved.
fn check_extents(kv: &dyn KvRead, found: &mut Found) {
    for (ino, extents) in std::mem::take(&mut found.extents) {
        let volume = found.inodes.get(&ino).map(|attr| attr.volume);
        for extent in extents {
            let about = || format!("block {} at {} of inode {ino}", extent.block, extent.offset);
            let block: Option<BlockRecord> =
                kv.get(&key::block(extent.block)).and_then(|bytes| wire::decode(&bytes).ok());
            let recorded = block.map(|block| (Some(block.volume), block.len));
            found.expect(about, recorded, Some((volume, extent.block_len)));
            let end = u64::from(extent.block_offset) + u64::from(extent.len);
            let within = extent.len > 0 && end <= u64::from(extent.block_len);
            found.expect(|| format!("{}: within the block", about()), true, within);
        }
    }
}

fn check_volumes(kv: &dyn KvRead, found: &mut Found) {
    let mut counted: BTreeMap<VolumeId, (u64, u64)> = BTreeMap::new();
    for attr in found.inodes.values() {
        let counts = counted.entry(attr.volume).or_default();
        counts.0 += 1;
        counts.1 += attr.stored_bytes;
    }
    let mut recorded = BTreeMap::new();
    kv.scan(b"U", b"V", &mut |key, value| {
        let id = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        if let Ok(counts) = wire::decode::<(u64, u64)>(value) {
            recorded.insert(VolumeId(id), counts);
        }
        ControlFlow::Continue(())
    });
    found.expect(|| "inodes and bytes of the volumes".into(), recorded, counted);
}
