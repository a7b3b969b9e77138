//! File data: commits, holes and truncation. Blocks never change; only the extents that point to them do.

use super::inode::{FILE_BYTES_MAX, check_time};
use super::table::Table;
use crate::command::{Applied, InlinePiece, NewBlock, NewExtent, Outcome};
use crate::error::NsError;
use crate::extent::without;
use crate::key;
use crate::record::{Attr, BlockRecord, Extent, Time};
use rain_types::{Ino, SessionId};
use std::ops::ControlFlow;

/// Largest length of a file's inline data, bytes: one page.
pub(super) const INLINE_BYTES_MAX: usize = 4096;

/// Largest number of extents in memory while a range is cut; a large file has millions.
const CUT_AT_A_TIME: usize = 1024;

/// Extents that one command clones, so that it takes some milliseconds at most.
const CLONED_MAX: usize = 4096;

/// Largest length of a block, bytes.
const BLOCK_BYTES_MAX: u32 = 1 << 20;

/// The data of a commit.
pub(super) struct Commit<'a> {
    pub(super) blocks: &'a [NewBlock],
    pub(super) extents: &'a [NewExtent],
    pub(super) inline: &'a [InlinePiece],
    pub(super) size_at_least: u64,
    pub(super) mtime: Option<Time>,
}

fn invalid<T>(why: impl Into<String>) -> Result<T, NsError> {
    Err(NsError::Invalid(why.into()))
}

impl Commit<'_> {
    /// Checks the commit as far as that needs no store. Returns the bytes of each block that its extents use.
    fn check(&self) -> Result<Vec<u64>, NsError> {
        let mut live = vec![0u64; self.blocks.len()];
        let mut stretches = Vec::with_capacity(self.extents.len());
        for extent in self.extents {
            let Some(block) = self.blocks.get(extent.block as usize) else {
                return invalid(format!("an extent of block {} of {}", extent.block, self.blocks.len()));
            };
            if extent.len == 0
                || u64::from(extent.block_offset) + u64::from(extent.len) > u64::from(block.len)
            {
                return invalid(format!(
                    "bytes {}+{} of a block of {}",
                    extent.block_offset, extent.len, block.len
                ));
            }
            let end = extent.offset.checked_add(extent.len.into()).filter(|end| *end <= FILE_BYTES_MAX);
            stretches.push((extent.offset, end.ok_or(NsError::FileTooLarge)?));
            live[extent.block as usize] += u64::from(extent.len);
        }
        stretches.sort_unstable();
        if stretches.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return invalid("extents of one commit overlap");
        }
        for (block, live) in self.blocks.iter().zip(&live) {
            if !(1..=BLOCK_BYTES_MAX).contains(&block.len) || *live == 0 {
                return invalid(format!("block {} of {} bytes, of which {live} show", block.id, block.len));
            }
        }
        for piece in self.inline {
            if piece.data.is_empty() {
                return invalid(format!("no inline bytes at {}", piece.offset));
            }
            if piece.offset as usize + piece.data.len() > INLINE_BYTES_MAX {
                return Err(NsError::NotInline);
            }
        }
        self.mtime.map_or(Ok(()), check_time)?;
        if self.size_at_least > FILE_BYTES_MAX {
            return Err(NsError::FileTooLarge);
        }
        Ok(live)
    }
}

impl Table<'_> {
    pub(super) fn commit(&mut self, ino: Ino, session: Option<SessionId>, commit: &Commit<'_>) -> Applied {
        let mut attr = self.file(ino)?;
        let live = commit.check()?;
        if !commit.inline.is_empty() && attr.extents > 0 {
            return Err(NsError::NotInline);
        }
        self.check_blocks(&attr, session, commit.blocks)?;
        for (block, live) in commit.blocks.iter().zip(live) {
            let record = BlockRecord {
                volume: attr.volume,
                group: block.group,
                len: block.len,
                live,
                missing: block.missing,
            };
            self.add_block(block.id, &record);
        }
        for new in commit.extents {
            let block = &commit.blocks[new.block as usize];
            let extent = Extent {
                offset: new.offset,
                len: new.len,
                block: block.id,
                block_offset: new.block_offset,
                block_len: block.len,
                group: block.group,
            };
            self.cut_extents(&mut attr, extent.offset, extent.end());
            self.write(&key::extent(ino, extent.offset), &extent);
            attr.extents += 1;
            self.add_stored_bytes(&mut attr, i64::from(extent.len));
            attr.size = attr.size.max(extent.end());
        }
        self.patch_inline(&mut attr, commit.inline);
        attr.size = attr.size.max(commit.size_at_least);
        self.changed(&mut attr, commit.mtime);
        Ok(Outcome::Attr(attr))
    }

    fn check_blocks(
        &self,
        attr: &Attr,
        session: Option<SessionId>,
        blocks: &[NewBlock],
    ) -> Result<(), NsError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let volume = self.volume(attr.volume);
        let mut ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid("a block twice in one commit");
        }
        for block in blocks {
            if session.is_some_and(|session| session != block.id.session) {
                return invalid(format!("block {} is of another session", block.id));
            }
            if volume.nodes_of(block.group).is_none() {
                return invalid(format!(
                    "block {} is in group {}, which there is not",
                    block.id, block.group
                ));
            }
            let shares = volume.code.n() as u32;
            // The mask is shifted down, because a shift up by 64 shares would overflow.
            let all = u64::MAX >> (u64::BITS - shares);
            if block.missing & !all != 0 || shares - block.missing.count_ones() < u32::from(volume.code.k) {
                return invalid(format!("block {} misses shares {:#b}", block.id, block.missing));
            }
            if self.block(block.id).is_some() || self.kv.get(&key::garbage(block.id)).is_some() {
                return invalid(format!("block {} was committed before", block.id));
            }
        }
        Ok(())
    }

    fn patch_inline(&mut self, attr: &mut Attr, pieces: &[InlinePiece]) {
        if pieces.is_empty() {
            return;
        }
        let key = key::inline(attr.ino);
        let mut inline = self.kv.get(&key).unwrap_or_default();
        let before = inline.len();
        for piece in pieces {
            let (from, to) = (piece.offset as usize, piece.offset as usize + piece.data.len());
            inline.resize(inline.len().max(to), 0);
            inline[from..to].copy_from_slice(&piece.data);
        }
        attr.size = attr.size.max(inline.len() as u64);
        self.add_stored_bytes(attr, (inline.len() - before) as i64);
        self.kv.put(&key, &inline);
    }

    pub(super) fn punch(&mut self, ino: Ino, offset: u64, len: u64) -> Applied {
        let mut attr = self.file(ino)?;
        let end =
            offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(NsError::FileTooLarge)?;
        self.cut(&mut attr, offset, end);
        self.changed(&mut attr, None);
        Ok(Outcome::Attr(attr))
    }

    /// Clones a range; see [`crate::command::Command::CloneRange`].
    pub(super) fn clone_range(
        &mut self,
        (from, offset): (Ino, u64),
        len: u64,
        (to, to_offset): (Ino, u64),
        mtime: Option<Time>,
    ) -> Applied {
        let source = self.file(from)?;
        let mut attr = self.file(to)?;
        mtime.map_or(Ok(()), check_time)?;
        if source.volume != attr.volume {
            return Err(NsError::CrossVolume);
        }
        let end_of = |start: u64| start.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let (end, to_end) = (end_of(offset), end_of(to_offset));
        let (end, _) = end.zip(to_end).ok_or(NsError::FileTooLarge)?;
        if len == 0 || from == to && offset.abs_diff(to_offset) < len {
            return invalid("a range of no bytes, or two that overlap");
        }
        let mut end = end.min(source.size);
        if offset >= end {
            return Ok(Outcome::Cloned { attr, len: 0 });
        }
        if self.kv.get(&key::inline(from)).is_some_and(|inline| offset < inline.len() as u64) {
            return Err(NsError::HasInline);
        }
        let extents = extents_over(self.kv, from, offset, end, CLONED_MAX + 1);
        if let Some(first_left) = extents.get(CLONED_MAX) {
            end = first_left.offset;
        }
        let to_end = to_offset + (end - offset);
        // The source still uses the blocks, so none becomes garbage that is used again below.
        self.cut(&mut attr, to_offset, to_end);
        for extent in extents.iter().take(CLONED_MAX) {
            let [_, Some(extent)] = without(extent, 0, offset) else { continue };
            let [Some(extent), _] = without(&extent, end, u64::MAX) else { continue };
            let extent = Extent { offset: extent.offset - offset + to_offset, ..extent };
            self.retain_bytes(extent.block, extent.len.into());
            self.write(&key::extent(to, extent.offset), &extent);
            attr.extents += 1;
            self.add_stored_bytes(&mut attr, i64::from(extent.len));
        }
        attr.size = attr.size.max(to_end);
        self.changed(&mut attr, mtime);
        Ok(Outcome::Cloned { attr, len: end - offset })
    }

    fn changed(&mut self, attr: &mut Attr, mtime: Option<Time>) {
        attr.version += 1;
        attr.mtime = mtime.unwrap_or(self.time);
        attr.ctime = self.time;
        self.put_attr(attr);
    }

    fn add_stored_bytes(&mut self, attr: &mut Attr, bytes: i64) {
        attr.stored_bytes = attr.stored_bytes.saturating_add_signed(bytes);
        self.count_volume(attr.volume, 0, bytes);
    }

    /// Removes the bytes `from..to` from extents and inline data. The caller writes the attributes.
    pub(super) fn cut(&mut self, attr: &mut Attr, from: u64, to: u64) {
        self.cut_extents(attr, from, to);
        let key = key::inline(attr.ino);
        let Some(mut inline) = self.kv.get(&key) else { return };
        let len = inline.len() as u64;
        if from >= len {
            return;
        }
        if to >= len {
            inline.truncate(from as usize);
            self.add_stored_bytes(attr, from as i64 - len as i64);
        } else {
            inline[from as usize..to as usize].fill(0);
        }
        if inline.is_empty() {
            self.kv.delete(&key);
        } else {
            self.kv.put(&key, &inline);
        }
    }

    fn cut_extents(&mut self, attr: &mut Attr, from: u64, to: u64) {
        if attr.extents == 0 || from >= to {
            return;
        }
        let mut from = from;
        // A limited number at a time: a large file has millions of extents.
        loop {
            let some = extents_over(self.kv, attr.ino, from, to, CUT_AT_A_TIME);
            let Some(last) = some.last() else { return };
            let next = last.end();
            for old in &some {
                self.cut_extent(attr, old, from, to);
            }
            if some.len() < CUT_AT_A_TIME || next >= to {
                return;
            }
            from = next;
        }
    }

    fn cut_extent(&mut self, attr: &mut Attr, old: &Extent, from: u64, to: u64) {
        self.kv.delete(&key::extent(attr.ino, old.offset));
        attr.extents -= 1;
        let mut left_bytes = 0;
        for left in without(old, from, to).into_iter().flatten() {
            self.write(&key::extent(attr.ino, left.offset), &left);
            attr.extents += 1;
            left_bytes += left.len;
        }
        let gone = old.len - left_bytes;
        self.add_stored_bytes(attr, -i64::from(gone));
        self.release_bytes(old.block, gone.into());
    }
}

/// Returns the extents that overlap a range, in order, at most `limit`. The scan begins a block's length
/// before the range, because an extent is at most that long.
pub(crate) fn extents_over<K: crate::kv::KvRead + ?Sized>(
    kv: &K,
    ino: Ino,
    from: u64,
    to: u64,
    limit: usize,
) -> Vec<Extent> {
    let mut found: Vec<Extent> = Vec::new();
    let first = key::extent(ino, from.saturating_sub(BLOCK_BYTES_MAX.into()));
    kv.scan(&first, &key::extent(ino, to), &mut |_, value| {
        let extent: Extent = crate::wire::decode(value).expect("an extent is readable");
        if extent.end() > from {
            found.push(extent);
        }
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found
}
