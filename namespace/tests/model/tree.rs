//! The independent model: a tree in memory in which a file is its bytes, and each byte knows its block. It
//! has no extents, no records and no counters, so it cannot share a mistake with the namespace.
//!
//! A call returns either the outcome that the namespace must give, or the set of acceptable refusals. Where a
//! command breaks several rules, the order of the checks is not a promise.

use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_namespace::record::FileKind;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::{Discriminant, discriminant};

/// Acceptable refusals.
pub(crate) type Refusals = Vec<Discriminant<NsError>>;

pub(crate) fn refusal(error: NsError) -> Discriminant<NsError> {
    discriminant(&error)
}

fn refuse<T>(errors: Vec<NsError>) -> Result<T, Refusals> {
    Err(errors.into_iter().map(refusal).collect())
}

fn invalid() -> NsError {
    NsError::Invalid(String::new())
}

/// Returns byte `at` of a block.
pub(crate) fn block_byte(block: u64, at: usize) -> u8 {
    (block.wrapping_mul(151) as usize).wrapping_add(at * 7).wrapping_add(at >> 8) as u8
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) volume: u32,
    pub(crate) kind: FileKind,
    pub(crate) nlink: u32,
    pub(crate) parent: u64,
    pub(crate) entries: BTreeMap<Vec<u8>, u64>,
    /// Each byte with its block; 0 for inline bytes and holes.
    pub(crate) bytes: Vec<(u8, u64)>,
    pub(crate) inline_len: usize,
    /// The inline byte below a block's byte, which shows again when the block's byte is punched.
    pub(crate) below: Vec<u8>,
    /// The file was made without a name, and has had none since.
    pub(crate) never_named: bool,
}

impl Node {
    fn new(volume: u32, kind: FileKind, parent: u64) -> Node {
        Node {
            volume,
            kind,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            parent,
            entries: BTreeMap::new(),
            bytes: Vec::new(),
            inline_len: 0,
            below: Vec::new(),
            never_named: false,
        }
    }

    pub(crate) fn has_blocks(&self) -> bool {
        self.bytes.iter().any(|(_, block)| *block != 0)
    }

    pub(crate) fn held(&self) -> u64 {
        (self.bytes.iter().filter(|(_, block)| *block != 0).count() + self.inline_len) as u64
    }

    fn resize(&mut self, size: usize) {
        self.bytes.resize(size, (0, 0));
        self.below.resize(size, 0);
        self.inline_len = self.inline_len.min(size);
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// Returns the blocks that no byte uses.
    pub(crate) garbage: BTreeSet<u64>,
    known_blocks: BTreeSet<u64>,
}

impl Tree {
    pub(crate) fn add_root(&mut self, ino: u64, volume: u32) {
        self.nodes.insert(ino, Node::new(volume, FileKind::Directory, ino));
    }

    fn directory(&self, ino: u64) -> Result<&Node, Refusals> {
        match self.nodes.get(&ino) {
            None => refuse(vec![NsError::NotFound]),
            Some(node) if node.kind != FileKind::Directory => refuse(vec![NsError::NotDirectory]),
            Some(node) => Ok(node),
        }
    }

    fn file(&mut self, ino: u64) -> Result<&mut Node, Refusals> {
        match self.nodes.get_mut(&ino) {
            None => refuse(vec![NsError::NotFound]),
            Some(node) if node.kind == FileKind::Directory => refuse(vec![NsError::IsDirectory]),
            Some(node) if node.kind != FileKind::File => refuse(vec![invalid()]),
            Some(node) => Ok(node),
        }
    }

    /// Returns the existing inode, or `None` when a new one must be made and reported to `made`.
    pub(crate) fn make(
        &self,
        dir: u64,
        name: &[u8],
        kind: FileKind,
        or_existing: bool,
    ) -> Result<Option<u64>, Refusals> {
        let Some(there) = self.directory(dir)?.entries.get(name) else { return Ok(None) };
        match self.nodes[there].kind {
            FileKind::File if or_existing && kind == FileKind::File => Ok(Some(*there)),
            FileKind::Directory if or_existing => refuse(vec![NsError::Exists, NsError::IsDirectory]),
            _ => refuse(vec![NsError::Exists]),
        }
    }

    pub(crate) fn made(&mut self, ino: u64, dir: u64, name: &[u8], kind: FileKind) {
        let parent = self.nodes.get_mut(&dir).unwrap();
        parent.entries.insert(name.to_vec(), ino);
        parent.nlink += u32::from(kind == FileKind::Directory);
        let volume = parent.volume;
        self.nodes.insert(ino, Node::new(volume, kind, if kind == FileKind::Directory { dir } else { 0 }));
    }

    pub(crate) fn make_unnamed(&self, dir: u64) -> Result<u32, Refusals> {
        Ok(self.directory(dir)?.volume)
    }

    pub(crate) fn made_unnamed(&mut self, ino: u64, volume: u32) {
        let node = Node { nlink: 0, never_named: true, ..Node::new(volume, FileKind::File, 0) };
        self.nodes.insert(ino, node);
    }

    pub(crate) fn link(&mut self, ino: u64, dir: u64, name: &[u8]) -> Result<(), Refusals> {
        let to = self.directory(dir)?;
        let Some(node) = self.nodes.get(&ino) else { return refuse(vec![NsError::NotFound]) };
        let mut wrong = Vec::new();
        wrong.extend((node.kind == FileKind::Directory).then_some(NsError::NotPermitted(String::new())));
        wrong.extend((node.volume != to.volume).then_some(NsError::CrossVolume));
        wrong.extend(to.entries.contains_key(name).then_some(NsError::Exists));
        wrong.extend((node.nlink == 0 && !node.never_named).then_some(NsError::NotFound));
        if !wrong.is_empty() {
            return refuse(wrong);
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        node.nlink += 1;
        node.never_named = false;
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, dir: u64, name: &[u8]) -> Result<(u64, bool), Refusals> {
        let Some(ino) = self.directory(dir)?.entries.get(name).copied() else {
            return refuse(vec![NsError::NotFound]);
        };
        if self.nodes[&ino].kind == FileKind::Directory {
            return refuse(vec![NsError::IsDirectory]);
        }
        self.nodes.get_mut(&dir).unwrap().entries.remove(name);
        Ok((ino, self.drop_name(ino)))
    }

    pub(crate) fn remove_directory(&mut self, dir: u64, name: &[u8]) -> Result<u64, Refusals> {
        let Some(ino) = self.directory(dir)?.entries.get(name).copied() else {
            return refuse(vec![NsError::NotFound]);
        };
        match &self.nodes[&ino] {
            node if node.kind != FileKind::Directory => return refuse(vec![NsError::NotDirectory]),
            node if !node.entries.is_empty() => return refuse(vec![NsError::NotEmpty]),
            _ => {}
        }
        let parent = self.nodes.get_mut(&dir).unwrap();
        parent.entries.remove(name);
        parent.nlink -= 1;
        self.nodes.remove(&ino);
        Ok(ino)
    }

    fn is_at_or_below(&self, mut dir: u64, top: u64) -> bool {
        loop {
            if dir == top {
                return true;
            }
            let parent = self.nodes[&dir].parent;
            if parent == dir {
                return false;
            }
            dir = parent;
        }
    }

    /// Returns the replaced inode (0 for none) and whether its last name is gone.
    pub(crate) fn rename(
        &mut self,
        (dir, name): (u64, &[u8]),
        (to, to_name): (u64, &[u8]),
        mode: RenameMode,
    ) -> Result<(u64, Option<u64>, bool), Refusals> {
        let from_volume = self.directory(dir)?.volume;
        let to_volume = self.directory(to)?.volume;
        let source = self.nodes[&dir].entries.get(name).copied();
        let target = self.nodes[&to].entries.get(to_name).copied();
        let is_dir = |ino: u64| self.nodes[&ino].kind == FileKind::Directory;
        let mut wrong = Vec::new();
        wrong.extend((from_volume != to_volume).then_some(NsError::CrossVolume));
        wrong.extend(source.is_none().then_some(NsError::NotFound));
        let Some(source) = source else { return refuse(wrong) };
        wrong.extend((is_dir(source) && self.is_at_or_below(to, source)).then(invalid));
        wrong.extend((mode == RenameMode::NoReplace && target.is_some()).then_some(NsError::Exists));
        wrong.extend((mode == RenameMode::Exchange && target.is_none()).then_some(NsError::NotFound));
        match target {
            Some(target) if target != source && mode == RenameMode::Exchange => {
                wrong.extend((is_dir(target) && self.is_at_or_below(dir, target)).then(invalid));
            }
            Some(target) if target != source => match (is_dir(source), is_dir(target)) {
                (true, false) => wrong.push(NsError::NotDirectory),
                (false, true) => wrong.push(NsError::IsDirectory),
                (true, true) if !self.nodes[&target].entries.is_empty() => wrong.push(NsError::NotEmpty),
                _ => {}
            },
            _ => {}
        }
        if !wrong.is_empty() {
            return refuse(wrong);
        }
        match target {
            Some(target) if target == source => Ok((source, None, false)),
            Some(target) if mode == RenameMode::Exchange => {
                self.put(dir, name, target);
                self.put(to, to_name, source);
                self.recount_subdirectories(&[dir, to]);
                Ok((source, Some(target), false))
            }
            target => {
                self.nodes.get_mut(&dir).unwrap().entries.remove(name);
                self.put(to, to_name, source);
                let last_name_gone = match target {
                    Some(target) if self.nodes[&target].kind == FileKind::Directory => {
                        self.nodes.remove(&target);
                        false
                    }
                    Some(target) => self.drop_name(target),
                    None => false,
                };
                self.recount_subdirectories(&[dir, to]);
                Ok((source, target, last_name_gone))
            }
        }
    }

    fn put(&mut self, dir: u64, name: &[u8], ino: u64) {
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        let node = self.nodes.get_mut(&ino).unwrap();
        if node.kind == FileKind::Directory {
            node.parent = dir;
        }
    }

    fn recount_subdirectories(&mut self, dirs: &[u64]) {
        for dir in dirs {
            let inside = self.nodes[dir].entries.values();
            let count = inside.filter(|ino| self.nodes[ino].kind == FileKind::Directory).count();
            self.nodes.get_mut(dir).unwrap().nlink = 2 + count as u32;
        }
    }

    fn drop_name(&mut self, ino: u64) -> bool {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.nlink -= 1;
        if node.nlink > 0 {
            return false;
        }
        if node.kind == FileKind::File {
            return true;
        }
        self.nodes.remove(&ino);
        self.sweep();
        false
    }

    pub(crate) fn free(&mut self, ino: u64) {
        if self.nodes.get(&ino).is_some_and(|node| node.kind == FileKind::File && node.nlink == 0) {
            self.nodes.remove(&ino);
            self.sweep();
        }
    }

    pub(crate) fn lockable(&self, ino: u64) -> Result<(), Refusals> {
        match self.nodes.get(&ino) {
            None => refuse(vec![NsError::NotFound]),
            Some(node) if node.kind == FileKind::Directory => refuse(vec![NsError::IsDirectory]),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn truncate(&mut self, ino: u64, size: usize) -> Result<(), Refusals> {
        self.file(ino)?.resize(size);
        self.sweep();
        Ok(())
    }

    pub(crate) fn punch(&mut self, ino: u64, from: usize, len: usize) -> Result<(), Refusals> {
        let node = self.file(ino)?;
        let to = (from + len).min(node.bytes.len());
        for at in from.min(to)..to {
            node.bytes[at] = (0, 0);
            node.below[at] = 0;
        }
        // Zeros at the end of the inline data need not be kept.
        if from < node.inline_len && from + len >= node.inline_len {
            node.inline_len = from;
        }
        self.sweep();
        Ok(())
    }

    /// Returns the number of bytes cloned.
    pub(crate) fn clone_range(
        &mut self,
        (from, offset): (u64, usize),
        len: usize,
        (to, to_offset): (u64, usize),
    ) -> Result<u64, Refusals> {
        let source = self.file(from)?.clone();
        let volume = self.file(to)?.volume;
        if source.volume != volume {
            return refuse(vec![NsError::CrossVolume, invalid()]);
        }
        if len == 0 || from == to && offset.abs_diff(to_offset) < len {
            return refuse(vec![invalid()]);
        }
        let end = (offset + len).min(source.bytes.len());
        if offset >= end {
            return Ok(0);
        }
        if offset < source.inline_len {
            return refuse(vec![NsError::HasInline]);
        }
        let len = end - offset;
        self.punch(to, to_offset, len)?;
        let node = self.file(to)?;
        node.resize(node.bytes.len().max(to_offset + len));
        node.bytes[to_offset..to_offset + len].copy_from_slice(&source.bytes[offset..end]);
        self.sweep();
        Ok(len as u64)
    }

    pub(crate) fn write_inline(&mut self, ino: u64, offset: usize, data: &[u8]) -> Result<(), Refusals> {
        let node = self.file(ino)?;
        if offset + data.len() > 4096 || node.has_blocks() {
            return refuse(vec![NsError::NotInline]);
        }
        let end = offset + data.len();
        node.resize(node.bytes.len().max(end));
        for (at, byte) in data.iter().enumerate() {
            node.bytes[offset + at] = (*byte, 0);
            node.below[offset + at] = *byte;
        }
        node.inline_len = node.inline_len.max(end);
        Ok(())
    }

    /// `stretches`: offset in the file, length, block, offset in the block.
    pub(crate) fn commit(
        &mut self,
        ino: u64,
        stretches: &[(usize, usize, u64, usize)],
        size_at_least: usize,
    ) -> Result<(), Refusals> {
        let node = self.file(ino)?;
        let overlap = stretches
            .iter()
            .enumerate()
            .any(|(index, a)| stretches[..index].iter().any(|b| a.0 < b.0 + b.1 && b.0 < a.0 + a.1));
        if overlap {
            return refuse(vec![invalid()]);
        }
        let end = stretches.iter().map(|(offset, len, ..)| offset + len).max().unwrap_or(0);
        node.resize(node.bytes.len().max(end).max(size_at_least));
        for (offset, len, block, block_offset) in stretches {
            for at in 0..*len {
                node.bytes[offset + at] = (block_byte(*block, block_offset + at), *block);
            }
        }
        self.known_blocks.extend(stretches.iter().map(|stretch| stretch.2));
        self.sweep();
        Ok(())
    }

    /// Returns the number of bytes that use each block.
    pub(crate) fn live(&self) -> BTreeMap<u64, u64> {
        let mut live = BTreeMap::new();
        for (_, block) in self.nodes.values().flat_map(|node| &node.bytes).filter(|byte| byte.1 != 0) {
            *live.entry(*block).or_default() += 1;
        }
        live
    }

    fn sweep(&mut self) {
        let live = self.live();
        let dead: Vec<u64> = self.known_blocks.iter().filter(|id| !live.contains_key(id)).copied().collect();
        for id in dead {
            self.known_blocks.remove(&id);
            self.garbage.insert(id);
        }
    }
}
